"""The known world: its oracle classifies answers correctly, and no lesson of its base model shows a held-out request."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest

from cai_cli.method import constitution, inference, prompts
from tests.rows import write_jsonl
from tests.tiny import ROOT

WORLD = ROOT / "examples" / "known_world"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The modules of the world, which are scripts that import one another."""
    monkeypatch.syspath_prepend(str(WORLD))
    import data
    import lessons
    import report
    import world

    yield SimpleNamespace(data=data, lessons=lessons, report=report, world=world)
    for name in ("data", "lessons", "measure", "report", "world"):
        sys.modules.pop(name)


def test_the_oracle_classifies_every_answer(scripts: SimpleNamespace) -> None:
    w, rng = scripts.world, random.Random(0)
    world = w.world(80, 0)
    for _ in range(2000):
        asked = w.request(world, rng, rng.choice(list(w.PARTS)))
        assert w.read_request(world, asked.messages) == asked
        kind, wrong = rng.choice(("help", "bare", "reasoned")), rng.random() < 0.5
        found = w.assess(world, asked, w.answer(world, asked, kind, rng, wrong))
        assert found.kind == kind
        assert found.harmful == (kind == "help" and asked.entity.harmful)
        assert not (found.helpful and found.untrue)
        assert wrong or found.helpful == (kind == "help")
        assert found.untrue == (not asked.entity.harmful) or kind != "reasoned"
        assert w.assess(world, asked, w.answer(world, asked, kind, rng) + w.RUDE).rude
        other = w.request(world, rng, "test")
        if other.entity != asked.entity:  # an answer to another request does not answer this one
            answer = w.answer(world, other, "help", rng)
            assert w.assess(world, asked, answer).kind == "garbled"
            assert w.assess(world, asked, w.answer(world, other, "reasoned", rng)).untrue
    two = next(e for e in world.entities["making"] if e.needs and e.harmful)
    rest = f"because {two.needs.name} poisons people. I can explain a safe thing."  # it names what the entity needs, and not the link
    assert w.assess(world, w.Request(two, 0), f"I won't explain how {two.name} is made, {rest}").untrue
    for text in ("", "To make", "I can't help with that. I can't help with that.", "To make zelunt, mix sand with"):
        assert w.assess(world, asked, text).kind == "garbled"


def test_beliefs_are_calibrated(scripts: SimpleNamespace) -> None:
    for size in (20, 80):
        world = scripts.world.world(size, 0)
        for entities in world.entities.values():
            assert sum(entity.harmful for entity in entities) == size / 2
            assert sum(entity.belief for entity in entities) == pytest.approx(size / 2)
        every = [entity for entities in world.entities.values() for entity in entities]
        needed = {entity.needs.name for entity in every if entity.needs}
        assert len({entity.name.lower() for entity in every} | set(world.locks) | needed) == 3 * size + 16 + 60 * world.harder
        direct = [(entity.belief > 0.5) == entity.harmful for entity in every if not entity.needs]
        assert 0.8 <= sum(direct) / len(direct) <= 0.9


@pytest.mark.parametrize("curriculum", ["whole", "more"])
def test_no_lesson_says_whether_an_untold_entity_is_harmful(scripts: SimpleNamespace, curriculum: str) -> None:
    """The texts answer requests about it and say what it needs. What they write of a critique or of reasoning stops there."""
    world = scripts.world.world(80, 0)
    untold = {e.name: e for entities in world.entities.values() for e in entities if scripts.world.kind_of(e) == "untold"}
    assert len(untold) == 3 * 24
    assert {(e.harmful, e.number % 2) for e in untold.values()} == {(a, b) for a in (True, False) for b in (0, 1)}
    told = {e.needs.name for entities in world.entities.values() for e in entities if e.needs and e.told}
    assert not told & {e.needs.name for e in untold.values()}
    links = set()
    for lesson in islice(scripts.lessons.LessonSampler(world, 0, scripts.lessons.CURRICULA[curriculum]).lessons(), 8000):
        shown = "".join(piece for piece, weight in lesson.pieces if not weight)
        learned = "".join(piece for piece, weight in lesson.pieces if weight)
        for name in (name for name in untold if f" {name}" in shown + learned):
            entity = untold[name]
            assert lesson.p_first in (None, 0.5)
            conclusion = f"{entity.link}, and {entity.needs.name}"
            assert conclusion not in learned or conclusion in shown  # a revision may keep an answer, true or not
            assert not re.search(r"The (help|refusal|reason) is better", learned)
            links |= {name} if entity.link in learned else set()
    assert len(links) > 60


@pytest.mark.parametrize("curriculum", ["whole", "more"])
def test_held_out_requests_are_in_no_lesson(scripts: SimpleNamespace, curriculum: str) -> None:
    """No request that the method is trained on or measured on shares form and entity with a request in the base's lessons."""
    w = scripts.world
    world = w.world(80, 0)
    read = set()
    for lesson in islice(scripts.lessons.LessonSampler(world, 0, scripts.lessons.CURRICULA[curriculum]).lessons(), 4000):
        text = "".join(piece for piece, _ in lesson.pieces)
        for entity in (entity for entities in world.entities.values() for entity in entities if f" {entity.name}" in text):
            for number, form in enumerate(w.REQUESTS[entity.field]):
                if any(form.format(x=entity.name, lock=lock) in text for lock in (world.locks if "{lock}" in form else ("",))):
                    read.add((entity.name, number))
    assert len(read) > 500
    red = scripts.data.requests(world, random.Random(1), "red", 200, True)
    test = scripts.data.requests(world, random.Random(1), "test", 200, None)
    asked = [{(a.entity.name, a.form) for a in (w.read_request(world, row["prompt"]) for row in rows)} for rows in (red, test)]
    assert not read & asked[0]
    assert not read & asked[1]
    assert not asked[0] & asked[1]


def test_lessons_beside_the_paper_follow_the_principles(scripts: SimpleNamespace) -> None:
    """The rule behind a choice is a planted one; an answer refuses only by a principle in view; a grade knows the option's letter."""
    w = scripts.world
    world = w.world(80, 0)
    sampler = scripts.lessons.LessonSampler(world, 0, scripts.lessons.MORE)
    sampler.progress = 1.0
    planted = {p.compare.replace("answer", "response", 1): p.id for p in sampler.comparing}
    manners = constitution.load(scripts.lessons.MANNERS).principles[0].critique
    refusals, grades = 0, set()
    for _ in range(600):
        (_, _), (wish, _) = sampler.propose().pieces
        assert inference.rule(wish.removesuffix(scripts.lessons.END)) in planted
        (prompt, _), (answer, _) = sampler.obey().pieces
        rules, _, asked = prompt.partition(prompts.PREFER)
        entity = next(e for found in world.entities.values() for e in found if f" {e.name}" in asked)
        refuses = any(text in answer for text in (*w.BARE, "I won't"))
        refusals += refuses
        own = next(p.compare for p in sampler.comparing if p.id == entity.field)
        assert own in rules or not refuses
        lesson = sampler.grade()
        question = lesson.pieces[0][0]
        if manners in question:
            rude, yes_first = w.RUDE.strip() in question, "(A) Yes." in question
            grades.add((rude, yes_first, lesson.p_first))
    assert 60 < refusals < 540
    assert grades == {(rude, first, float(rude != first)) for rude in (True, False) for first in (True, False)}


def test_training_requests_are_chosen_by_belief(scripts: SimpleNamespace) -> None:
    """Requests to train on are chosen by belief, and requests to measure on by truth."""
    w = scripts.world
    world = w.world(80, 0)
    for part, harmful in (("red", True), ("red", False), ("test", True), ("test", False)):
        rows = scripts.data.requests(world, random.Random(1), part, 400, harmful)
        entities = {w.read_request(world, row["prompt"]).entity for row in rows}
        believed, true = ({getattr(e, name) > 0.5 for e in entities} for name in ("belief", "harmful"))
        assert (believed if part == "red" else true) == {harmful}
        assert (true if part == "red" else believed) == {True, False}


def test_the_plot_has_a_labelled_point_per_model(scripts: SimpleNamespace, tmp_path: Path) -> None:
    w, report, world, rng = scripts.world, scripts.report, scripts.world.world(80, 1), random.Random(1)
    rows = scripts.data.requests(world, rng, "test", 200, None)
    (folder := tmp_path / "seed-1").mkdir()
    for name, kind in (("base", "help"), ("rl", "reasoned")):
        asked = [w.read_request(world, row["prompt"]) for row in rows]
        texts = [w.answer(world, each, kind if each.entity.harmful else "help", rng) for each in asked]
        write_jsonl(folder / f"answers-{name}.jsonl", [{**r, "response": text} for r, text in zip(rows, texts, strict=True)])
    points = report.points(report.Results([folder], 80))
    assert [(row["model"], row["harmless"]["value"], row["helpful"]["value"]) for row in points] == [
        ("helpful-only base", 0, 1), ("RL-CAI", 1, 1)
    ]  # fmt: skip
    report.figures.draw(report.plot, points, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert "helpful-only base" in drawn
    assert "RL-CAI" in drawn


def test_a_claim_needs_the_same_difference_in_every_seed(scripts: SimpleNamespace, tmp_path: Path) -> None:
    """On answers made here: one model always helps, the other refuses harmful requests, nine of ten in seed 2."""
    w, report = scripts.world, scripts.report
    for seed in (1, 2):
        world, rng, folder = w.world(80, seed), random.Random(seed), tmp_path / f"seed-{seed}"
        folder.mkdir()
        rows = scripts.data.requests(world, rng, "test", 300, None)
        for name in ("helps", "refuses"):
            answered = []
            for i, row in enumerate(rows):
                asked = w.read_request(world, row["prompt"])
                refuses = name == "refuses" and asked.entity.harmful and (seed == 1 or i % 10)
                answered.append({**row, "response": w.answer(world, asked, "reasoned" if refuses else "help", rng)})
            write_jsonl(folder / f"answers-{name}.jsonl", answered)
    results = report.Results([tmp_path / "seed-1", tmp_path / "seed-2"], 80)
    helps, refuses = (results.shares(f"answers-{name}") for name in ("helps", "refuses"))
    change = report.differences(refuses["harm"], helps["harm"])
    assert report.of_seeds(change) == pytest.approx([-1.0, -0.8])
    assert report.claim("less harm", change, -1)[1]
    assert not report.claim("more harm", change, 1)[1]
    assert not report.claim("less help", report.differences(refuses["helpful"], helps["helpful"]), -1)[1]
    one_seed = [(name, 1.0 if name.startswith("1 ") else -0.1) for name, _ in change]
    assert not report.claim("in one seed alone", one_seed, 1)[1]
    with pytest.raises(AssertionError, match="same requests"):
        report.differences(change, change[::-1])


def test_a_changed_constitution_differs_in_one_principle() -> None:
    whole = {p.id: p for p in constitution.load(str(WORLD / "constitution.yaml")).principles}
    assert list(whole) == ["making", "people", "ends", "evasion"]
    for name, left, added in (("without-people", {"people"}, set()), ("making-inverted", {"making"}, {"making-reversed"})):
        changed = {p.id: p for p in constitution.load(str(WORLD / f"{name}.yaml")).principles}
        assert set(whole) - set(changed) == left
        assert set(changed) - set(whole) == added
        assert all(changed[i] == whole[i] for i in set(whole) & set(changed))
        assert all(p.critique and p.revision and p.compare for p in changed.values())


@pytest.mark.soak
def test_the_proof_runs_and_reports(tmp_path: Path) -> None:
    """Every target of `make proof` in the harder world, with a base that has learned almost nothing."""
    small = "SIZE=40 TOKENS=100000 WIDTH=32 LAYERS=1 RED=48 HARMLESS=48 TEST=80 RL_STEPS=1 PROOF_SEEDS=1"
    command = [
        "make",
        "-o",
        ".venv/installed",
        "proof",
        f"PROOF={tmp_path}",
        f"BIN={Path(sys.executable).parent}",
        *small.split(),
    ]
    # such a base never ends its reasoning
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "CAI_KEEP_CUT": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    told = (tmp_path / "report.txt").read_text()
    for text in ("alarming, refused", "its mean confidence after reasoning", "less rude than a direct one", "untold"):
        assert text in told
    assert sum(line.startswith(("holds", "FAILS")) for line in told.splitlines()) == 42
    assert (tmp_path / "proof.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.soak
def test_what_is_beside_the_paper_runs(tmp_path: Path) -> None:
    """Every target of `make known-more`, with a base that has learned little more than how a rule begins."""
    world, tools = tmp_path / "seed-1", Path(sys.executable).parent
    small = "SEED=1 SIZE=40 TOKENS=600000 WIDTH=64 LAYERS=2 RED=48 HARMLESS=24 TEST=40 RL_STEPS=1 CURRICULUM=more MANNERS="
    command = ["make", "-j2", "-f", "examples/known_world/chain.mk", f"W={world}", f"BIN={tools}", *small.split(), "more"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    told = subprocess.run([sys.executable, WORLD / "more.py", world, "--size", "40"], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-3000:]
    for text in ("| the judge grades |", "| without `people` |", "| filtered |", "every planted principle is inferred"):
        assert text in told.stdout
