"""Constitutions: what a file may hold and include, and what is wrong with a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_cli.errors import InputError
from cai_cli.method import constitution
from cai_cli.method.constitution import ROUND
from tests.tiny import ROOT


def test_the_packaged_constitutions_are_whole() -> None:
    assert {"default", "non-evasive", "single", "seafarer"} <= set(constitution.packaged())
    for name in constitution.packaged():
        found = constitution.load(name)
        found.require("critique", "revision", "compare")
        assert len({p.critique for p in found.principles}) == len({p.compare for p in found.principles}) == len(found.principles)
    found = constitution.load(constitution.DEFAULT)
    assert len(found.principles) == 16
    assert {found.draw(0, ROUND, f"id{i}", 0).id for i in range(400)} == set(found.by_id)
    assert len(found.examples.critique) >= 3
    assert len(constitution.load("single").principles) == 1


def test_a_file_includes_another_and_adds_drops_and_reweights(tmp_path: Path) -> None:
    base, mine = tmp_path / "base.yaml", tmp_path / "mine.yaml"
    base.write_text("name: base\nprinciples:\n- {id: a, critique: A}\n- {id: b, critique: B}\n- {id: c, critique: C}\n")
    mine.write_text(
        "name: mine\ninclude:\n- {name: base.yaml, drop: [a], weights: {b: 3}}\nprinciples:\n- {id: d, critique: D, weight: 0.5}\n"
    )
    found = constitution.load(str(mine))
    assert [(p.id, p.weight) for p in found.principles] == [("b", 3), ("c", 1), ("d", 0.5)]
    drawn = [found.draw(0, ROUND, f"q{i}", 0).id for i in range(4500)]
    assert drawn.count("b") == pytest.approx(3000, abs=150)
    assert drawn.count("d") == pytest.approx(500, abs=100)
    before = found.sha256
    base.write_text(base.read_text().replace("critique: C", "critique: Other"))
    assert constitution.load(str(mine)).sha256 != before  # the hash is of all the files
    assert [p.id for p in found.select(["b"], []).principles] == ["b"]
    with pytest.raises(InputError, match="no principle 'z'; there are b, c, d"):
        found.select(["z"], [])


BAD_INCLUDES = {
    "include: {name: base, drop: [zz]}": "base has no principle 'zz'",
    "include: {name: base, weights: {a: -1}}": "'weight' must be a positive number",
    "include: {name: base, without: [a]}": "unknown field 'without'",
    "include: me": "includes itself",
    "include: nowhere.yaml": "no such file",
    "include: base\nprinciples:\n- {id: a, critique: Again}": "'a' has a different text in",
    "include: 5": "each item of 'include' must be a name",
    "include: {name: base, drop: [[a]]}": "must be lists of principle ids",
    "principles: [{id: 12, critique: X}]": "a non-empty string 'id'",
    "principles: [{id: x, critique: X}]\nexamples: {critique: ['Human: hi']}": "example 1 of 'critique'",
    "principles: [{id: x, critique: X}]\nexamples: {comparison: [{prompt: hi, better: b}]}": "'worse' must be a non-empty string",
    "principles: [{id: x, critique: X}]\nexamples: {reasoned: [none]}": "in the place of the principle",
    "principles: [{id: x, critique: X}]\nexamples: {critic: []}": "unknown field 'critic'",
}


@pytest.mark.parametrize("text", BAD_INCLUDES)
def test_a_bad_include_or_example_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("principles: [{id: a, critique: A}]")
    path = tmp_path / "me.yaml"
    path.write_text(
        text.replace("name: base", "name: base.yaml")
        .replace("include: base\n", "include: base.yaml\n")
        .replace("include: me", "include: me.yaml")
    )
    with pytest.raises(InputError) as problem:
        constitution.load(str(path))
    assert BAD_INCLUDES[text].replace("base has", "base.yaml has") in str(problem.value)


def test_the_documented_form_loads(tmp_path: Path) -> None:
    text = (ROOT / "docs/constitutions.md").read_text().split("```yaml\n")[1].split("```")[0]
    (tmp_path / "c.yaml").write_text(text)
    found = constitution.load(str(tmp_path / "c.yaml"))
    assert {"kindness", "wisdom", "no-bare-refusal"} <= set(found.by_id)
    assert "honesty" in found.by_id  # included with non-evasive
    assert found.by_id["wisdom"].weight == 2


def test_files_that_overlap_are_joined() -> None:
    found = constitution.load("default", "non-evasive")
    assert len(found.principles) == 18
    assert len(found.examples.critique) == len(constitution.load("default").examples.critique)


BAD_PRINCIPLES = {
    "principles: 3": "principles",
    "name: x\nprinciples: []": "principles",
    "name: x\nprinciples:\n- {id: a, critique: c}\n- {id: a, critique: d}": "'a'",
    "name: x\nprinciples:\n- {id: a, critique: 3}": "critique",
    "name: x\nprinciples:\n- {id: a, critic: c}": "critic",
    "name: [": "YAML",
}


@pytest.mark.parametrize("text", BAD_PRINCIPLES)
def test_a_bad_constitution_says_what_is_wrong_with_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=BAD_PRINCIPLES[text]) as problem:
        constitution.load(str(path))
    assert "c.yaml" in str(problem.value)
