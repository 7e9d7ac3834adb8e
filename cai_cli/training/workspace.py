"""The output directory of a trainer, and its checkpoints.

    DIR.partial/manifest.partial.json   the fingerprint of the run, from the start
    DIR.partial/checkpoints/            checkpoint-N, trusted only if it holds the file `complete`
    DIR.partial/metrics.jsonl           one line per step
    DIR.partial/skipped.jsonl           skipped rows, with their reasons
    DIR.partial/trained-ids.txt         the ids of the records trained on

At the end the model is saved beside them, DIR.partial is renamed to DIR, DIR/manifest.json is written,
and the checkpoints are removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from cai_cli.data import durable, jsonl
from cai_cli.data.jsonl import Record
from cai_cli.errors import CaiError, InputError
from cai_cli.pipeline import manifest
from cai_cli.training import ranks

_FULL = ("No space left", "File too large", "PytorchStreamWriter", "file write failed", "unexpected pos")
"""Words in the errors of torch and safetensors for a full disk or quota."""
COMPLETE = "complete"
"""The file that marks a complete checkpoint."""
RUNNING = "manifest.partial.json"
"""The file that marks an unfinished run."""


class Workspace:
    """DIR.partial, locked by this run until `finish` renames it to DIR. Only the first of several processes writes to it."""

    def __init__(self, output: str, fingerprint: dict[str, Any], restart: bool) -> None:
        """Create or take over DIR.partial for `output`; `restart` discards an unfinished run.

        InputError if an unfinished run has another fingerprint, CaiError if another run is writing there.
        """
        self.path = Path(output.rstrip("/") or "/")
        self.partial = Path(f"{self.path}.partial")
        self.checkpoints = self.partial / "checkpoints"
        require_replaceable(self.path)
        self._held: BinaryIO | None = None
        problem = None
        if ranks.is_first():
            try:
                self._prepare(fingerprint, restart)
            except CaiError as found:
                problem = found
                self._release()  # the error keeps this object alive, and must not keep its lock
        if any(ranks.any_of(problem is not None)):
            raise problem or InputError(f"{self.partial}: the first process could not use it; see its message")
        self.checkpoint = self._newest()

    def _prepare(self, fingerprint: dict[str, Any], restart: bool) -> None:
        with disk_errors(self.partial):
            # a run that was killed between the rename and the manifest is unfinished
            if (self.path / RUNNING).exists() and not (self.path / "manifest.json").exists() and not self.partial.exists():
                os.rename(self.path, self.partial)
            durable.make_folder(self.partial)
            self._lock()
            if (self.partial / RUNNING).exists() and not restart:
                manifest.require_same(manifest.read(self.partial / RUNNING), fingerprint, str(self.partial))
            else:
                self._clear()
                manifest.write(self.partial / RUNNING, {"fingerprint": fingerprint, "command": manifest.command_line()})
            durable.make_folder(self.checkpoints)
            self._keep(self._newest())

    def _lock(self) -> None:
        self._held = open(self.partial / ".lock", "ab")  # noqa: SIM115
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CaiError(f"{self.partial}: another run is writing it; wait for it, or give another -o") from None

    def _release(self) -> None:
        if self._held:
            self._held.close()

    def _clear(self) -> None:
        for path in self.partial.iterdir():
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _newest(self) -> Path | None:
        """The last complete checkpoint; None if there is none."""
        whole = (path for path in self.checkpoints.glob("checkpoint-*") if (path / COMPLETE).exists())
        return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)

    def _keep(self, checkpoint: Path | None) -> None:
        """Remove the other checkpoints: an incomplete one only takes up disk space."""
        for path in self.checkpoints.glob("checkpoint-*"):
            if path != checkpoint:
                shutil.rmtree(path)

    @property
    def step(self) -> int:
        """The optimizer step of the checkpoint to resume from; 0 without one."""
        return int(self.checkpoint.name.rpartition("-")[2]) if self.checkpoint else 0

    def seal(self, step: int) -> None:
        """Mark the checkpoint of this step complete, and remove the earlier ones. Every process of the run must call this."""
        newest = self.checkpoints / f"checkpoint-{step}"
        ranks.wait()  # until each process has saved its part
        if ranks.is_first():
            # the steps' lines and the checkpoint; only then its mark
            for path in (*filter(Path.is_file, self.partial.iterdir()), self.partial, self.checkpoints):
                durable.flush(path)
            durable.sync(newest)
            (newest / COMPLETE).touch()
            durable.sync(newest)
            self._keep(newest)
        self.checkpoint = newest

    def note(self, origins: Iterable[str], skipped: Iterable[Record] | None) -> None:
        """Write trained-ids.txt, and skipped.jsonl unless nothing was skipped."""
        if not ranks.is_first():
            return
        with disk_errors(self.partial):
            with open(self.partial / "trained-ids.txt", "wb") as stream:
                stream.writelines(f"{origin}\n".encode() for origin in origins)
            if skipped is not None:
                with open(self.partial / "skipped.jsonl", "wb") as stream:
                    stream.writelines(map(jsonl.encode, skipped))

    def log(self, name: str) -> StepLog:
        """A JSONL file of the run, without lines after the step that the run resumes from."""
        return StepLog(self.partial / name, self.step)

    def finish(self, content: manifest.Manifest) -> None:
        """Rename DIR.partial to DIR, write its manifest, and remove the checkpoints."""
        if not ranks.is_first():
            return
        with disk_errors(self.path):
            durable.sync(self.partial)
            if self.path.exists():
                (self.path / "manifest.json").unlink(missing_ok=True)
                shutil.rmtree(self.path)
            durable.replace(self.partial, self.path)
            # a run that is killed before this line resumes; one that is killed after it only leaves files that nothing needs
            manifest.write(self.path / "manifest.json", content)
            _remove_unfinished(self.path)
        self._release()


class StepLog:
    """A JSONL file with a `step` in each line. Lines of steps that a resumed run repeats are removed."""

    def __init__(self, path: Path, step: int) -> None:
        kept = []
        with suppress(FileNotFoundError, InputError):  # reading stops at a torn last line, which is removed
            for record in jsonl.read(str(path)):
                if record["step"] > step or step == 0:
                    break
                kept.append(record)
        self.last: Record = kept[-1] if kept else {}
        self.stream = None
        ranks.wait()  # until each process has read it
        if ranks.is_first():
            manifest.write_atomic(path, b"".join(map(jsonl.encode, kept)))
            self.stream = path.open("ab", buffering=0)

    def write(self, records: list[Record]) -> None:
        """Append records. Only the first process writes."""
        if self.stream:
            self.stream.write(b"".join(map(jsonl.encode, records)))


def finished(output: str, step: str, fingerprint: dict[str, Any]) -> manifest.Manifest | None:
    """The manifest of the directory if a run with this fingerprint has finished it; None if it must be made.

    Warns if a run with another fingerprint has finished it: it is replaced. Every process of the run must call this.
    """
    path, made = Path(output), None
    # a directory whose weights were deleted is made again
    if not (Path(f"{path}.partial") / RUNNING).exists() and any(path.glob("*.safetensors")):
        made = manifest.of_same_run(path / "manifest.json", step, path, fingerprint)
    if not any(ranks.any_of(made is not None)):  # all agree, even if their file systems show a change at different times
        return None
    if ranks.is_first():
        _remove_unfinished(path)
    manifest.touch(path / "manifest.json")
    return made or {}


def _remove_unfinished(path: Path) -> None:
    """Remove from a finished directory what only an unfinished run needs. A run that was killed just now may have left it."""
    shutil.rmtree(path / "checkpoints", ignore_errors=True)
    for name in (".lock", RUNNING):
        (path / name).unlink(missing_ok=True)


def require_replaceable(path: Path) -> None:
    """InputError if -o names something that a finished run must not replace."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; -o takes a directory")
    made_here = (path / "manifest.json").exists() or (path / RUNNING).exists()
    if path.is_dir() and any(path.iterdir()) and not made_here:
        raise InputError(f"{path}: exists and holds other files; give another -o, or move them away")


def require_elsewhere(output: str, *folders: Path) -> None:
    """InputError if -o names one of the models that the run reads."""
    for folder in folders:
        if Path(output).resolve() == folder.resolve():
            raise InputError(f"{output}: is a model that this run starts from; give another -o")


def open_to_readers(folder: Path) -> None:
    """Give weight files the permissions that the umask allows: safetensors makes them readable only by their owner."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o666 & ~umask)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Report failures to write as a CaiError of one sentence. torch and safetensors have their own errors for a full disk."""
    try:
        yield
    except Exception as problem:
        full = getattr(problem, "errno", None) == errno.ENOSPC
        if full or any(sign in str(problem) for sign in _FULL):
            raise CaiError(
                f"{path}: the disk is full; the last checkpoint is kept; free some space and repeat the command"
            ) from problem
        if isinstance(problem, OSError):
            name = problem.filename or path
            raise CaiError(f"{name}: could not be written ({(problem.strerror or str(problem)).lower()})") from problem
        raise
