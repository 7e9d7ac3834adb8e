"""Training files to token ids: what is taken from each record, and what doesn't fit.

Every trainer reads several files, each `FILE` or `FILE=WEIGHT`. Rows are checked line by line
before any model is loaded; rows that are sound but can't be trained on (too long, empty) are set
aside with a reason, never cut short.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from cai_cli import jsonl, manifest, prompts, records, streams
from cai_cli.errors import InputError, SetAside
from cai_cli.jsonl import Record
from cai_cli.prompts import Prompt
from cai_cli.records import Messages, as_messages
from cai_cli.seeds import draw, uniform
from cai_cli.tokens import Renderer
from cai_cli.transcripts import inert

NAMED = 10
"""Rows set aside that are named one by one on standard error; the rest are only counted."""
T = TypeVar("T")
P = TypeVar("P")


@dataclass(frozen=True)
class Source:
    """One training file. Its rows are taken `weight` times; a fraction is a seeded subset."""

    path: str
    weight: float = 1.0


@dataclass(frozen=True)
class Row:
    """A checked input record and where it stands."""

    path: str
    line: int
    record: Record

    @property
    def origin(self) -> str:
        """The id of the record it was made from: a pair's preferences share their prompt's id."""
        return str(self.record.get("source_id") or self.record["id"])


@dataclass
class Data(Generic[T]):
    """What a trainer trains on: `examples` with their rows, what was set aside, and the inputs' hashes."""

    examples: list[tuple[Row, T]]
    rejected: list[Record]
    inputs: list[dict[str, Any]]

    def reject(self, row: Row, reason: str) -> None:
        """Set a row aside, and name it."""
        self.rejected.append({"file": row.path, "line": row.line, "error": reason, "record": row.record})
        if len(self.rejected) <= NAMED:
            streams.warn(f"set aside {row.record['id']} ({row.path}:{row.line}): {reason}")

    def origins(self) -> list[str]:
        """The ids trained on, each once."""
        return list(dict.fromkeys(row.origin for row, _ in self.examples))

    def split(self, fraction: float) -> tuple[list[T], list[tuple[Row, T]]]:
        """(training examples, held-out rows) by a hash of the origin; the held-out ones leave `examples`."""
        held = [entry for entry in self.examples if uniform("eval", entry[0].origin) < fraction]
        self.examples = [entry for entry in self.examples if uniform("eval", entry[0].origin) >= fraction]
        if not self.examples:
            raise InputError(f"--eval-fraction {fraction} leaves no row to train on")
        if fraction and not held:
            streams.warn(f"--eval-fraction {fraction} of so few rows holds out none: there will be no eval_loss")
        # a file's weight repeats examples, which tells evaluation nothing
        return [example for _, example in self.examples], list({id(entry[1]): entry for entry in held}.values())


def sources(files: list[str]) -> list[Source]:
    """The files of a command line. InputError for a bad weight, standard input, or a file that isn't there."""
    found = []
    for name in files:
        path, equals, weight = name.rpartition("=")
        if not equals or Path(name).exists():
            found.append(Source(name))
            continue
        try:
            found.append(Source(path, float(weight)))
        except ValueError:
            found.append(Source(name))
            continue
        if not 0 < found[-1].weight < 1e6:
            raise InputError(f"{name}: the number after = must be positive, and below a million")
    for source in found:
        if source.path == "-":
            raise InputError("this command reads its files more than once, so it can't read standard input; give a file")
        jsonl.open_input(source.path).close()
    return found


def read(source: Source, check: Callable[[Record], str | None], limit: int | None) -> list[Row]:
    """The rows of one file, with ids. The first bad line is an InputError that names file and line."""
    rows, ids = [], records.Ids()
    for line in islice(jsonl.read_lines(source.path), limit):
        if line.record is None:
            raise jsonl.bad_line(source.path, line.number, line.error or "")
        record = line.record
        if error := check(record) or ids.error(record, line.number):
            raise jsonl.bad_line(source.path, line.number, error)
        rows.append(Row(source.path, line.number, record))
    return rows


def weigh(rows: list[T], weight: float, seed: int, name: Callable[[T], str]) -> list[T]:
    """`rows` taken `weight` times: whole copies, and of the fraction left a subset drawn from (seed, name)."""
    whole, part = divmod(weight, 1)
    ranked = sorted(range(len(rows)), key=lambda i: draw(seed, "weight", name(rows[i]), i))
    once_more = sorted(ranked[: round(part * len(rows))])
    return rows * int(whole) + [rows[i] for i in once_more]


def read_all(files: list[str], check: Callable[[Record], str | None], limit: int | None) -> list[tuple[Source, list[Row]]]:
    """Every row of every file, checked, before anything slow is imported. InputError where there is none at all."""
    found = [(source, read(source, check, limit)) for source in sources(files)]
    if not any(rows for _, rows in found):
        raise InputError(f"{', '.join(source.path for source, _ in found)}: nothing to train on: the input is empty")
    return found


def prepare(
    checked: list[tuple[Source, list[Row]]], parts: Callable[[Record], list[P]], make: Callable[[P], T], seed: int
) -> Data[T]:
    """Turn checked rows into examples.

    `parts` takes from a record what gives an example each; `make` makes the example, and raises
    `SetAside` where it can't. InputError where nothing is left.
    """
    found: Data[T] = Data([], [], [])
    for source, rows in checked:
        usable: list[tuple[Row, T]] = []
        for row in rows:
            for number, part in enumerate(entries := parts(row.record), 1):
                try:
                    usable.append((row, make(part)))
                except SetAside as reason:
                    found.reject(row, f"round {number}: {reason}" if len(entries) > 1 else str(reason))
        found.inputs.append(
            {"path": source.path, "sha256": manifest.hash_file(source.path), "records": len(rows), "weight": source.weight}
        )
        found.examples += weigh(usable, source.weight, seed, lambda entry: str(entry[0].record["id"]))
    if len(found.rejected) > NAMED:
        streams.warn(f"{len(found.rejected)} rows set aside in all; rejected.jsonl beside the model will name them")
    if not found.examples:
        names = ", ".join(source.path for source, _ in checked)
        raise InputError(f"{names}: nothing to train on: every row was set aside")
    return found


# Supervised examples ------------------------------------------------------------------------------


def sft_error(record: Record) -> str | None:
    """What keeps a record from being a supervised example, or None.

    Takes revision and response records, records of several responses, and TRL's `messages` and `prompt` + `completion`.
    """
    if "messages" in record:
        if error := records.messages_error(record["messages"], "messages"):
            return error
        turns = [message["role"] for message in record["messages"]]
        answered = turns[-1] == "assistant" and "user" in turns
        return None if answered else "'messages' must end with the assistant's answer to a user"
    if "completion" in record:
        completion = record["completion"]
        if not isinstance(completion, str):
            if error := records.messages_error(completion, "completion"):
                return error
            if len(completion) != 1 or completion[0]["role"] != "assistant":
                return "'completion' must be one assistant's message (or a string)"
        return records.prompt_error(record)
    if "responses" in record and "response" not in record:
        return records.prompt_error(record) or records.texts_error(record["responses"], "responses")
    if records.prompt_error(record) is None and "response" not in record:
        return "no 'response', 'completion' or 'messages' field: nothing to learn from it"
    if error := records.rounds_error(record):
        return error
    return "the last round has no revision yet: run `cai revise` first" if records.is_open(record) else None


def conversations(record: Record, revisions: str) -> list[tuple[Messages, str]]:
    """(prompt, answer) for each example of a record: every round's revision, or with "last" the last alone; every response."""
    if "messages" in record:
        return [(record["messages"][:-1], record["messages"][-1]["content"])]
    prompt = as_messages(record["prompt"])
    if "completion" in record:
        completion = record["completion"]
        return [(prompt, completion if isinstance(completion, str) else completion[0]["content"])]
    if "responses" in record and "response" not in record:
        return [(prompt, text) for text in record["responses"]]
    revised = [entry["revision"] for entry in record.get("rounds") or [] if "revision" in entry]
    if not revised:
        return [(prompt, record["response"])]
    return [(prompt, text) for text in (revised if revisions == "all" else revised[-1:])]


def turn_end(renderer: Renderer, format: str) -> list[int]:
    """The tokens that end an assistant's turn: what the template puts after an answer, to its first control token."""
    tokenizer = renderer.tokenizer
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    if format != "chat":
        return end
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    closing = renderer.render(Prompt(messages=messages), complete=True)[1].rpartition("answer")[2]
    ids = tokenizer(closing, add_special_tokens=False).input_ids
    control = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for i, token in enumerate(ids):
        if token in control:
            return ids[: i + 1]
    return end


def sft_example(renderer: Renderer, format: str, end: list[int], messages: Messages, answer: str, longest: int) -> Record:
    """`input_ids` and `labels` of one example; labels are -100 outside the answer and its end.

    The prompt is tokenised for itself, exactly as it is for generation.
    """
    if not answer.strip():
        raise SetAside("its answer is empty")
    ids, _ = renderer.render(prompts.answer({"prompt": messages}, format))
    text = answer if format == "chat" else f" {inert(answer)}"
    completion = renderer.plain(text) + end
    require_fit(len(ids) + len(completion), longest)
    return {"input_ids": ids + completion, "labels": [-100] * len(ids) + completion}


# Preferences --------------------------------------------------------------------------------------


def preference_example(renderer: Renderer, format: str, record: Record, longest: int) -> Record:
    """`chosen_ids`, `rejected_ids`, `p_chosen` and `weight` (1 where the row has none)."""
    pair = {f"{side}_ids": renderer.judgement(prompts.judged_side(record, side, format)).ids for side in ("chosen", "rejected")}
    if not all(pair.values()):
        raise SetAside("one of its answers is empty")
    require_fit(max(map(len, pair.values())), longest)
    return {**pair, **{name: float(record.get(name, 1.0)) for name in ("p_chosen", "weight")}}


def require_fit(tokens: int, longest: int, limit: str = "--max-length") -> None:
    """SetAside where a row has more tokens than the run takes."""
    if tokens > longest:
        raise SetAside(f"its {tokens} tokens exceed the {longest} of {limit}")


# Prompts for RL -----------------------------------------------------------------------------------


def rl_prompt(
    renderer: Renderer, format: str, judge: Renderer, judged_format: str, record: Record, longest: int, judge_longest: int
) -> Record:
    """`id`, `messages` and `ids` of one prompt.

    `longest` and `judge_longest` are the tokens that a prompt may have in the policy's and in the
    preference model's own tokens, so that an answer still fits after it.
    """
    messages = as_messages(record["prompt"])
    ids, _ = renderer.render(prompts.answer(record, format))
    require_fit(len(ids), longest, "--max-length less --max-tokens")
    judged = judge.judgement(prompts.judged(messages, "", judged_format)).ids
    require_fit(len(judged), judge_longest, "the preference model's context less --max-tokens")
    return {"id": record["id"], "messages": messages, "ids": ids}
