"""Every chat template of TRL, on a tiny model, through every command that shows conversations to a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cai_cli.engines import models
from cai_cli.method.prompts import ANSWER, REASON, REASONED_ANSWER
from tests.conftest import Here
from tests.rows import read_jsonl, write_jsonl
from tests.templated import BOS, TEMPLATES, Seen, ids_of, rendered, spy, template_models
from tests.tiny import TRANSFORMERS

QUICK = ("gemma", "llava_next", "qwen3", "deepseek_r1_distill", "gptoss")
"""A template that rejects a system message, one that takes only parts, an empty reasoning block, an opened one, channels."""
ASK, REPLY, OTHER = "What is the capital of France?", "It is Paris, I think.", "I will not say."
RUN = (*TRANSFORMERS, "--quiet")
TRAIN = ("--quiet", "--steps", "1", "--batch-size", "1", "--dtype", "float32", "--max-length", "4096")


@dataclass
class Bench:
    """A model with a template, and what its commands gave it."""

    here: Here
    folder: Path
    lm: str
    pm: str
    tokenizer: Any
    seen: Seen

    def run(self, *args: object) -> list[dict[str, Any]]:
        """Run a command on what was written last; returns its output records."""
        self.seen.requests.clear()
        self.seen.scored.clear()
        out = self.folder / f"out-{args[0]}"
        self.here(*args, "--restart", "-o", out)
        return read_jsonl(out) if out.is_file() else []

    def ids(self, *messages: dict[str, str], opened: bool = True) -> list[int]:
        """The tokens of a conversation as the template renders it."""
        return ids_of(self.tokenizer, rendered(self.tokenizer, list(messages), opened))

    def one_start(self, ids: list[int]) -> None:
        """Fails unless the conversation begins with at most one BOS, and that at its beginning."""
        starts = [i for i, token in enumerate(ids) if token in self.tokenizer.convert_tokens_to_ids(list(BOS))]
        assert starts in ([], [0])


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.soak) for name in TEMPLATES])
def test_every_command_shows_a_conversation_as_the_template_renders_it(
    name: str, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, pm = template_models(tmp_path, name)
    bench = Bench(here, tmp_path, lm, pm, models.load_tokenizer(Path(lm)), spy(monkeypatch))
    generates(bench)
    judges(bench)
    trains(bench)


def generates(bench: Bench) -> None:
    prompts = write_jsonl(bench.folder / "prompts.jsonl", [{"id": "a", "prompt": ASK}])
    answered = write_jsonl(bench.folder / "answered.jsonl", [{"id": "a", "prompt": ASK, "response": REPLY}])
    opened = {"principle": "weapons", "critique": "It guesses."}

    bench.run("sample", prompts, "-m", bench.lm, "--max-tokens", "2", *RUN)
    [request] = bench.seen.requests
    assert request.ids == bench.ids(user(ASK))
    bench.one_start(request.ids)

    constitution = write_constitution(bench.folder)
    few = ("-c", constitution, "--few-shot", "0", "--max-tokens", "2")
    bench.run("critique", answered, "-m", bench.lm, *few, *RUN)
    talk = f"\n\nHuman: {ASK}\n\nAssistant: {REPLY}"
    about = user(f"Consider the following conversation between a human and an assistant:{talk}\n\n\nCriticise it.")
    assert bench.seen.requests[0].ids == bench.ids(about)

    record = {"id": "a", "prompt": ASK, "response": REPLY, "rounds": [{**opened, "principle": "one"}]}
    bench.run("revise", write_jsonl(bench.folder / "open.jsonl", [record]), "-m", bench.lm, *few, *RUN)
    assert bench.seen.requests[0].ids == bench.ids(about, assistant("It guesses."), user("Rewrite it."))


def write_constitution(folder: Path) -> str:
    path = folder / "constitution.yaml"
    path.write_text(
        "name: test\nversion: 1\nprinciples:\n- id: one\n  critique: Criticise it.\n  revision: Rewrite it.\n"
        "  compare: Which one is better?\n"
    )
    return str(path)


def judges(bench: Bench) -> None:
    pairs = write_jsonl(bench.folder / "pairs.jsonl", [{"id": "a", "prompt": ASK, "responses": [REPLY, OTHER]}])
    few = ("-c", str(bench.folder / "constitution.yaml"), "--few-shot", "0", "--orders", "ab")

    [label] = bench.run("label", pairs, "-m", bench.lm, *few, *RUN)
    assert 0 < label["label"]["mass"] < 1
    [request] = bench.seen.requests
    answer_begins(bench, request, ANSWER)
    letter_follows(bench, request, ANSWER)
    bench.one_start(request.ids)

    bench.run("label", pairs, "-m", bench.lm, "--cot", "--keep-cut", "--max-tokens", "2", *few, *RUN)
    thinking, choosing = bench.seen.requests
    assert thinking.text.endswith(REASON)
    answer_begins(bench, thinking, REASON)
    answer_begins(bench, choosing, REASON)
    letter_follows(bench, choosing, REASONED_ANSWER)

    scored = write_jsonl(bench.folder / "answered.jsonl", [{"id": "a", "prompt": ASK, "response": REPLY}])
    bench.run("score", scored, "-m", bench.pm, *RUN)
    assert bench.seen.scored == [bench.ids(user(ASK), assistant(REPLY), opened=False)]
    bench.one_start(bench.seen.scored[0])


def letter_follows(bench: Bench, request: Any, words: str) -> None:
    """Fails unless the letter is read right after `words`."""
    for letter, token in request.options.items():
        whole = str(bench.tokenizer.decode([*request.ids, token]))
        assert whole.endswith(words + letter)


def answer_begins(bench: Bench, request: Any, words: str) -> None:
    """Fails unless the words stand where the template puts an answer: after the opened turn, no reasoning open before them."""
    question = request.text.partition("Consider")[2]
    asked = user("Consider" + question[: question.index("(B)") + len(f"(B) [[[{OTHER}]]]")])
    opened, whole = (
        rendered(bench.tokenizer, turns, opened) for turns, opened in (([asked], True), ([asked, assistant(words)], False))
    )
    assert request.text.startswith(opened)
    if whole.startswith(opened):
        assert request.text.startswith(whole[: whole.rindex(words) + len(words)])
    after = request.text[len(opened) - 12 :]
    assert after.count("<think>") <= after.count("</think>")


def trains(bench: Bench) -> None:
    opened, whole = bench.ids(user(ASK)), bench.ids(user(ASK), assistant(REPLY), opened=False)
    text = rendered(bench.tokenizer, [user(ASK), assistant(REPLY)], False)
    answered = write_jsonl(bench.folder / "answered.jsonl", [{"id": "a", "prompt": ASK, "response": REPLY}])
    preferences = [{"id": "a", "prompt": ASK, "chosen": [assistant(REPLY)], "rejected": [assistant(OTHER)], "p_chosen": 0.9}]
    paired = write_jsonl(bench.folder / "preferences.jsonl", preferences)

    bench.run("train-sft", answered, "-m", bench.lm, *TRAIN)
    row = bench.seen.trained[0]
    learned = [token for token in row["labels"] if token != -100]
    assert row["input_ids"] == opened + learned
    if whole[: len(opened)] == opened:
        assert [*whole, bench.tokenizer.eos_token_id][: len(row["input_ids"])] == row["input_ids"]
    before, _, end = str(bench.tokenizer.decode(learned)).partition(REPLY)
    assert end == "<eos>" or text.rpartition(REPLY)[2].startswith(end or "nothing")
    assert before.count("<think>") <= before.count("</think>")
    bench.one_start(row["input_ids"])

    bench.run("train-pm", paired, "-m", bench.lm, *TRAIN)
    assert bench.seen.trained[0]["chosen_ids"] == whole

    bench.run("train-dpo", paired, "-m", bench.lm, *TRAIN)
    row = bench.seen.trained[0]
    chosen = row["prompt_ids"] + row["chosen_ids"]
    assert chosen[: len(opened)] == opened
    if whole[: len(opened)] == opened:
        assert chosen[: len(whole)] == whole
    assert REPLY in str(bench.tokenizer.decode(row["chosen_ids"]))

    asks = write_jsonl(bench.folder / "asks.jsonl", [{"id": "a", "prompt": ASK}, {"id": "b", "prompt": OTHER}])
    bench.run("rl", asks, "-m", bench.lm, "--pm", bench.pm, "--max-tokens", "4", "--num-generations", "2", *TRAIN)
    assert bench.seen.policy[0] == opened
    for scored in bench.seen.scored:
        bench.one_start(scored)


SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]


def test_a_system_message_is_folded_into_the_users_if_asked(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: Path
) -> None:
    lm, pm = template_models(tmp_path, "gemma")
    seen, source = spy(monkeypatch), shared / "cases" / "system-role.jsonl"
    command = ("sample", source, "-m", lm, "--max-tokens", "2", *RUN, "-o", tmp_path / "out")
    assert "--fold-system" in here(*command, code=1).err
    here(*command, "--fold-system", "--restart")
    tokenizer = models.load_tokenizer(Path(lm))
    assert [request.ids for request in seen.requests] == [ids_of(tokenizer, rendered(tokenizer, [user("Be brief.\n\nhi")], True))]
    scored = write_jsonl(tmp_path / "scored.jsonl", [{"id": "a", "prompt": SYSTEM, "response": "yes"}])
    here("score", scored, "-m", pm, *RUN, "--fold-system", "-o", tmp_path / "scores")
    assert seen.scored == [ids_of(tokenizer, rendered(tokenizer, [user("Be brief.\n\nhi"), assistant("yes")], False))]
    here("train-sft", scored, "-m", lm, *TRAIN, "--fold-system", "-o", tmp_path / "sft")
    assert str(tokenizer.decode(seen.trained[0]["input_ids"])).startswith("<bos><start_of_turn>user\nBe brief.\n\nhi")


def test_template_arguments_reach_the_template_and_the_fingerprint(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, _ = template_models(tmp_path, "qwen3_5_think")
    seen, source = spy(monkeypatch), write_jsonl(tmp_path / "in.jsonl", [{"id": "a", "prompt": ASK}])
    command = ("sample", source, "-m", lm, "--max-tokens", "2", *RUN)
    here(*command, "--template-arg", "enable_thinking=false", "-o", tmp_path / "out")
    assert seen.requests[0].text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    made = json.loads((tmp_path / "out.manifest.json").read_text())
    assert made["fingerprint"]["template_arg"] == {"enable_thinking": False}
    [record] = read_jsonl(tmp_path / "out")
    assert "reasoning" not in record
    assert record["meta"]["response"].get("reasoning") is None

    answered = write_jsonl(tmp_path / "answered.jsonl", [{"id": "a", "prompt": ASK, "response": REPLY}])
    for step, flags in (("train-sft", ()), ("rl", ("--pm", str(tmp_path / "pm"), "--max-tokens", "2", "--num-generations", "2"))):
        out = tmp_path / step
        here(step, answered, "-m", lm, *TRAIN, *flags, "--template-arg", "enable_thinking=false", "-o", out)
        made = json.loads((out / "manifest.json").read_text())
        assert made["fingerprint"]["template_arg"] == {"enable_thinking": False}
    assert seen.policy[0] == seen.requests[0].ids

    for bad, why in (("enable_thinkin=false", "did you mean 'enable_thinking'?"), ("enable_thinking=False", "must be JSON")):
        assert why in here(*command, "--template-arg", bad, "-o", tmp_path / "bad", code=2).err
        assert not list(tmp_path.glob("bad*"))
