"""Training files to token ids: what is taken from each record, and what doesn't fit.

Every trainer reads several files, each `FILE` or `FILE=WEIGHT`. Rows are checked line by line
before any model is loaded; rows that are sound but can't be trained on (too long, empty) are set
aside with a reason, never cut short.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cai_cli import jsonl, manifest, prompts, records, streams
from cai_cli.errors import InputError, SetAside
from cai_cli.jsonl import Record
from cai_cli.prompts import Prompt
from cai_cli.records import Messages, as_messages
from cai_cli.seeds import draw, uniform
from cai_cli.tokens import Renderer, common_prefix
from cai_cli.transcripts import inert

if TYPE_CHECKING:
    from cai_cli.training.settings import Settings

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
    held_out: list[tuple[Row, T]] = field(default_factory=list)
    eval_inputs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def training(self) -> list[T]:
        """The examples alone."""
        return [example for _, example in self.examples]

    @property
    def testing(self) -> list[T]:
        """The held-out examples alone."""
        return [example for _, example in self.held_out]

    def reject(self, row: Row, reason: str) -> None:
        """Set a row aside, and name it."""
        self.rejected.append({"file": row.path, "line": row.line, "error": reason, "record": row.record})
        if len(self.rejected) <= NAMED:
            streams.warn(f"set aside {row.record['id']} ({row.path}:{row.line}): {reason}")

    def origins(self) -> list[str]:
        """The ids trained on, each once."""
        return list(dict.fromkeys(row.origin for row, _ in self.examples))

    def hold_out(self, fraction: float) -> None:
        """Move examples to `held_out` by a hash of their origin. InputError where none is left."""
        held = [entry for entry in self.examples if uniform("eval", entry[0].origin) < fraction]
        self.examples = [entry for entry in self.examples if uniform("eval", entry[0].origin) >= fraction]
        if not self.examples:
            raise InputError(f"--eval-fraction {fraction} leaves no row to train on")
        if fraction and not held:
            streams.warn(f"--eval-fraction {fraction} of so few rows holds out none: there will be no eval_loss")
        # a file's weight repeats examples, which tells evaluation nothing
        self.held_out += {id(entry[1]): entry for entry in held}.values()


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


@dataclass
class Checked:
    """Every row of every file, checked: to train on, and of --eval."""

    training: list[tuple[Source, list[Row]]]
    held_out: list[tuple[Source, list[Row]]]


def read_all(settings: Settings, check: Callable[[Record], str | None]) -> Checked:
    """Read and check every file of a run, before anything slow is imported. InputError where there is nothing in them."""
    if settings.eval and settings.eval_fraction:
        raise InputError("--eval and --eval-fraction are two ways to say what is held out; give one of them")
    found = Checked(
        [(source, read(source, check, settings.limit)) for source in sources(settings.files)],
        [(source, read(source, check, None)) for source in sources(settings.eval)],
    )
    for files, purpose in ((found.training, "train"), (found.held_out, "evaluate")):
        if files and not any(rows for _, rows in files):
            raise InputError(f"{', '.join(source.path for source, _ in files)}: nothing to {purpose} on: the input is empty")
    return found


def prepare(checked: Checked, parts: Callable[[Record], list[P]], make: Callable[[P], T], settings: Settings) -> Data[T]:
    """Turn checked rows into examples.

    `parts` takes from a record what gives an example each; `make` makes the example, and raises
    `SetAside` where it can't. InputError where nothing is left.
    """
    found: Data[T] = Data([], [], [])

    def examples(files: list[tuple[Source, list[Row]]], inputs: list[dict[str, Any]]) -> list[tuple[Row, T]]:
        made = []
        for source, rows in files:
            usable: list[tuple[Row, T]] = []
            for row in rows:
                for number, part in enumerate(entries := parts(row.record), 1):
                    try:
                        usable.append((row, make(part)))
                    except SetAside as reason:
                        found.reject(row, f"round {number}: {reason}" if len(entries) > 1 else str(reason))
            sha256 = manifest.hash_file(source.path)
            inputs.append({"path": source.path, "sha256": sha256, "records": len(rows), "weight": source.weight})
            made += weigh(usable, source.weight, settings.seed, lambda entry: str(entry[0].record["id"]))
        if files and not made:
            raise InputError(f"{', '.join(s.path for s, _ in files)}: nothing to train or evaluate on: every row was set aside")
        return made

    found.examples = examples(checked.training, found.inputs)
    found.held_out = examples(checked.held_out, found.eval_inputs)
    if settings.eval_fraction:
        found.hold_out(settings.eval_fraction)
    if both := {row.origin for row, _ in found.examples} & {row.origin for row, _ in found.held_out}:
        streams.warn(f"{len(both)} records of --eval are trained on too: what is measured on them is no test")
    if len(found.rejected) > NAMED:
        streams.warn(f"{len(found.rejected)} rows set aside in all; rejected.jsonl beside the model will name them")
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
    return {**pair, **_label(record)}


def dpo_example(renderer: Renderer, format: str, end: list[int], record: Record, longest: int) -> Record:
    """`prompt_ids`, `chosen_ids`, `rejected_ids`, `p_chosen` and `weight`: what is learnt stands after the prompt.

    A chat is rendered whole, and parted where both answers' tokens leave those of the prompt, as TRL does it.
    """
    if "prompt" not in record:
        raise SetAside("it has no prompt that both answers follow")
    asked, _ = renderer.render(prompts.answer(record, format))
    sides = {}
    for side in ("chosen", "rejected"):
        value = record[side]
        text = value if isinstance(value, str) else value[-1]["content"]
        if not text.strip():
            raise SetAside("one of its answers is empty")
        if format == "chat":
            sides[side] = renderer.judgement(prompts.judged_side(record, side, format)).ids
        else:
            sides[side] = asked + renderer.plain(f" {inert(text)}") + end
    same = min(common_prefix(asked, ids) for ids in sides.values())
    require_fit(max(map(len, sides.values())), longest)
    return {
        "prompt_ids": asked[:same],
        **{f"{side}_ids": ids[same:] for side, ids in sides.items()},
        **_label(record),
    }


def _label(record: Record) -> Record:
    return {name: float(record.get(name, 1.0)) for name in ("p_chosen", "weight")}


def require_fit(tokens: int, longest: int, limit: str = "--max-length") -> None:
    """SetAside where a row has more tokens than the run takes."""
    if tokens > longest:
        raise SetAside(f"its {tokens} tokens exceed the {longest} of {limit}")


# Prompts for RL -----------------------------------------------------------------------------------


def rl_prompt(renderer: Renderer, format: str, record: Record, longest: int) -> Record:
    """`id`, `messages` and `ids` of one prompt. SetAside where it has more than `longest` of the policy's own tokens."""
    ids, _ = renderer.render(prompts.answer(record, format))
    require_fit(len(ids), longest, "--max-length less --max-tokens")
    return {"id": record["id"], "messages": as_messages(record["prompt"]), "ids": ids}


def require_judgeable(judge: Renderer, format: str, record: Record, longest: int) -> None:
    """SetAside where a prompt has more than `longest` of a preference model's tokens, so that no answer fits after it."""
    ids = judge.judgement(prompts.judged(record["prompt"], "", format)).ids
    require_fit(len(ids), longest, "the preference model's context less --max-tokens")


def longest_side(pairs: list[dict[str, Any]]) -> int:
    """Tokens of the longest conversation among examples of preferences, with its prompt where that stands apart (DPO's)."""
    return max(len(pair.get("prompt_ids", [])) + len(pair[f"{side}_ids"]) for pair in pairs for side in ("chosen", "rejected"))
