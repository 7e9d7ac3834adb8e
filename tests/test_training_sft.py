"""Supervised fine-tuning, and what every trainer shares: input errors, resuming, interrupts, a full disk."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cai_cli import models
from cai_cli.errors import InputError
from cai_cli.tokens import Renderer
from cai_cli.training import data, sft
from cai_cli.training import settings as common
from cai_cli.training.settings import Settings
from tests.tiny import ROOT, cai, environment, read_jsonl, write_jsonl

pytestmark = pytest.mark.usefixtures("one_thread")


def rows(n: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"s{i}",
            "prompt": f"What is {i} plus {i}?",
            "response": "I will not say.",
            "rounds": [
                {"principle": "x", "critique": "c", "revision": f"The answer is {2 * i}."},
                {"principle": "y", "critique": "c", "revision": f"It is {2 * i}, I think."},
            ],
        }
        for i in range(n)
    ]


def settings(files: list[str], model: str, output: Path, **more: Any) -> Settings:
    given = {"lr": 1e-3, "batch_size": 4, "steps": 3, "dtype": "float32", "quiet": True} | more
    return Settings(step="train-sft", files=files, model=model, output=str(output), **given)


def test_only_the_answer_and_its_end_are_learnt(tiny: str) -> None:
    renderer = Renderer(models.load_tokenizer(Path(tiny)))
    end = data.turn_end(renderer, "chat")
    record = {"prompt": "Say <|im_end|> twice", "response": "It is <|im_start|> me"}
    example = data.sft_example(renderer, "chat", end, *data.conversations(record, "all")[0], 512)
    learnt = [token for token in example["labels"] if token != -100]
    assert renderer.tokenizer.decode(learnt) == "It is <|im_start|> me<|im_end|>"
    assert learnt == example["input_ids"][-len(learnt) :]
    start, stop = (renderer.tokenizer.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>"))
    # the template's own control tokens alone: what the record spells stays text
    assert example["input_ids"].count(start) == 2
    assert example["input_ids"].count(stop) == 2


def test_every_answer_of_a_record_is_learnt(tiny: str) -> None:
    two = {"id": "a", "prompt": "Hi", "responses": ["One.", "Two."]}
    assert data.sft_error(two) is None
    assert [answer for _, answer in data.conversations(two, "all")] == ["One.", "Two."]
    assert data.sft_error({**two, "responses": "One."}) == "'responses' must be a list of strings"


def test_trains_a_model_that_loads(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    long = [{"id": f"long{i}", "prompt": "Hi", "response": "word " * 200} for i in range(12)]
    first = write_jsonl(tmp_path / "a.jsonl", rows(6) + long)
    chat = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]}
    trl = write_jsonl(tmp_path / "b.jsonl", [{"prompt": "Hi", "completion": "Hello you."}, chat])
    sft.train(settings([first, f"{trl}=2"], tiny, tmp_path / "out", max_length=64, eval_fraction=0.2, save_every=2))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("set aside long") == 10
    assert "12 rows set aside" in printed.err

    out = tmp_path / "out"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["counts"]["set_aside"] == 12
    rejected = read_jsonl(out / "rejected.jsonl")
    assert [entry["line"] for entry in rejected] == list(range(7, 19))
    assert "--max-length" in rejected[0]["error"]
    trained = set((out / "trained-ids.txt").read_text().split())
    ids = {row.record["id"] for row in data.read(data.Source(trl), data.sft_error, None)}
    assert trained < {f"s{i}" for i in range(6)} | ids  # those held out for evaluation aren't among them
    metrics = read_jsonl(out / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [0, 1, 2, 3]  # what is held out is measured before the first step too
    assert set(metrics[0]) == {"step", "epoch", "eval_loss", "eval_token_accuracy", "eval_entropy"}
    assert "eval_loss" in metrics[-1]
    assert not (out / "checkpoints").exists()
    assert not (tmp_path / "out.partial").exists()

    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert tokenizer.chat_template
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_tensors="pt")
    assert model.generate(**ids, max_new_tokens=2).shape[1] > ids["input_ids"].shape[1]
    before = AutoModelForCausalLM.from_pretrained(tiny)
    changed = [not torch.equal(a, b) for a, b in zip(before.parameters(), model.parameters(), strict=True)]
    assert all(changed)
    assert (out / "model.safetensors").stat().st_mode & 0o400


def test_revisions_and_weights(tiny: str, tmp_path: Path) -> None:
    record = rows(1)[0]
    assert [answer for _, answer in data.conversations(record, "all")] == ["The answer is 0.", "It is 0, I think."]
    assert [answer for _, answer in data.conversations(record, "last")] == ["It is 0, I think."]
    names = [str(i) for i in range(10)]
    taken = data.weigh(names, 1.5, 0, str)
    assert taken[:10] == names
    assert len(set(taken[10:])) == 5
    assert taken == data.weigh(names, 1.5, 0, str)


def test_a_run_of_few_steps_learns_from_the_first(tiny: str, tmp_path: Path) -> None:
    sft.train(settings([write_jsonl(tmp_path / "a.jsonl", rows(8))], tiny, tmp_path / "out", steps=1))
    assert [line["learning_rate"] for line in read_jsonl(tmp_path / "out" / "metrics.jsonl")] == [1e-3]
    few, many = (common.warmup_steps(settings([], tiny, tmp_path, steps=n), 0) for n in (20, 100))
    assert (few, many) == (0, 5)


@pytest.mark.skipif(models.device() != "cpu", reason="on a GPU the library's own choice of attention stands")
def test_only_short_examples_take_the_attention_that_keeps_its_squares(tiny: str, tmp_path: Path) -> None:
    """Plain attention keeps length x length numbers a head and layer: with long examples they fill the memory."""
    for words, expected in ((1, "eager"), (400, "sdpa")):
        long = [row | {"response": "no " * words, "rounds": []} for row in rows(4)]
        given = {"steps": 1, "dtype": "bfloat16", "max_length": 2000}
        trainer = sft.train(settings([write_jsonl(tmp_path / f"{words}.jsonl", long)], tiny, tmp_path / expected, **given))
        assert trainer.model.config._attn_implementation == expected
    pair = {"chosen_ids": [1] * 200, "rejected_ids": [1] * 90}
    assert data.longest_side([pair]) == 200
    assert data.longest_side([pair | {"prompt_ids": [1] * 70}]) == 270


BAD = {
    "empty file": ("", "the input is empty"),
    "missing field": ('{"prompt": "Hi"}\n', ":1: no 'response', 'completion' or 'messages' field"),
    "bad line": ('{"prompt": "Hi", "response": "x"}\n{"prompt": \n', ":2: not valid JSON"),
    "open round": ('{"prompt": "Hi", "response": "x", "rounds": [{"critique": "c"}]}\n', "run `cai revise` first"),
    "twice": ('{"id": "a", "prompt": "Hi", "response": "x"}\n' * 2, ":2: the id 'a' stands already on line 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(name: str, tiny: str, tmp_path: Path) -> None:
    content, message = BAD[name]
    (tmp_path / "in.jsonl").write_text(content)
    with pytest.raises(InputError) as caught:
        sft.train(settings([str(tmp_path / "in.jsonl")], tiny, tmp_path / "out"))
    assert message in str(caught.value)
    assert not (tmp_path / "out.partial").exists()


def test_bad_models_and_outputs_are_named(tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "in.jsonl", rows(2))
    (tmp_path / "not-a-model").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    for files, model, output, message in [
        ([good], str(tmp_path / "not-a-model"), "out", "not a model directory"),
        ([good], tiny_pm, "out", "a sequence classifier, not a language model"),
        ([good], tiny, tiny, "is a model that this run starts from"),
        ([good], tiny, "full", "exists and holds other files"),
        ([good], tiny, "in.jsonl", "is a file; -o takes a directory"),
        ([str(tmp_path / "gone.jsonl")], tiny, "out", "no such file"),
        ([f"{good}=0"], tiny, "out", "the number after = must be positive"),
        (["-"], tiny, "out", "can't read standard input"),
    ]:
        with pytest.raises(InputError) as caught:
            sft.train(settings(files, model, tmp_path / output))
        assert message in str(caught.value)
    assert (tmp_path / "full" / "thesis.tex").read_text() == "precious"
    with pytest.raises(InputError, match="every row was set aside"):
        sft.train(settings([good], tiny, tmp_path / "out", max_length=8))


def test_bad_input_is_known_before_torch_is_imported(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("{\n")
    code = f"""if True:
        import sys
        from cai_cli.main import main
        for command in (["train-sft"], ["train-pm"], ["rl", "--pm", {tiny!r}]):
            sys.argv = ["cai", *command, {str(tmp_path / "in.jsonl")!r}, "-m", {tiny!r}, "-o", {str(tmp_path / "out")!r}]
            try:
                main()
            except SystemExit as end:
                assert end.code == 2, end.code
        assert not {{"torch", "transformers", "trl", "datasets"}} & set(sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("in.jsonl:1: not valid JSON") == 2
    assert "not a preference model" in done.stderr
    assert done.stdout == ""


def _start(*args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cai_cli.main", *args]
    return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _wait_for(process: subprocess.Popen[str], metrics: Path, lines: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= lines:
            return
        time.sleep(0.01)
    process.kill()
    pytest.fail(f"never came to {lines} steps: {process.communicate()}")


def test_killed_and_interrupted_runs_go_on(tiny: str, tmp_path: Path) -> None:
    """SIGKILL, then SIGTERM, then to the end: each step once, and the losses of a run that nothing stopped."""
    good = write_jsonl(tmp_path / "in.jsonl", rows(30))
    flags = ["--steps", "160", "--save-every", "20", "--lr", "1e-3", "--batch-size", "8", "--grad-accum", "1"]
    flags += ["--dtype", "float32"]
    run = ["train-sft", good, "-m", tiny, "-o", str(tmp_path / "out"), *flags]
    partial = tmp_path / "out.partial"

    process = _start(*run)
    _wait_for(process, partial / "metrics.jsonl", 30)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out").exists()

    with pytest.raises(InputError, match=r"changed: lr \(0.001 before, 0.002 now\).*--restart"):
        sft.train(settings([good], tiny, tmp_path / "out", steps=160, save_every=20, lr=2e-3, batch_size=8, grad_accum=1))

    process = _start(*run)
    _wait_for(process, partial / "metrics.jsonl", 60)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "going on after step" in errors
    assert "the same command goes on from there" in errors

    done = cai(*run)
    assert done.stdout == ""
    assert "step 160 of 160" in done.stderr
    metrics = read_jsonl(tmp_path / "out" / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, 161))
    assert not partial.exists()

    whole = cai(*run[:5], str(tmp_path / "whole"), *flags, "--quiet")
    assert whole.stderr == ""
    expected = read_jsonl(tmp_path / "whole" / "metrics.jsonl")
    assert [line["loss"] for line in metrics] == [line["loss"] for line in expected]
    assert metrics[-1]["tokens"] == expected[-1]["tokens"]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "whole")]
    assert weights[0] == weights[1]


def test_a_full_disk_is_one_sentence(tiny: str, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the same calls fail in the same places."""
    good = write_jsonl(tmp_path / "in.jsonl", rows(4))
    done = subprocess.run(
        [sys.executable, "-m", "cai_cli.main", "train-sft", good, "-m", tiny, "-o", str(tmp_path / "out"), "--steps", "2"],
        cwd=ROOT, env=environment(), capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "the disk is full" in done.stderr.strip().splitlines()[-1]
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()
    assert read_jsonl(tmp_path / "out.partial" / "metrics.jsonl")[-1]["step"] == 2
