"""Compare models: by the scores of their answers, or as judges of pairs whose better answer is known.

    cai eval scores base=base-scored.jsonl sft=sft-scored.jsonl
    cai eval choice comparisons.jsonl -m MODEL -o judged.jsonl
    cai eval judges direct=judged.jsonl reasoned=judged-cot.jsonl

Departures from the paper: see `eval_scores`, `eval_choice` and `eval_judges`.
"""

from __future__ import annotations

from cai_cli.commands._command import add_command, group_app
from cai_cli.commands.eval_choice import choice
from cai_cli.commands.eval_judges import judges
from cai_cli.commands.eval_scores import scores

app = group_app("Compare models by the scores of their answers, or as judges.")

add_command(
    app,
    "scores",
    "Compare the mean preference-model scores of several models' answers to the same prompts, with 95% intervals.",
    "cai eval scores base=base-scored.jsonl sft=sft-scored.jsonl rl=rl-scored.jsonl --by kind",
)(scores)
add_command(
    app,
    "choice",
    "Measure how well a model judges pairs whose better answer is known: accuracy, log loss, Brier score, calibration.",
    "cai eval choice comparisons.jsonl -m models/SmolLM2-135M-Instruct -o judged.jsonl",
)(choice)
add_command(
    app,
    "judges",
    "Compare several judges on the same pairs in one table, and plot their calibration.",
    "cai eval judges direct=judged.jsonl reasoned=judged-cot.jsonl --plot calibration.png",
)(judges)
