"""Plants faults in copies of the source, each of a kind that ruins the method quietly, and shows which test turns red.

pytest -m soak tests/test_faults.py -s
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tiny import ROOT, environment

pytestmark = pytest.mark.soak


@dataclass(frozen=True)
class Fault:
    """What is changed in a file, and the tests that are to notice."""

    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]


FAULTS = {
    "chosen and rejected swapped": Fault(
        "feedback.py", "best, worst = (i, j) if p >= 0.5 else (j, i)", "best, worst = (j, i) if p >= 0.5 else (i, j)",
        ("test_feedback.py",),
    ),
    "soft target dropped": Fault(
        "training/preferences.py", "p * logsigmoid(d) + (1 - p) * logsigmoid(-d)", "logsigmoid(d)",
        ("test_training_pm.py", "test_training_dpo.py"),
    ),
    "wrong option token read": Fault(
        "tokens.py", "options = dict(zip(letters, tokens, strict=True))", "options = dict(zip(letters, reversed(tokens), strict=True))",
        ("test_feedback.py",),
    ),
    "the critic shown the first answer": Fault(
        "records.py", "for entry in reversed(record.get(\"rounds\") or []):", "for entry in []:",
        ("test_records.py",),
    ),
    "KL with the wrong sign": Fault("training/rl.py", "beta=rollout.kl,", "beta=-rollout.kl,", ("test_training_rl.py",)),
    "loss on the prompt": Fault(
        "training/data.py", '"labels": [-100] * len(ids) + completion', '"labels": ids + completion', ("test_training_sft.py",)
    ),
    "the padding read as a score": Fault(
        "engines/preference.py", "(lengths - 1).to(self.device)", "(lengths * 0 + ids.shape[1] - 1).to(self.device)",
        ("test_commands.py",),
    ),
}  # fmt: skip


def red_tests(folder: Path, files: set[str], fault: Fault | None = None) -> list[str]:
    """The tests of these files that fail in a copy of the project, with the fault in it."""
    for part in ("cai_cli", "tests", "constitutions", "examples"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    if fault:
        source = folder / "cai_cli" / fault.file
        text = source.read_text()
        assert text.count(fault.right) == 1, f"{fault.file} no longer holds the line that the fault changes"
        source.write_text(text.replace(fault.right, fault.wrong))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not soak", *(["-x"] if fault else [])]
    where = {**environment(), "PYTHONPATH": str(folder)}
    paths = [f"tests/{name}" for name in sorted(files)]
    done = subprocess.run([*command, *paths], cwd=folder, env=where, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout[-2000:] + done.stderr[-2000:]  # 1: tests ran, and some failed
    return re.findall(r"^FAILED (\S+)", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_turns_a_test_red(name: str, tmp_path: Path) -> None:
    red = red_tests(tmp_path, set(FAULTS[name].tests), FAULTS[name])
    assert red, "nothing caught it"
    print(f"\n{name}: {red[0]}")


def test_without_a_fault_they_are_green(tmp_path: Path) -> None:
    assert red_tests(tmp_path, {test for fault in FAULTS.values() for test in fault.tests}) == []
