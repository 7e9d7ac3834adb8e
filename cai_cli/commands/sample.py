"""Answer prompts: the first step of both stages.

    cai sample prompts.jsonl -m MODEL -o responses.jsonl        one response per prompt
    cai sample prompts.jsonl -m SFT -n 2 -o pairs.jsonl         pairs for `cai label`
    cai sample mt-bench.jsonl -m MODEL --turns -o answers.jsonl the messages of `turns`, one after the other

Paper, sections 3.1, 3.2 and 4.1: the model answers red-team prompts, at temperature 1. Departures from the
paper: any model may answer. In the paper a helpful RLHF model of 52 billion parameters answers.

What a reasoning model writes before its answer goes into the field `reasoning`. Other commands see only the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typer import Option

from cai_cli import streams
from cai_cli.commands._command import command
from cai_cli.commands._flags import Model, Prompting, Sampling, ShardIO
from cai_cli.commands._session import Session
from cai_cli.data.jsonl import Record
from cai_cli.data.records import CUT_SHARE, Message, as_messages, assistant, prompt_error, texts_error, truncated, user
from cai_cli.engines.base import Completion, Steps
from cai_cli.errors import InputError, Skipped
from cai_cli.method import prompts

_ANSWERS = ("response", "responses", "reasoning", "rounds", "scores")
"""The fields that hold answers or belong to them."""


@dataclass
class Truncation:
    """Counts the answers that ran to --max-tokens. See `observers.Observer`."""

    answers: int = 0
    cut: int = 0

    def count(self, record: Record) -> None:
        """Count the answers of a record."""
        cuts = truncated(record)
        self.answers += len(cuts)
        self.cut += sum(cuts)

    def summary(self) -> Record:
        """The counts, for the manifest."""
        return {"answers": self.answers, "truncated": self.cut}

    def report(self, quiet: bool) -> None:
        """Say how many answers are truncated; a warning above `CUT_SHARE`."""
        if self.cut > CUT_SHARE * self.answers:
            streams.warn(
                f"sample: {self.cut} of {streams.plural(self.answers, 'answer')} ({self.cut / self.answers:.0%}) truncated at "
                "--max-tokens; raise it (`cai train-sft` skips truncated answers)"
            )
        elif self.cut:
            streams.say(f"cai sample: {self.cut} of {streams.plural(self.answers, 'answer')} truncated at --max-tokens", quiet)


@command(
    "Answer prompts: one response per prompt, or [bold]-n 2[/bold] for pairs.",
    "cai sample prompts.jsonl -m models/SmolLM2-135M-Instruct -o responses.jsonl",
)
def app(
    files: ShardIO,
    model: Model,
    sampling: Sampling,
    prompting: Prompting,
    n: Annotated[int, Option("-n", min=1, help="Responses per prompt: 1 writes `response`, more write `responses`.")] = 1,
    turns: Annotated[
        bool, Option("--turns", help="Answer the user's messages in a record's `turns` (MT-bench) one after the other.")
    ] = False,
    resample: Annotated[
        bool, Option("--resample", help="Answer records again that hold answers; the old ones move to `previous`.")
    ] = False,
) -> None:
    """Answer prompts."""
    if turns and n > 1:
        raise InputError("--turns writes one conversation per record; give -n 1")
    session, truncation = Session(files, model, sampling, prompting), Truncation()

    def check(record: Record) -> str | None:
        if error := prompt_error(record) or turns_error(record, turns):
            return error
        if not isinstance(record.get("previous", []), list):
            return "'previous' must be a list"
        if any(field in record for field in _ANSWERS) and not resample:
            return "the record already holds an answer; --resample answers it again and keeps the old answer under 'previous'"
        return None

    def program(record: Record) -> Steps[list[Record]]:
        messages, followed = as_messages(record["prompt"]), record.get("turns", [])[1:]
        for turn, text in enumerate(followed):
            [done] = yield from sampled({**record, "prompt": messages}, turn, 1)
            if not done.answered:
                raise Skipped(f"the reasoning of turn {turn + 1} was cut by --max-tokens, so there is no answer; raise it")
            messages = [*messages, replied(done), user(text)]
        if followed:
            record = {**record, "prompt": messages}
        return [answered(record, (yield from sampled(record, len(followed), n)))]

    def sampled(record: Record, turn: int, count: int) -> Steps[list[Completion]]:
        prompt = prompts.answer(record, session.format)
        requests = [session.request(prompt, "sample", record["id"], turn, i) for i in range(count)]
        completions = yield requests
        return [session.renderer.separate(*pair) for pair in zip(requests, completions, strict=True)]

    session.run("sample", check, program, observer=truncation, n=n, resample=resample, turns=turns)
    if files.dry_run is None:
        truncation.report(files.quiet)


def turns_error(record: Record, wanted: bool) -> str | None:
    """What is wrong with a record's `turns`, or None."""
    if "turns" not in record:
        return None
    if not wanted:
        return "the record has 'turns': --turns answers them one after the other"
    if error := texts_error(record["turns"], "turns"):
        return error
    first = as_messages(record["prompt"])[-1]["content"]
    return None if record["turns"][:1] == [first] else "'turns' must begin with the message of 'prompt'"


def replied(done: Completion) -> Message:
    """An answer as the assistant's message. Its reasoning is kept beside it, and no template shows it."""
    reply = assistant(done.text.strip())
    return {**reply, "reasoning": done.reasoning} if done.reasoning else reply


def answered(record: Record, answers: list[Completion]) -> Record:
    """The record with its answers: one as `response`, several as `responses`. Older answers move to `previous`."""
    grown = {key: value for key, value in record.items() if key not in _ANSWERS}
    old = {key: record[key] for key in _ANSWERS if key in record}
    if old:
        if "meta" in record:
            old["meta"] = grown.pop("meta")
        grown["previous"] = [*record.get("previous", []), old]
    texts, reasons, meta = zip(*((c.text.strip(), c.reasoning, c.meta()) for c in answers), strict=True)
    one = len(answers) == 1
    name = "response" if one else "responses"
    grown[name] = texts[0] if one else list(texts)
    if any(reasons):
        grown["reasoning"] = reasons[0] if one else list(reasons)
    grown["meta"] = {**grown.get("meta", {}), name: meta[0] if one else list(meta)}
    return grown
