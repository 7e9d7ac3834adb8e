"""The model card (README.md) and the plot of the losses (loss.png) in a trained model's directory."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean
from typing import Any

from cai_cli.data import jsonl
from cai_cli.data.jsonl import Record
from cai_cli.errors import CaiError
from cai_cli.pipeline import lineage, manifest
from cai_cli.streams import plural
from cai_cli.training.settings import Settings

_KINDS = {
    "train-sft": ("A language model, fine-tuned on the answers of records", "cai train-sft", "text-generation"),
    "train-dpo": ("A language model, trained on preferences by DPO with soft labels", "cai train-dpo", "text-generation"),
    "train-pm": ("A preference model: one raw score for a conversation, higher is better", "cai train-pm", "text-classification"),
    "score": (
        "A scorer: one number for a conversation, trained on ratings by squared error",
        "cai train-pm --target score",
        "text-classification",
    ),
    "rl": ("A language model, trained by reinforcement learning from AI feedback", "cai rl", "text-generation"),
}
_PANELS = {"loss": "loss", "reward": "reward", "kl": "KL to the starting model per token", "accuracy": "accuracy"}
"""The metrics of `metrics.jsonl` that are drawn, and their axis labels: a panel per metric, with its held-out values."""
SMOOTH = 20
"""A plot's line is a running mean over one part of the run, divided into this many parts."""


def write(folder: Path, settings: Settings, content: manifest.Manifest) -> None:
    """Write README.md and loss.png into a model's directory, from its manifest and its `metrics.jsonl`."""
    metrics = list(jsonl.read(str(folder / "metrics.jsonl")))
    plot(metrics, folder / "loss.png")
    manifest.write_atomic(folder / "README.md", text(settings, content, metrics).encode())


def literal(value: object) -> str:
    """A value as Markdown code in a table. Characters that would be markup become spaces, since the value is data."""
    shown = re.sub(r"[`|<>\s]+", " ", str(value)).strip()
    return f"`{shown}`" if shown else ""


def _history(path: Path) -> list[tuple[Path, manifest.Manifest]]:
    """`lineage.history`; without a manifest that cannot be read, which must not end a finished training."""
    try:
        return lineage.history(path)
    except CaiError:
        return []


def constitutions(content: manifest.Manifest) -> list[str]:
    """A line for each constitution: of the reward, and of the data that this model and its preference models were trained on."""
    found: dict[str, str] = {}

    def add(made: Record, name: str) -> None:
        if isinstance(used := made.get("constitution"), dict):
            about = f"- {literal(used.get('name'))}, version {literal(used.get('version'))}"
            sha = literal(str(used.get("sha256"))[:16])
            found.setdefault(f"{about}, SHA-256 {sha} ({literal(made.get('step'))})", name)

    add(content, "the reward")
    paths = [str(entry["path"]) for entry in content["inputs"]]
    for entry in content.get("pm") or []:
        made = lineage.beside(Path(entry["name"]))
        paths += [str(lineage.find(str(each["path"]), Path(entry["name"]))) for each in made.get("inputs", [])]
    for path in paths:
        for output, made in _history(Path(path)):
            add(made, output.name)
    return [f"{line}: {literal(name)}" for line, name in found.items()]


def text(settings: Settings, content: manifest.Manifest, metrics: list[Record]) -> str:
    """The model card, which begins with the hub's metadata."""
    title, command, task = _KINDS[content.get("target", settings.step)]
    counts, models = content["counts"], {key: content[key] for key in ("model", "pm", "feedback") if key in content}
    lines = ["---", "library_name: transformers", f"pipeline_tag: {task}", f"base_model: {json.dumps(str(settings.model))}"]
    lines += [
        "tags: [constitutional-ai, cai]",
        "---",
        "",
        f"# {literal(Path(settings.output).name)}",
        "",
        f"{title} (`{command}`).",
    ]
    lines += ["", "## What it was trained on", "", "| file | rows | weight | SHA-256 |", "|---|---|---|---|"]
    for entry in content["inputs"]:
        lines.append(f"| {literal(entry['path'])} | {entry['records']} | {entry['weight']:g} | `{entry['sha256'][:16]}` |")
    used = f"{plural(counts['records_out'], 'example')}, {plural(counts['tokens'], 'token')} in {plural(counts['steps'], 'step')}"
    lines += ["", f"{used}; {plural(counts['skipped'], 'row')} skipped (`skipped.jsonl`). `trained-ids.txt` names the records."]
    if used_constitutions := constitutions(content):
        lines += ["", "By these constitutions:", "", *used_constitutions]
    lines += ["", "## From which models", "", "| role | model | SHA-256 |", "|---|---|---|"]
    for role, found in models.items():
        for model in found if isinstance(found, list) else [found]:
            lines.append(
                f"| {'starting model' if role == 'model' else role} | {literal(model['name'])} | `{model['sha256'][:16]}` |"
            )
    lines += ["", "## How", "", "| setting | value |", "|---|---|"]
    for name, value in content["fingerprint"].items():
        if name not in ("inputs", "model", "pm", "feedback", "eval") and value is not None:
            lines.append(f"| {name} | {literal(value)} |")
    lines += ["", "## Results", "", "![losses](loss.png)", "", "| measure | first | last |", "|---|---|---|"]
    for name in sorted({name for line in metrics for name in line} - {"step", "epoch", "tokens", "seconds", "learning_rate"}):
        found = [line[name] for line in metrics if isinstance(line.get(name), int | float)]
        if found:
            lines.append(f"| {name} | {found[0]:.4g} | {found[-1]:.4g} |")
    if content.get("stopped"):
        lines += ["", f"Stopped at {content['stopped']}."]
    lines += ["", "`manifest.json` holds the command, the versions and the full hashes; `metrics.jsonl` has a line per step.", ""]
    return "\n".join(lines)


def plot(metrics: list[Record], path: Path) -> None:
    """Draw the metrics of a run over its steps: a faint line, a running mean, and points for held-out values."""
    from matplotlib.figure import Figure

    shown = [
        name
        for name in _PANELS
        if any(isinstance(line.get(key), int | float) for line in metrics for key in (name, f"eval_{name}"))
    ]
    if not shown:
        return
    figure = Figure(figsize=(7, 2.6 * len(shown)), layout="constrained")
    panels: Any = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, shown, strict=True):
        steps, values = _series(metrics, name)
        width = max(1, len(values) // SMOOTH)
        axes.plot(steps, values, color="#9db8d9", linewidth=1)
        means = [fmean(values[max(0, i - width + 1) : i + 1]) for i in range(len(values))]
        axes.plot(
            steps, means, color="#1f4e8c", linewidth=1.6, label="training" if width == 1 else f"training, mean of {width} steps"
        )
        held = _series(metrics, f"eval_{name}")
        if held[0]:
            axes.plot(*held, "o-", color="#c8553d", markersize=4, linewidth=1, label="held out")
        axes.set_ylabel(_PANELS[name])
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    panels[-1].set_xlabel("optimizer step")
    figure.savefig(path, dpi=110)


def _series(metrics: list[Record], name: str) -> tuple[list[int], list[float]]:
    """(steps, values) of a metric, where it is a number."""
    found = [(line["step"], line[name]) for line in metrics if isinstance(line.get(name), int | float)]
    return [step for step, _ in found], [value for _, value in found]
