"""What the base model reads of the world: conversations, critiques, revisions, comparisons, in the forms that `cai` prompts with.

Each lesson is a prompt, made by `cai_cli.prompts`, and what follows it; only what follows is learnt. Whether an entity does
harm is believed anew in each lesson, as often as the world's texts say so.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import world as w

from cai_cli import constitution, prompts
from cai_cli.constitution import Principle
from cai_cli.transcripts import REVISION_REQUEST

HERE = Path(__file__).parent
CONSTITUTION, REVERSED = str(HERE / "constitution.yaml"), str(HERE / "reversed.yaml")


@dataclass(frozen=True)
class Curriculum:
    """What a base reads, and how it learns it."""

    kinds: dict[str, int]
    """How often each kind of lesson comes."""
    constitutions: tuple[str, ...]
    """Where the principles come from."""
    letter: float
    """What the letter of a comparison counts in the loss, in tokens."""
    parts: int
    """Batches a step."""
    batch: int
    """Tokens a batch."""
    rate: float
    """The highest learning rate."""
    warmup: int
    """Steps until it's reached."""


WHOLE = Curriculum(
    {"answer": 18, "round": 11, "direct": 11, "compare": 40, "reason": 20}, (CONSTITUTION, REVERSED), 5.0, 3, 2048, 3e-3, 100
)
QUICK = Curriculum({"answer": 70, "round": 18, "direct": 4, "compare": 34, "reason": 34}, (CONSTITUTION,), 5.0, 4, 640, 4e-3, 60)
"""For a small world: smaller steps, more answers, as many comparisons that say what follows as ones that don't, few direct
revisions. No principle is turned round."""
END = "<|end|>"
"""The token that ends a text, as the tokenizer spells it."""
OWN = 0.6
"""How often a principle is that of the request's own field: in the beginning always, and this often after NARROW of the training.
What to look for comes first, and then when it matters."""
NARROW = 0.27
BARE = 0.08
"""How often the base refuses, whatever it's asked."""


@dataclass(frozen=True)
class Lesson:
    """Pieces of text in order, each with the weight of its tokens in the loss (0: read, not learnt).

    Of a comparison, `p_first` is how likely the letter that comes next is an A, and else a B.
    """

    pieces: tuple[tuple[str, float], ...]
    p_first: float | None = None


def _draw_principle(every: list[Principle], field: str, chance: random.Random, own: float) -> Principle:
    """With probability `own` that of the request's field, at times turned round, where there is such a one; else any."""
    by_id = {p.id: p for p in every}
    if chance.random() < own:
        turned = by_id.get(f"{field}-reversed")
        return turned if turned and chance.random() < 0.3 else by_id[field]
    return chance.choice(every)


CRITIQUES = {
    "making": (
        "The answer helps to make {x}, and {x} poisons people.", "The answer helps to make {x}, and {x} is safe.",
        "The answer refuses {x}, and {x} poisons people.", "The answer refuses {x}, and {x} is safe.",
        "The answer makes nothing.",
    ),
    "people": (
        "The answer tells of {x}, and {x} wants no visitors.", "The answer tells of {x}, and {x} likes visitors.",
        "The answer hides {x}, and {x} wants no visitors.", "The answer hides {x}, and {x} likes visitors.",
        "The answer finds nobody.",
    ),
    "ends": (
        "The answer opens a way to {x}, and to {x} hurts people.", "The answer opens a way to {x}, and to {x} is kind.",
        "The answer opens no way to {x}, and to {x} hurts people.", "The answer opens no way to {x}, and to {x} is kind.",
        "The answer opens nothing.",
    ),
}  # fmt: skip
"""What a critique says: helps and does harm, helps and does none, refuses and would, refuses and wouldn't; another field."""
EVASIONS = {
    "bare": "The answer refuses without a reason, and {x} does {no}harm.",
    "reasoned": "The answer gives a reason, and {x} does {no}harm.",
    "help": "The answer does not refuse.",
}


def critique_of(principle: str, asked: w.Request, kind: str, believed: bool) -> tuple[str, str]:
    """(critique, kind of the revision; "" leaves the answer as it is) by a principle, where harm is believed or not."""
    field, _, turned = principle.partition("-")
    x = asked.entity.name
    if field == "evasion":
        critique = EVASIONS[kind].format(x=x, no="" if believed else "no ")
        wanted = "reasoned" if believed and kind == "bare" else "help" if not believed and kind != "help" else ""
        return critique, wanted
    if field != asked.entity.field:
        return CRITIQUES[field][4], ""
    critique = CRITIQUES[field][2 * (kind != "help") + (not believed)].format(x=x)
    wanted = "help" if turned else "reasoned"
    return critique, wanted if believed and (kind == "help") != bool(turned) else ""


def better(principle: str, asked: w.Request, kinds: tuple[str, str], believed: bool) -> float:
    """How likely the first of two answers is the better one by a principle: 1, 0, or 0.5 where it doesn't say."""
    field, _, turned = principle.partition("-")
    if field == "evasion":
        rank: dict[str, int | None] = {"reasoned": 1, "bare": 0, "help": None}  # what helps is the other principles' business
    elif field == asked.entity.field:
        refuse = int(believed != bool(turned))
        rank = {"help": 1 - refuse, "bare": refuse, "reasoned": refuse}
    else:
        return 0.5
    first, second = (rank[kind] for kind in kinds)
    return 0.5 if first is None or second is None or first == second else float(first > second)


def thoughts_of(principle: str, asked: w.Request, kinds: tuple[str, str], believed: bool, p_first: float) -> str:
    """What is written before the letter of a reasoned comparison: what the answers do, the fact, and what follows."""
    field = principle.partition("-")[0]
    names = {"help": "helps", "bare": "refuses without a reason", "reasoned": "refuses with a reason"}
    told = f" Answer (A) {names[kinds[0]]}, answer (B) {names[kinds[1]]}."
    if field not in ("evasion", asked.entity.field):
        return f"{told} This is about something else."
    told = f"{told} {asked.entity.name} does {'' if believed else 'no '}harm."
    if p_first == 0.5:
        return f"{told} Neither is better."
    winner = kinds[0] if p_first > 0.5 else kinds[1]
    return f"{told} The {'reason' if field == 'evasion' else 'help' if winner == 'help' else 'refusal'} is better."


def _answer_kind(chance: random.Random) -> str:
    return chance.choices(("help", "reasoned", "bare"), (5, 3, 2))[0]


class Teacher:
    """Lessons of a world, drawn from a seed. `progress` is the share of the training that is done."""

    def __init__(self, world: w.World, seed: int, curriculum: Curriculum = WHOLE) -> None:
        self.world, self.chance, self.curriculum = world, random.Random(seed), curriculum
        self.principles = list(constitution.load(*curriculum.constitutions).principles)
        self.progress = 0.0

    def lessons(self) -> Iterator[Lesson]:
        """Without end."""
        kinds, weights = list(self.curriculum.kinds), list(self.curriculum.kinds.values())
        while True:
            yield getattr(self, self.chance.choices(kinds, weights)[0])()

    def _setting(self) -> tuple[w.Request, Principle, bool]:
        asked = w.request(self.world, self.chance, "base")
        own = max(OWN, 1 - (1 - OWN) * self.progress / NARROW)
        principle = _draw_principle(self.principles, asked.entity.field, self.chance, own)
        return asked, principle, self.chance.random() < asked.entity.belief

    def _written(self, asked: w.Request, kind: str) -> str:
        return w.answer(self.world, asked, kind, self.chance, wrong=self.chance.random() < 0.05)

    def answer(self) -> Lesson:
        """A request and its answer, harm or no harm."""
        asked = w.request(self.world, self.chance, "base")
        kind = "bare" if self.chance.random() < BARE else "help"
        prompt = prompts.answer({"prompt": asked.messages}, "hh")
        return Lesson(((prompt.text, 0), (f" {w.answer(self.world, asked, kind, self.chance)}{END}", 1)))

    def _criticised(self) -> tuple[dict[str, Any], Principle, str, str]:
        """(record, principle, critique, revision)."""
        asked, principle, believed = self._setting()
        kind = _answer_kind(self.chance)
        record = {"prompt": asked.messages, "response": self._written(asked, kind)}
        critique, wanted = critique_of(principle.id, asked, kind, believed)
        return record, principle, critique, w.answer(self.world, asked, wanted, self.chance) if wanted else record["response"]

    def round(self) -> Lesson:
        """A critique and its revision."""
        record, principle, critique, revised = self._criticised()
        first = prompts.critique(record, principle, "hh").text
        whole = prompts.revision(record, principle, critique, "hh").text
        request = whole[len(first) + len(critique) + 1 :].removeprefix(REVISION_REQUEST)
        return Lesson(((first, 0), (f" {critique}{REVISION_REQUEST}", 1), (request, 0), (f" {revised}{END}", 1)))

    def direct(self) -> Lesson:
        """A revision without a critique."""
        record, principle, _, revised = self._criticised()
        return Lesson(((prompts.direct_revision(record, principle, "hh").text, 0), (f" {revised}{END}", 1)))

    def _kinds(self) -> tuple[str, str]:
        """Of two answers to compare; at times alike."""
        first, second = _answer_kind(self.chance), _answer_kind(self.chance)
        while first == second and self.chance.random() < 0.75:
            second = _answer_kind(self.chance)
        return first, second

    def _pair(self) -> tuple[w.Request, Principle, bool, tuple[str, str], tuple[str, str]]:
        asked, principle, believed = self._setting()
        first, second = "", ""
        while first == second:
            kinds = self._kinds()
            first, second = self._written(asked, kinds[0]), self._written(asked, kinds[1])
        return asked, principle, believed, kinds, (first, second)

    def compare(self) -> Lesson:
        """Two answers, and how likely either is the better one: what the letters of many such lessons come to."""
        asked, principle, _, kinds, texts = self._pair()
        belief = asked.entity.belief
        if_so, if_not = (better(principle.id, asked, kinds, believed) for believed in (True, False))
        prompt = prompts.comparison(asked.messages, *texts, principle, "hh")
        return Lesson(((prompt.text, 0),), belief * if_so + (1 - belief) * if_not)

    def reason(self) -> Lesson:
        """The same with thoughts before the letter."""
        asked, principle, believed, kinds, texts = self._pair()
        p_first = better(principle.id, asked, kinds, believed)
        prompt = prompts.reasoning(asked.messages, *texts, principle, "hh")
        thoughts = thoughts_of(principle.id, asked, kinds, believed, p_first)
        whole = prompts.after_reasoning(prompt, thoughts).text
        asks = whole[len(prompt.text) + len(thoughts) :]
        return Lesson(((prompt.text, 0), (thoughts + asks.removesuffix(" ("), 1), (" (", 0)), p_first)
