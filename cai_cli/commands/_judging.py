"""The flags of commands that ask a judge."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated

from typer import Option

from cai_cli.commands._flags import Sampling, per_item
from cai_cli.errors import InputError

if TYPE_CHECKING:  # a command's help needs none of it
    from cai_cli.method.constitution import Constitution
    from cai_cli.method.judge import Asking, JudgeSettings

FewShot = Annotated[
    int | None,
    Option("--few-shot", min=0, metavar="N", help="Show the model only the constitution's first N examples; by default all."),
]
PAPERS_CLAMP = "0.4,0.6"
"""The paper keeps probabilities after chain of thought within 40-60% (section 4.1)."""


class Orders(str, Enum):
    """--orders."""

    both = "both"
    ab = "ab"
    ba = "ba"


@dataclass
class Grading:
    """How a judge is asked."""

    orders: Annotated[
        Orders,
        Option("--orders", help="ab: show the first option as (A). ba: reversed. both: ask in both orders and take the mean."),
    ] = Orders.both
    cot: Annotated[bool, Option("--cot", help="Let the model reason before it answers (generates text).")] = False
    cot_samples: Annotated[
        int, Option("--cot-samples", min=1, metavar="N", help="With --cot: take the mean over N samples of reasoning.")
    ] = 1
    keep_cut: Annotated[
        bool, Option("--keep-cut", help="With --cot: also take the letter after reasoning that was cut by --max-tokens.")
    ] = False

    def asking(self, sampling: Sampling) -> Asking:
        """The settings for single answers. InputError if two flags conflict."""
        from cai_cli.method.judge import Asking

        if self.cot_samples > 1 and not self.cot:
            raise InputError("--cot-samples needs --cot")
        sampling.require_random(self.cot_samples > 1, "--cot-samples")
        orders = ("ab", "ba") if self.orders is Orders.both else (self.orders.value,)
        return Asking(orders, self.cot, self.cot_samples, self.keep_cut)


@dataclass
class Judging(Grading):
    """How a pair of answers is judged."""

    principles_per_pair: Annotated[
        str,
        Option(
            "--principles-per-pair",
            metavar="K|all",
            help="Judge each pair by K principles drawn for it, or by all, and take the mean.",
        ),
    ] = "1"
    few_shot: FewShot = None
    clamp: Annotated[
        str | None,
        Option(
            "--clamp",
            metavar="LOW,HIGH",
            help=f"Keep each probability within these bounds; with --cot {PAPERS_CLAMP} by default.",
        ),
    ] = None

    def settings(self, found: Constitution, sampling: Sampling) -> JudgeSettings:
        """The judge's settings with the constitution `found`. InputError if a value is invalid or two flags conflict."""
        from cai_cli.method.judge import JudgeSettings

        asking, count = self.asking(sampling), per_item("--principles-per-pair", self.principles_per_pair, found)
        return JudgeSettings(**vars(asking), principles_per_pair=count, few_shot=self.few_shot, clamp=self._bounds())

    def _bounds(self) -> tuple[float, float] | None:
        """--clamp as two numbers; None if there are no bounds."""
        text = self.clamp or (PAPERS_CLAMP if self.cot else "0,1")
        try:
            low, high = (float(part) for part in text.split(","))
        except ValueError:
            raise InputError(f"--clamp {text}: give two numbers, for example {PAPERS_CLAMP}") from None
        if not 0 <= low <= 0.5 <= high <= 1:
            raise InputError(f"--clamp {text}: the first must be between 0 and 0.5, the second between 0.5 and 1")
        return None if (low, high) == (0, 1) else (low, high)
