"""Join several judges' labels or grades of the same records into one file: their mean, and how far they agree.

    cai combine small=labels-1.jsonl large=labels-2.jsonl -o preferences.jsonl
    cai combine a=graded-a.jsonl b=graded-b.jsonl -o graded.jsonl

A label's probabilities, and a grade's for each class, become the mean over the judges; `judges` keeps what each said: in the
label, or for grades in the record's meta. `chosen` is what the joint label prefers. The table says for labels and for each
criterion on how many answers all judges agree, and the mean of Cohen's kappa over every two judges.

Departures from the paper: it averages several samples of one judge's reasoning (section 4.1), not several judges.
"""

from __future__ import annotations

from statistics import fmean
from typing import Annotated, Any

from rich.text import Text
from typer import Argument

from cai_cli import streams
from cai_cli.commands._command import command
from cai_cli.commands._flags import Output, Quiet
from cai_cli.commands.eval_scores import in_all, named
from cai_cli.data import jsonl
from cai_cli.data.ids import read_with_ids
from cai_cli.data.jsonl import Record
from cai_cli.data.records import Grade, by_principle, label_of, preference_error, shape_error
from cai_cli.errors import InputError
from cai_cli.evaluation.agreement import agreement
from cai_cli.pipeline.outputs import source, write_file

LABEL = "label"


def labelled_error(record: Record) -> str | None:
    """What is wrong with a record of a judge, or None. One with a label is a preference."""
    return shape_error(record) or (preference_error(record) if label_of(record) else None)


def joint_label(records: dict[str, Record]) -> Record:
    """The first judge's preference record with the mean label of all. `records`: each judge's, by the judge's name."""
    labels: dict[str, Any] = {judge: label_of(record) for judge, record in records.items()}
    first = next(iter(records.values()))
    p, before = fmean(label["p_first"] for label in labels.values()), next(iter(labels.values()))
    orders = {order for label in labels.values() for order in label["orders"]}
    joint = {
        **{key: value for key, value in before.items() if key in ("pair", "identical")},
        "principles": list(dict.fromkeys(i for label in labels.values() for i in label["principles"])),
        "p_first": p,
        "orders": {o: fmean(label["orders"][o] for label in labels.values() if o in label["orders"]) for o in sorted(orders)},
        "judges": {judge: label["p_first"] for judge, label in labels.items()},
    }
    if len(joint["principles"]) > 1:
        each = [by_principle(label) for label in labels.values()]
        names = [name for name in joint["principles"] if any(name in found for found in each)]
        if names == joint["principles"]:
            joint["by_principle"] = {name: fmean(found[name] for found in each if name in found) for name in names}
    sides = [first["chosen"], first["rejected"]]
    if (p >= 0.5) != (before["p_first"] >= 0.5):
        sides.reverse()
    return {**first, "chosen": sides[0], "rejected": sides[1], "p_chosen": max(p, 1 - p), LABEL: joint}


def mean_grade(grades: list[Grade]) -> Grade:
    """The mean of each class. InputError if the judges had different classes."""
    if len({frozenset(grade) for grade in grades}) > 1:
        raise InputError("the files' grades have different classes; combine grades of one rubric")
    return {name: fmean(grade[name] for grade in grades) for name in grades[0]}


def joint_grades(records: dict[str, Record]) -> Record:
    """The first judge's record with the mean grades of all, for the criteria that all have."""
    first, every = next(iter(records.values())), [record["grades"] for record in records.values()]
    grades, judges = {}, {}
    for criterion in [name for name in first["grades"] if all(name in found for found in every)]:
        found = [each[criterion] for each in every]
        several = isinstance(found[0], list)
        grades[criterion] = [mean_grade(list(each)) for each in zip(*found, strict=True)] if several else mean_grade(found)
        judges[criterion] = dict(zip(records, found, strict=True))
    return {**first, "grades": grades, "meta": {**first.get("meta", {}), "grades": {"judges": judges}}}


def verdicts(records: dict[str, Record]) -> dict[str, list[list[str]]]:
    """What each judge prefers, {label or criterion: [each judge's verdicts]}: an answer, or the most probable class."""
    if label_of(next(iter(records.values()))):
        return {LABEL: [["first" if record[LABEL]["p_first"] >= 0.5 else "second"] for record in records.values()]}
    found: dict[str, list[list[str]]] = {}
    for criterion in set.intersection(*(set(record["grades"]) for record in records.values())):
        each = [record["grades"][criterion] for record in records.values()]
        found[criterion] = [[max(g, key=g.get) for g in (e if isinstance(e, list) else [e])] for e in each]
    return found


@command(
    "Join several judges' labels or grades of the same records: their mean, and how far they agree.",
    "cai combine small=labels-1.jsonl large=labels-2.jsonl -o preferences.jsonl",
)
def app(
    files: Annotated[list[str], Argument(metavar="NAME=FILE...", help="What `cai label` or `cai grade` wrote for each judge.")],
    output: Output = "-",
    quiet: Quiet = False,
) -> None:
    """Combine judges."""
    paths = named(files)
    if len(paths) < 2:
        raise InputError("give the files of at least two judges")
    found = {name: {record["id"]: record for record in read_with_ids(path, check=labelled_error)} for name, path in paths.items()}
    made, said = [], dict[str, list[list[str]]]()
    for identity in in_all(list(found.values())):
        records = {name: each[identity] for name, each in found.items()}
        labelled = [label_of(record) is not None for record in records.values()]
        if not all(labelled) and not all(record.get("grades") for record in records.values()):
            raise InputError(f"record {identity} has not a label, or grades, in every file; run `cai label` or `cai grade` first")
        made.append(joint_label(records) if all(labelled) else joint_grades(records))
        for criterion, each in verdicts(records).items():
            for mine, new in zip(said.setdefault(criterion, [[] for _ in paths]), each, strict=True):
                mine += new
    agreed = {criterion: agreement(each) for criterion, each in sorted(said.items())}
    about = {"step": "combine", "inputs": [source(path) for path in paths.values()], "summary": {"agreement": agreed}}
    write_file(output, map(jsonl.encode, made), about)
    if not quiet:
        table = streams.plain_table("", "answers", "all agree", "kappa")
        for criterion, row in agreed.items():
            table.add_row(Text(criterion), str(row["answers"]), f"{row['all_agree']:.2f}", f"{row['kappa']:.2f}")
        streams.print_table(table, stderr=True)
