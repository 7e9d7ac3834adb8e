"""`cai eval choice`: probabilities of the better answer."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from cai_cli.commands.eval_choice import known_pair
from cai_cli.data.jsonl import Record
from cai_cli.engines.transformers import TransformersEngine
from cai_cli.method import constitution, prompts
from cai_cli.method.prompts import OPTIONS
from cai_cli.method.tokens import Renderer
from tests.conftest import Here
from tests.engine_feed import by_number, feed
from tests.rows import read_jsonl, write_jsonl
from tests.tiny import ROOT, TRANSFORMERS


def test_judgements_equal_a_plain_forward_pass(
    here: Here, real: Path, real_renderer: Renderer, shared: Path, tmp_path: Path
) -> None:
    """Three of the 438 questions: log probabilities of both options, in float32, to 1e-3."""
    rows = [json.loads(line) for line in (shared / "data/paper/438HHHEvaluations.jsonl").open()][40:43]
    renderer, engine = real_renderer, TransformersEngine(real, real_renderer.tokenizer, torch.float32, 4)
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    here("eval", "choice", source, *TRANSFORMERS, "-m", real, "--format", "hh", "--few-shot", 0, "--dtype", "float32", "--orders", "ab",
         "-o", tmp_path / "out")  # fmt: skip
    requests = []
    for row in rows:
        ids = renderer.tokenizer(f"{row['prompt']} (").input_ids
        with torch.no_grad():
            logprobs = torch.log_softmax(engine.model(torch.tensor([ids], device=engine.device)).logits[0, -1].float(), -1)
        letters = [renderer.tokenizer(f"({letter}").input_ids[-1] for letter in OPTIONS]
        requests.append({letter: float(logprobs[i]) for letter, i in zip(OPTIONS, letters, strict=True)})
    built = []
    for known in (found := [known_pair(row) for row in rows]):
        first, second = known.responses
        asked = prompts.comparison(known.prompt, first, second, constitution.Principle("x", compare=known.compare), "hh")
        built.append(renderer.choice(asked, OPTIONS))
    choices = by_number(engine.run(feed(built)))
    for choice, want, row, q, judged in zip(choices, requests, rows, found, read_jsonl(tmp_path / "out"), strict=True):
        assert choice.logprobs == pytest.approx(want, abs=1e-3)
        assert OPTIONS[q.correct] == row["corrects"][0].strip(" ()")
        p = 1 / (1 + math.exp(want[OPTIONS[1 - q.correct]] - want[OPTIONS[q.correct]]))
        assert judged["judged"]["p_correct"] == pytest.approx(p, abs=1e-3)


def pairs(count: int = 9) -> list[Record]:
    """Preferences with answers of several lengths, also of characters of several bytes."""
    return [
        {
            "id": f"p{i}",
            "prompt": f"Question {i}: why?",
            "chosen": "Because é." * (i % 3 + 1),
            "rejected": f"No {i}. " * (i % 4 + 1),
        }
        for i in range(count)
    ]


LM_EVAL = [[-120.242, -195.155], [-237.614, -55.048], [-250.887, -63.425], [-220.05, -97.315]]
"""What lm-eval 0.4.13 gives by examples/lm_eval/hhh.yaml for the first example comparisons: chosen, rejected."""


@pytest.mark.parametrize("format", ["hh", "chat"])
def test_likelihoods_equal_those_of_transformers(here: Here, tiny: str, tmp_path: Path, format: str) -> None:
    """The log-likelihood of the answer's tokens after the prompt's, by a plain pass; total and per byte of the answer."""
    source, out = write_jsonl(tmp_path / "in.jsonl", pairs()), tmp_path / "out.jsonl"
    done = here("eval", "choice", source, *TRANSFORMERS, "-m", tiny, "--by", "likelihood", "--format", format, "-o", out)
    model, tokenizer = LlamaForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(tiny)

    def by_hand(prompt: str, answer: str) -> float:
        before = f"\n\nHuman: {prompt}\n\nAssistant:"
        if format == "chat":
            turns = [{"role": "user", "content": prompt}]
            before = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        more = answer if format == "chat" else f" {answer}"
        start, ids = len(tokenizer(before).input_ids), tokenizer(before + more, return_tensors="pt").input_ids
        with torch.no_grad():
            logprobs = torch.log_softmax(model(ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]
        return float(logprobs[start - 1 :].sum())

    rows = read_jsonl(out)
    for row in rows:
        found = row["judged"]
        texts = [row["rejected"], row["chosen"]] if found["correct"] else [row["chosen"], row["rejected"]]
        want = [by_hand(row["prompt"], text) for text in texts]
        assert found["log_likelihoods"] == pytest.approx(want, abs=1e-3)
        assert found["bytes"] == [len(text.encode()) for text in texts]
        total, per_byte = want[0] - want[1], want[0] / len(texts[0].encode()) - want[1] / len(texts[1].encode())
        sign = -1 if found["correct"] else 1
        assert found["p_correct"] == pytest.approx(1 / (1 + math.exp(-sign * total)), abs=1e-3)
        assert found["p_correct_per_byte"] == pytest.approx(1 / (1 + math.exp(-sign * per_byte)), abs=1e-3)
    lines = [line.split() for line in done.out.splitlines()[1:]]
    share = [sum(row["judged"][name] > 0.5 for row in rows) / len(rows) for name in ("p_correct", "p_correct_per_byte")]
    assert [line[:-20] for line in lines] == [
        ["likelihood", "9", f"{share[0]:.3f}"],
        ["likelihood", "per", "byte", "9", f"{share[1]:.3f}"],
    ]
    again = here("eval", "choice", source, *TRANSFORMERS, "-m", tiny, "--by", "likelihood", "--format", format, "-o", out)
    assert "already done" in again.err
    assert again.out == done.out
    summary = json.loads(Path(f"{out}.manifest.json").read_text())["summary"]
    assert summary["per_byte"]["accuracy"]["value"] == pytest.approx(share[1])


def test_likelihood_asks_no_question_and_says_what_it_cannot_use(
    here: Here, tiny: str, tiny_pm: str, broken_model: str, tmp_path: Path
) -> None:
    source = write_jsonl(
        tmp_path / "in.jsonl",
        [
            *pairs(2),
            {"id": "long", "prompt": "Hm? " * 3000, "chosen": "Yes.", "rejected": "No."},
            {"id": "none", "prompt": "Hm?", "chosen": "Yes.", "rejected": " "},
        ],
    )
    shown = here("eval", "choice", source, "-m", broken_model, "--by", "likelihood", "--format", "hh", "--dry-run", 2).out
    assert {json.loads(line)["text"] for line in shown.splitlines()} == {
        "\n\nHuman: Question 0: why?\n\nAssistant: Because é.", "\n\nHuman: Question 0: why?\n\nAssistant: No 0. "
    }  # fmt: skip
    done = here("eval", "choice", source, *TRANSFORMERS, "-m", tiny, "--by", "likelihood", "-o", tmp_path / "out.jsonl")
    assert "skipped long: its prompt of" in done.err
    for format in ("chat", "hh"):
        done = here("eval", "choice", source, *TRANSFORMERS, "-m", tiny, "--by", "likelihood", "--format", format)
        assert "skipped none: an answer is empty" in done.err
    for flags, message in (
        (["-m", tiny, "--cot"], "--by likelihood takes no principles, examples or reasoning; leave out their flags"),
        (["-m", tiny_pm], "is a preference model, which has no likelihoods; leave out --by likelihood"),
    ):
        assert message in " ".join(here("eval", "choice", source, "--by", "likelihood", *flags, code=2).err.split())


def test_the_likelier_answers_are_those_of_lm_eval(here: Here, real: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (ROOT / "examples/helpful-comparisons.jsonl").open()][:4]
    texts = [{"input": row["prompt"][0]["content"], "targets": {"choices": [row["chosen"][0]["content"], row["rejected"][0]["content"]],
             "labels": [1, 0]}} for row in rows]  # fmt: skip
    here("import", "bench", "hhh", write_jsonl(tmp_path / "hhh.jsonl", texts), "-o", tmp_path / "pairs.jsonl")
    here("eval", "choice", tmp_path / "pairs.jsonl", *TRANSFORMERS, "-m", real, "--by", "likelihood", "--format", "hh", "--dtype", "float32",
         "-o", tmp_path / "out.jsonl")  # fmt: skip
    found = [row["judged"] for row in read_jsonl(tmp_path / "out.jsonl")]
    ours = [each["log_likelihoods"][:: -1 if each["correct"] else 1] for each in found]
    assert ours == [pytest.approx(each, abs=0.01) for each in LM_EVAL]
