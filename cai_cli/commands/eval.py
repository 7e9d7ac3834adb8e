"""Compare models: by their answers (scores, a judge's choices, refusals), or as judges of pairs whose better answer is known.

    cai eval scores base=base-scored.jsonl sft=sft-scored.jsonl
    cai eval compare base.jsonl sft.jsonl rl.jsonl -m JUDGE -o compared.jsonl
    cai eval refusal base=base-graded.jsonl rl=rl-graded.jsonl
    cai eval rl runs/rl base=base-scored.jsonl rl=rl-scored.jsonl
    cai eval choice comparisons.jsonl -m MODEL -o judged.jsonl
    cai eval judges direct=judged.jsonl reasoned=judged-cot.jsonl

Departures from the paper: see `eval_scores`, `eval_compare`, `eval_refusal`, `eval_rl`, `eval_choice`, `eval_judges` and
`eval_figures`.
"""

from __future__ import annotations

from typing import ClassVar

from cai_cli.commands._command import group_app
from cai_cli.commands._lazy import LazyGroup


class Evaluations(LazyGroup):
    """Each evaluation is a command of its own module."""

    stubs: ClassVar[dict[str, str]] = {
        "scores": "Compare mean preference-model scores, with 95% intervals.",
        "compare": "Compare models by a judge's choices: Elo ratings.",
        "refusal": "Measure how often answers refuse, and without a reason.",
        "rl": "Look for what RL did besides raising the score.",
        "choice": "Measure how well a model judges pairs whose better answer is known.",
        "figures": "Draw the paper's figures from the files of a run.",
        "judges": "Compare several judges on the same pairs in one table.",
    }
    modules: ClassVar[dict[str, str]] = {name: f"eval_{name}" for name in stubs}


app = group_app("Compare models: by scores, by a judge's choices, by refusals, by what RL changed, or as judges.", Evaluations)


@app.callback()
def evaluate() -> None:
    """Do nothing: typer wants a function of a group that has no command of its own."""
