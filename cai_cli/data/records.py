"""The kinds of records (one JSON object per line): what each must hold, and its id.

prompt      `id`, `prompt` (a string, or messages `[{role, content}]`)
response    prompt + `response`
critique    response + `rounds`; the last round is open (`principle`, `critique`)
revision    response + `rounds`, oldest first; each is closed by its `revision`
pair        prompt + `responses`
preference  `prompt`, `chosen`, `rejected` (messages), `p_chosen`, `label`, `source_id`
score       any record + `scores`
grade       response or pair + `grades`

Unknown fields are kept. A record only grows. A check (`*_error`) returns a sentence that says what is wrong, or None. Its
caller adds the file and the line.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NotRequired, TypedDict, cast

from cai_cli.data import jsonl, reasoning
from cai_cli.data.jsonl import Record, as_object, item
from cai_cli.data.shapes import type_error
from cai_cli.errors import Skipped

ROLES = ("system", "user", "assistant")


class Message(TypedDict):
    """One chat message. `role` is one of `ROLES`."""

    role: str
    content: str
    reasoning: NotRequired[str]
    """What an assistant wrote before its message. No template shows it."""


Messages = list[Message]


def user(text: str) -> Message:
    """A user's message."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """An assistant's message."""
    return {"role": "assistant", "content": text}


class TextMeta(TypedDict, total=False):
    """How a generated text was made. Other tools' records may hold less of it."""

    seed: int
    finish: str
    """"stop" (an end token or a stop string) or "length" (it ran to --max-tokens)."""
    prompt_tokens: int
    completion_tokens: int
    stripped: list[str]
    """Names of the parts that `clean.strip` removed."""
    raw: str
    """The text before `clean.strip`."""
    attempt: int
    """The number of the attempt that was kept, if --retry sampled again."""
    reasoning: str
    """"cut" if the text ended inside its reasoning, so that there is no answer."""
    principles: list[str]
    """The ids of the principles that the model saw, with --constitution-in-context."""


class Round(TypedDict):
    """One round of critique and revision. It is open while it has no `revision`."""

    principle: str
    """The principle's id."""
    critique: NotRequired[str]
    """Absent after `cai revise --direct`."""
    revision: NotRequired[str]
    reasoning: NotRequired[dict[str, str]]
    """What the model wrote before the text, by "critique" and "revision". Absent if it did not reason."""
    flags: NotRequired[list[str]]
    meta: NotRequired[dict[str, TextMeta]]
    """By "critique" and "revision"."""


class Reasoning(TypedDict):
    """What the feedback model wrote before it answered one query."""

    principle: str
    order: str
    """"ab": the pair's first answer was shown as (A); "ba": as (B)."""
    text: str
    p_first: float
    """The query's probability (clamped, if there is a clamp) that the pair's first answer is the better one."""
    meta: TextMeta


class Label(TypedDict):
    """The feedback model's judgement of a pair of answers."""

    pair: NotRequired[list[int]]
    """The indexes of the two answers in `responses`."""
    principles: list[str]
    p_first: float
    """The probability that the first answer is the better one: the mean over all queries."""
    orders: dict[str, float]
    """Mean `p_first` per order, "ab" and "ba"."""
    by_principle: NotRequired[dict[str, float]]
    """Mean `p_first` per principle."""
    spread: NotRequired[float]
    """The standard deviation of `p_first` over the principles."""
    mass: NotRequired[float]
    """The probability that the next token is one of the two letters: the mean over the queries."""
    outside: NotRequired[int]
    """Letters with only an upper bound, because a server did not show them among the most likely tokens. Absent if none."""
    reasoning: NotRequired[list[Reasoning]]
    cut: NotRequired[int]
    """Queries without a letter, because their reasoning was cut by --max-tokens. Absent if there are none."""
    identical: NotRequired[bool]
    """True if both answers are the same text. No model was asked then."""


class Scores(TypedDict, total=False):
    """The raw scores of a preference model, under the name of the field that holds the text."""

    response: float
    responses: list[float]
    rounds: list[float]
    chosen: float
    rejected: float


Grade = dict[str, float]
"""The probability of each class of a criterion. The first class is the good one."""
Grades = dict[str, Grade | list[Grade]]
"""The grades of a record's current answer, or of each of its `responses`, by the criteria's ids."""


def digest(value: object, size: int = 8) -> str:
    """Hex digest of a JSON value's content: `size` bytes, so 2 * `size` characters."""
    return blake2b(jsonl.dumps(value).encode(), digest_size=size).hexdigest()


def text_error(value: object, field: str) -> str | None:
    """What is wrong with a text field, or None."""
    if not isinstance(value, str):
        return f"'{field}' must be a string, found {type(value).__name__}"
    return None


def texts_error(value: object, field: str) -> str | None:
    """What is wrong with a list of texts, or None."""
    if not isinstance(value, list):
        return f"'{field}' must be a list of strings"
    return next((error for i, text in enumerate(value) if (error := text_error(text, f"{field}[{i}]"))), None)


def messages_error(value: object, field: str) -> str | None:
    """What is wrong with a list of chat messages, or None."""
    if not isinstance(value, list) or not value:
        return f"'{field}' must be a non-empty list of {{role, content}} messages"
    for i, message in enumerate(value):
        if isinstance(message, dict) and isinstance(message.get("content"), list):
            kinds = {str(part.get("type")) if isinstance(part, dict) else type(part).__name__ for part in message["content"]}
            others = ", ".join(sorted(kinds - {"text"})) or "none"
            return f"'{field}[{i}].content' has parts of the type {others}; cai reads only text"
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            return f"'{field}[{i}]' must be an object with a 'role' and a string 'content'"
        if message.get("role") not in ROLES:
            tools = "; cai reads no tool calls" if message.get("role") == "tool" else ""
            return f"'{field}[{i}].role' must be one of {', '.join(ROLES)}{tools}"
    return None


def has_tools(record: Record) -> bool:
    """Whether a record's `messages` hold a tool call or a tool's turn."""
    found = record.get("messages")
    turns = found if isinstance(found, list) else []
    return any(isinstance(m, dict) and (m.get("role") in ("tool", "function") or m.get("tool_calls")) for m in turns)


def take_in(record: Record) -> None:
    """Bring a record from a file into cai's form, in place: contents that are text parts are joined, reasoning is separated.

    A record that is wrong stays as it is, for the check that follows.
    """
    for field in ("prompt", "messages", "completion", "chosen", "rejected"):
        value = record.get(field)
        if isinstance(value, list) and any(isinstance(m, dict) and isinstance(m.get("content"), list) for m in value):
            record[field] = [{**m, "content": _joined(m.get("content"))} if isinstance(m, dict) else m for m in value]
    reasoning.separate(record)


def _joined(content: object) -> object:
    """A message's content, as one text if it is a list of text parts (OpenAI's form)."""
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    return "".join(map(str, texts)) if texts and len(texts) == len(parts) else content


def require_answered(record: Record) -> None:
    """Skipped if one of a record's answers, or its last critique or revision, ended inside its reasoning."""
    made = as_object(record.get("meta"))
    several = made.get("responses")
    last = as_object((record.get("rounds") or [{}])[-1].get("meta"))
    for entry in (made.get("response"), *(several if isinstance(several, list) else ()), *last.values()):
        if isinstance(entry, dict) and entry.get("reasoning") == "cut":
            raise Skipped("its reasoning was cut by --max-tokens, so there is no answer; sample it again with a larger one")


def prompt_error(record: Record) -> str | None:
    """What is wrong with a record's `prompt` (every kind has one), or None."""
    prompt = record.get("prompt")
    if prompt is None:
        other = next((field for field in ("messages", "conversations") if field in record), None)
        return f"no 'prompt' field{f', but {other!r}: convert the file with `cai import messages`' if other else ''}"
    if not isinstance(record.get("meta", {}), dict):
        return "'meta' must be an object"
    if isinstance(prompt, str):
        return None if prompt.strip() else "'prompt' is empty"
    if error := messages_error(prompt, "prompt"):
        return f"{error} (or a string)"
    return None if prompt[-1]["role"] == "user" else "'prompt' must end with a user's message"


def response_error(record: Record) -> str | None:
    """What is wrong with a response record, or None."""
    if error := prompt_error(record):
        return error
    if "response" not in record:
        return "no 'response' field: make one with `cai sample`"
    return text_error(record["response"], "response")


def rounds_error(record: Record) -> str | None:
    """What is wrong with a response record and its `rounds` (which may be absent), or None.

    Only the last round may be open.
    """
    if error := response_error(record):
        return error
    rounds = record.get("rounds", [])
    if not isinstance(rounds, list):
        return "'rounds' must be a list"
    for i, entry in enumerate(rounds):
        if not isinstance(entry, dict):
            return f"'rounds[{i}]' must be an object"
        for field in ("principle", "critique", "revision"):
            if field in entry and (error := text_error(entry[field], f"rounds[{i}].{field}")):
                return error
        if not isinstance(entry.get("meta", {}), dict):
            return f"'rounds[{i}].meta' must be an object"
        if "flags" in entry and (error := texts_error(entry["flags"], f"rounds[{i}].flags")):
            return error
        if "revision" not in entry and i < len(rounds) - 1:
            return f"'rounds[{i}]' has no 'revision', but a later round follows it"
    return None


CUT_SHARE = 0.1
"""Share of truncated texts above which a command warns."""


def truncated(record: Record) -> list[bool]:
    """Whether each answer of a record was truncated at --max-tokens: of its `response`, or of its `responses`."""
    made = as_object(record.get("meta"))
    several = [item(made.get("responses"), i) for i, _ in enumerate(record.get("responses") or [])]
    entries = [made.get("response")] if "response" in record else several
    return [isinstance(entry, dict) and entry.get("finish") == "length" for entry in entries]


def is_open(record: Record) -> bool:
    """Whether the last round has no revision yet."""
    rounds = record.get("rounds") or []
    return bool(rounds) and "revision" not in rounds[-1]


def stripped(entry: Round, kind: str) -> list[str]:
    """The names of the parts that were removed from a round's "critique" or "revision" (`kind`)."""
    found = as_object(as_object(entry.get("meta")).get(kind)).get("stripped")
    return found if isinstance(found, list) else []


def critique_input_error(record: Record) -> str | None:
    """Why `cai critique` cannot open a round, or None."""
    if error := rounds_error(record):
        return error
    return "the last round has no revision yet: run `cai revise` first" if is_open(record) else None


def revise_input_error(record: Record) -> str | None:
    """Why `cai revise` cannot close a round, or None."""
    if error := rounds_error(record):
        return error
    if not is_open(record):
        return "no open round: run `cai critique` first"
    last = record["rounds"][-1]
    if "principle" not in last or "critique" not in last:
        return "the open round needs 'principle' and 'critique': run `cai critique` first"
    return None


def pair_error(record: Record) -> str | None:
    """What is wrong with a pair record (at least two answers), or None."""
    if error := prompt_error(record):
        return error
    responses = record.get("responses")
    if responses is None:
        return "no 'responses' field: make pairs with `cai sample -n 2`"
    if not isinstance(responses, list) or len(responses) < 2:
        return "'responses' must be a list of at least two strings"
    return texts_error(responses, "responses")


def preference_error(record: Record) -> str | None:
    """What is wrong with a preference in cai's form or either of TRL's, or None.

    `prompt` may be absent if `chosen` and `rejected` are whole conversations.
    """
    for field in ("chosen", "rejected"):
        value = record.get(field)
        if value is None:
            return f"no '{field}' field: make preferences with `cai label`"
        if not isinstance(value, str):
            if error := messages_error(value, field):
                return error
            if value[-1]["role"] != "assistant":
                return f"'{field}' must end with the assistant's message"
    if "prompt" in record and (error := prompt_error(record)):
        return error
    if isinstance(record["chosen"], str) != isinstance(record["rejected"], str):
        return "'chosen' and 'rejected' must both be strings or both be lists of messages"
    p = record.get("p_chosen", 1.0)
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
        return "'p_chosen' must be a number from 0 to 1"
    return weight_error(record)


def weight_error(record: Record) -> str | None:
    """What is wrong with the factor of a record's loss, which may be absent, or None."""
    weight = record.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
        return "'weight' must be a number that is not negative"
    return None


def shape_error(record: Record) -> str | None:
    """What is wrong with the fields that a record of any kind has, or None. No field is required."""
    kept: Record = {field: record[field] for field in ("prompt", "response", "rounds", "meta") if field in record}
    if error := rounds_error({"prompt": "-", "response": "", **kept}) or texts_error(record.get("responses", []), "responses"):
        return error
    if error := type_error(record.get("scores", {}), Scores, "scores"):
        return error
    if error := type_error(record.get("grades", {}), Grades, "grades"):
        return error
    if (label := label_of(record)) and (error := type_error(label, Label, "label")):
        return error
    for field in ("messages", "completion"):
        value = record.get(field, "")
        if not isinstance(value, str) and (error := messages_error(value, field)):
            return error
    return preference_error(record) if "chosen" in record or "rejected" in record else None


def label_of(record: Record) -> Label | None:
    """The label that `cai label` wrote; None if a record has none, or another tool's field of that name."""
    found = record.get("label")
    return cast(Label, found) if isinstance(found, dict) and {"principles", "p_first", "orders"} <= found.keys() else None


def by_principle(label: Label) -> dict[str, float]:
    """The probability of a label by each of its principles, by the id; empty if it does not keep them, or has none."""
    if found := label.get("by_principle"):
        return found
    return {label["principles"][0]: label["p_first"]} if len(label["principles"]) == 1 else {}


def as_messages(prompt: str | Messages) -> Messages:
    """A prompt as chat messages. A string is one user message."""
    return [user(prompt)] if isinstance(prompt, str) else prompt


def current_score(record: Record) -> float | None:
    """The score of a record's current answer: of the last revision if there are rounds, else of the response; or None."""
    scores = record.get("scores")
    score = (scores.get("rounds") or [scores.get("response")])[-1] if isinstance(scores, dict) else None
    return float(score) if isinstance(score, float | int) else None


def current_answer(record: Record) -> str:
    """The text that the next round criticises: the last revision, or the response if there is none."""
    for entry in reversed(record.get("rounds") or []):
        if "revision" in entry:
            return entry["revision"]
    return record["response"]
