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

from cai_cli.commands._command import add_command, group_app
from cai_cli.commands.eval_choice import choice
from cai_cli.commands.eval_compare import compare
from cai_cli.commands.eval_figures import draw
from cai_cli.commands.eval_judges import judges
from cai_cli.commands.eval_refusal import refusals
from cai_cli.commands.eval_rl import rl
from cai_cli.commands.eval_scores import scores

app = group_app("Compare models: by scores, by a judge's choices, by refusals, by what RL changed, or as judges.")

add_command(
    app,
    "scores",
    "Compare the mean preference-model scores of several models' answers to the same prompts, with 95% intervals.",
    "cai eval scores base=base-scored.jsonl sft=sft-scored.jsonl rl=rl-scored.jsonl --by kind",
)(scores)
add_command(
    app,
    "compare",
    "Compare models by a judge's choices between their answers: Elo ratings for harmlessness and helpfulness.",
    "cai eval compare base.jsonl sft.jsonl rl.jsonl -m models/SmolLM2-135M-Instruct -o compared.jsonl",
)(compare)
add_command(
    app,
    "refusal",
    "Measure how often answers to safe and unsafe prompts refuse, and without a reason, with 95% intervals.",
    "cai eval refusal base=base-graded.jsonl rl=rl-graded.jsonl --by type",
)(refusals)
add_command(
    app,
    "rl",
    "Look for what RL did besides raising the score: diversity, boilerplate, length, KL, refusals, and the answers that changed.",
    "cai eval rl runs/rl base=base-scored.jsonl rl=rl-scored.jsonl",
)(rl)
add_command(
    app,
    "choice",
    "Measure how well a model judges pairs whose better answer is known: accuracy, log loss, Brier score, calibration.",
    "cai eval choice comparisons.jsonl -m models/SmolLM2-135M-Instruct -o judged.jsonl",
)(choice)
add_command(
    app,
    "figures",
    "Draw the paper's figures from the files of a run: PNG, SVG, and the numbers as JSONL.",
    "cai eval figures runs/demo",
)(draw)
add_command(
    app,
    "judges",
    "Compare several judges on the same pairs in one table, and plot their calibration.",
    "cai eval judges direct=judged.jsonl reasoned=judged-cot.jsonl --plot calibration.png",
)(judges)
