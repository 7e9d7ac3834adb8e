"""Answer prompts: the first step of both stages.

    cai sample prompts.jsonl -m MODEL -o responses.jsonl        one response per prompt
    cai sample prompts.jsonl -m SFT -n 2 -o pairs.jsonl         pairs for `cai label`
    cai sample mt-bench.jsonl -m MODEL --turns -o answers.jsonl the messages of `turns`, one after the other
    cai sample prompts.jsonl -m MODEL -c default --constitution-in-context all -o answers.jsonl

Paper, sections 3.1, 3.2 and 4.1: the model answers red-team prompts, at temperature 1. Departures from the
paper: any model may answer. In the paper a helpful RLHF model of 52 billion parameters answers.

With --constitution-in-context the model sees the principles' `compare` texts in a system message, all or K drawn for each
record. The records keep their own prompts, so `cai train-sft` trains on the answers without the principles (context
distillation; Askell et al. 2021, arXiv 2112.00861), and with --learn-reasoning on the reasoning too (deliberative alignment;
Guan et al. 2024, arXiv 2412.16339).

What a reasoning model writes before its answer goes into the field `reasoning`. Other commands see only the answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

from typer import Option

from cai_cli import streams
from cai_cli.commands._command import command
from cai_cli.commands._flags import Model, Principles, Prompting, Sampling, ShardIO, per_item
from cai_cli.commands._session import Session
from cai_cli.data.jsonl import Record
from cai_cli.data.records import CUT_SHARE, Message, TextMeta, as_messages, assistant, prompt_error, texts_error, truncated, user
from cai_cli.data.transcripts import transcript
from cai_cli.engines.base import Completion, Steps
from cai_cli.errors import InputError, Skipped
from cai_cli.method import prompts
from cai_cli.method.constitution import Constitution, Principle
from cai_cli.method.prompts import Prompt

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
    principles: Principles,
    n: Annotated[int, Option("-n", min=1, help="Responses per prompt: 1 writes `response`, more write `responses`.")] = 1,
    turns: Annotated[
        bool, Option("--turns", help="Answer the user's messages in a record's `turns` (MT-bench) one after the other.")
    ] = False,
    in_context: Annotated[
        str | None,
        Option(
            "--constitution-in-context",
            metavar="K|all",
            help="Show the model K principles drawn for each record, or all, in a system message; the record keeps its prompt.",
        ),
    ] = None,
    resample: Annotated[
        bool, Option("--resample", help="Answer records again that hold answers; the old ones move to `previous`.")
    ] = False,
) -> None:
    """Answer prompts."""
    if turns and n > 1:
        raise InputError("--turns writes one conversation per record; give -n 1")
    if in_context is None and principles != Principles():
        raise InputError("-c, --principles and --tags are for --constitution-in-context; give it, or leave them out")
    constitution = None if in_context is None else principles.load()
    if constitution:
        constitution.require("compare")
    shown = per_item("--constitution-in-context", in_context or "", constitution) if constitution else 0
    session, truncation = Session(files, model, sampling, prompting), Truncation()
    answering = Answering(session, constitution, shown)

    def program(record: Record) -> Steps[list[Record]]:
        return [(yield from answering.answer(record, n))]

    more: dict[str, Any] = {"in_context": shown} if constitution else {}
    checked = partial(check, turns, resample)
    session.run("sample", checked, program, constitution, observer=truncation, n=n, resample=resample, turns=turns, **more)
    if files.dry_run is None:
        truncation.report(files.quiet)


@dataclass
class Answering:
    """How records are answered."""

    session: Session
    constitution: Constitution | None = None
    """What the model sees the principles of, if anything."""
    shown: int = 0
    """How many of its principles are drawn for a record."""

    def answer(self, record: Record, n: int) -> Steps[Record]:
        """The record with `n` answers; with `turns`, with an answer to each."""
        messages, followed = as_messages(record["prompt"]), record.get("turns", [])[1:]
        for turn, text in enumerate(followed):
            [done] = yield from self._sampled({**record, "prompt": messages}, turn, 1)
            if not done.answered:
                raise Skipped(f"the reasoning of turn {turn + 1} was cut by --max-tokens, so there is no answer; raise it")
            messages = [*messages, replied(done), user(text)]
        if followed:
            record = {**record, "prompt": messages}
        answers = yield from self._sampled(record, len(followed), n)
        return answered(record, answers, [principle.id for principle in self._drawn(record)])

    def _drawn(self, record: Record) -> list[Principle]:
        if not self.constitution or self.shown == len(self.constitution.principles):
            return list(self.constitution.principles) if self.constitution else []  # in one order: computed once for all records
        return self.constitution.draw_several(self.session.seed, "context", record["id"], self.shown)

    def _sampled(self, record: Record, turn: int, count: int) -> Steps[list[Completion]]:
        prompt = asked(record, self._drawn(record), self.session.format)
        requests = [self.session.request(prompt, "sample", record["id"], turn, i) for i in range(count)]
        completions = yield requests
        return [self.session.renderer.separate(*pair) for pair in zip(requests, completions, strict=True)]


def asked(record: Record, principles: list[Principle], format: str) -> Prompt:
    """The prompt of a record, with the principles in a system message, if there are any."""
    if not principles:
        return prompts.answer(record, format)
    rules = prompts.in_context([], principles)
    messages = prompts.in_context(as_messages(record["prompt"]), principles)
    prompt = prompts.answer({**record, "prompt": messages}, format)
    if messages[:1] != rules:  # the record's own system message follows in the same turn
        return prompt
    return replace(prompt, shared=1 if format == "chat" else len(transcript(rules)))


def check(turns: bool, resample: bool, record: Record) -> str | None:
    """Why a record cannot be answered, or None."""
    if error := prompt_error(record) or turns_error(record, turns):
        return error
    if not isinstance(record.get("previous", []), list):
        return "'previous' must be a list"
    if any(field in record for field in _ANSWERS) and not resample:
        return "the record already holds an answer; --resample answers it again and keeps the old answer under 'previous'"
    return None


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


def answered(record: Record, answers: list[Completion], principles: list[str]) -> Record:
    """The record with its answers: one as `response`, several as `responses`. Older answers move to `previous`.

    `principles`: the ids of those that the model saw.
    """
    grown = {key: value for key, value in record.items() if key not in _ANSWERS}
    old = {key: record[key] for key in _ANSWERS if key in record}
    if old:
        if "meta" in record:
            old["meta"] = grown.pop("meta")
        grown["previous"] = [*record.get("previous", []), old]
    seen: TextMeta = {"principles": principles} if principles else {}
    texts, reasons, meta = zip(*((c.text.strip(), c.reasoning, c.meta() | seen) for c in answers), strict=True)
    one = len(answers) == 1
    name = "response" if one else "responses"
    grown[name] = texts[0] if one else list(texts)
    if any(reasons):
        grown["reasoning"] = reasons[0] if one else list(reasons)
    grown["meta"] = {**grown.get("meta", {}), name: meta[0] if one else list(meta)}
    return grown
