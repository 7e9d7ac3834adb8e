"""Plants faults in copies of the source, each of a kind that ruins the method silently, and asserts which test fails.

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

from tests.processes import environment
from tests.tiny import ROOT


@dataclass(frozen=True)
class Fault:
    """A change of one line, and the tests that must fail because of it."""

    file: str
    """Below cai_cli/."""
    right: str
    """A part of the file that occurs once."""
    wrong: str
    """What replaces it."""
    red: dict[str, str]
    """The test that must fail, by its file below tests/."""


FAULTS = {
    "chosen and rejected swapped": Fault(
        "method/feedback.py",
        "best, worst = (i, j) if p >= 0.5 else (j, i)",
        "best, worst = (j, i) if p >= 0.5 else (i, j)",
        {"method/test_feedback.py": "test_the_answer_that_is_more_likely_the_better_one_is_chosen"},
    ),
    "soft target dropped": Fault(
        "training/losses.py",
        "p * logsigmoid(d) + (1 - p) * logsigmoid(-d)",
        "logsigmoid(d)",
        {
            "training/test_dpo.py": "test_a_soft_label_is_matched",
            "training/test_pm.py": "test_a_pair_at_seven_tenths_is_scored_as_seven_tenths",
        },
    ),
    "wrong option token read": Fault(
        "method/tokens.py",
        "options = dict(zip(letters, tokens, strict=True))",
        "options = dict(zip(letters, reversed(tokens), strict=True))",
        {"method/test_tokens.py": "test_the_option_tokens_are_those_that_follow_the_prompt"},
    ),
    "the critic shown the first answer": Fault(
        "data/records.py",
        'for entry in reversed(record.get("rounds") or []):',
        "for entry in []:",
        {"data/test_records.py": "test_the_last_revision_is_criticised_not_the_response"},
    ),
    "KL with the wrong sign": Fault(
        "training/rl.py",
        "beta=rollout.kl_coef,",
        "beta=-rollout.kl_coef,",
        {"training/test_rl.py": "test_the_kl_term_holds_the_policy_to_its_start"},
    ),
    "loss on the prompt": Fault(
        "training/examples.py",
        '"labels": [-100] * len(prompt) + ids',
        '"labels": prompt + ids',
        {"training/test_examples.py": "test_the_loss_is_on_the_answer_and_its_end_only"},
    ),
    "the padding read as a score": Fault(
        "engines/scorer.py",
        "(lengths - 1).tolist()",
        "(lengths * 0 + ids.shape[1] - 1).tolist()",
        {"engines/test_scorer.py": "test_scores_are_those_of_float32_in_any_batch"},
    ),
    "another record's principle": Fault(
        "method/rounds.py",
        'self.constitution.get(last["principle"])',
        "self.draw(record)",
        {"commands/test_revise.py": "test_a_revision_is_asked_by_the_principle_of_its_critique"},
    ),
    "seeds shared between samples": Fault(
        "commands/sample.py",
        'record["id"], turn, i) for i in range(count)',
        'record["id"], turn, 0) for i in range(count)',
        {"commands/test_sample.py": "test_the_samples_of_a_record_have_seeds_of_their_own"},
    ),
    "the label flipped in one order": Fault(
        "method/feedback.py",
        '["A" if self.order == "ab" else "B"]',
        '["A"]',
        {"method/test_feedback.py": "test_in_the_other_order_the_first_answer_is_b"},
    ),
    "clamping after the mean": Fault(
        "method/judge.py",
        "found = [query.answered(choice, self.settings.clamp) for query, choice in zip(queries, choices, strict=True)]",
        "found = [query.answered(choice, None) for query, choice in zip(queries, choices, strict=True)]\n"
        "        low, high = self.settings.clamp or (0, 1)\n"
        "        mean = min(max(sum(query.p_first for query in found) / len(found), low), high)\n"
        "        found = [replace(query, p_first=mean) for query in found] if self.settings.clamp else found",
        {"method/test_judge.py": "test_each_probability_is_clamped_before_the_mean"},
    ),
    "KL against the wrong model": Fault(
        "training/policy.py",
        "groups.log_probabilities(model, self.accelerator.unwrap_model(model), rows, kept)",
        "groups.log_probabilities(self.model, self.accelerator.unwrap_model(self.model), rows, kept)",
        {"training/test_rl.py": "test_the_kl_grows_with_the_distance_from_the_starting_model"},
    ),
    "a PM that reads only the prompt": Fault(
        "method/prompts.py",
        "messages = [*as_messages(prompt), assistant(answer_text)]",
        'messages = [*as_messages(prompt), assistant("")]',
        {"commands/test_score.py": "test_scores_equal_a_plain_forward_pass"},
    ),
    "SFT on the first answer": Fault(
        "training/examples.py",
        "    if not revised:\n",
        '    if "response" in record:\n',
        {"training/test_data.py": "test_revisions_and_weights"},
    ),
    "reasoning shown to the judge": Fault(
        "method/judge.py",
        "record = self.asker.shown(record)",
        'record = __import__("cai_cli.data.reasoning", fromlist=["shown"]).shown(record)',
        {"test_reasoning.py": "test_judges_see_no_reasoning_unless_asked"},
    ),
    "a shard joined twice": Fault(
        "pipeline/shards.py",
        "if part in found:",
        "if False:",
        {"commands/test_join.py": "test_join_names_what_is_wrong_with_a_set_of_shards"},
    ),
    "a resume that repeats a window": Fault(
        "pipeline/stage.py",
        "if files.shard else (0, output.done)",
        "if files.shard else (0, max(0, output.done - 2))",
        {"pipeline/test_stage.py": "test_an_unfinished_run_resumes_and_ends_the_same"},
    ),
}


def red_tests(folder: Path, tests: set[str], fault: Fault | None = None) -> set[str]:
    """Those of these tests (`file::test`) that fail in a copy of the project, with the fault in it."""
    for part in ("cai_cli", "tests", "constitutions", "examples"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    if fault:
        source = folder / "cai_cli" / fault.file
        source.write_text(source.read_text().replace(fault.right, fault.wrong))
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-rf", "-p", "no:cacheprovider"]
    where = {**environment(), "PYTHONPATH": str(folder)}
    paths = [f"tests/{name}" for name in sorted(tests)]
    done = subprocess.run([*command, *paths], cwd=folder, env=where, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout[-2000:] + done.stderr[-2000:]  # 1: tests ran, and some failed
    return set(re.findall(r"^FAILED tests/([^\s\[]+)", done.stdout, re.MULTILINE))


def named(fault: Fault) -> set[str]:
    """The tests of a fault, as pytest names them."""
    return {f"{file}::{test}" for file, test in fault.red.items()}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_replaces_a_part_that_occurs_once(name: str) -> None:
    fault = FAULTS[name]
    assert (ROOT / "cai_cli" / fault.file).read_text().count(fault.right) == 1
    for file, test in fault.red.items():
        assert f"def {test}(" in (ROOT / "tests" / file).read_text()


@pytest.mark.soak
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_turns_its_tests_red(name: str, tmp_path: Path) -> None:
    red = red_tests(tmp_path, named(FAULTS[name]), FAULTS[name])
    assert red == named(FAULTS[name])
    print(f"\n{name}: {', '.join(sorted(red))}")


@pytest.mark.soak
def test_without_a_fault_they_are_green(tmp_path: Path) -> None:
    assert red_tests(tmp_path, set().union(*map(named, FAULTS.values()))) == set()
