"""The training texts of the base model: conversations, critiques, revisions and comparisons, in the prompt forms of `cai`.

Each lesson is a prompt, made by `cai_cli.method.prompts`, and its continuation. The loss is on the continuation alone. Each
lesson draws anew whether its entity is said to be harmful, with the entity's belief as the probability.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import world as w

from cai_cli.data.jsonl import Record
from cai_cli.data.records import Messages
from cai_cli.data.transcripts import REVISION_REQUEST
from cai_cli.method import constitution, inference, prompts, rubrics
from cai_cli.method.constitution import Principle

HERE = Path(__file__).parent
CONSTITUTION, REVERSED, MANNERS = (str(HERE / f"{name}.yaml") for name in ("constitution", "reversed", "manners"))


@dataclass(frozen=True)
class Curriculum:
    """What a base is trained on, and with which settings."""

    kinds: dict[str, int]
    """The weight of each kind of lesson."""
    constitutions: tuple[str, ...]
    """The files of the principles."""
    letter: float
    """The weight in the loss of a comparison's letter. A token has weight 1."""
    parts: int
    """Batches per step."""
    batch: int
    """Tokens per batch."""
    rate: float
    """The highest learning rate."""
    warmup: int
    """Steps of warm-up until the highest learning rate."""
    response: float = 0.0
    """How often a comparison's principle says "response", as inferred principles do, in place of "answer"."""


WHOLE = Curriculum(
    {"answer": 18, "round": 11, "direct": 11, "compare": 40, "reason": 20, "fact": 20},
    (CONSTITUTION, REVERSED, MANNERS), 5.0, 3, 2048, 3e-3, 100,
)  # fmt: skip
QUICK = Curriculum({"answer": 70, "round": 18, "direct": 4, "compare": 34, "reason": 34}, (CONSTITUTION,), 5.0, 4, 640, 4e-3, 60)
"""For the smaller world: smaller steps, more answers, as many reasoned comparisons as plain ones, few direct revisions, and no
inverted principle."""
MORE = replace(
    WHOLE, kinds={**WHOLE.kinds, "answer": 12, "grade": 20, "obey": 20, "propose": 12}, constitutions=(CONSTITUTION, MANNERS),
    response=0.4,
)  # fmt: skip
"""For what is beside the paper: grades by a principle, answers with the principles in view, and the principle behind a choice."""
CURRICULA = {"whole": WHOLE, "quick": QUICK, "more": MORE}
END = "<|end|>"
"""The spelling of the end-of-text token."""
OWN = 0.6
"""The final probability that a lesson's principle is the one of the request's own field. It starts at 1 and falls to this over
the share NARROW of the training. So the model first learns what a principle looks for, and then when it applies."""
NARROW = 0.27
BARE, BARE_ALARMED = 0.08, 0.2
"""The probability that an answer is a bare refusal, for any request, and for one that sounds harmful."""


@dataclass(frozen=True)
class Lesson:
    """Pieces of text in order, each with the weight of its tokens in the loss (0: not in the loss).

    In a comparison, `p_first` is the probability that the next letter is A; otherwise it is B.
    """

    pieces: tuple[tuple[str, float], ...]
    p_first: float | None = None


def _draw_principle(every: list[Principle], field: str, rng: random.Random, own: float) -> Principle:
    """With probability `own`, the principle of the request's field, or sometimes its inverted form if one exists; else any."""
    by_id = {p.id: p for p in every}
    if rng.random() < own:
        inverted = by_id.get(f"{field}-reversed")
        return inverted if inverted and rng.random() < 0.3 else by_id[field]
    return rng.choice(every)


CRITIQUES = {
    "making": ("The answer helps to make {x}, and {why}.", "The answer refuses {x}, and {why}.", "The answer makes nothing."),
    "people": ("The answer tells of {x}, and {why}.", "The answer hides {x}, and {why}.", "The answer finds nobody."),
    "ends": (
        "The answer opens a way to {x}, and {why}.", "The answer opens no way to {x}, and {why}.", "The answer opens nothing.",
    ),
}  # fmt: skip
"""The critiques of each field: the answer helps; it refuses; the request belongs to another field."""
EVASIONS = {
    "bare": "The answer refuses without a reason, and {deed}.",
    "reasoned": "The answer gives a reason, and {deed}.",
    "help": "The answer does not refuse.",
}
"""The critiques by the `evasion` principle, by the kind of the answer."""
MANNERS_OF = {True: "The answer is rude.", False: "The answer is polite."}
"""The critiques by the `manners` principle, by whether the answer is rude."""
RUDE = 0.3
"""The probability that an answer is rude, in a harder world."""
FACT = "What do you know about {x}?"
"""The question of a lesson about a fact."""


def deed(entity: w.Entity, believed: bool) -> str:
    """Whether an entity does harm, in words: itself, or what it needs."""
    does = f"{(entity.needs or entity).name} does {'' if believed else 'no '}harm"
    return f"{entity.link}, and {does}" if entity.needs else does


def critique_of(principle: str, asked: w.Request, kind: str, believed: bool) -> tuple[str, str]:
    """(critique, kind of the revision) of an answer by a principle. "" as the kind keeps the answer. `believed` says whether
    the entity is believed harmful."""
    field, _, inverted = principle.partition("-")
    if field == "evasion":
        critique = EVASIONS[kind].format(deed=deed(asked.entity, believed))
        wanted = "reasoned" if believed and kind == "bare" else "help" if not believed and kind != "help" else ""
        return critique, wanted
    if field != asked.entity.field:
        return CRITIQUES[field][2], ""
    critique = CRITIQUES[field][kind != "help"].format(x=asked.entity.name, why=asked.entity.why(believed))
    wanted = "help" if inverted else "reasoned"
    return critique, wanted if believed and (kind == "help") != bool(inverted) else ""


def better(principle: str, asked: w.Request, kinds: tuple[str, str], believed: bool) -> float:
    """The probability that the first of two answers is better by a principle: 1, 0, or 0.5 if the principle says nothing."""
    field, _, inverted = principle.partition("-")
    if field == "evasion":
        rank: dict[str, int | None] = {"reasoned": 1, "bare": 0, "help": None}  # it compares refusals only
    elif field == asked.entity.field:
        refuse = int(believed != bool(inverted))
        rank = {"help": 1 - refuse, "bare": refuse, "reasoned": refuse}
    else:
        return 0.5
    first, second = (rank[kind] for kind in kinds)
    return 0.5 if first is None or second is None or first == second else float(first > second)


def expected(asked: w.Request, value: Callable[[bool], float]) -> float:
    """The mean of a value of whether the entity is believed harmful."""
    belief = asked.entity.belief
    return belief * value(True) + (1 - belief) * value(False)


def reasoning_of(principle: str, asked: w.Request, kinds: tuple[str, str], believed: bool, p_first: float) -> str:
    """The reasoning before the letter of a reasoned comparison: what each answer does, the fact, and the conclusion."""
    field = principle.partition("-")[0]
    names = {"help": "helps", "bare": "refuses without a reason", "reasoned": "refuses with a reason"}
    text = f" Answer (A) {names[kinds[0]]}, answer (B) {names[kinds[1]]}."
    if field not in ("evasion", asked.entity.field):
        return f"{text} This is about something else."
    text = f"{text} {deed(asked.entity, believed)}."
    if p_first == 0.5:
        return f"{text} Neither is better."
    winner = kinds[0] if p_first > 0.5 else kinds[1]
    return f"{text} The {'reason' if field == 'evasion' else 'help' if winner == 'help' else 'refusal'} is better."


def _answer_kind(rng: random.Random) -> str:
    return rng.choices(("help", "reasoned", "bare"), (5, 3, 2))[0]


class LessonSampler:
    """Draws the lessons of a world from a seed. `progress` is the share of the training that is done."""

    def __init__(self, world: w.World, seed: int, curriculum: Curriculum = WHOLE) -> None:
        self.world, self.rng, self.curriculum = world, random.Random(seed), curriculum
        found = constitution.load(*curriculum.constitutions).principles
        self.principles = [p for p in found if world.harder or p.id != "manners"]
        self.comparing = [p for p in found if p.compare]
        self.needing = [entity for entities in world.entities.values() for entity in entities if entity.needs]
        self.progress = 0.0

    def lessons(self) -> Iterator[Lesson]:
        """An endless stream of lessons."""
        found = {kind: weight for kind, weight in self.curriculum.kinds.items() if kind != "fact" or self.world.harder}
        kinds, weights = list(found), list(found.values())
        while True:
            yield getattr(self, self.rng.choices(kinds, weights)[0])()

    def _setting(self, principles: list[Principle], told: bool = True) -> tuple[w.Request, Principle, bool]:
        asked = w.request(self.world, self.rng, "base", told=told)
        own = max(OWN, 1 - (1 - OWN) * self.progress / NARROW)
        principle = _draw_principle(principles, asked.entity.field, self.rng, own)
        return asked, principle, self.rng.random() < asked.entity.belief

    def _first_step(self, prompt: Messages, text: str) -> str:
        """The beginning of a text that says what an untold entity needs: no text draws the conclusion. Else empty."""
        entity = w.read_request(self.world, prompt).entity
        if entity.told or entity.link not in text:
            return ""
        return f"{text.partition(entity.link)[0]}{entity.link}, and"

    def _written(self, asked: w.Request, kind: str) -> str:
        return w.answer(self.world, asked, kind, self.rng, wrong=self.rng.random() < 0.05) + self._tail()

    def _tail(self) -> str:
        return w.RUDE if self.world.harder and self.rng.random() < RUDE else ""

    def fact(self) -> Lesson:
        """What an entity needs, or whether a thing that one needs does harm, in a harder world.

        The second often stands after another entity's need, so that it is known there too and not only at the beginning.
        """
        first, second = (self.rng.choice(self.needing) for _ in range(2))
        assert second.needs
        if self.rng.random() < 0.4:
            subject, text = first.name, first.link
        else:
            thing = second.needs
            rule = w.RULES[thing.field][self.rng.random() >= thing.belief].removeprefix("to ").format(x=thing.name)
            subject, text = thing.name, self.rng.choice((rule, deed(thing, self.rng.random() < thing.belief)))
            if self.rng.random() < 0.6 and first.needs is not thing:
                subject, text = f"{first.name} and {subject}", f"{first.link}, and {text}"
        prompt = prompts.answer({"prompt": FACT.format(x=subject)}, "hh")
        return Lesson(((prompt.text, 0), (f" {text}.{END}", 1)))

    def answer(self) -> Lesson:
        """A request and its answer. Harmful requests are answered too."""
        asked = w.request(self.world, self.rng, "base")
        kind = "bare" if self.rng.random() < (BARE_ALARMED if asked.opener in w.ALARMING else BARE) else "help"
        prompt = prompts.answer({"prompt": asked.messages}, "hh")
        return Lesson(((prompt.text, 0), (f" {w.answer(self.world, asked, kind, self.rng)}{self._tail()}{END}", 1)))

    def _criticised(self, told: bool = True) -> tuple[Record, Principle, str, str]:
        """(record, principle, critique, revision)."""
        asked, principle, believed = self._setting(self.principles, told)
        kind = _answer_kind(self.rng)
        text = self._written(asked, kind)
        record: Record = {"prompt": asked.messages, "response": text}
        if principle.id == "manners":
            return record, principle, MANNERS_OF[text.endswith(w.RUDE)], text.removesuffix(w.RUDE)
        critique, wanted = critique_of(principle.id, asked, kind, believed)
        if not wanted:
            return record, principle, critique, text
        # a revision removes the fault that its principle is about, and leaves the other one
        tail = w.RUDE if text.endswith(w.RUDE) else ""
        return record, principle, critique, w.answer(self.world, asked, wanted, self.rng) + tail

    def round(self) -> Lesson:
        """A critique and its revision."""
        record, principle, critique, revised = self._criticised(told=False)
        first = prompts.critique(record, principle, "hh").text
        if known := self._first_step(record["prompt"], critique):
            return Lesson(((first, 0), (f" {known}", 1)))
        whole = prompts.revision(record, principle, critique, "hh").text
        request = whole[len(first) + len(critique) + 1 :].removeprefix(REVISION_REQUEST)
        return Lesson(((first, 0), (f" {critique}{REVISION_REQUEST}", 1), (request, 0), (f" {revised}{END}", 1)))

    def direct(self) -> Lesson:
        """A revision without a critique."""
        record, principle, _, revised = self._criticised()
        return Lesson(((prompts.direct_revision(record, principle, "hh").text, 0), (f" {revised}{END}", 1)))

    def _kinds(self) -> tuple[str, str]:
        """The kinds of two answers to compare, which may be the same."""
        first, second = _answer_kind(self.rng), _answer_kind(self.rng)
        while first == second and self.rng.random() < 0.75:
            second = _answer_kind(self.rng)
        return first, second

    def _pair(self, told: bool = True) -> tuple[w.Request, Principle, bool, tuple[str, str], tuple[str, str]]:
        asked, principle, believed = self._setting(self.comparing, told)
        first, second = "", ""
        while first == second:
            kinds = self._kinds()
            first, second = self._written(asked, kinds[0]), self._written(asked, kinds[1])
        return asked, principle, believed, kinds, (first, second)

    def compare(self) -> Lesson:
        """Two answers, and the probability that the first is better. It is the mean over many lessons with a drawn letter."""
        asked, principle, _, kinds, texts = self._pair()
        p_first = expected(asked, lambda believed: better(principle.id, asked, kinds, believed))
        if self.curriculum.response and self.rng.random() < self.curriculum.response:
            principle = replace(principle, compare=(principle.compare or "").replace("answer", "response", 1))
        prompt = prompts.comparison(asked.messages, *texts, principle, "hh")
        return Lesson(((prompt.text, 0),), p_first)

    def reason(self) -> Lesson:
        """A comparison with reasoning before the letter."""
        asked, principle, believed, kinds, texts = self._pair(told=False)
        p_first = better(principle.id, asked, kinds, believed)
        prompt = prompts.reasoning(asked.messages, *texts, principle, "hh")
        reasoning = reasoning_of(principle.id, asked, kinds, believed, p_first)
        if known := self._first_step(asked.messages, reasoning):
            return Lesson(((prompt.text, 0), (known, 1)))
        whole = prompts.after_reasoning(prompt, reasoning).text
        question = whole[len(prompt.text) + len(reasoning) :]
        return Lesson(((prompt.text, 0), (reasoning + question.removesuffix(" ("), 1), (" (", 0)), p_first)

    def grade(self) -> Lesson:
        """Whether a critic who applies a principle would find nothing in an answer, as `cai grade -c` asks."""
        asked, principle, _ = self._setting(self.principles)
        kind = _answer_kind(self.rng)
        text = self._written(asked, kind)
        if principle.id == "manners":
            good = float(not text.endswith(w.RUDE))
        else:
            good = expected(asked, lambda believed: float(not critique_of(principle.id, asked, kind, believed)[1]))
        criterion, swapped = rubrics.criterion_of(principle), self.rng.random() < 0.5
        options = list(criterion.classes.values())[:: -1 if swapped else 1]
        prompt = prompts.grading(asked.messages, text, criterion.question, options, "hh")
        return Lesson(((prompt.text, 0),), 1 - good if swapped else good)

    def obey(self) -> Lesson:
        """An answer with principles in view: all in their order, or some. It refuses only what one of them is about."""
        asked, own, believed = self._setting(self.comparing)
        others = [p for p in self.comparing if p is not own]
        shown = self.comparing if self.rng.random() < 0.5 else [own, *self.rng.sample(others, self.rng.randrange(len(others)))]
        ids = {p.id for p in shown}
        kind = "help"
        if believed and asked.entity.field in ids:
            kind = "reasoned" if "evasion" in ids or self.rng.random() < 0.5 else "bare"
        prompt = prompts.answer({"prompt": prompts.in_context(asked.messages, shown)}, "hh")
        return Lesson(((prompt.text, 0), (f" {w.answer(self.world, asked, kind, self.rng)}{self._tail()}{END}", 1)))

    def propose(self) -> Lesson:
        """The principle by which one of two answers is better."""
        p_first = 0.5
        while p_first == 0.5:
            asked, principle, believed, kinds, texts = self._pair()
            p_first = better(principle.id, asked, kinds, believed)
        prompt = inference.proposal(asked.messages, texts, int(p_first < 0.5), "hh")
        wish = (principle.compare or "").removeprefix("Choose the answer that")
        return Lesson(((prompt.text, 0), (f"{wish}{END}", 1)))
