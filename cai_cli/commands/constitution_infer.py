"""Infer a constitution from preferences: which principles predict what people chose?

    cai constitution infer preferences.jsonl -m MODEL -o inferred
    cai label pairs.jsonl -m MODEL -c inferred/constitution.yaml -o preferences.jsonl

Half of the pairs, by a hash of the id, are held out. The model says of each other pair why one answer was preferred, as a rule
(DIR/proposals.jsonl). Similar rules are one candidate (DIR/candidates.jsonl, and as a constitution in candidates.yaml). The
model then judges every pair by every candidate, in both orders, as `cai label` does (DIR/votes.jsonl). A rule is kept if it
chooses better than chance on the pairs that were not held out, and right on more than half of the others (DIR/constitution.yaml,
the best first, each with its accuracy and support). DIR/principles.jsonl has every candidate's accuracy on both halves, and its
support: the share of the pairs about which it says something. The same command continues an interrupted run.

Not in the paper, which writes its principles by hand (appendix C). The method is inverse constitutional AI (Findeis et al. 2024,
arXiv 2406.06560).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import yaml
from rich.table import Table
from rich.text import Text
from typer import Option

from cai_cli import streams
from cai_cli.commands._command import command
from cai_cli.commands._flags import IO, AnswerPrompting, Model, Sampling
from cai_cli.commands._session import Session
from cai_cli.data import jsonl
from cai_cli.data.jsonl import Record, encode
from cai_cli.data.preferences import sides
from cai_cli.data.records import by_principle, preference_error
from cai_cli.engines.base import Completion, Steps
from cai_cli.errors import CaiError, InputError, Skipped
from cai_cli.evaluation.rules import Measured, measured
from cai_cli.method import constitution, inference
from cai_cli.method.constitution import Constitution
from cai_cli.method.judge import Judge, JudgeSettings
from cai_cli.pipeline import outputs
from cai_cli.pipeline.seeds import draw, draw_uniform

HELD_OUT = 0.5
"""The share of the pairs that is held out."""
LONGEST = 100
"""Tokens of a proposal; a rule has at most 40 words."""


def held_out(record: Record, seed: int) -> bool:
    """Whether a pair is only measured on: all pairs of a prompt, or none."""
    return draw_uniform(seed, "infer", record.get("source_id") or record["id"]) < HELD_OUT


def answers(record: Record) -> tuple[str, str]:
    """The chosen and the rejected answer. Skipped if a side has several messages."""
    try:
        return sides(record).answers()
    except ValueError as problem:
        raise Skipped(str(problem)) from None


def proposals(session: Session, most: int, few_shot: int | None) -> Any:
    """A program that asks why the chosen answer of a pair was preferred, `most` times."""

    def program(record: Record) -> Steps[list[Record]]:
        if held_out(record, session.seed):
            return []
        texts, swapped = answers(record), draw(session.seed, "infer order", record["id"]) % 2
        shown = texts[::-1] if swapped else texts
        asked = inference.proposal(sides(record).prompt, shown, swapped, session.format, few_shot)
        written: list[Completion] = yield [session.request(asked, "infer", record["id"], i) for i in range(most)]
        rules = [inference.rule(done.text) for done in written]
        return [{"id": record["id"], "rules": [rule for rule in rules if rule], "meta": [done.meta() for done in written]}]

    return program


def votes(session: Session, found: Constitution) -> Any:
    """A program that judges a pair by every candidate: the probability of the chosen answer by each."""
    judge = Judge(session, found, JudgeSettings(principles_per_pair=len(found.principles), few_shot=0))

    def program(record: Record) -> Steps[list[Record]]:
        chosen, rejected = answers(record)
        pair = {"id": record["id"], "prompt": sides(record).prompt, "responses": [chosen, rejected]}
        [label], _ = yield from judge.judge(pair, [(0, 1)], found.principles)
        if not label or label.get("identical"):
            raise Skipped("both answers are the same")
        return [{"id": record["id"], "held_out": held_out(record, session.seed), "votes": by_principle(label)}]

    return program


def written(rules: dict[str, str], name: str, notes: str, remarks: dict[str, str]) -> str:
    """A constitution of rules, by their ids, as YAML, with a comment above each."""

    def dumped(value: Any) -> str:
        return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)

    lines = [dumped({"name": name, "notes": notes}), "principles:\n"]
    for identity, rule in rules.items():
        lines.append(f"# {remarks[identity]}\n{dumped([{'id': identity, **inference.texts(rule)}])}")
    return "".join(lines)


def results(rows: list[Record], rules: dict[str, str], sizes: dict[str, int], keep: int, seed: int) -> list[Record]:
    """A row per candidate, the kept ones first: its accuracy and support on both halves."""
    found: list[Record] = []
    for name, rule in rules.items():
        halves = {half: [row["votes"][name] for row in rows if row["held_out"] is half] for half in (False, True)}
        on = {half: measured(values, seed) for half, values in halves.items() if values}
        found.append({
            "id": name, "rule": rule, "proposals": sizes[name],
            "kept": on[False].low > 0.5 and (True not in on or on[True].accuracy > 0.5),
            "selection": on[False].record(), "held_out": on[True].record() if True in on else None,
        })  # fmt: skip
    found.sort(key=lambda row: (not row["kept"], -row["selection"]["accuracy"]))
    for row in found[keep:]:
        row["kept"] = False
    return found


def together(rows: list[Record], kept: list[str], seed: int) -> Measured | None:
    """How well the kept rules together predict the held-out pairs: by the mean of their votes."""
    held = [fmean(row["votes"][name] for name in kept) for row in rows if row["held_out"]]
    return measured(held, seed) if kept and held else None


def table(found: list[Record]) -> Table:
    """The candidates as a table for the terminal."""
    made = streams.plain_table(
        "principle", "kept", "proposals", "accuracy", "95% interval", "held out", "95% interval", "support"
    )
    for row in found:
        cells: list[str] = []
        for half in (row["selection"], row["held_out"]):
            cells += [f"{half['accuracy']:.2f}", f"{half['low']:.2f} to {half['high']:.2f}"] if half else ["", ""]
        more = f"{row['selection']['support']:.2f}"
        made.add_row(Text(row["id"]), "yes" if row["kept"] else "", str(row["proposals"]), *cells, more)
    return made


@command(
    "Infer a constitution from preferences: propose rules, judge all pairs by them, keep those that predict the choices.",
    "cai constitution infer preferences.jsonl -m models/SmolLM2-135M-Instruct -o inferred",
)
def app(
    files: IO,
    model: Model,
    sampling: Sampling,
    prompting: AnswerPrompting,
    n: Annotated[int, Option("-n", min=1, help="Rules that are proposed per pair.")] = 1,
    candidates: Annotated[int, Option("--candidates", min=1, metavar="N", help="Judge so many rules, the most proposed.")] = 24,
    few_shot: Annotated[
        int | None,
        Option(
            "--few-shot", min=0, metavar="N", help="Show the model only the first N of three examples of rules; by default all."
        ),
    ] = None,
    keep: Annotated[int, Option("--keep", min=1, metavar="N", help="Principles of the constitution, at most.")] = 16,
) -> None:
    """Infer a constitution."""
    where = Path(files.output)
    if str(where) == "-" or files.input == "-":
        raise InputError("give a file of preferences and -o DIR: each stage reads it again, and the folder holds every stage")
    where.mkdir(parents=True, exist_ok=True)

    def stage(name: str) -> IO:
        return replace(files, output=str(where / f"{name}.jsonl"))

    session = Session(stage("proposals"), model, replace(sampling, max_tokens=min(sampling.max_tokens, LONGEST)), prompting)
    session.run("infer proposals", preference_error, proposals(session, n, few_shot), n=n, few_shot=few_shot)
    if files.dry_run is not None:
        return
    every = [rule for row in jsonl.read(str(where / "proposals.jsonl")) for rule in row["rules"]]
    taken: set[str] = set()
    groups: list[Record] = [
        {"id": inference.identity(rule, taken), "rule": rule, "proposals": alike.total(), "alike": dict(alike)}
        for rule, alike in inference.candidates(every, candidates)
    ]
    if not groups:
        raise CaiError(f"{where}/proposals.jsonl: the model proposed no rule; give a better model, or a higher -n")
    rules = {group["id"]: group["rule"] for group in groups}
    sizes = {group["id"]: group["proposals"] for group in groups}
    outputs.write_text(str(where / "candidates.jsonl"), b"".join(map(encode, groups)).decode())
    remarks = {name: streams.plural(size, "proposal") for name, size in sizes.items()}
    outputs.write_text(
        str(where / "candidates.yaml"), written(rules, "candidates", f"{len(every)} proposals, in groups.", remarks)
    )
    streams.say(
        f"cai constitution: {streams.plural(len(every), 'proposal')} in {streams.plural(len(rules), 'group')}", files.quiet
    )
    judging = Session(stage("votes"), model, sampling, prompting, exact=True)
    found = constitution.load(str(where / "candidates.yaml"))
    judging.run("infer votes", preference_error, votes(judging, found), found, cot=False)
    _finish(where, list(jsonl.read(str(where / "votes.jsonl"))), rules, sizes, keep, sampling.seed, files.quiet)


def _remark(row: Record) -> str:
    """A principle's accuracy on both halves and its support, in words."""
    names = {"selection": "where it was proposed", "held_out": "held out"}
    shown = [
        "{accuracy:.3f} ({low:.3f} to {high:.3f}) of {pairs} pairs {name}".format(name=name, **row[half])
        for half, name in names.items()
        if row[half]
    ]
    return f"right on {', '.join(shown)}; support {(row['held_out'] or row['selection'])['support']:.2f}"


def _finish(
    where: Path, rows: list[Record], rules: dict[str, str], sizes: dict[str, int], keep: int, seed: int, quiet: bool
) -> None:
    """Write the constitution and the table, and say how well it predicts."""
    if not any(not row["held_out"] for row in rows):
        raise InputError("all pairs are held out: give more preferences")
    found = results(rows, rules, sizes, keep, seed)
    kept = [row["id"] for row in found if row["kept"]]
    outputs.write_text(str(where / "principles.jsonl"), b"".join(map(encode, found)).decode())
    streams.print_table(table(found), stderr=True)
    if not kept:
        (where / "constitution.yaml").unlink(missing_ok=True)  # of an earlier run
        why = "no rule predicts the choices better than chance; give more pairs, or a better model"
        raise CaiError(f"{where}/principles.jsonl: {why}")
    both = together(rows, kept, seed)
    said = "right on {accuracy:.3f} ({low:.3f} to {high:.3f}) of {pairs} held-out pairs".format(**both.record()) if both else ""
    notes = f"Inferred from {len(rows)} preferences; together {said}."
    remarks = {row["id"]: _remark(row) for row in found}
    outputs.write_text(
        str(where / "constitution.yaml"), written({name: rules[name] for name in kept}, where.name, notes, remarks)
    )
    streams.say(
        f"cai constitution: {streams.plural(len(kept), 'principle')}, together {said} -> {where}/constitution.yaml", quiet
    )
