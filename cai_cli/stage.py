"""The runner that every generating step shares.

A step is a `Job`: a check of its input records and a program. The program is a generator: given a
record it yields lists of requests, is sent the results in the same order, and returns the records
to write; it may raise `errors.SetAside`. The runner reads the input, keeps at most `window` records in
flight, feeds the engine, writes in input order, resumes, and leaves a manifest.

    def program(record):
        [completion] = yield [request]
        return [{**record, "response": completion.text}]
"""

from __future__ import annotations

import queue
import stat
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import count, islice
from pathlib import Path
from typing import Any

from cai_cli import jsonl, manifest, streams
from cai_cli.engines.base import Feed, Key, Request, Result
from cai_cli.errors import InputError, SetAside
from cai_cli.jsonl import Line, Record
from cai_cli.outputs import Counts, FileOutput, StreamOutput, count_fields
from cai_cli.records import Ids

WINDOW = 1024
"""Records in flight at most."""
SKIP_BAD = "; mend the line, or set such lines aside with --skip-bad"

Program = Callable[[Record], Generator[list[Request], list[Any], list[Record]]]


@dataclass
class Job:
    """One step: what it checks, what it does, and with what.

    `open_engine` is called when the first request is ready. `context` is the model's limit in
    tokens (an engine short of memory may hold less: its own `context` says). `options` are those
    that affect the output: they enter the fingerprint. `about` is what the manifest says of the
    model and the constitution.
    """

    name: str
    check: Callable[[Record], str | None]
    program: Program
    open_engine: Callable[[], Any]
    context: int
    options: dict[str, Any]
    about: dict[str, Any]


@dataclass
class Files:
    """Input and output of a run, as the flags give them."""

    input: str = "-"
    output: str = "-"
    manifest: str | None = None
    limit: int | None = None
    skip_bad: bool = False
    restart: bool = False
    quiet: bool = False
    dry_run: int | None = None
    window: int = WINDOW


@dataclass
class _Item:
    """One input record on its way."""

    line: Line
    record_id: str = ""
    program: Generator[list[Request], list[Any], list[Record]] | None = None
    results: list[Any] = field(default_factory=list)
    pending: int = 0
    done: bool = False
    outputs: list[Record] = field(default_factory=list)
    rejects: list[Record] = field(default_factory=list)
    tokens: tuple[int, int] = (0, 0)


_END = object()


class _Source:
    """Input lines, taken without waiting where the input is a pipe that may be slow."""

    def __init__(self, lines: Iterator[Line], slow: bool) -> None:
        self.lines, self.slow, self.ended = lines, slow, False
        if slow:
            self.queue: queue.Queue[Any] = queue.Queue(maxsize=WINDOW)
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for line in self.lines:
                self.queue.put(line)
            self.queue.put(_END)
        except BaseException as problem:
            self.queue.put(problem)

    def take(self, wait: bool) -> Line | None:
        """The next line. None: none yet (not with `wait`), or the end, when `ended` is set."""
        if self.ended:
            return None
        if not self.slow:
            taken = next(self.lines, _END)
        else:
            try:
                taken = self.queue.get(block=wait)
            except queue.Empty:
                return None
        if isinstance(taken, BaseException):
            self.ended = True
            raise taken
        if taken is _END:
            self.ended = True
            return None
        return taken  # type: ignore[return-value]


def is_pipe(path: str) -> bool:
    """Whether an input can be read only once, as it comes."""
    if path == "-":
        return True
    mode = Path(path).stat().st_mode if Path(path).exists() else stat.S_IFREG
    return not stat.S_ISREG(mode)


def preflight(files: Files, check: Callable[[Record], str | None]) -> tuple[str | None, int | None]:
    """Check a whole input file before any model is loaded: (SHA-256 of its bytes, records).

    InputError at the first bad line, unless `skip_bad`. A pipe can't be checked ahead: (None, None).
    """
    if is_pipe(files.input):
        return None, None
    records, ids = 0, Ids()
    for line in islice(jsonl.read_lines(files.input), files.limit):
        records += 1
        if (error := _line_error(line, check, ids)) and not files.skip_bad:
            raise jsonl.bad_line(files.input, line.number, error, SKIP_BAD)
    return manifest.hash_file(files.input), records


def _line_error(line: Line, check: Callable[[Record], str | None], ids: Ids) -> str | None:
    if line.record is None:
        return line.error
    return check(line.record) or ids.error(line.record, line.number)


def run(job: Job, files: Files) -> Counts:
    """Carry a job over its input. Returns what was done, over all resumed runs."""
    input_hash, total = preflight(files, job.check)
    fingerprint = {"step": job.name, **job.options, "limit": files.limit, "input": input_hash}
    if files.dry_run is not None:
        return _dry_run(job, files)
    output: FileOutput | StreamOutput
    if files.output == "-":
        output = StreamOutput(streams.claim_stdout(), files.manifest)
    elif Path(files.output).exists() and not Path(files.output).is_file() and not Path(files.output).is_dir():
        streams.claim_stdout().close()
        output = StreamOutput(open(files.output, "wb", buffering=0), files.manifest)  # noqa: SIM115  a device or a named pipe
    else:
        streams.claim_stdout().close()
        output = FileOutput(files.output, fingerprint, files.restart)
    runner = _Run(job, files, output, total)
    try:
        runner.run()
        output.finish(_manifest(job, files, fingerprint, output.counts))
    except KeyboardInterrupt:
        streams.say(f"cai {job.name}: interrupted; {output.how_to_go_on()}")
        raise
    finally:
        runner.progress.close()
        output.close()
    _summary(job, files, output.counts)
    return output.counts


def _manifest(job: Job, files: Files, fingerprint: dict[str, Any], counts: Counts) -> manifest.Manifest:
    source = "-" if files.input == "-" else str(files.input)
    return {
        "step": job.name,
        "command": manifest.command_line(),
        "finished": manifest.now(),
        "versions": manifest.versions(),
        **job.about,
        "inputs": [{"path": source, "sha256": fingerprint["input"]}],
        "counts": count_fields(counts),
        "fingerprint": fingerprint,
    }


def _summary(job: Job, files: Files, counts: Counts) -> None:
    if counts.records_in == 0:
        streams.warn(f"{job.name}: the input is empty, so is the output")
    if counts.set_aside:
        where = f", see {files.output}.rejected.jsonl" if files.output != "-" else ""
        streams.warn(f"{job.name}: {counts.set_aside} records set aside{where}")
    tokens = counts.prompt_tokens + counts.completion_tokens
    target = "" if files.output == "-" else f" -> {files.output}"
    streams.say(
        f"cai {job.name}: {counts.records_out} records, {tokens:,} tokens "
        f"({counts.completion_tokens:,} generated), {counts.seconds:.1f} s{target}",
        files.quiet,
    )


def _dry_run(job: Job, files: Files) -> Counts:
    """Write the first requests of the input, as the model would get them."""
    output = streams.claim_stdout()  # never -o, which may hold a finished output
    ids, left = Ids(), files.dry_run or 0
    with output:
        for line in islice(jsonl.read_lines(files.input), files.limit):
            if left <= 0:
                break
            if error := _line_error(line, job.check, ids):
                if files.skip_bad:
                    continue
                raise jsonl.bad_line(files.input, line.number, error, SKIP_BAD)
            assert line.record is not None
            try:
                requests = next(job.program(line.record))
                require_fit(requests, job.context)
            except StopIteration:
                continue
            except SetAside as reason:
                streams.warn(f"{job.name}: sets aside {line.record['id']}: {reason}")
                continue
            for request in requests[:left]:
                output.write(jsonl.encode(request_record(line.record["id"], request)))
            left -= len(requests)
    return Counts()


def require_fit(requests: list[Request], context: int) -> None:
    """SetAside where a request and its answer have more tokens than the model takes."""
    for request in requests:
        room = 1 if request.kind == "choose" else request.max_tokens
        if len(request.ids) + room > context:
            raise SetAside(f"its prompt of {len(request.ids)} tokens and {room} more exceed the model's context of {context}")


def request_record(identity: str, request: Request) -> Record:
    """A request as --dry-run shows it."""
    shown: Record = {"id": identity, "text": request.text}
    if request.options:
        shown["options"] = request.options
    if request.kind == "generate":
        shown |= {"seed": request.seed, "max_tokens": request.max_tokens, "stop": list(request.stop)}
    return shown


class _Run:
    """The state of one run: the window of items, and a queue of requests a kind."""

    def __init__(self, job: Job, files: Files, output: FileOutput | StreamOutput, total: int | None) -> None:
        self.job, self.files, self.output = job, files, output
        slow = is_pipe(files.input)
        self.source = _Source(islice(jsonl.read_lines(files.input), files.limit), slow)
        self.window: deque[_Item] = deque()
        self.queues: dict[str, deque[tuple[Key, Request]]] = {k: deque() for k in ("generate", "choose", "score")}
        self.in_flight: dict[Key, _Item] = {}
        self.ids, self.serial = Ids(), count()
        self.skip = deque(output.done)
        self.failure: InputError | None = None
        self.engine: Any = None
        self.context = job.context
        self.progress = streams.Progress(f"cai {job.name}", total, files.quiet)

    def run(self) -> None:
        if self.skip:
            streams.say(f"cai {self.job.name}: going on after {len(self.skip)} finished records", self.files.quiet)
            self.progress.advance(len(self.skip), 0)
        while self.admit(wait=True) or self.window:
            for kind, waiting in self.queues.items():
                if waiting:
                    for key, result in getattr(self.engine, kind)(self.feed(kind)):
                        self.place(key, result)
        if self.skip and not self.failure:
            raise InputError(
                f"the input ended before the {len(self.output.done)} records that were finished before; "
                "give the same input, or --restart"
            )
        if self.failure:
            raise self.failure

    def feed(self, kind: str) -> Feed:
        """Requests of one kind, as the window lets them in. See `engines.base` for None."""
        mine: set[Key] = set()
        while True:
            if self.queues[kind]:
                key, request = self.queues[kind].popleft()
                mine.add(key)
                yield key, request
                continue
            mine &= self.in_flight.keys()
            if self.admit(wait=not mine and not any(self.queues.values())):
                continue
            if not mine:
                return
            yield None

    def admit(self, wait: bool) -> bool:
        """Take one more record into the window, if there is room and one to be had."""
        if len(self.window) >= self.files.window or self.failure:
            return False
        line = self.source.take(wait)
        if line is None:
            return False
        error = _line_error(line, self.job.check, self.ids)
        if self.skip:
            self._skip(line, error)
            return True
        item = _Item(line)
        if error:
            if not self.files.skip_bad:
                self.failure = jsonl.bad_line(self.files.input, line.number, error, SKIP_BAD)
                return False
            self._reject(item, error)
        else:
            assert line.record is not None
            item.record_id = line.record["id"]
            item.program = self.job.program(line.record)
        self.window.append(item)
        self.advance(item, None)
        return True

    def _skip(self, line: Line, error: str | None) -> None:
        """Pass over a record that an earlier run finished, if it is the same record."""
        if self.skip.popleft() != _digest(line):
            name = line.record["id"] if line.record and not error else f"line {line.number}"
            raise InputError(
                f"the input's record {name} differs from the one that was there when this output was begun; "
                "give the same input, or --restart"
            )

    def _reject(self, item: _Item, reason: str) -> None:
        name = item.record_id or f"line {item.line.number}"
        streams.warn(f"{self.job.name}: set aside {name}: {reason}")
        raw = item.line.raw.decode(errors="replace").rstrip("\n")[:10_000]
        entry: Record = {"line": item.line.number, "error": reason}
        entry |= {"record": item.line.record} if item.line.record is not None else {"text": raw}
        item.rejects, item.done, item.program = [entry], True, None

    def place(self, key: Key, result: Result) -> None:
        """Put a finished result where it belongs, and go on with its record."""
        item = self.in_flight.pop(key)
        item.results[key[1]] = result  # type: ignore[index]
        item.tokens = (item.tokens[0] + result.prompt_tokens, item.tokens[1] + result.completion_tokens)
        item.pending -= 1
        self.progress.advance(0, result.completion_tokens or result.prompt_tokens)
        if item.pending == 0:
            self.advance(item, item.results)

    def advance(self, item: _Item, results: list[Any] | None) -> None:
        """Run a record's program to its next requests or its end; write what is ready."""
        while item.program is not None and not item.pending and not item.done:
            try:
                requests = item.program.send(results)  # type: ignore[arg-type]
                require_fit(requests, self.context)
                if requests and self.engine is None:
                    self.engine = self.job.open_engine()
                    self.context = min(self.context, self.engine.context)
                    self.progress.restart()
                    require_fit(requests, self.context)
            except StopIteration as stop:
                item.outputs, item.done, item.program = stop.value, True, None
                break
            except SetAside as reason:
                self._reject(item, str(reason))
                break
            results = item.results = [None] * len(requests)
            item.pending = len(requests)
            for i, request in enumerate(requests):
                key = (next(self.serial), i)
                self.in_flight[key] = item
                self.queues[request.kind].append((key, request))
        self.flush()

    def flush(self) -> None:
        """Write every finished record at the head of the window."""
        while self.window and self.window[0].done:
            item = self.window.popleft()
            self.output.write(_digest(item.line), item.outputs, item.rejects, item.tokens)
            self.progress.advance(1, 0)


def _digest(line: Line) -> str:
    """Of a line's bytes: what a resumed run compares."""
    return blake2b(line.raw.rstrip(b"\r\n"), digest_size=8).hexdigest()
