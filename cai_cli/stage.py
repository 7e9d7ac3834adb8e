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

from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import count, islice
from pathlib import Path
from typing import Any, Protocol

from cai_cli import jsonl, manifest, streams
from cai_cli.engines.base import Completion, Feed, Key, Request, Result
from cai_cli.errors import InputError, SetAside
from cai_cli.inputs import SKIP_BAD, WINDOW, Check, Source, is_pipe, line_error, preflight
from cai_cli.jsonl import Line, Record
from cai_cli.outputs import Counts, FileOutput, StreamOutput, Tokens, count_fields
from cai_cli.records import Ids

Program = Callable[[Record], Generator[list[Request], list[Any], list[Record]]]


@dataclass
class Job:
    """One step: what it checks, what it does, and with what.

    `open_engine` is called when the first request is ready, `model` is what it loads, as a person is
    told. `context` is the model's limit in tokens (an engine short of memory may hold less: its own
    `context` says). `options` are those that affect the output: they enter the fingerprint. `about`
    is what the manifest says of the model and the constitution. `lines` are made in place of an
    input's. `observer` sees each output record in order, and says which to set aside.
    """

    name: str
    check: Check
    program: Program
    open_engine: Callable[[], Any]
    context: int
    options: dict[str, Any]
    about: dict[str, Any]
    model: str = "the model"
    lines: Callable[[], Iterator[Line]] | None = None
    observer: Observer | None = None


class Observer(Protocol):
    """What sees the output records, in output order, and may set some aside. When `full`, the run is at its end."""

    @property
    def full(self) -> bool:
        """Whether it wants no more."""
        ...

    def reason(self, record: Record) -> str | None:
        """Why a record is set aside; None to keep it."""
        ...

    def summary(self) -> Record:
        """What the manifest says of all records together."""
        ...


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
    tokens: Tokens = (0, 0, 0)


def run(job: Job, files: Files) -> Counts:
    """Carry a job over its input. Returns what was done, over all resumed runs."""
    if job.lines is None:
        input_hash, total = preflight(files.input, job.check, files.limit, files.skip_bad)
    else:
        input_hash, total = (None if is_pipe(files.input) else manifest.hash_file(files.input)), None
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
        **({"summary": job.observer.summary()} if job.observer else {}),
        "fingerprint": fingerprint,
    }


def _summary(job: Job, files: Files, counts: Counts) -> None:
    if counts.records_in == 0:
        streams.warn(f"{job.name}: the input is empty, so is the output")
    kept = Path(files.output).is_file()  # not standard output, nor a device
    if counts.set_aside:
        where = f", see {files.output}.rejected.jsonl" if kept else ""
        streams.warn(f"{job.name}: {counts.set_aside} records set aside{where}")
    tokens = counts.prompt_tokens + counts.completion_tokens
    target = f" -> {files.output}" if kept else ""
    reused = f", {counts.reused_tokens:,} reused" if counts.reused_tokens else ""
    streams.say(
        f"cai {job.name}: {counts.records_out} records, {tokens:,} tokens "
        f"({counts.completion_tokens:,} generated{reused}), {counts.seconds:.1f} s{target}",
        files.quiet,
    )


def _dry_run(job: Job, files: Files) -> Counts:
    """Write the first requests of the input, as the model would get them."""
    output = streams.claim_stdout()  # never -o, which may hold a finished output
    ids, left = Ids(), files.dry_run or 0
    with output:
        for line in islice(job.lines() if job.lines else jsonl.read_lines(files.input), files.limit):
            if left <= 0:
                break
            if error := line_error(line, job.check, ids):
                if files.skip_bad:
                    continue
                raise jsonl.bad_line(files.input, line.number, error, SKIP_BAD)
            assert line.record is not None
            try:
                for requests, depends in _rehearse(job.program(line.record)):
                    require_fit(requests, job.context)
                    for request in requests[:left]:
                        output.write(jsonl.encode(request_record(line.record["id"], request, depends)))
                    left = max(0, left - len(requests))
            except SetAside as reason:
                streams.warn(f"{job.name}: sets aside {line.record['id']}: {reason}")
    return Counts()


def _rehearse(program: Generator[list[Request], list[Any], list[Record]]) -> Iterator[tuple[list[Request], bool]]:
    """A program's lists of requests, and whether each depends on a text before it, for which a placeholder stands."""
    results: list[Any] | None = None
    for number in count(1):
        try:
            requests = program.send(results)  # type: ignore[arg-type]
        except StopIteration:
            return
        yield requests, number > 1
        if any(request.kind != "generate" for request in requests):
            return  # a choice or a score can't be made up
        results = [Completion(f"<the text of request {number}>", "stop", request.seed, 0, 0) for request in requests]


def require_fit(requests: list[Request], context: int) -> None:
    """SetAside where a request and its answer have more tokens than the model takes."""
    for request in requests:
        room = 1 if request.kind == "choose" else request.max_tokens
        if len(request.ids) + room > context:
            raise SetAside(f"its prompt of {len(request.ids)} tokens and {room} more exceed the model's context of {context}")


def request_record(identity: str, request: Request, depends: bool = False) -> Record:
    """A request as --dry-run shows it. `depends`: an earlier text stands in it, of which only the place is shown."""
    shown: Record = {"id": identity, "text": request.text}
    if request.options:
        shown["options"] = request.options
    if depends:
        shown["depends_on_earlier_text"] = True
    if request.kind == "generate":
        shown |= {"seed": request.seed, "max_tokens": request.max_tokens, "stop": list(request.stop)}
    return shown


class _Run:
    """The state of one run: the window of items, and a queue of requests a kind."""

    def __init__(self, job: Job, files: Files, output: FileOutput | StreamOutput, total: int | None) -> None:
        self.job, self.files, self.output = job, files, output
        made = job.lines() if job.lines else None
        slow = made is None and is_pipe(files.input)
        self.source = Source(islice(made or jsonl.read_lines(files.input), files.limit), slow)
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
            streams.say(
                f"cai {self.job.name}: going on after {streams.plural(len(self.skip), 'finished record')}", self.files.quiet
            )
            self.progress.advance(len(self.skip), 0)
            if observer := self.job.observer:
                for record in self.output.written():  # what an earlier run kept counts
                    observer.reason(record)
        while not self.full and (self.admit(wait=True) or self.window):
            for kind, waiting in self.queues.items():
                if waiting:
                    for key, result in getattr(self.engine, kind)(self.feed(kind)):
                        self.place(key, result)
                        if self.full:
                            return
        if self.skip and not self.failure and not self.full:
            raise InputError(
                f"the input ended before the {len(self.output.done)} records that were finished before; "
                "give the same input, or --restart"
            )
        if self.failure:
            raise self.failure

    @property
    def full(self) -> bool:
        """Whether the observer wants no more."""
        return self.job.observer is not None and self.job.observer.full

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
        error = line_error(line, self.job.check, self.ids)
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

    def _reject(self, item: _Item, reason: str, record: Record | None = None) -> None:
        name = item.record_id or f"line {item.line.number}"
        streams.warn(f"{self.job.name}: set aside {name}: {reason}")
        raw = item.line.raw.decode(errors="replace").rstrip("\n")[:10_000]
        entry: Record = {"line": item.line.number, "error": reason}
        record = record or item.line.record
        entry |= {"record": record} if record is not None else {"text": raw}
        item.rejects, item.done, item.program = [entry], True, None

    def place(self, key: Key, result: Result) -> None:
        """Put a finished result where it belongs, and go on with its record."""
        item = self.in_flight.pop(key)
        item.results[key[1]] = result  # type: ignore[index]
        prompt, completion, reused = item.tokens
        item.tokens = (prompt + result.prompt_tokens, completion + result.completion_tokens, reused + result.reused_tokens)
        item.pending -= 1
        self.progress.advance(0, result.completion_tokens or result.prompt_tokens)
        if item.pending == 0:
            self.advance(item, item.results)

    def advance(self, item: _Item, results: list[Any] | None) -> None:
        """Run a record's program to its next requests or its end; write what is ready."""
        while item.program is not None and not item.pending and not item.done:
            try:
                requests = item.program.send(results)  # type: ignore[arg-type]
                self._require_fit(item.program, requests)
                if requests and self.engine is None:
                    streams.say(f"cai {self.job.name}: loading {self.job.model}", self.files.quiet)
                    self.engine = self.job.open_engine()
                    self.context = min(self.context, self.engine.context)
                    self.progress.restart()
                    self._require_fit(item.program, requests)
            except StopIteration as stop:
                item.outputs, item.done, item.program = stop.value, True, None
                break
            except SetAside as reason:
                self._reject(item, str(reason), reason.record)
                break
            results = item.results = [None] * len(requests)
            item.pending = len(requests)
            for i, request in enumerate(requests):
                key = (next(self.serial), i)
                self.in_flight[key] = item
                self.queues[request.kind].append((key, request))
        self.flush()

    def _require_fit(self, program: Generator[list[Request], list[Any], list[Record]], requests: list[Request]) -> None:
        """SetAside where requests are too long, by way of the program, which may know of work that is worth keeping."""
        try:
            require_fit(requests, self.context)
        except SetAside as reason:
            program.throw(reason)

    def flush(self) -> None:
        """Write every finished record at the head of the window."""
        while self.window and self.window[0].done and not self.full:
            item = self.window.popleft()
            for record in item.outputs:
                if self.job.observer and (reason := self.job.observer.reason(record)):
                    item.outputs, item.rejects = [], [{"error": reason, "record": record}]
            self.output.write(_digest(item.line), item.outputs, item.rejects, item.tokens)
            self.progress.advance(1, 0)


def _digest(line: Line) -> str:
    """Of a line's bytes: what a resumed run compares."""
    return blake2b(line.raw.rstrip(b"\r\n"), digest_size=8).hexdigest()
