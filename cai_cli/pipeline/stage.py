"""The runner that all generating steps share.

A step is a `Job`: a check of its input records and a program. The program is a generator. It gets a record, yields lists
of requests, is sent the results in the same order, and returns the records to write. It may raise `errors.Skipped`. The
runner reads the input, keeps at most `window` records in flight, feeds the engine, writes in input order, resumes, and
writes a manifest.

    def program(record):
        [completion] = yield [request]
        return [{**record, "response": completion.text}]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice

from cai_cli import errors, streams
from cai_cli.data import jsonl
from cai_cli.data.ids import Ids
from cai_cli.data.jsonl import Line, Record
from cai_cli.engines.answers import Answers
from cai_cli.engines.base import Engine, Failure, Feed, Key, Request, Result, Steps
from cai_cli.errors import CaiError, InputError, Skipped
from cai_cli.pipeline import inputs, manifest, outputs, shards
from cai_cli.pipeline.inputs import SKIP_BAD, WINDOW, Check, InputLines, is_pipe, line_error, preflight, skipped_entry
from cai_cli.pipeline.observers import Filter, Observer
from cai_cli.pipeline.outputs import Counts, FileOutput, StreamOutput
from cai_cli.pipeline.requests import require_context, shown_requests
from cai_cli.pipeline.window import Item, Window

STREAK = 16
"""Records in a row that the engine fails, which end a run: all others would be skipped too."""
Program = Callable[[Record], Steps[list[Record]]]
"""Makes output records from one checked input record. See `engines.base.Steps`."""


@dataclass
class Job:
    """One step: its check, its program and its engine."""

    name: str
    check: Check
    program: Program
    open_engine: Callable[[], Engine]
    """Loads the model. Called when the first request is ready whose answer is not kept."""
    context: int
    """The model's limit in tokens. An engine with little memory may have a smaller `context` of its own."""
    options: Record
    """The options that affect the output. They are part of the fingerprint."""
    about: Record
    """What the manifest says about the model and the constitution."""
    model: str = "the model"
    """What `open_engine` loads, for messages."""
    lines: Callable[[], Iterator[Line]] | None = None
    """Makes the input lines, for a step that does not process the lines of an input file (`cai prompts`)."""
    observer: Observer | None = None
    only: Filter | None = None
    """Decides which output records are kept. A job has this, or an observer, or neither."""
    loads: str = ""
    """What decides what `open_engine` loads, and how: a program that calls steps keeps it for the next one."""
    decides: object = None
    """What decides the model's answers besides the request. None: they are not kept for other runs. See `engines.answers`."""
    ready: Callable[[], object] = lambda: None
    """Called before the output is opened, unless it is finished: raises what keeps the model from answering."""


@dataclass
class RunOptions:
    """Input and output of a run and how it treats them, from the flags."""

    input: str = "-"
    output: str = "-"
    manifest: str | None = None
    """Where the manifest goes if the output is a stream."""
    limit: int | None = None
    """How many input records to read."""
    skip_bad: bool = False
    restart: bool = False
    quiet: bool = False
    dry_run: int | None = None
    """How many requests to show instead of running."""
    shard: str | None = None
    window: int = WINDOW


def run(job: Job, files: RunOptions) -> Counts:
    """Run a job over its input, unless its output is finished. Returns the counts, summed over resumed runs.

    InputError for a bad line (unless `skip_bad`) or an input that differs from that of the run to continue. CaiError if every
    record was skipped.
    """
    input_hash = inputs.source_hash(files.input)
    part = {"shard": files.shard} if files.shard else {}
    fingerprint = {"step": job.name, **job.options, "limit": files.limit, "input": input_hash, **part}
    if files.dry_run is None and not files.restart and (made := outputs.finished(files.output, job.name, fingerprint)):
        return _already_done(job, files, made)
    # an unfinished run has checked the same bytes
    source = {} if files.restart or files.dry_run is not None else outputs.begun(files.output, fingerprint)
    if job.lines is None and not source:
        source = preflight(files.input, job.check, files.limit, files.skip_bad)
    if files.dry_run is not None:
        return _dry_run(job, files)
    job.ready()
    output = outputs.open_output(files.output, fingerprint, files.restart, files.manifest, source)
    runner = _Run(job, files, output, source)
    try:
        runner.run()
        output.finish(_manifest(job, files, fingerprint, output.counts))
    except KeyboardInterrupt:
        streams.say(f"cai {job.name}: interrupted; {output.how_to_continue()}")
        raise
    finally:
        runner.progress.close()
        runner.answers.close()
        output.close()
    outputs.say_summary(job.name, output.counts, files.output, files.quiet)
    outputs.require_output(job.name, output.counts, output.reasons(), files.output, files.shard)
    return output.counts


def _already_done(job: Job, files: RunOptions, made: manifest.Manifest) -> Counts:
    """Report the finished output, whose manifest is `made`, and show its records to the observer."""
    counts = Counts(**{name: value for name, value in made["counts"].items() if name in Counts.__dataclass_fields__})
    if manifest.hash_file(files.output) != made["output"]["sha256"]:
        streams.warn(f"{job.name}: {files.output} was edited after it was made, and is kept; --restart makes it again")
        return counts
    skipped = f", {counts.skipped:,} skipped" if counts.skipped else ""
    streams.say(
        f"cai {job.name}: already done: {files.output} ({streams.plural(counts.records_out, 'record')}{skipped}); "
        "--restart makes it again",
        files.quiet,
    )
    outputs.settle(files.output)
    if job.observer:
        for record in jsonl.read(files.output):
            job.observer.count(record)
    outputs.require_output(job.name, counts, outputs.skip_reasons(files.output), files.output, files.shard)
    return counts


def _manifest(job: Job, files: RunOptions, fingerprint: Record, counts: Counts) -> manifest.Manifest:
    return {
        "step": job.name,
        "command": manifest.command_line(),
        "finished": manifest.now(),
        "versions": manifest.versions(),
        **job.about,
        "inputs": [{"path": str(files.input), "sha256": fingerprint["input"]}],
        "counts": outputs.count_fields(counts),
        **({"summary": summed.summary()} if (summed := job.observer or job.only) else {}),
        **{key: fingerprint[key] for key in fingerprint if key == "shard"},
        "fingerprint": fingerprint,
    }


def _lines(job: Job, files: RunOptions, after: tuple[int, int] = (0, 0)) -> Iterator[Line]:
    """The lines of the run. `after`: see `jsonl.parse`."""
    lines = job.lines() if job.lines else jsonl.read_lines(files.input, after)
    left = None if files.limit is None else files.limit - after[1]
    return shards.select(islice(lines, left), files.shard, job.check)


def _dry_run(job: Job, files: RunOptions) -> Counts:
    """Write the first requests of the input as the model would get them."""
    with streams.claim_stdout() as output:  # never -o, which may hold a finished output
        bad = None if files.skip_bad else files.input
        for shown in islice(
            shown_requests(job.name, _lines(job, files), bad, job.check, job.program, job.context), files.dry_run
        ):
            output.write(jsonl.encode(shown))
    return Counts()


class _Run:
    """The state of one run: the window of items, and the queue of requests for the engine."""

    def __init__(self, job: Job, files: RunOptions, output: FileOutput | StreamOutput, source: Record) -> None:
        """`source`: what `inputs.preflight` found."""
        self.job, self.files, self.output = job, files, output
        # Finished lines of a file need not be parsed again: its hash is that of the earlier run. But an id that is derived
        # from a prompt depends on the lines before it, and so does the number of lines that a limit leaves to a shard.
        known = bool(output.done and source.get("named") and not (files.shard and files.limit))
        after = (0, 0) if not known else (int(output.last.partition(":")[0]), 0) if files.shard else (0, output.done)
        self.input = InputLines(_lines(job, files, after), not job.lines and is_pipe(files.input))
        self.finished = iter(()) if known else output.digests()  # of the lines that an earlier run finished
        self.left = 0 if known else output.done  # how many of them have not been read
        self.window = Window(files.window, output.ahead, patient=bool(job.lines))
        self.queue: deque[tuple[Key, Request]] = deque()
        self.in_flight: dict[Key, tuple[Item, Request]] = {}
        self.due = 0  # requests that the engine has
        self.lost, self.why = 0, ""  # records that it failed since its last result, and the last reason
        self.held: list[tuple[Item, Skipped]] = []  # these records, which are skipped only if it still works
        self.answers = Answers(job.decides)
        # A run that continues counts all records at its end: to read a million of them again would delay its first request.
        self.observer = None if output.done else job.observer
        self.ids, self.serial = Ids(), count()
        self.failure: InputError | None = None  # a bad line; raised after the records before it are written
        self.engine: Engine | None = None
        self.context = job.context
        self.progress = streams.Progress(f"cai {job.name}", source.get("records"), files.quiet)

    def run(self) -> None:
        if self.output.done:
            done = streams.plural(self.output.done, "finished record")
            streams.say(f"cai {self.job.name}: continuing after {done}", self.files.quiet)
            self.progress.advance(self.output.done, 0)
            if only := self.job.only:
                for record in self.output.written():  # the filter needs to know what an earlier run kept
                    only.reason(record)
        while not self.full and (self.admit(wait=True) or self.window):
            if self.engine and self.queue:
                for key, result in self.engine.run(self.feed()):
                    self.place(key, result)
                    if self.full:
                        return
        if self.left and not self.failure and not self.full:
            raise InputError(
                f"the input ended before the {streams.plural(self.output.done, 'record')} that an earlier run finished; "
                "give the same input, or --restart"
            )
        if self.failure:
            raise self.failure
        if self.output.done and self.job.observer:
            self.output.flush()
            for record in self.output.written():
                self.job.observer.count(record)

    @property
    def full(self) -> bool:
        """Whether the filter ends the run."""
        return self.job.only is not None and self.job.only.full

    def feed(self) -> Feed:
        """Requests, as the window admits records. See `engines.base` for None."""
        while True:
            if errors.interrupted:  # the exception of the signal was lost
                raise KeyboardInterrupt
            failing = self.lost >= STREAK
            if failing and not self.due:  # not before all that it has have failed: failures are often quick
                said = f"{STREAK} records in a row failed, the last one with: {self.why}"
                raise CaiError(f"{said}; the same command tries them again, and --skip-bad skips them")
            if self.queue and not failing:
                self.due += 1
                yield self.queue.popleft()
                continue
            if not failing and self.admit(wait=not self.due):  # waits for a slow pipe only if there is nothing else to do
                continue
            if not self.due and not self.held:
                return
            if not self.due:  # too few to say that the engine fails
                self.release()
                continue
            self.output.flush()
            yield None

    def admit(self, wait: bool) -> bool:
        """Take one more record into the window, if there is room and a record has arrived. Returns whether it took one."""
        if not self.window.room or self.failure:
            return False
        if wait and self.input.slow:
            self.output.flush()
        line = self.input.take(wait)
        if line is None:
            return False
        error = line_error(line, self.job.check, self.ids)
        if self.left:
            self._check_finished(line, error)
            return True
        if error and not self.files.skip_bad:
            self.failure = jsonl.bad_line(self.files.input, line.number, error, SKIP_BAD)
            return False
        item = Item(line)
        self.window.add(item)
        if item.finished is None and error:
            self._skip(item, error)
        elif item.finished is None:
            assert line.record is not None
            item.record_id, item.program = line.record["id"], self.job.program(line.record)
            self.advance(item, None)
        self.flush()
        return True

    def _check_finished(self, line: Line, error: str | None) -> None:
        """InputError unless the line is the next one that an earlier run finished. Nothing else is done for it."""
        self.left -= 1
        if next(self.finished) != inputs.line_digest(line, bool(self.files.shard)):
            name = line.record["id"] if line.record and not error else f"line {line.number}"
            raise InputError(
                f"the input's record {name} differs from the one that an earlier run read; give the same input, or --restart"
            )

    def _skip(self, item: Item, reason: str, record: Record | None = None) -> None:
        """Warn about a skipped record and keep it with the reason. `record`: with the work done on it so far."""
        assert item.line is not None
        streams.warn(f"{self.job.name}: skipped {item.record_id or f'line {item.line.number}'}: {reason}")
        self.window.finish(item, [], [skipped_entry(item.line, reason, record)])

    def place(self, key: Key, result: Result) -> None:
        """Store a finished result, and continue its record's program when no result is missing."""
        item, request = self.in_flight.pop(key)
        self.answers.put(request, result)
        self.due -= 1
        if not isinstance(result, Failure) or result.works:
            self.lost = 0
            self.release()
        item.results[key[1]] = result  # type: ignore[index]
        item.count(result, cached=0)
        item.pending -= 1
        self.progress.advance(0, result.completion_tokens or result.prompt_tokens)
        if item.pending == 0:
            self.advance(item, item.results)
            self.flush()

    def release(self) -> None:
        """Skip the records that were held back: the engine works."""
        for item, reason in self.held:
            self._skip(item, str(reason), reason.record)
        self.held.clear()
        self.flush()

    def advance(self, item: Item, results: list[Result | None] | None) -> None:
        """Run a record's program to its next requests or its end."""
        # A loop, because a program may yield an empty list (no query for identical answers). The engine gives no result for
        # an empty list, so the empty results are sent at once.
        while item.program is not None and not item.pending:
            try:
                failed = next((result for result in results or () if isinstance(result, Failure)), None)
                doubt = failed is not None and not failed.works and not self.files.skip_bad
                self.lost, self.why = (self.lost + 1, failed.reason) if failed and doubt else (self.lost, self.why)
                # A failure is raised inside the program, so that it can attach its work so far.
                requests = item.program.throw(Skipped(failed.reason)) if failed else item.program.send(results)  # type: ignore[arg-type]
                results = item.results = [self.answers.get(request) for request in requests]
                missing = [request for request, kept in zip(requests, results, strict=True) if kept is None]
                self._require_context(item.program, missing)
                # The model is loaded here and not before the run: a command in a pipe must not hold a model in memory
                # while it waits for its first record, and a step without requests, or with kept answers, needs none.
                if missing and self.engine is None:
                    streams.say(f"cai {self.job.name}: loading {self.job.model}", self.files.quiet)
                    self.engine = self.job.open_engine()
                    self.context = min(self.context, self.engine.context)
                    self.window.resize(self.files.window)  # several workers take more requests at a time
                    self.progress.restart()
                    self._require_context(item.program, missing)  # the engine's context may be smaller
            except StopIteration as stop:
                self.window.finish(item, stop.value, [])
            except Skipped as reason:
                if doubt:
                    item.program = None
                    self.held.append((item, reason))
                else:
                    self._skip(item, str(reason), reason.record)
            else:
                self._ask(item, requests, results, len(missing))

    def _ask(self, item: Item, requests: list[Request], results: list[Result | None], missing: int) -> None:
        """Queue the requests that have no result yet."""
        # Results arrive in any order, in batches with other records. The key's first part is unique in the run, and
        # its second part is the place of the result.
        item.pending = missing
        for i, (request, result) in enumerate(zip(requests, results, strict=True)):
            if result is not None:
                item.count(result, cached=1)
                continue
            key = (next(self.serial), i)
            self.in_flight[key] = item, request
            self.queue.append((key, request))

    def _require_context(self, program: Steps[list[Record]], requests: list[Request]) -> None:
        """Raise Skipped inside the program if requests are too long, so that the program can attach its work so far."""
        try:
            require_context(requests, self.context)
        except Skipped as reason:
            program.throw(reason)

    def flush(self) -> None:
        """Write the finished records at the head of the window, up to the first unfinished one: output in input order."""
        for name, made, skipped, tokens in self.window.ready():
            for record in made:
                if self.job.only and (reason := self.job.only.reason(record)):
                    made, skipped = [], [{"error": reason, "record": record}]
                elif self.observer:
                    self.observer.count(record)
            self.output.write(name if self.files.shard else name.partition(":")[2], made, skipped, tokens)
            self.progress.advance(1, 0)
            if self.full:
                return
