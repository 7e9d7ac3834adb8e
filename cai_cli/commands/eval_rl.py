"""Look for what RL did to a model's answers besides raising their score: less diversity, boilerplate, refusals, length.

    cai eval rl base=base-scored.jsonl rl=rl-scored.jsonl            answers to the same prompts, the first before RL
    cai eval rl runs/rl                                              the steps of a run, from the directory of `cai rl`
    cai eval rl runs/rl base=base-scored.jsonl rl=rl-scored.jsonl    both

Of each model's answers: their length in words, distinct-1 and distinct-2 (different words, and pairs of words, among equally many
of each model), self-BLEU (0 to 1; how far an answer can be put together from the others), boilerplate (answers that begin or
end with the same six words as an answer to another prompt) and refusals by XSTest's first words; then the phrases that answers
share and those of the first model do not. Diversity is measured on 200 answers of each model, or fewer, drawn by --seed.

Of a run, in up to ten parts: the means of its `metrics.jsonl` (reward, KL in nats per token, length in tokens, refusals and
boilerplate as `cai rl` counts them), and the diversity of the answers in its `samples.jsonl`. DIR.partial serves while it runs.
The share of boilerplate grows with the number of answers, and `cai rl` counts it within a batch and finds refusals by a pattern
of its own. So compare these two only between models, or only between steps.

At the end are the answers of the last model whose scores (of `cai score`) changed most against the first model's.

Departures from the paper: it finds boilerplate by reading samples (section 4.3), and measures no diversity during RL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from cai_cli import streams
from cai_cli.commands._command import command
from cai_cli.commands.eval_scores import in_all, named, scored_by, scorer_line
from cai_cli.data import jsonl
from cai_cli.data.ids import read_with_ids
from cai_cli.data.jsonl import Record
from cai_cli.data.records import as_messages, current_answer, current_score, rounds_error, shape_error, text_error
from cai_cli.errors import InputError
from cai_cli.evaluation import diversity
from cai_cli.evaluation.intervals import mean_interval
from cai_cli.evaluation.refusal import by_prefix
from cai_cli.pipeline.outputs import source, write_file
from cai_cli.training.shaping import formulaic

PARTS = 10
"""The steps of a run are shown in at most so many parts."""
MEASURES = ("reward", "kl", "length", "refusals", "boilerplate")
"""What is taken from `metrics.jsonl`."""
FILES = ("metrics.jsonl", "samples.jsonl")
"""What is read from a directory of `cai rl`."""
SHOWN = 400
"""Characters of a text that are printed."""


@dataclass
class Steps:
    """What a directory of `cai rl` says about its steps."""

    metrics: list[Record]
    """`step`, and those of MEASURES that are known. By step."""
    samples: list[Record]
    """`step` and `response` of the answers that were logged."""

    def parts(self) -> list[tuple[Record, list[str]]]:
        """The means of MEASURES and the answers of each of up to PARTS runs of steps, which have `first` and `last`."""
        steps = sorted({line["step"] for line in (*self.metrics, *self.samples)})
        size = -(-len(steps) // PARTS)
        found = []
        for part in (steps[i : i + size] for i in range(0, len(steps), size)):
            mine = [line for line in self.metrics if part[0] <= line["step"] <= part[-1]]
            row: Record = {"first": part[0], "last": part[-1]}
            for name in MEASURES:
                values = [line[name] for line in mine if line.get(name) is not None]
                row[name] = fmean(values) if values else None
            found.append((row, [line["response"] for line in self.samples if part[0] <= line["step"] <= part[-1]]))
        return found


def step_error(line: Record) -> str | None:
    """What is wrong with a line of `metrics.jsonl` or `samples.jsonl`, or None."""
    if not isinstance(line.get("step"), int):
        return "no 'step'; give what `cai rl` wrote"
    wrong = [name for name in MEASURES if not isinstance(line.get(name, 0), int | float | None)]
    return f"'{wrong[0]}' must be a number" if wrong else None


def sample_error(line: Record) -> str | None:
    """What is wrong with a line of `samples.jsonl`, or None."""
    return step_error(line) or text_error(line.get("response"), "response")


def checked(path: Path, check: Callable[[Record], str | None]) -> list[Record]:
    """The lines of a file; none, with a warning, if it is not there. InputError for a bad line."""
    if not path.is_file():
        streams.warn(f"{path}: not there, so what it holds is not shown")
        return []
    found = []
    for line in jsonl.read_lines(str(path)):
        if line.record is None or (error := check(line.record)):
            raise jsonl.bad_line(str(path), line.number, line.error or str(error))
        found.append(line.record)
    return found


def read_metrics(path: Path) -> list[Record]:
    """The lines of a `metrics.jsonl` that are steps of RL, in order: step 0 and other trainers have no reward and no KL."""
    found = [line for line in checked(path, step_error) if "reward" in line or "kl" in line]
    return sorted(found, key=lambda line: line["step"])


def read_steps(folder: Path) -> Steps:
    """The steps of an RL run. InputError for a bad line, or if there is no step."""
    metrics, samples = read_metrics(folder / FILES[0]), checked(folder / FILES[1], sample_error)
    if not metrics and not samples:
        raise InputError(f"{folder}: holds no step of RL; give a directory that `cai rl` wrote")
    return Steps(metrics, samples)


def read_answers(path: str) -> dict[str, Record]:
    """{id: record} of a file of answers. InputError for a bad record, or if there is none."""
    found = {record["id"]: record for record in read_with_ids(path, check=lambda r: rounds_error(r) or shape_error(r))}
    if not found:
        raise InputError(f"{path}: has no records; give a model's answers")
    return found


def _share(values: Sequence[float], seed: int) -> Record:
    return dict(zip(("value", "low", "high"), mean_interval(list(map(float, values)), seed), strict=True))


def answer_rows(models: Mapping[str, Mapping[str, Record]], seed: int = 0) -> list[Record]:
    """A row per model, with the measures of its answers, and then a row per phrase that is new against the first model."""
    shared = in_all(list(models.values()))
    texts = {name: [current_answer(records[i]) for i in shared] for name, records in models.items()}
    measured = diversity.diversity(texts, seed)
    rows: list[Record] = [
        {
            "table": "answers", "model": name, "answers": len(each),
            "words": _share([len(diversity.words(text)) for text in each], seed),
            **measured[name],
            "boilerplate": _share(formulaic(shared, each), seed),
            "refusals": _share([by_prefix(text) for text in each], seed),
        }
        for name, each in texts.items()
    ]  # fmt: skip
    (_, base), *others = texts.items()
    found = [(name, phrase) for name, each in others for phrase in diversity.new_phrases(each, base)]
    return rows + [{"table": "phrases", "model": name, **phrase} for name, phrase in found]


def step_rows(runs: Mapping[str, Steps], seed: int = 0) -> list[Record]:
    """A row per run and part of its steps."""
    parts = {(name, number): part for name, steps in runs.items() for number, part in enumerate(steps.parts())}
    measured = diversity.diversity({key: texts for key, (_, texts) in parts.items()}, seed)
    return [
        {"table": "steps", "run": key[0], **row, "samples": len(texts), **measured[key]} for key, (row, texts) in parts.items()
    ]


def changes(before: Mapping[str, Record], after: Mapping[str, Record], names: tuple[str, str]) -> list[Record]:
    """A row per record that both files have with a score, from the one that gained most to the one that lost most."""
    rows = []
    for identity in before.keys() & after.keys():
        old, new = before[identity], after[identity]
        was, now = current_score(old), current_score(new)
        if was is not None and now is not None:
            rows.append({
                "table": "changes", "id": identity, "change": now - was, "scores": dict(zip(names, (was, now), strict=True)),
                "prompt": as_messages(old["prompt"])[-1]["content"],
                "responses": dict(zip(names, (current_answer(old), current_answer(new)), strict=True)),
            })  # fmt: skip
    return sorted(rows, key=lambda row: (-row["change"], row["id"]))


def number(value: float | None, form: str = ".2f") -> str:
    """A number for a table; empty if there is none."""
    return "" if value is None else format(value, form)


def answer_table(rows: list[Record]) -> RenderableType:
    """The models' rows as a table for the terminal, and their new phrases."""
    columns = ("answers", "words", "distinct-1", "distinct-2", "self-BLEU", "boilerplate", "95% interval", "refusals (XSTest)")
    shown = streams.plain_table("model", *columns, "95% interval")
    models = [row for row in rows if row["table"] == "answers"]
    for row in models:
        shares = [
            cell
            for found in (row["boilerplate"], row["refusals"])
            for cell in (number(found["value"]), f"{found['low']:.2f} to {found['high']:.2f}")
        ]
        measures = [number(row[name], ".3f") for name in ("distinct_1", "distinct_2", "self_bleu")]
        shown.add_row(Text(row["model"]), str(row["answers"]), number(row["words"]["value"], ".1f"), *measures, *shares)
    drawn = streams.plural(max(row["drawn"] for row in models), "answer")
    parts: list[RenderableType] = [shown, Text(f"distinct-n and self-BLEU: of {drawn} of each model, drawn by --seed")]
    for name in (row["model"] for row in models[1:]):
        mine = [row for row in rows if row["table"] == "phrases" and row["model"] == name]
        phrases = streams.plain_table("phrase", name, models[0]["model"])
        for each in mine:
            phrases.add_row(Text(cut(each["phrase"])), number(each["share"]), number(each["base"]))
        title = f"\nphrases that answers of {name} share, and the share of answers with them"
        parts += [Text(title), phrases] if mine else [Text(f"\n{name}: no phrase is new")]
    return Group(*parts)


def step_table(rows: list[Record]) -> RenderableType:
    """The steps' rows as a table for the terminal."""
    columns = ("reward", "KL", "tokens", "refusals", "boilerplate", "distinct-2", "self-BLEU", "samples")
    shown = streams.plain_table("run", "steps", *columns, left=2)
    for row in rows:
        steps = str(row["first"]) if row["first"] == row["last"] else f"{row['first']}-{row['last']}"
        forms = ("+.3f", ".4f", ".1f", ".2f", ".2f")
        means = [number(row[name], form) for name, form in zip(MEASURES, forms, strict=True)]
        more = [number(row[name], ".3f") for name in ("distinct_2", "self_bleu")]
        shown.add_row(Text(row["run"]), steps, *means, *more, str(row["samples"] or ""))
    drawn = streams.plural(max(row["drawn"] for row in rows), "answer")
    return Group(shown, Text(f"distinct-n and self-BLEU: of {drawn} of each part, drawn by --seed"))


def cut(text: str) -> str:
    """The beginning of a text, with control characters spelled out. Says how many words are left out."""
    if len(text) <= SHOWN:
        return streams.visible(text)
    begin = text[:SHOWN].rsplit(None, 1)[0]
    return f"{streams.visible(begin)} [{streams.plural(len(text[len(begin) :].split()), 'more word')}]"


def change_table(rows: list[Record], count: int) -> RenderableType:
    """The `count` rows that gained most and the `count` that lost most, with their texts."""
    parts: list[RenderableType] = []
    gained, lost = [row for row in rows if row["change"] > 0], [row for row in reversed(rows) if row["change"] < 0]
    for title, each in (("gained", gained), ("lost", lost)):
        parts.append(Text(f"\nthe answers that {title} most, of {len(each)} that {title}:", style="bold"))
        for row in each[:count]:
            before, after = row["scores"].values()
            texts = Table.grid(padding=(0, 2))
            texts.add_column(style="cyan", no_wrap=True)
            texts.add_column(overflow="fold")
            for name, text in [("prompt", row["prompt"]), *row["responses"].items()]:
                texts.add_row(Text(streams.visible(name)), Text(cut(text)))
            parts += [Text(f"\n{streams.visible(row['id'])}: {before:+.2f} to {after:+.2f} ({row['change']:+.2f})"), texts]
    return Group(*parts)


@command(
    "Look for what RL did besides raising the score: diversity, boilerplate, length, KL, refusals, and the answers that changed.",
    "cai eval rl runs/rl base=base-scored.jsonl rl=rl-scored.jsonl",
)
def app(
    files: Annotated[
        list[str],
        Argument(metavar="[NAME=]FILE|DIR...", help="Models' answers, the first before RL; and directories of `cai rl`."),
    ],
    samples: Annotated[
        int, Option("--samples", min=0, metavar="N", help="Print the N answers that gained most, and the N that lost most.")
    ] = 5,
    seed: Annotated[int, Option("--seed", help="Seed of the bootstrap, and of the answers whose diversity is measured.")] = 0,
    output: Annotated[str | None, Option("--output", "-o", help="Also write the rows as JSONL.")] = None,
) -> None:
    """Diagnose RL."""
    folders = [entry for entry in files if Path(entry).is_dir() or Path(entry.partition("=")[2] or entry).is_dir()]
    runs, paths = named(folders), named([entry for entry in files if entry not in folders])
    steps = step_rows({name: read_steps(Path(path)) for name, path in runs.items()}, seed)
    models = {name: read_answers(path) for name, path in paths.items()}
    answers = answer_rows(models, seed) if models else []
    ends = (names[0], names[-1]) if len(names := list(models)) > 1 else None
    changed = changes(models[ends[0]], models[ends[1]], ends) if ends else []
    if output:
        used = [*paths.values(), *(f"{path}/{name}" for path in runs.values() for name in FILES)]
        rows = [*answers, *steps, *changed]
        write_file(output, map(jsonl.encode, rows), {"step": "eval", "inputs": [source(path) for path in used]})
    shown: list[RenderableType] = [answer_table(answers)] if answers else []
    if steps:
        shown += [Text("")] if shown else []
        shown.append(step_table(steps))
    if changed and ends:
        shown += [change_table(changed, samples), Text(f"\n{scorer_line({name: scored_by(paths[name]) for name in ends})}")]
    streams.print_table(Group(*shown))
    say_what_is_missing(bool(runs), ends, bool(changed))


def say_what_is_missing(runs: bool, ends: tuple[str, str] | None, changed: bool) -> None:
    """Name the parts that were not printed, and what they need."""
    if not runs:
        streams.say("cai eval rl: no steps: give the directory of a run too, for example runs/rl")
    if not ends:
        streams.say("cai eval rl: no comparison with a base: give two files of answers, for example base=base.jsonl rl=rl.jsonl")
    elif not changed:
        streams.say(f"cai eval rl: no answers that gained or lost: run `cai score` on the files of {ends[0]} and {ends[1]} first")
