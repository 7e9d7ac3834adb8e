"""The run of a trainer: to its end or to an interrupt, the saved model, and what stands beside it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cai_cli import manifest, models, streams
from cai_cli.errors import CaiError
from cai_cli.jsonl import Record
from cai_cli.training import card, libraries, ranks
from cai_cli.training.data import Data
from cai_cli.training.settings import Settings
from cai_cli.training.workspace import Workspace, disk_errors, open_to_readers

_CORRUPT = ("SafetensorError", "UnpicklingError", "PytorchStreamReader", "JSONDecodeError", "EOFError", "FileNotFoundError")
"""How torch, safetensors and json say that a file isn't what it should be."""


TWICE = 1.0
"""Seconds within which a second signal is the same one: a scheduler and a launcher may both pass it on."""


class Interrupts:
    """While a run trains, SIGINT and SIGTERM ask it to stop after the current step; a second one ends it at once."""

    def __init__(self) -> None:
        self.asked, self.when = False, 0.0

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            if time.monotonic() - self.when > TWICE:
                raise KeyboardInterrupt
            return
        self.asked, self.when = True, time.monotonic()
        if ranks.is_first():
            streams.say("cai: stopping after this step, to save a checkpoint; once more to stop at once")

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def train(
    trainer: Any,
    settings: Settings,
    workspace: Workspace,
    data: Data[Any],
    about: dict[str, Any],
    rows: int | None = None,
    report: Callable[[Path], Record] | None = None,
    ends: list[int] | None = None,
    max_kl: float | None = None,
    stop_on_kl: bool = False,
) -> None:
    """Run a trainer to its end, from its last checkpoint where there is one, and put DIR in place.

    `about` is what the manifest says of the models of the run. `rows` are the examples of one pass, where the trainer itself
    can't tell. `report` evaluates the saved model; what it returns goes into the manifest. `ends` are the tokens that end a turn,
    where answers are learnt. `max_kl` is RL's (see `watch`).
    """
    from transformers.trainer_callback import PrinterCallback

    from cai_cli.training.watch import Watch

    start = time.monotonic()
    if models.device() == "cpu":
        libraries.keep_memory()
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(workspace.partial / "runs"))  # not among the checkpoints, which go
    if workspace.checkpoint:
        streams.say(f"cai {settings.step}: going on after step {workspace.step}", settings.quiet)
    trainer.remove_callback(PrinterCallback)  # it prints every log to standard output
    trainer.create_model_card = lambda *_, **__: None  # TRL writes one beside the checkpoints, for publishing
    trainer.args.eval_on_start = trainer.eval_dataset is not None and not workspace.checkpoint
    with Interrupts() as interrupts, disk_errors(workspace.partial):
        watch = Watch(trainer, settings, workspace, interrupts, rows, max_kl, stop_on_kl)
        trainer.add_callback(watch)
        try:
            with reading(workspace.checkpoint, watch):
                trainer.train(resume_from_checkpoint=str(workspace.checkpoint) if workspace.checkpoint else None)
        finally:
            watch.close()
        if watch.interrupted and trainer.state.global_step < trainer.state.max_steps:
            streams.say(
                f"cai {settings.step}: interrupted; {workspace.partial} holds a checkpoint of step {workspace.step}; "
                "the same command goes on from there"
            )
            raise KeyboardInterrupt
        save(trainer, settings, workspace.partial, ends)
    counts = {
        "records_in": sum(entry["records"] for entry in data.inputs),
        "records_out": len(data.examples),
        "set_aside": len(data.rejected),
        "steps": trainer.state.global_step,
        "tokens": watch.tokens,
        "seconds": round(watch.seconds_before + time.monotonic() - start, 3),
    }
    content: manifest.Manifest = {
        "step": settings.step,
        "command": manifest.command_line(),
        "finished": manifest.now(),
        "versions": manifest.versions(),
        "processes": trainer.accelerator.num_processes,
        "inputs": data.inputs,
        "counts": counts,
        **about,
    }
    if watch.stopped:
        content["stopped"] = watch.stopped
    if ranks.is_first():
        with disk_errors(workspace.partial):
            if report:
                trainer.optimizer = None  # what the report loads needs the room
                trainer.accelerator.free_memory()
                trainer.model.to("cpu")
                content["evaluation"] = report(workspace.partial)
            card.write(workspace.partial, settings, content)
    workspace.finish(content)
    aside = f", {counts['set_aside']} rows set aside" if data.rejected else ""
    streams.say(
        f"cai {settings.step}: {counts['steps']} steps, {counts['records_out']} examples, {counts['tokens']:,} tokens{aside}, "
        f"{counts['seconds']:.1f} s -> {settings.output}",
        settings.quiet,
    )


def save(trainer: Any, settings: Settings, folder: Path, ends: list[int] | None = None) -> None:
    """Save the model with its tokenizer and template; an adapter is merged into it, unless --keep-adapter.

    `ends` are the tokens that end a turn, where answers were learnt.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    # of sharded weights every process must give its part
    weights = trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
    if not ranks.is_first():
        return
    if settings.lora and not settings.keep_adapter:
        model = model.merge_and_unload()
    model.config.use_cache = True
    if ends is not None and model.generation_config is not None:  # what it has learnt to end with must end what it generates
        known = model.generation_config.eos_token_id
        known = known if isinstance(known, list) else [known]
        model.generation_config.eos_token_id = [token for token in dict.fromkeys([*known, *ends[-1:]]) if token is not None]
    model.save_pretrained(folder, state_dict=weights)
    trainer.processing_class.save_pretrained(folder)
    open_to_readers(folder)


@contextmanager
def reading(checkpoint: Path | None, watch: Any) -> Iterator[None]:
    """A checkpoint that can't be read, as one sentence; `watch` knows whether training has begun."""
    try:
        yield
    except Exception as problem:
        if checkpoint and not watch.begun and any(sign in f"{type(problem).__name__} {problem}" for sign in _CORRUPT):
            raise CaiError(
                f"{checkpoint}: this checkpoint is damaged ({' '.join(str(problem).split())[:200]}); begin anew with --restart"
            ) from problem
        raise
