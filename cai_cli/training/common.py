"""What the three trainers share: the output directory and its checkpoints, and the run itself.

    DIR.partial/manifest.partial.json   the fingerprint of the run, from the start
    DIR.partial/checkpoints/            checkpoint-N, trusted once the file `complete` stands in it
    DIR.partial/metrics.jsonl           one line a step
    DIR.partial/rejected.jsonl          rows set aside
    DIR.partial/trained-ids.txt         the ids of the records trained on

When all is done the model is saved beside them, DIR.partial becomes DIR, the checkpoints go, and
DIR/manifest.json is written last of what stays.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai_cli import jsonl, manifest, models, streams
from cai_cli.errors import CaiError, InputError
from cai_cli.jsonl import Record
from cai_cli.training import libraries
from cai_cli.training.data import Data

_FULL = ("No space left", "File too large", "PytorchStreamWriter", "file write failed")
"""How torch and safetensors say that the disk, or a quota, is full."""
COMPLETE = "complete"
RUNNING = "manifest.partial.json"


@dataclass
class Settings:
    """A trainer's options, as the flags give them. `steps` wins over `epochs`."""

    step: str
    files: list[str]
    model: str
    output: str
    lr: float
    batch_size: int
    grad_accum: int = 1
    steps: int | None = None
    epochs: float = 1.0
    max_length: int = 1024
    limit: int | None = None
    seed: int = 0
    dtype: str = "auto"
    format: str = "auto"
    eval_fraction: float = 0.0
    save_every: int | None = None
    restart: bool = False
    report_to: str = "none"
    quiet: bool = False
    debug: bool = False

    def fingerprint(self, inputs: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """What a resumed run must share with the run it goes on from. `more` holds the models' hashes and the like."""
        same = ("step", "lr", "batch_size", "grad_accum", "steps", "max_length", "limit", "seed", "eval_fraction")
        return {
            "inputs": [[entry["sha256"], entry["weight"]] for entry in inputs],
            **{name: getattr(self, name) for name in same},
            "epochs": None if self.steps else self.epochs,
            "dtype": precision(self.dtype),
            **more,
        }


def language_model(settings: Settings, *others: Path) -> Path:
    """The directory of the model that training starts from. InputError, before anything is loaded, where it won't do.

    `others` are further models that the run reads, which -o must not name either.
    """
    folder = models.resolve(settings.model)
    models.read_config(folder)
    require_elsewhere(settings.output, folder, *others)
    require_replaceable(Path(settings.output))
    return folder


def require_causal(folder: Path) -> None:
    """InputError where the directory holds a classifier, which has no words to train."""
    if models.is_preference_model(folder):
        raise InputError(f"{folder}: a sequence classifier, not a language model; give the model that it was made from")


def precision(dtype: str) -> str:
    """What the forward and backward passes compute in; the weights themselves are float32 always."""
    if dtype == "auto":
        return "bfloat16" if models.has_bf16() else "float32"
    if dtype == "float16" and models.device() == "cpu":
        raise InputError("--dtype float16 trains on a GPU only; take bfloat16 or float32")
    return dtype


def warmup_steps(settings: Settings, share: float, examples: int) -> int:
    """Steps over which the learning rate rises: a share of all, and none where that is one, which would be at rate 0."""
    total = settings.steps or examples * settings.epochs / (settings.batch_size * settings.grad_accum)
    return steps if (steps := int(share * total)) > 1 else 0


def arguments(settings: Settings, workspace: Workspace, warmup: int, scheduler: str) -> dict[str, Any]:
    """The TrainingArguments that every trainer has in common. Saving and evaluation are `Watch`'s."""
    cpu = models.device() == "cpu"
    compute = precision(settings.dtype)
    return {
        "output_dir": str(workspace.checkpoints),
        "max_steps": settings.steps or -1,
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.lr,
        "lr_scheduler_type": scheduler,
        "warmup_steps": warmup,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.grad_accum,
        "seed": settings.seed,
        "use_cpu": cpu,
        "bf16": compute == "bfloat16",
        "fp16": compute == "float16",
        "gradient_checkpointing": not cpu,
        "dataloader_pin_memory": not cpu,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "disable_tqdm": True,
        "report_to": settings.report_to,
    }


class Workspace:
    """DIR.partial, held by this process alone until `finish` turns it into DIR."""

    def __init__(self, output: str, fingerprint: dict[str, Any], restart: bool) -> None:
        self.path = Path(output.rstrip("/") or "/")
        self.partial = Path(f"{self.path}.partial")
        self.checkpoints = self.partial / "checkpoints"
        require_replaceable(self.path)
        with disk_errors(self.partial):
            # a run that was killed between the rename and the manifest is still unfinished
            if (self.path / RUNNING).exists() and not (self.path / "manifest.json").exists() and not self.partial.exists():
                os.rename(self.path, self.partial)
            self.partial.mkdir(parents=True, exist_ok=True)
            self._lock()
            if (self.partial / RUNNING).exists() and not restart:
                manifest.require_same(manifest.read(self.partial / RUNNING), fingerprint, str(self.partial))
            else:
                self._clear()
                manifest.write(self.partial / RUNNING, {"fingerprint": fingerprint, "command": manifest.command_line()})
            self.checkpoints.mkdir(exist_ok=True)
            self.checkpoint = self._recover()

    def _lock(self) -> None:
        self._held = open(self.partial / ".lock", "ab")  # noqa: SIM115
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CaiError(f"{self.partial}: another run is writing it; wait for it, or give another -o") from None

    def _clear(self) -> None:
        for path in self.partial.iterdir():
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _recover(self) -> Path | None:
        """The last complete checkpoint. Others go: one that a kill cut short would only take up room."""
        found = sorted(self.checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        whole = [path for path in found if (path / COMPLETE).exists()]
        for path in found:
            if path not in whole[-1:]:
                shutil.rmtree(path)
        return whole[-1] if whole else None

    @property
    def step(self) -> int:
        """Optimizer steps that the checkpoint to resume from has behind it."""
        return int(self.checkpoint.name.rpartition("-")[2]) if self.checkpoint else 0

    def seal(self, step: int) -> None:
        """Declare the checkpoint of this step complete, and remove the ones before it."""
        newest = self.checkpoints / f"checkpoint-{step}"
        sync(newest)
        (newest / COMPLETE).touch()
        sync(newest)
        self.checkpoint = newest
        for path in self.checkpoints.glob("checkpoint-*"):
            if path != newest:
                shutil.rmtree(path)

    def note(self, data: Data[Any]) -> None:
        """Write down what was set aside and which records are trained on."""
        with disk_errors(self.partial):
            manifest.write_atomic(self.partial / "trained-ids.txt", "".join(f"{o}\n" for o in data.origins()).encode())
            if data.rejected:
                manifest.write_atomic(self.partial / "rejected.jsonl", b"".join(map(jsonl.encode, data.rejected)))

    def log(self, name: str) -> StepLog:
        """A JSONL file of the run, cut back to the step that it resumes from."""
        return StepLog(self.partial / name, self.step)

    def finish(self, content: manifest.Manifest) -> None:
        """Put DIR in place, its manifest last."""
        with disk_errors(self.path):
            sync(self.partial)
            if self.path.exists():
                (self.path / "manifest.json").unlink(missing_ok=True)
                shutil.rmtree(self.path)
            os.rename(self.partial, self.path)
            manifest.write(self.path / "manifest.json", content)  # a kill before this resumes; one after leaves only litter
            shutil.rmtree(self.path / "checkpoints")
            (self.path / ".lock").unlink()
            (self.path / RUNNING).unlink()
        self._held.close()


class StepLog:
    """A JSONL file with a `step` in each line, in which no step stands from two attempts."""

    def __init__(self, path: Path, step: int) -> None:
        kept = []
        with suppress(FileNotFoundError, InputError):  # a torn last line ends the reading, and is cut
            for record in jsonl.read(str(path)):
                if record["step"] > step:
                    break
                kept.append(record)
        manifest.write_atomic(path, b"".join(map(jsonl.encode, kept)))
        self.last: Record = kept[-1] if kept else {}
        self.stream = path.open("ab", buffering=0)

    def write(self, records: list[Record]) -> None:
        """Append records."""
        self.stream.write(b"".join(map(jsonl.encode, records)))


def require_replaceable(path: Path) -> None:
    """InputError where -o names something that a finished run couldn't take the place of."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; -o takes a directory")
    made_here = (path / "manifest.json").exists() or (path / RUNNING).exists()
    if path.is_dir() and any(path.iterdir()) and not made_here:
        raise InputError(f"{path}: exists and holds other files; give another -o, or move it away")


def require_elsewhere(output: str, *folders: Path) -> None:
    """InputError where -o is one of the models that the run reads."""
    for folder in folders:
        if Path(output).resolve() == folder.resolve():
            raise InputError(f"{output}: is a model that this run starts from; give another -o")


def open_to_readers(folder: Path) -> None:
    """Give each file the permissions that the umask grants: safetensors writes weights for their owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o666 & ~umask)


def sync(folder: Path) -> None:
    """Flush a directory's files to the disk, so that a crash of the machine can't lose what is declared done."""
    for path in [*folder.iterdir(), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Failures to write, as one sentence. torch and safetensors report a full disk as errors of their own."""
    try:
        yield
    except Exception as problem:
        full = getattr(problem, "errno", None) == errno.ENOSPC
        if full or any(sign in str(problem) for sign in _FULL):
            raise CaiError(
                f"{path}: the disk is full; the last checkpoint is kept: make room and give the same command again"
            ) from problem
        if isinstance(problem, OSError):
            name = problem.filename or path
            raise CaiError(f"{name}: can't be written ({(problem.strerror or str(problem)).lower()})") from problem
        raise


class Interrupts:
    """While a run trains, SIGINT and SIGTERM ask it to stop after the current step; a second one ends it at once."""

    def __init__(self) -> None:
        self.asked = False

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        streams.say("cai: stopping after this step, to save a checkpoint; once more to stop at once")

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def train(trainer: Any, settings: Settings, workspace: Workspace, data: Data[Any], about: dict[str, Any]) -> None:
    """Run a trainer to its end, from its last checkpoint where there is one, and put DIR in place.

    `about` is what the manifest says of the models and the constitution of the run.
    """
    from transformers.trainer_callback import PrinterCallback

    from cai_cli.training.watch import Watch

    start = time.monotonic()
    if models.device() == "cpu":
        libraries.keep_memory()
    if workspace.checkpoint:
        streams.say(f"cai {settings.step}: going on after step {workspace.step}", settings.quiet)
    trainer.remove_callback(PrinterCallback)  # it prints every log to standard output
    trainer.create_model_card = lambda *_, **__: None  # TRL writes one beside the checkpoints, for publishing
    with Interrupts() as interrupts, disk_errors(workspace.partial):
        watch = Watch(trainer, settings, workspace, interrupts)
        trainer.add_callback(watch)
        try:
            trainer.train(resume_from_checkpoint=str(workspace.checkpoint) if workspace.checkpoint else None)
        finally:
            watch.close()
        if interrupts.asked and trainer.state.global_step < trainer.state.max_steps:
            streams.say(
                f"cai {settings.step}: interrupted; {workspace.partial} holds a checkpoint of step {workspace.step}; "
                "the same command goes on from there"
            )
            raise KeyboardInterrupt
        model = trainer.accelerator.unwrap_model(trainer.model)
        model.config.use_cache = True
        model.save_pretrained(workspace.partial)
        trainer.processing_class.save_pretrained(workspace.partial)
        open_to_readers(workspace.partial)
    counts = {
        "records_in": sum(entry["records"] for entry in data.inputs),
        "records_out": len(data.examples),
        "set_aside": len(data.rejected),
        "steps": trainer.state.global_step,
        "tokens": watch.tokens,
        "seconds": round(watch.seconds_before + time.monotonic() - start, 3),
    }
    workspace.finish(
        {
            "step": settings.step,
            "command": manifest.command_line(),
            "finished": manifest.now(),
            "versions": manifest.versions(),
            "inputs": data.inputs,
            "counts": counts,
            **about,
        }
    )
    aside = f", {counts['set_aside']} rows set aside" if data.rejected else ""
    streams.say(
        f"cai {settings.step}: {counts['steps']} steps, {counts['records_out']} examples, {counts['tokens']:,} tokens{aside}, "
        f"{counts['seconds']:.1f} s -> {settings.output}",
        settings.quiet,
    )
