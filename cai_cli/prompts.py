"""Every prompt that a model is shown, as pure functions: record + principle -> prompt.

Two formats. `chat`: messages for the model's own chat template, few-shot examples as turns. `hh`:
the paper's plain transcripts for base models, with the stops they need. A round sees the few-shot
examples, the conversation and the current answer, not earlier rounds (paper, section 3.1 and
appendix A).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cai_cli import transcripts
from cai_cli.constitution import Principle
from cai_cli.jsonl import Record
from cai_cli.records import Messages, as_messages, current_answer
from cai_cli.transcripts import (
    ASSISTANT,
    CRITIQUE,
    CRITIQUE_REQUEST,
    HUMAN,
    REASONED_LEAD,
    REVISION,
    REVISION_REQUEST,
    SHORT,
    STOPS,
    bracketed,
    inert,
    transcript,
)

OPTIONS = ("A", "B")
"""The letters under which the two answers of a comparison stand."""
ANSWER = "The answer is: ("
REASON = "Let's think step by step:"
REASONED_ANSWER = "So the answer is: ("


@dataclass(frozen=True)
class Prompt:
    """What to put before a model: chat `messages`, or a plain `text`.

    `prefill` begins the assistant's answer (chat only). `stop` are strings that end a completion.
    `end` is what the prompt of a choice ends with, after which the option's letter comes. The first `shared` messages, or
    characters of `text`, stand in many prompts of a run.
    """

    messages: Messages | None = None
    text: str = ""
    prefill: str = ""
    stop: tuple[str, ...] = ()
    end: str = ""
    shared: int = 0


def merge_turns(messages: Messages) -> Messages:
    """Messages with neighbours of one role joined by a blank line, as chat templates expect."""
    merged: Messages = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1] = {**merged[-1], "content": f"{merged[-1]['content']}\n\n{message['content']}"}
        else:
            merged.append({"role": message["role"], "content": message["content"]})
    return merged


def example_turns(examples: Sequence[str]) -> Messages:
    """Few-shot examples of rounds as chat messages: requests are the user's, all else the assistant's."""
    asks = ("Human", "CritiqueRequest", "RevisionRequest")
    found = [part for example in examples for part in transcripts.parts(example)]
    return [{"role": "user" if name in asks else "assistant", "content": text} for name, text in found]


def _prompt(messages: Messages, format: str, tail: str, examples: Sequence[str] = ()) -> Prompt:
    """A conversation in either format, after its few-shot examples; `tail` follows it in transcripts."""
    if format == "chat":
        merged, shown = merge_turns(messages), example_turns(examples)
        first = 1 if merged and merged[0]["role"] == "system" else 0  # templates take a system message only at the start
        return Prompt(messages=[*merged[:first], *shown, *merged[first:]], shared=0 if first else len(shown))
    lead = "".join(examples)
    return Prompt(text=lead + transcript(messages) + tail, stop=STOPS, shared=len(lead))


def answer(record: Record, format: str) -> Prompt:
    """The prompt of `cai sample`: the conversation, and the assistant's turn."""
    return _prompt(as_messages(record["prompt"]), format, ASSISTANT)


def _answered(record: Record, text: str) -> Messages:
    return [*as_messages(record["prompt"]), {"role": "assistant", "content": text}]


def critique(record: Record, principle: Principle, format: str, examples: Sequence[str] = ()) -> Prompt:
    """The conversation with its current answer, then the principle's critique request."""
    messages = _answered(record, current_answer(record))
    request = principle.critique or ""
    if format == "chat":
        return _prompt([*messages, {"role": "user", "content": request}], format, "", examples)
    return _prompt(messages, format, f"{CRITIQUE_REQUEST} {request}{CRITIQUE}", examples)


def revision(record: Record, principle: Principle, critique_text: str, format: str, examples: Sequence[str] = ()) -> Prompt:
    """The critique's prompt, the critique, then the principle's revision request."""
    messages = _answered(record, current_answer(record))
    ask, request = principle.critique or "", principle.revision or ""
    if format == "chat":
        turns = [("user", ask), ("assistant", critique_text), ("user", request)]
        return _prompt([*messages, *({"role": r, "content": c} for r, c in turns)], format, "", examples)
    tail = f"{CRITIQUE_REQUEST} {ask}{CRITIQUE} {inert(critique_text)}{REVISION_REQUEST} {request}{REVISION}"
    return _prompt(messages, format, tail, examples)


def direct_revision(record: Record, principle: Principle, format: str, examples: Sequence[str] = ()) -> Prompt:
    """The conversation with its current answer, then the revision request, without a critique (paper, figure 7)."""
    messages = _answered(record, current_answer(record))
    request, shown = principle.revision or "", [transcripts.direct(example) for example in examples]
    if format == "chat":
        return _prompt([*messages, {"role": "user", "content": request}], format, "", shown)
    return _prompt(messages, format, f"{REVISION_REQUEST} {request}{REVISION}", shown)


def asked(compare: str, first: str, second: str) -> str:
    """A comparison sentence and its two options, as the paper writes them."""
    return f"{compare} Options:\n (A) [[[{bracketed(first)}]]]\n (B) [[[{bracketed(second)}]]]"


def question(prompt: str | Messages, first: str, second: str, compare: str) -> str:
    """The feedback model's question (paper, section 4.1): a conversation, a comparison sentence and two answers."""
    talk = transcript(as_messages(prompt), bracketed)
    return f"\n\nConsider the following conversation between a human and an assistant:{talk}\n\n\n{asked(compare, first, second)}"


def comparison(
    prompt: str | Messages,
    first: str,
    second: str,
    principle: Principle,
    format: str,
    shown: Sequence[tuple[str, str]] = (),
) -> Prompt:
    """Which of two answers is better, by a principle. Ends where the option's letter is the next token.

    `shown` are few-shot examples: (question, letter of the better answer).
    """
    text = question(prompt, first, second, principle.compare or "")
    if format == "chat":
        turns = [turn for shot, letter in shown for turn in _exchange(shot, f"{ANSWER}{letter})")]
        return Prompt(messages=[*turns, {"role": "user", "content": text.strip()}], prefill=ANSWER, end=ANSWER, shared=len(turns))
    lead = "".join(f"{shot}\n\n{ANSWER}{letter})" for shot, letter in shown)
    return Prompt(text=f"{lead}{text}\n\n{ANSWER}", end=ANSWER, shared=len(lead))


def _exchange(asked_: str, answered: str) -> Messages:
    return [{"role": "user", "content": asked_.strip()}, {"role": "assistant", "content": answered}]


def reasoning(
    prompt: str | Messages, first: str, second: str, principle: Principle, format: str, shown: Sequence[str] = ()
) -> Prompt:
    """The same question, to be thought through first (paper, section 4.1 and appendix E.3).

    `shown` are whole reasoned examples, their principles in place. The model's thoughts are to follow.
    """
    talk = transcript(as_messages(prompt), bracketed, SHORT)
    text = f"{HUMAN} {REASONED_LEAD}{talk}\n\n{asked(principle.compare or '', first, second)}"
    stop = (*STOPS, REASONED_ANSWER.removesuffix(" ("))
    if format == "chat":
        found = [transcripts.reasoned(example) for example in shown]
        turns = [turn for ask, thought, letter in found for turn in _exchange(ask, _thought(thought, f"{letter})"))]
        messages = [*turns, {"role": "user", "content": text.removeprefix(HUMAN).strip()}]
        return Prompt(messages=messages, prefill=REASON, stop=stop, shared=len(turns))
    lead = "".join(shown)
    return Prompt(text=f"{lead}{text}{ASSISTANT} {REASON}", stop=stop, shared=len(lead))


def _thought(text: str, letter: str) -> str:
    """The assistant's turn of a chat: its thoughts, then its answer."""
    return f"{REASON} {text.strip()}\n\n{REASONED_ANSWER}{letter}"


def after_reasoning(asked_: Prompt, thoughts: str) -> Prompt:
    """A prompt of `reasoning` with the model's thoughts. Ends where the option's letter is the next token."""
    thoughts = bracketed(thoughts.strip())  # a model may repeat what an answer said
    if asked_.messages is not None:
        return replace(asked_, prefill=_thought(thoughts, ""), end=REASONED_ANSWER, stop=())
    text = f"{asked_.text} {thoughts}{HUMAN}\n{REASONED_ANSWER}"
    return replace(asked_, text=text, end=REASONED_ANSWER, stop=())


def new_prompt(seeds: Sequence[str], format: str) -> Prompt:
    """Seed prompts, and the request for one more of their kind (the paper's section 3.2 had most of its prompts so)."""
    if format == "chat":
        listed = "\n".join(f"- {' '.join(seed.split())}" for seed in seeds)
        request = (
            f"Here are messages that people sent to an assistant:\n\n{listed}\n\n"
            "Write one more message of the same kind, on another subject. Reply with the message alone."
        )
        return Prompt(messages=[{"role": "user", "content": request}])
    text = "".join(f"{HUMAN} {' '.join(inert(seed).split())}" for seed in seeds)
    return Prompt(text=f"{text}{HUMAN}", stop=("\n", *STOPS))


def judged(prompt: str | Messages, answer_text: str, format: str) -> Prompt:
    """What a preference model reads: the conversation with one answer, no generation prompt."""
    messages = [*as_messages(prompt), {"role": "assistant", "content": answer_text}]
    return _prompt(messages, format, "")


def judged_side(record: Record, side: str, format: str) -> Prompt:
    """What a preference model reads of a preference's `chosen` or `rejected`.

    Each may be a string or messages, with the record's `prompt` before it where there is one; a
    string without a prompt is a whole conversation as plain text and is read as it stands.
    """
    value = record[side]
    if isinstance(value, str):
        return judged(record["prompt"], value, format) if "prompt" in record else Prompt(text=value)
    conversation = [*(as_messages(record["prompt"]) if "prompt" in record else []), *value]
    return judged(conversation[:-1], conversation[-1]["content"], format)
