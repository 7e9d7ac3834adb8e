"""The paper's figures from rows of numbers. Each function draws on axes; `draw` writes PNG and SVG, and the rows as JSONL.

Models and files differ in shape as well as in colour, and are labelled where they are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from textwrap import shorten
from typing import Any

from cai_cli.data import jsonl
from cai_cli.data.jsonl import Record
from cai_cli.errors import InputError
from cai_cli.pipeline.outputs import write_file

SHAPES = "osD^vP*X"
DISTANCES = (8, 20, 34, 50, 70)
"""How far from its point a text may be, in points of 1/72 inch, the nearest first."""
RIGHT, ABOVE = (1, 0), (1, 1)
SIDES = (ABOVE, RIGHT, (0, 1), (1, -1), (0, -1), (-1, 1), (-1, 0), (-1, -1))
"""Where a text may be: to the right of its point, above to its right, above it, and so on."""
Draw = Callable[[Any, Sequence[Record]], None]


def plain(text: object) -> str:
    """A text in which matplotlib sees no formula, and that leaves room for the figure."""
    return shorten(str(text), 60, placeholder="…").replace("$", r"\$")


def _style(number: int) -> dict[str, Any]:
    return {"color": f"C{number % 10}", "marker": SHAPES[number % len(SHAPES)]}


def _labels(axes: Any, points: Sequence[tuple[object, float, float, tuple[int, int]]]) -> None:
    """Write texts beside their points, where they cover no other text and no point; farther away with a line to the point.

    Each has the colour of its point: the points are in the order of `_style`. `points`: (text, x, y, the side to try first).
    Call it last: the axes' limits must be final.
    """
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    figure = axes.figure
    figure.tight_layout()
    renderer, whole = figure.canvas.get_renderer(), figure.bbox
    places = axes.transData.transform([(x, y) for _, x, y, _ in points])
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in places]
    for number, (text, x, y, first) in enumerate(points):
        color = _style(number)["color"]
        line = {"arrowstyle": "-", "color": color, "linewidth": 0.7}
        for distance, (right, up) in product(DISTANCES, (first, *SIDES)):
            note = axes.annotate(
                plain(text), (x, y), textcoords="offset points", xytext=(right * distance, up * distance),
                ha={1: "left", 0: "center", -1: "right"}[right], va={1: "bottom", 0: "center", -1: "top"}[up],
                color=color, arrowprops=line if distance > DISTANCES[0] else None,
            )  # fmt: skip
            note.set_in_layout(False)  # else its place would change once more
            note.update_positions(renderer)
            box = Text.get_window_extent(note, renderer)  # without the line
            if not any(box.overlaps(other) for other in taken) and whole.contains(*box.min) and whole.contains(*box.max):
                break
            note.remove()
        else:
            note = axes.annotate(
                plain(text), (x, y), textcoords="offset points", xytext=(DISTANCES[0], 0), va="center", color=color
            )
            box = Text.get_window_extent(note, renderer)
        taken.append(box)


def tradeoff(axes: Any, rows: Sequence[Record], x: str, y: str, chain: Sequence[str] = ()) -> None:
    """A point per `model` with its two intervals, and a line through the models of `chain`, in this order, if there are any.

    Rows: `model`, and in each of the fields `x` and `y` an object with `value`, `low` and `high`.
    """
    for number, row in enumerate(rows):
        spread = [[[v["value"] - v["low"]], [v["high"] - v["value"]]] for v in (row[x], row[y])]
        place = row[x]["value"], row[y]["value"]
        axes.errorbar(*place, xerr=spread[0], yerr=spread[1], capsize=2, markersize=7, linewidth=1, **_style(number))
    at = {row["model"]: (row[x]["value"], row[y]["value"]) for row in rows}
    if line := [at[model] for model in chain if model in at]:
        axes.plot(*zip(*line, strict=True), color="0.7", zorder=0)
    axes.margins(0.1)
    _labels(axes, [(model, *place, ABOVE) for model, place in at.items()])


def frontier(axes: Any, rows: Sequence[Record]) -> None:
    """Helpfulness against harmlessness in Elo, a point per model with its intervals (figures 2 and 3).

    Rows: `model`, and for each of `helpful` and `harmless` `value`, `low` and `high`; `apart`: whether these are of helpfulness
    and of red-team prompts.
    """
    of = (" on helpfulness prompts", " on red-team prompts") if rows[0]["apart"] else ("", "")
    axes.set(xlabel=f"helpfulness{of[0]} (Elo, {plain(rows[0]['model'])} is 0)", ylabel=f"harmlessness{of[1]} (Elo)")
    tradeoff(axes, rows, "helpful", "harmless")


def _line(axes: Any, number: int, x: Sequence[float], rows: Sequence[Record]) -> None:
    """The values of rows at `x` as a line, with their intervals as a band."""
    axes.plot(x, [row["value"] for row in rows], **_style(number))
    low, high = ([row[name] for row in rows] for name in ("low", "high"))
    axes.fill_between(x, low, high, color=f"C{number % 10}", alpha=0.15, linewidth=0)


def by_revision(axes: Any, rows: Sequence[Record]) -> None:
    """Mean score by the number of revisions, a line per file (figures 5 to 7): `file`, `revisions`, `value`, `low`, `high`."""
    ends = []
    for number, name in enumerate(dict.fromkeys(row["file"] for row in rows)):
        mine = [row for row in rows if row["file"] == name]
        _line(axes, number, [row["revisions"] for row in mine], mine)
        ends.append((name, mine[-1]["revisions"], mine[-1]["value"], RIGHT))
    axes.set(xlabel="number of revisions", ylabel="mean preference-model score, with 95% interval")
    axes.set_xticks(sorted({row["revisions"] for row in rows}))
    axes.margins(x=0.25)
    _labels(axes, ends)


def _by_step(axes: Any, rows: Sequence[Record]) -> None:
    """A line per `run` over `step`; what has no step is a dashed line at its value. Rows also have `label` and the interval."""
    ends = []
    groups = dict.fromkeys((row["label"], row["step"] is None) for row in rows)  # a model without a step may have a run's name
    for number, (label, stepless) in enumerate(groups):
        mine = [row for row in rows if (row["label"], row["step"] is None) == (label, stepless)]
        for row in mine if stepless else ():
            axes.axhline(row["value"], color=f"C{number % 10}", linestyle="--", linewidth=1)
            axes.axhspan(row["low"], row["high"], color=f"C{number % 10}", alpha=0.1, linewidth=0)
            ends.append((label, 0, row["value"], ABOVE))
        if not stepless:
            mine.sort(key=lambda row: row["step"])
            _line(axes, number, [row["step"] for row in mine], mine)
            ends.append((label, mine[-1]["step"], mine[-1]["value"], RIGHT))
    axes.set(xlabel="RL training step", xlim=(0, 1.3 * max(row["step"] or 0 for row in rows)))
    _labels(axes, ends)


def elo_by_step(axes: Any, rows: Sequence[Record]) -> None:
    """Elo against the step of RL, a line per run and criterion (figure 8): `base`, and those of `_by_step`."""
    axes.axhline(0, color="0.6", linestyle=":", linewidth=1)
    axes.set(ylabel=f"Elo ({plain(rows[0]['base'])} is 0), with 95% interval")
    _by_step(axes, rows)


def harmfulness(axes: Any, rows: Sequence[Record]) -> None:
    """Mean predicted rating of answers (figure 10): over the steps of RL, or if no row has a step, a point per file."""
    title = "mean predicted rating, with 95% interval"
    if any(row["step"] is not None for row in rows):
        axes.set(ylabel=title)
        return _by_step(axes, rows)
    for number, row in enumerate(rows):
        spread = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
        axes.errorbar(row["value"], number, xerr=spread, capsize=2, **_style(number))
    axes.set_yticks(range(len(rows)), [f"{plain(row['label'])} ({row['records']})" for row in rows])
    axes.set(xlabel=title, ylabel="file (records)", ylim=(-0.6, len(rows) - 0.4))
    axes.set_xlim(left=min(0, axes.get_xlim()[0]))
    return None


def by_principle(axes: Any, rows: Sequence[Record]) -> None:
    """Mean change of the score in the rounds of each principle: `principle`, `rounds`, `value`, `low`, `high`."""
    for number, row in enumerate(ordered := sorted(rows, key=lambda row: row["value"])):
        spread = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
        axes.errorbar(row["value"], number, xerr=spread, capsize=2, color="C0", marker="o")
    axes.axvline(0, color="0.6", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(ordered)), [f"{plain(row['principle'])} ({row['rounds']})" for row in ordered])
    axes.set(
        xlabel="mean change of the preference-model score in a round, with 95% interval",
        ylabel="principle (rounds)",
        ylim=(-0.6, len(rows) - 0.4),
    )


def accuracy(axes: Any, rows: Sequence[Record]) -> None:
    """Accuracy of each judge on pairs whose better answer is known (figure 4): `judge`, `pairs`, `accuracy`."""
    for number, row in enumerate(rows):
        found = row["accuracy"]
        spread = [[found["value"] - found["low"]], [found["high"] - found["value"]]]
        axes.errorbar(found["value"], number, xerr=spread, capsize=2, **_style(number))
    axes.axvline(0.5, color="0.6", linestyle="--", linewidth=1)
    axes.text(0.5, len(rows) - 0.6, " chance", color="0.4", fontsize=8, va="bottom")
    axes.set_yticks(range(len(rows)), [f"{plain(row['judge'])} ({row['pairs']} pairs)" for row in rows])
    axes.set(xlabel="share of pairs judged right, with 95% interval", xlim=(0, 1), ylim=(-0.6, len(rows) - 0.2))


def calibration(axes: Any, rows: Sequence[Record]) -> None:
    """How often each judge is right against its confidence (figure 9). A point's size shows its share of the pairs."""
    axes.plot([0.5, 1], [0.5, 1], color="0.6", linestyle="--", linewidth=1, label="calibrated")
    for number, row in enumerate(rows):
        points, style = row["reliability"], _style(number)
        x, y = [p["confidence"] for p in points], [p["accuracy"] for p in points]
        axes.plot(x, y, color=style["color"], linewidth=1.2)
        sizes = [8 + 120 * p["count"] / row["pairs"] for p in points]
        axes.scatter(x, y, s=sizes, **style, label=f"{plain(row['judge'])} (ECE {row['ece']['value']:.2f})")
    axes.set(xlabel="probability of the answer that the judge prefers", ylabel="how often that answer is right")
    axes.set(xlim=(0.48, 1.02), ylim=(-0.02, 1.02))
    axes.legend(frameon=False, fontsize=9)


def diversity(axes: Any, rows: Sequence[Record]) -> None:
    """Distinct-2 and self-BLEU of each file's last revisions, by the number of principles that drew them (section 3.4).

    Rows: `file`, `principles`, `distinct_2`, `self_bleu` (either may be None), in the order from below.
    """
    for style, (name, title) in enumerate({"distinct_2": "distinct-2", "self_bleu": "self-BLEU"}.items()):
        found = [(row[name], number) for number, row in enumerate(rows) if row[name] is not None]
        if found:
            axes.plot(*zip(*found, strict=True), linewidth=1, **_style(style))
            side = "left" if found[-1][0] < 0.5 else "right"
            axes.annotate(title, found[-1], textcoords="offset points", xytext=(0, 9), ha=side, color=f"C{style}")
    counts = [f"{row['principles']} principle{'s' * (row['principles'] != 1)}" for row in rows]
    axes.set_yticks(range(len(rows)), [f"{plain(row['file'])} ({count})" for row, count in zip(rows, counts, strict=True)])
    axes.set(xlabel="share; more diverse: higher distinct-2, lower self-BLEU", xlim=(0, 1), ylim=(-0.6, len(rows) - 0.2))


STEPS = {"reward": "reward", "kl": "KL (nats per token)", "length": "length (tokens)", "refusals": "share of refusals"}
"""What `rl_steps` draws, and how it is called there."""
POINTS = 20
"""Points per line of `rl_steps`: each is the mean of as many steps as that takes."""


def rl_steps(axes: Any, rows: Sequence[Record]) -> None:
    """Reward, KL, length and refusals by step, a line per RL run in four panels: `run`, `step`, and those of STEPS it has."""
    figure, longest = axes.figure, 1
    axes.remove()
    panels = figure.subplots(2, 2, sharex=True)
    for panel, (name, title) in zip(panels.flat, STEPS.items(), strict=True):
        for number, run in enumerate(dict.fromkeys(row["run"] for row in rows)):
            found = [(row["step"], row[name]) for row in rows if row["run"] == run and row.get(name) is not None]
            size = -(-len(found) // POINTS)
            longest = max(size, longest)
            if size > 1:
                panel.plot(*zip(*found, strict=True), linewidth=1, alpha=0.2, color=_style(number)["color"])
            means = [
                [fmean(values) for values in zip(*found[i : i + size], strict=True)] for i in range(0, len(found), size or 1)
            ]
            if means:
                panel.plot(*zip(*means, strict=True), linewidth=1.2, markersize=4, clip_on=False, **_style(number))
                panel.annotate(plain(run), means[-1], textcoords="offset points", xytext=(6, 0), va="center", fontsize=8)
        panel.set_title(title, fontsize=10, loc="left")
        panel.margins(x=0.15)
        if name != "reward":  # a score has no zero that means anything
            panel.set_ylim(bottom=0)
    for panel in panels[1]:
        panel.set_xlabel(f"step (a point: mean of {longest} steps)" if longest > 1 else "step")


def draw(kind: Draw, rows: Sequence[Record], path: Path, height: float = 5) -> None:
    """Draw a figure to a file; its suffix decides: PNG, SVG or PDF. InputError if it cannot be written."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams |= {"svg.hashsalt": "cai", "svg.fonttype": "none"}  # the same bytes each time; text stays text
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.5, height), dpi=110)
    kind(axes, rows)
    for panel in figure.axes:
        panel.spines[["top", "right"]].set_visible(False)
        if kind is not calibration and panel.get_ylim()[0] > 0:
            note = "the vertical axis does not begin at 0"
            panel.annotate(note, (1, 1.01), xycoords="axes fraction", fontsize=8, color="0.4", ha="right")
    try:
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    except (OSError, ValueError) as problem:
        raise InputError(f"{path}: could not write the plot ({problem})") from None
    finally:
        pyplot.close(figure)


def save(name: str, kind: Draw, rows: Sequence[Record], folder: Path, inputs: list[Record]) -> None:
    """Write a figure as NAME.png and NAME.svg, and its numbers as NAME.jsonl."""
    height = max(3.0, 0.4 * len(rows) + 1) if kind in (by_principle, accuracy, diversity) else 5.0
    for suffix in ("png", "svg"):
        draw(kind, rows, folder / f"{name}.{suffix}", height)
    write_file(str(folder / f"{name}.jsonl"), map(jsonl.encode, rows), {"step": "eval figures", "inputs": inputs})
