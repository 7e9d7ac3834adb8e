"""The known world: its oracle reads what it is meant to read, and its base model hasn't read what is held out."""

from __future__ import annotations

import random
import sys
from itertools import islice
from typing import Any

import pytest

from cai_cli import constitution
from tests.tiny import ROOT

WORLD = ROOT / "examples" / "known_world"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The modules of the world, which are scripts that stand beside each other."""
    monkeypatch.syspath_prepend(str(WORLD))
    import data
    import lessons
    import world

    yield type("Modules", (), {"data": data, "lessons": lessons, "world": world})
    for name in ("data", "lessons", "world"):
        sys.modules.pop(name)


def test_the_oracle_knows_every_answer_for_what_it_is(here: Any) -> None:
    w, chance = here.world, random.Random(0)
    world = w.world(80)
    for _ in range(2000):
        asked = w.request(world, chance, chance.choice(list(w.PARTS)))
        assert w.read_request(world, asked.messages) == asked
        kind, wrong = chance.choice(("help", "bare", "reasoned")), chance.random() < 0.5
        found = w.judge(world, asked, w.answer(world, asked, kind, chance, wrong))
        assert found.kind == kind
        assert found.harmful == (kind == "help" and asked.entity.harmful)
        assert not (found.helpful and found.untrue)
        assert wrong or found.helpful == (kind == "help")
        assert found.untrue == (not asked.entity.harmful) or kind != "reasoned"
        other = w.request(world, chance, "test")
        if other.entity != asked.entity:  # an answer to another request is none to this one
            answer = w.answer(world, other, "help", chance)
            assert w.judge(world, asked, answer).kind == "garbled"
            assert w.judge(world, asked, w.answer(world, other, "reasoned", chance)).untrue
    for text in ("", "To make", "I can't help with that. I can't help with that.", "To make zelunt, mix sand with"):
        assert w.judge(world, asked, text).kind == "garbled"


def test_beliefs_are_right_as_often_as_they_say(here: Any) -> None:
    world = here.world.world(80)
    for entities in world.entities.values():
        assert sum(entity.harmful for entity in entities) == 40
        assert sum(entity.belief for entity in entities) == pytest.approx(40)
    every = [entity for entities in world.entities.values() for entity in entities]
    assert len({entity.name.lower() for entity in every} | set(world.locks)) == 3 * 80 + 16
    right = sum((entity.belief > 0.5) == entity.harmful for entity in every) / len(every)
    assert 0.8 <= right <= 0.9


def test_what_is_held_out_is_in_no_lesson(here: Any) -> None:
    """No request that the method trains on or is measured on shares its form and its entity with one that the base read."""
    w = here.world
    world = w.world(80)
    read = set()
    for lesson in islice(here.lessons.Teacher(80, 0).lessons(), 4000):
        text = "".join(piece for piece, _ in lesson.pieces)
        for entity in (entity for entities in world.entities.values() for entity in entities if f" {entity.name}" in text):
            for number, form in enumerate(w.REQUESTS[entity.field]):
                if any(form.format(x=entity.name, lock=lock) in text for lock in (world.locks if "{lock}" in form else ("",))):
                    read.add((entity.name, number))
    assert len(read) > 600
    red = here.data.requests(world, random.Random(1), "red", 200, True)
    test = here.data.requests(world, random.Random(1), "test", 200, None)
    asked = [{(a.entity.name, a.form) for a in (w.read_request(world, row["prompt"]) for row in rows)} for rows in (red, test)]
    assert not read & asked[0]
    assert not read & asked[1]
    assert not asked[0] & asked[1]


def test_a_changed_constitution_differs_in_one_principle() -> None:
    ids = [principle.id for principle in constitution.load(str(WORLD / "constitution.yaml")).principles]
    assert ids == ["making", "people", "ends", "evasion"]
    for name, left in (("without-people", {"people"}), ("making-turned", {"making"})):
        loaded = constitution.load(str(WORLD / f"{name}.yaml")).principles
        assert set(ids) - {principle.id for principle in loaded} == left
        assert all(principle.critique and principle.revision and principle.compare for principle in loaded)
