"""Convert records into the columns that TRL trains on.

    cai export sft revisions.jsonl --drop-flags empty,cut -o sft.jsonl
    cai export preferences preferences.jsonl -o preferences-trl.jsonl

`cai train-sft` and `cai train-pm` read records directly. This command is for training elsewhere, and for
leaving out flagged texts or near-ties. It counts what it leaves out.

Not in the paper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import Enum
from typing import Annotated

from typer import Option

from cai_cli import streams
from cai_cli.commands._command import add_command, group_app, require_input
from cai_cli.commands._flags import Input, Limit, Output, Quiet
from cai_cli.commands.train_sft import Revisions
from cai_cli.data.jsonl import Record, encode
from cai_cli.data.records import Round, as_messages, preference_error, read_with_ids
from cai_cli.errors import InputError
from cai_cli.method.clean import FLAGS
from cai_cli.pipeline import outputs
from cai_cli.training.examples import conversations, sft_error

app = group_app("Convert records into the columns that TRL trains on.")


class Form(str, Enum):
    """--form."""

    completion = "completion"
    messages = "messages"


def dropped_flags(entry: Round, drop: set[str]) -> list[str]:
    """The flags of a round that leave it out. `drop` has whole names, names without critique- or revision-, or `all`."""
    return [flag for flag in entry.get("flags", []) if drop & {flag, flag.partition("-")[2], "all"}]


def sft_rows(record: Record, revisions: str, form: str, drop: set[str], counts: Counter[str]) -> Iterator[Record]:
    """One row per answer to train on: `messages`, or `prompt` and `completion`, and the id of its record.

    `revisions` is "all" or "last"; `form` is "messages" or "completion". Rounds that are left out go into `counts`.
    """
    rounds = record.get("rounds") or []
    reasons = [dropped_flags(entry, drop) for entry in rounds]
    kept = [i for i, flags in enumerate(reasons) if not flags]
    counts["left out"] += len(rounds) - len(kept)
    counts.update(flag for flags in reasons for flag in flags)
    if rounds and not kept:
        return
    numbers = kept[-1:] if revisions == "last" else kept
    found = conversations({**record, "rounds": [rounds[i] for i in kept]}, revisions)
    for i, (prompt, answer) in enumerate(found):
        turn = [{"role": "assistant", "content": answer}]
        identity = {"id": f"{record['id']}/{(numbers[i] if rounds else i) + 1}", "source_id": record["id"]}
        yield (
            {**identity, "messages": [*prompt, *turn]}
            if form == "messages"
            else {**identity, "prompt": prompt, "completion": turn}
        )


@add_command(
    app,
    "sft",
    "Export revisions (or responses) as `prompt` and `completion`, or as `messages`.",
    "cai export sft revisions.jsonl --drop-flags empty,cut,unchanged -o sft.jsonl",
)
def sft(
    input: Input = "-",
    output: Output = "-",
    revisions: Annotated[
        Revisions, Option("--revisions", help="Export the revisions of all rounds, or only the last that is kept.")
    ] = Revisions.all,
    drop_flags: Annotated[
        str,
        Option(
            "--drop-flags",
            metavar="FLAG,FLAG",
            help="Leave out rounds with one of these flags (`cai stats` counts them); all: with any flag.",
        ),
    ] = "",
    form: Annotated[Form, Option("--form", help="The columns: `prompt` and `completion`, or `messages`.")] = Form.completion,
    limit: Limit = None,
    quiet: Quiet = False,
) -> None:
    """Export answers."""
    require_input(input)
    drop = {flag.strip() for flag in drop_flags.split(",") if flag.strip()}
    known = {"all", *FLAGS, *(f"{kind}-{flag}" for kind in ("critique", "revision") for flag in FLAGS)}
    if unknown := sorted(drop - known):
        names = ", ".join(FLAGS)
        raise InputError(
            f"--drop-flags: no flag '{unknown[0]}'; give {names} (also with critique- or revision- before them), or all"
        )
    counts: Counter[str] = Counter()

    def rows() -> Iterator[bytes]:
        for record in read_with_ids(input, limit, sft_error):
            for row in sft_rows(record, revisions.value, form.value, drop, counts):
                counts["rows"] += 1
                yield encode(row)

    outputs.write_file(output, rows(), {"step": "export", "inputs": [outputs.source(input)], "counts": counts})
    left_out = counts.pop("left out", 0)
    why = ", ".join(f"{name} {count}" for name, count in counts.most_common() if name != "rows")
    more = f"; {left_out} rounds left out ({why})" if left_out else ""
    streams.say(f"cai export: {counts['rows']} rows{more}", quiet)


@add_command(
    app,
    "preferences",
    "Export preferences as `prompt`, `chosen` and `rejected` messages, with `p_chosen`.",
    "cai export preferences preferences.jsonl --min-margin 0.05 -o preferences-trl.jsonl",
)
def preferences(
    input: Input = "-",
    output: Output = "-",
    min_margin: Annotated[
        float,
        Option(
            "--min-margin", min=0.0, max=0.5, metavar="M", help="Leave out near-ties: `p_chosen` differs from 0.5 by less than M."
        ),
    ] = 0.0,
    weigh: Annotated[
        bool,
        Option(
            "--weigh", help="Multiply each preference's `weight` by 2 |p_chosen - 0.5|; `cai train-pm` multiplies its loss by it."
        ),
    ] = False,
    limit: Limit = None,
    quiet: Quiet = False,
) -> None:
    """Export preferences."""
    require_input(input)
    counts: Counter[str] = Counter()

    def rows() -> Iterator[bytes]:
        for record in read_with_ids(input, limit, preference_error):
            p = record.get("p_chosen", 1.0)
            if abs(p - 0.5) < min_margin - 1e-9:  # so that a rounding error does not leave out 0.6 with M = 0.1
                counts["ties" if p == 0.5 else "near-ties"] += 1
                continue
            counts["rows"] += 1
            row = {"id": record["id"], **({"prompt": as_messages(record["prompt"])} if "prompt" in record else {})}
            row |= {side: _side(record, side) for side in ("chosen", "rejected")}
            weight = {"weight": record["weight"]} if "weight" in record else {}
            if weigh:
                weight = {"weight": 2 * abs(p - 0.5) * record.get("weight", 1.0)}
                counts["ties of weight 0"] += p == 0.5
            yield encode({**row, "p_chosen": p, **weight})

    outputs.write_file(output, rows(), {"step": "export", "inputs": [outputs.source(input)], "counts": counts})
    left_out = [f"{counts[kind]} {kind}" for kind in ("ties", "near-ties") if counts[kind]]
    more = f"; {' and '.join(left_out)} left out" if left_out else ""
    more += f"; {counts['ties of weight 0']} ties have weight 0" if counts["ties of weight 0"] else ""
    streams.say(f"cai export: {counts['rows']} preferences{more}", quiet)


def _side(record: Record, side: str) -> object:
    value = record[side]
    return [{"role": "assistant", "content": value}] if isinstance(value, str) and "prompt" in record else value
