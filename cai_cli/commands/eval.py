"""Compare models: by the scores of what they wrote, or as judges of pairs whose better answer is known.

cai eval scores base=base-scored.jsonl sft=sft-scored.jsonl
cai eval choice comparisons.jsonl -m MODEL -o judged.jsonl
cai eval judges direct=judged.jsonl reasoned=judged-cot.jsonl
"""

from __future__ import annotations

import typer

from cai_cli.commands.eval_choice import choice
from cai_cli.commands.eval_judges import judges
from cai_cli.commands.eval_scores import scores
from cai_cli.commands.options import add_command

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.callback()
def group() -> None:
    """Compare models by what they wrote, or as judges."""


add_command(
    app,
    "scores",
    "Mean preference-model score of several models' answers to the same prompts, with 95% intervals.",
    "cai eval scores base=base.jsonl sft=sft.jsonl rl=rl.jsonl --by kind",
)(scores)
add_command(
    app,
    "choice",
    "How well a model judges pairs whose better answer is known: accuracy, log loss, Brier score, calibration.",
    "cai eval choice comparisons.jsonl -m models/SmolLM2-135M-Instruct -o judged.jsonl",
)(choice)
add_command(
    app,
    "judges",
    "Several judges' results on the same pairs in one table, and their calibration in a plot.",
    "cai eval judges direct=judged.jsonl reasoned=judged-cot.jsonl --plot calibration.png",
)(judges)
