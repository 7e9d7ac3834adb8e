"""The feedback model as a judge, which `cai label` and `cai eval choice` share: its flags, and its program for a record."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Annotated, Any

from typer import Option

from cai_cli import feedback, prompts
from cai_cli.commands.options import FewShot
from cai_cli.commands.session import Session
from cai_cli.constitution import Constitution, Principle
from cai_cli.engines.base import Choice, Completion, Request
from cai_cli.errors import InputError
from cai_cli.feedback import Reading
from cai_cli.jsonl import Record
from cai_cli.prompts import Prompt
from cai_cli.seeds import draw

PAPERS_CLAMP = "0.4,0.6"


class Orders(str, Enum):
    """--orders."""

    both = "both"
    ab = "ab"
    ba = "ba"


@dataclass
class Judging:
    """How a pair of answers is judged."""

    orders: Annotated[
        Orders, Option("--orders", help="Show each pair with its first answer as (A), as (B), or both and take the mean.")
    ] = Orders.both
    principles_per_pair: Annotated[
        str,
        Option("--principles-per-pair", metavar="K|all", help="Ask by K principles, drawn from (seed, id); take the mean."),
    ] = "1"
    few_shot: FewShot = None
    cot: Annotated[bool, Option("--cot", help="Let the model reason first (generates text).")] = False
    cot_samples: Annotated[
        int, Option("--cot-samples", min=1, metavar="N", help="With --cot: take the mean of N lines of reasoning.")
    ] = 1
    clamp: Annotated[
        str | None,
        Option(
            "--clamp",
            metavar="LOW,HIGH",
            help=f"Keep each probability within these: {PAPERS_CLAMP} with --cot, unless given.",
        ),
    ] = None

    def bounds(self) -> tuple[float, float] | None:
        """--clamp as two numbers, None for no bounds. InputError where it isn't two."""
        text = self.clamp or (PAPERS_CLAMP if self.cot else "0,1")
        try:
            low, high = (float(part) for part in text.split(","))
        except ValueError:
            raise InputError(f"--clamp {text}: give two numbers, for instance {PAPERS_CLAMP}") from None
        if not 0 <= low <= 0.5 <= high <= 1:
            raise InputError(f"--clamp {text}: the first must lie between 0 and 0.5, the second between 0.5 and 1")
        return None if (low, high) == (0, 1) else (low, high)


class Judge:
    """A model, a constitution, and how it's asked."""

    def __init__(self, session: Session, constitution: Constitution, flags: Judging) -> None:
        """InputError for a flag that makes no sense, or a principle without a `compare` text."""
        constitution.require("compare")
        self.session, self.constitution, self.flags, self.clamp = session, constitution, flags, flags.bounds()
        if flags.cot_samples > 1 and not flags.cot:
            raise InputError("--cot-samples needs --cot")
        if flags.cot_samples > 1 and not session.sampling.temperature:
            raise InputError("--cot-samples with --temperature 0 would give the same reasoning again; give a higher temperature")
        many = flags.principles_per_pair
        self.count = len(constitution.principles) if many == "all" else int(many) if many.isdecimal() else 0
        if not 1 <= self.count <= len(constitution.principles):
            raise InputError(f"--principles-per-pair {many}: give a number from 1 to {len(constitution.principles)}, or all")
        self._shown: dict[int, Any] = {}

    def options(self) -> dict[str, Any]:
        """The flags that affect a label, for the fingerprint."""
        return {**asdict(self.flags), "orders": self.flags.orders.value, "clamp": list(self.clamp) if self.clamp else None}

    def shown(self, identity: str) -> Any:
        """The few-shot examples of a record's questions: one of a few prefixes, so that many records share it."""
        seed = self.session.sampling.seed
        number = draw(seed, "prefix", identity) % feedback.PREFIXES
        if number not in self._shown:
            make = feedback.shown_reasoning if self.flags.cot else feedback.shown_comparisons
            self._shown[number] = make(self.constitution, self.flags.few_shot, seed, number)
        return self._shown[number]

    def judge(
        self, record: Record, pairs: Sequence[tuple[int, int]], principles: Sequence[Principle] | None = None
    ) -> Generator[list[Request], list[Any], tuple[list[Record], list[Record]]]:
        """(judgement, meta) of each pair of the record's `responses`; by `principles` in place of those that are drawn."""
        texts = record["responses"]
        chosen = principles or self.constitution.draw_several(self.session.sampling.seed, record["id"], self.count)
        orders = ("ab", "ba") if self.flags.orders is Orders.both else (self.flags.orders.value,)
        readings = [
            Reading((i, j), principle, order, sample)
            for i, j in pairs
            if texts[i] != texts[j]
            for principle in chosen
            for order in orders
            for sample in range(self.flags.cot_samples)
        ]
        asked = [self._asked(record, reading) for reading in readings]
        thoughts: list[Completion | None] = [None] * len(readings)
        if self.flags.cot:
            seeds = [(record["id"], *r.pair, r.principle.id, r.order, r.sample) for r in readings]
            thoughts = yield [self.session.request(p, "label", *seed) for p, seed in zip(asked, seeds, strict=True)]
            asked = [prompts.after_reasoning(p, done.text) for p, done in zip(asked, thoughts, strict=True) if done]
        choices: list[Choice] = yield [self.session.renderer.choice(prompt, prompts.OPTIONS) for prompt in asked]
        found = [r.answered(c, self.clamp, t) for r, c, t in zip(readings, choices, thoughts, strict=True)]
        judged, metas = [], []
        for pair in pairs:
            mine = [i for i, reading in enumerate(found) if reading.pair == tuple(pair)]
            judged.append(feedback.judgement([found[i] for i in mine]) if mine else feedback.UNDECIDED)
            metas.append({"prompt_tokens": sum(choices[i].prompt_tokens for i in mine)})
        return judged, metas

    def _asked(self, record: Record, reading: Reading) -> Prompt:
        answers = [record["responses"][i] for i in reading.pair]
        first, second = answers if reading.order == "ab" else reversed(answers)
        ask = prompts.reasoning if self.flags.cot else prompts.comparison
        return ask(record["prompt"], first, second, reading.principle, self.session.format, self.shown(record["id"]))
