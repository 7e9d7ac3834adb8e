"""The report as one HTML file that needs no network: the run as a picture, results, figures, curves, records, manifests.

Texts of records are data. They reach the page as JSON, in which no character can end the script element, and the page's code
puts them into the document as text only. Everything else is escaped by Jinja. A Content-Security-Policy forbids every script
but the page's own, by its hash, and every request but that of `--serve` for a new version.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.resources import files
from typing import Any

from cai_cli.data.jsonl import Record
from cai_cli.report import tables
from cai_cli.report.records import Reader
from cai_cli.report.run import Node, Step
from cai_cli.report.tables import Table

BOX, GAP = (240, 62), (22, 40)
"""Width and height of a box of the picture, and the space between two boxes, in pixels."""
LETTERS = 31
"""The most letters of a line in a box."""


@dataclass
class Figure:
    """A figure of the paper."""

    name: str
    svg: str
    caption: str


@dataclass
class Report:
    """What a page shows."""

    title: str
    steps: list[Step]
    nodes: list[Node]
    results: list[Table]
    figures: list[Figure]
    missing: Mapping[str, str]
    """Figures without data, and a command that makes it."""
    curves: list[Record]
    reader: Reader
    principles: Mapping[str, Record] = field(default_factory=dict)
    """The texts of the principles by id."""
    version: str = ""
    """What `--serve` compares to know that the run has changed; empty in a file."""


def build(report: Report) -> str:
    """The page."""
    from jinja2 import Environment

    scripts = [_read("uplot.js"), _read("page.js")]
    data = {
        "files": report.reader.files, "records": report.reader.records, "principles": report.principles,
        "curves": report.curves, "version": report.version,
    }  # fmt: skip
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_read("page.html")).render(
        report=report,
        steps_table=tables.of_steps(report.steps),
        picture=picture(report.nodes),
        numeric=tables.numeric,
        manifests=[(step, json.dumps(step.made, indent=2, ensure_ascii=False)) for step in report.steps],
        style=_read("uplot.css") + _read("page.css"),
        scripts=scripts,
        hashes=[base64.b64encode(sha256(script.encode()).digest()).decode() for script in scripts],
        data=embedded(data),
    )


def _read(name: str) -> str:
    return files("cai_cli.report").joinpath(name).read_text("utf-8")


def embedded(value: Any) -> str:
    """JSON that a script element can hold: it has no `<`, `>`, `&`, nor JavaScript's line separators."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def picture(nodes: Sequence[Node]) -> Record:
    """The boxes and arrows of the run's picture, in pixels: `width`, `height`, `boxes` (x, y, lines, source) and `arrows`."""
    if not nodes:
        return {"width": 0, "height": 0, "boxes": [], "arrows": []}
    places = [(node.column * (BOX[0] + GAP[0]) + GAP[0] // 2, node.depth * (BOX[1] + GAP[1]) + 4) for node in nodes]
    boxes, arrows = [], []
    for node, (x, y) in zip(nodes, places, strict=True):
        title = shlex.join(node.step.command) if node.step and node.step.command else node.name
        boxes.append({"x": x, "y": y, "lines": _lines(node), "source": node.step is None, "title": title})
        for number in node.inputs:
            start, end = (places[number][0] + BOX[0] / 2, places[number][1] + BOX[1]), (x + BOX[0] / 2, y - 3)
            middle = GAP[1] * 0.6
            arrows.append(f"M{start[0]},{start[1]} C{start[0]},{start[1] + middle} {end[0]},{end[1] - middle} {end[0]},{end[1]}")
    width = max(x for x, _ in places) + BOX[0] + GAP[0] // 2
    return {"width": width, "height": max(y for _, y in places) + BOX[1] + 6, "boxes": boxes, "arrows": arrows, "box": BOX}


def _lines(node: Node) -> list[str]:
    """The lines of a box: the output's name, the step, and what it took."""
    name = node.name if len(node.name) <= LETTERS else f"…/{node.name.rpartition('/')[2]}"
    name = name if len(name) <= LETTERS else f"…{name[1 - LETTERS :]}"
    if node.step is None:
        return [name, "given"]
    counts = node.step.counts
    if not node.step.finished:
        done = counts.get("records_out", counts.get("steps", 0))
        return [name, f"cai {node.step.kind}", f"unfinished: {done:,}"]
    taken = [f"{counts['records_in']:,} → {counts['records_out']:,}"] if {"records_in", "records_out"} <= counts.keys() else []
    taken += [f"{_short(node.step.tokens)} tokens"] if node.step.tokens else []
    taken += [_time(counts["seconds"])] if "seconds" in counts else []
    return [name, f"cai {node.step.kind}", " · ".join(taken)]


def _short(number: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return str(number)


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def inline(svg: str, name: str) -> str:
    """matplotlib's SVG as a part of a page: without prolog, comments and metadata, ids of its own, in the page's colour."""
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\1{name}-", svg)
    # the first patches are the white backgrounds of the figure and of its axes
    svg = svg.replace("fill: #ffffff", "fill: none").replace("#000000", "currentColor")
    svg = re.sub("#666666|#999999", "var(--dim)", svg)
    opening, rest = svg.split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", opening) + ">" + rest
