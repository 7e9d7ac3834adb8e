"""Every prompt that a model is shown, as pure functions: record + principle -> prompt.

There are two formats. `chat`: messages for the model's own chat template. A critic, a reviser and a judge read the
conversation in a user's message, and few-shot examples are turns before it. `hh`: the paper's plain transcripts for base
models, with the stop strings that they need. The prompt of a round holds the few-shot examples, the conversation and the
current answer, but not the earlier rounds (paper, section 3.1 and appendix A).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import cast

from cai_cli.data import transcripts
from cai_cli.data.jsonl import Record
from cai_cli.data.preferences import sides
from cai_cli.data.records import Message, Messages, as_messages, assistant, current_answer, user
from cai_cli.data.transcripts import (
    ASSISTANT,
    CRITIQUE,
    CRITIQUE_REQUEST,
    HUMAN,
    INTRODUCTION,
    REASONED_INTRODUCTION,
    REVISION,
    REVISION_REQUEST,
    SHORT,
    STOPS,
    bracketed,
    closed,
    inert,
    transcript,
)
from cai_cli.errors import Skipped
from cai_cli.method.constitution import Principle

LETTERS = ("A", "B", "C", "D", "E", "F", "G", "H")
"""The letters of the options of a question."""
OPTIONS = LETTERS[:2]
"""The letters of the two answers in a comparison."""
ANSWER = "The answer is: ("
REASON = "Let's think step by step:"
REASONED_ANSWER = "So the answer is: ("


@dataclass(frozen=True)
class Prompt:
    """What a model is shown: chat `messages`, or plain `text`."""

    messages: Messages | None = None
    """The turns of a chat; None for plain text."""
    text: str = ""
    """The whole prompt if it is plain text."""
    prefill: str = ""
    """The first words of the assistant's answer, which the model continues (chat only)."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion."""
    end: str = ""
    """The last words of a prompt for a choice; the option's letter comes next."""
    shared: int = 0
    """How many messages, or characters of `text`, form a prefix that many prompts of a run share."""


def merge_turns(messages: Messages) -> Messages:
    """Messages with neighbours of the same role joined by a blank line, since chat templates expect roles to alternate."""
    merged: Messages = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1] = {**merged[-1], "content": f"{merged[-1]['content']}\n\n{message['content']}"}
        else:
            merged.append({"role": message["role"], "content": message["content"]})
    return merged


def quoted(messages: Messages, request: str) -> Message:
    """A user's message: a conversation as a transcript, and a request about it.

    The critic must see that the conversation is not its own: in turns of the chat, small models take the few-shot examples for
    earlier parts of it, and repeat them.
    """
    return {"role": "user", "content": f"{INTRODUCTION}{transcript(messages, closed)}\n\n\n{request}"}


def example_turns(examples: Sequence[str]) -> Messages:
    """Few-shot examples of rounds as chat messages, in the form of `critique` and `revision`, or of `direct_revision`."""
    return [turn for example in examples for turn in _example_turns(example)]


@lru_cache(maxsize=64)  # every record shows the same few
def _example_turns(example: str) -> tuple[Message, ...]:
    found: Messages = []
    talk: Messages = []
    for name, text in transcripts.parts(example):
        if name in ("Human", "Assistant"):
            talk.append(user(text) if name == "Human" else assistant(text))
        elif name in ("Critique", "Revision"):
            found.append(assistant(text))
        else:
            found.append(quoted(talk, text) if talk else user(text))
            talk = []
    return tuple(found)


def _prompt(found: Messages, format: str, plain: str, examples: Sequence[str]) -> Prompt:
    """Few-shot examples, then a request: `found` in a chat, else `plain`."""
    if format == "chat":
        shown = example_turns(examples)
        return Prompt(messages=[*shown, *found], shared=len(shown))
    prefix = "".join(examples)
    return Prompt(text=prefix + plain, stop=STOPS, shared=len(prefix))


def _conversation(messages: Messages, format: str, tail: str = "") -> Prompt:
    """A conversation in either format. In transcripts `tail` follows."""
    return _prompt(merge_turns(messages), format, transcript(messages) + tail, ())


RULES = "Your answer will be compared with other answers to the same message, by these rules:"
PREFER = "Give the answer that would be chosen. Do not mention the rules or the comparison."


def in_context(messages: Messages, principles: Sequence[Principle]) -> Messages:
    """A conversation after a system message with the principles that its answer will be judged by. Its own one is kept."""
    rules = "\n".join(f"{number}. {principle.compare}" for number, principle in enumerate(principles, 1))
    return merge_turns([{"role": "system", "content": f"{RULES}\n\n{rules}\n\n{PREFER}"}, *messages])


def judged_by(messages: Messages, principle: Principle) -> Messages:
    """A conversation for a preference model that reads a principle, which stands in a system message."""
    rule = {"role": "system", "content": f"The assistant's last response is judged by this rule: {principle.compare}"}
    return merge_turns([cast(Message, rule), *messages])


def answer(record: Record, format: str) -> Prompt:
    """The prompt of `cai sample`: the conversation, and the start of the assistant's turn (paper, section 3.1)."""
    return _conversation(as_messages(record["prompt"]), format, ASSISTANT)


def answer_text(text: str, format: str) -> str:
    """An answer as it follows the prompt of `answer`."""
    return text if format == "chat" else f" {inert(text)}"


def _answered(record: Record) -> Messages:
    """The conversation with its current answer."""
    return [*as_messages(record["prompt"]), assistant(current_answer(record))]


def critique(record: Record, principle: Principle, format: str, examples: Sequence[str] = ()) -> Prompt:
    """The conversation with its current answer, then the principle's critique request (paper, section 3.1)."""
    messages, request = _answered(record), principle.critique or ""
    plain = f"{transcript(messages)}{CRITIQUE_REQUEST} {request}{CRITIQUE}"
    return _prompt([quoted(messages, request)], format, plain, examples)


def revision(record: Record, principle: Principle, critique_text: str, format: str, examples: Sequence[str] = ()) -> Prompt:
    """The critique's prompt, the critique, then the principle's revision request (paper, section 3.1)."""
    messages, ask, request = _answered(record), principle.critique or "", principle.revision or ""
    tail = f"{CRITIQUE_REQUEST} {ask}{CRITIQUE} {inert(critique_text)}{REVISION_REQUEST} {request}{REVISION}"
    turns = [quoted(messages, ask), assistant(critique_text), user(request)]
    return _prompt(turns, format, transcript(messages) + tail, examples)


def direct_revision(record: Record, principle: Principle, format: str, examples: Sequence[str] = ()) -> Prompt:
    """The conversation with its current answer, then the revision request, without a critique (paper, figure 7)."""
    messages, request = _answered(record), principle.revision or ""
    plain = f"{transcript(messages)}{REVISION_REQUEST} {request}{REVISION}"
    return _prompt([quoted(messages, request)], format, plain, [transcripts.direct(example) for example in examples])


def asked(compare: str, first: str, second: str) -> str:
    """A comparison sentence and its two options, in the paper's words and punctuation (section 4.1)."""
    return f"{compare} Options:\n (A) [[[{bracketed(first)}]]]\n (B) [[[{bracketed(second)}]]]"


def comparison_question(prompt: str | Messages, first: str, second: str, compare: str) -> str:
    """The feedback model's question (paper, section 4.1): a conversation, a comparison sentence and two answers."""
    talk = transcript(as_messages(prompt), bracketed)
    return f"\n\n{INTRODUCTION}{talk}\n\n\n{asked(compare, first, second)}"


def comparison(
    prompt: str | Messages,
    first: str,
    second: str,
    principle: Principle,
    format: str,
    shown: Sequence[tuple[str, str]] = (),
) -> Prompt:
    """Asks which of two answers is better by a principle (paper, section 4.1). The option's letter is the next token.

    `shown` are few-shot examples (appendix E.2): (question, letter of the better answer).
    """
    text = comparison_question(prompt, first, second, principle.compare or "")
    if format == "chat":
        turns = [turn for shot, letter in shown for turn in _exchange(shot, f"{ANSWER}{letter})")]
        return Prompt(messages=[*turns, user(text.strip())], prefill=ANSWER, end=ANSWER, shared=len(turns))
    prefix = "".join(f"{shot}\n\n{ANSWER}{letter})" for shot, letter in shown)
    return Prompt(text=f"{prefix}{text}\n\n{ANSWER}", end=ANSWER, shared=len(prefix))


def _exchange(question: str, reply: str) -> Messages:
    return [user(question.strip()), assistant(reply)]


def reasoning(
    prompt: str | Messages, first: str, second: str, principle: Principle, format: str, shown: Sequence[str] = ()
) -> Prompt:
    """The question of `comparison`, with a request to reason first (paper, section 4.1 and appendix E.3).

    `shown` are whole reasoned examples with their principles filled in. The model continues the prompt with its reasoning.
    """
    talk = transcript(as_messages(prompt), bracketed, SHORT)
    text = f"{HUMAN} {REASONED_INTRODUCTION}{talk}\n\n{asked(principle.compare or '', first, second)}"
    stop = (REASONED_ANSWER.removesuffix(" ("), *STOPS)  # the likely one first: a server may take only a few
    if format == "chat":
        found = [transcripts.reasoned(example) for example in shown]
        turns = [turn for ask, reason, letter in found for turn in _exchange(ask, _reasoned_turn(reason, f"{letter})"))]
        messages = [*turns, user(text.removeprefix(HUMAN).strip())]
        return Prompt(messages=messages, prefill=REASON, stop=stop, shared=len(turns))
    prefix = "".join(shown)
    return Prompt(text=f"{prefix}{text}{ASSISTANT} {REASON}", stop=stop, shared=len(prefix))


def _listed(question: str, options: Sequence[str]) -> str:
    """A question about the last response, and the answers to choose from."""
    lines = "".join(f"\n ({letter}) {text}" for letter, text in zip(LETTERS, options, strict=False))
    return f"{question} Options:{lines}"


def grading(prompt: str | Messages, reply: str, question: str, options: Sequence[str], format: str) -> Prompt:
    """Asks a question about one answer (`cai grade`; not in the paper). An option's letter is the next token."""
    talk = transcript([*as_messages(prompt), assistant(reply)], bracketed)
    text = f"\n\n{INTRODUCTION}{talk}\n\n\n{_listed(question, options)}"
    if format == "chat":
        return Prompt(messages=[user(text.strip())], prefill=ANSWER, end=ANSWER)
    return Prompt(text=f"{text}\n\n{ANSWER}", end=ANSWER)


def grading_reasoning(prompt: str | Messages, reply: str, question: str, options: Sequence[str], format: str) -> Prompt:
    """The question of `grading`, with a request to reason first. `after_reasoning` asks for the letter."""
    talk = transcript([*as_messages(prompt), assistant(reply)], bracketed, SHORT)
    text = f"{HUMAN} {REASONED_INTRODUCTION}{talk}\n\n{_listed(question, options)}"
    stop = (REASONED_ANSWER.removesuffix(" ("), *STOPS)  # the likely one first: a server may take only a few
    if format == "chat":
        return Prompt(messages=[user(text.removeprefix(HUMAN).strip())], prefill=REASON, stop=stop)
    return Prompt(text=f"{text}{ASSISTANT} {REASON}", stop=stop)


def _reasoned_turn(text: str, letter: str) -> str:
    """The assistant's turn of a chat: its reasoning, then its answer."""
    return f"{REASON} {text.strip()}\n\n{REASONED_ANSWER}{letter}"


def after_reasoning(prompt: Prompt, text: str) -> Prompt:
    """A prompt of `reasoning`, followed by the reasoning `text`. The option's letter is the next token."""
    text = bracketed(text.strip())  # the model may quote an answer, and with it text that looks like brackets or turns
    if prompt.messages is not None:
        return replace(prompt, prefill=_reasoned_turn(text, ""), end=REASONED_ANSWER, stop=())
    text = f"{prompt.text} {text}{HUMAN}\n{REASONED_ANSWER}"
    return replace(prompt, text=text, end=REASONED_ANSWER, stop=())


def new_prompt(seeds: Sequence[str], format: str) -> Prompt:
    """Seed prompts, then a request for one more of their kind. The paper's model wrote most of its prompts (section 3.2)."""
    if format == "chat":
        listed = "\n".join(f"- {' '.join(seed.split())}" for seed in seeds)
        request = (
            f"Here are messages that people sent to an assistant:\n\n{listed}\n\n"
            "Write one more message of the same kind, on another subject. Reply with the message alone."
        )
        return Prompt(messages=[user(request)])
    text = "".join(f"{HUMAN} {' '.join(inert(seed).split())}" for seed in seeds)
    return Prompt(text=f"{text}{HUMAN}", stop=("\n", *STOPS))


def pm_input(prompt: str | Messages, answer_text: str, format: str) -> Prompt:
    """The input of a preference model: the conversation with one answer, and no turn opened after it."""
    messages = [*as_messages(prompt), assistant(answer_text)]
    return _conversation(messages, format)


def pm_input_side(record: Record, side: str, format: str) -> Prompt:
    """The input of a preference model for one side of a preference, `chosen` or `rejected`, in any of its forms.

    A string that is neither an answer to a prompt nor a transcript is used unchanged. Skipped if the two sides have no prompt
    in common.
    """
    try:
        found = sides(record)
    except ValueError as problem:
        if isinstance(record[side], str) and "prompt" not in record:
            return Prompt(text=record[side])
        raise Skipped(str(problem)) from None
    *before, last = found.chosen if side == "chosen" else found.rejected
    return pm_input([*found.prompt, *before], last["content"], format)
