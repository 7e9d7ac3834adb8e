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


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_turns_a_test_red(name: str, tmp_path: Path) -> None:
    """In a copy of the project with the fault, and in one without it all are green (`make test`)."""
    fault = FAULTS[name]
    for part in ("cai_cli", "tests", "constitutions", "examples"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    source = tmp_path / "cai_cli" / fault.file
    text = source.read_text()
    assert text.count(fault.right) == 1, f"{fault.file} no longer holds the line that the fault changes"
    source.write_text(text.replace(fault.right, fault.wrong))
    files = [f"tests/{name}" for name in fault.tests]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not soak", *files]
    where = {**environment(), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=where, capture_output=True, text=True)
    red = re.findall(r"^FAILED (\S+)", done.stdout, re.MULTILINE)
    assert red, f"nothing caught it:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    print(f"\n{name}: {red[0]}")
