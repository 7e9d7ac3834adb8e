"""From a record to the token ids that a trainer sees: supervised examples, preferences, and prompts for RL.

The code that renders prompts for generation and conversations for scoring also tokenises the examples, so a model is
trained on exactly what it will be shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict

from cai_cli.data import records
from cai_cli.data.jsonl import Record
from cai_cli.data.records import Messages, as_messages, assistant, user
from cai_cli.data.transcripts import inert
from cai_cli.errors import Skipped
from cai_cli.method import prompts
from cai_cli.method.prompts import Prompt
from cai_cli.method.tokens import Renderer, common_prefix


class SFTExample(TypedDict):
    """A supervised example."""

    input_ids: list[int]
    labels: list[int]
    """The same tokens, with -100 where there is no loss."""


class PreferenceExample(TypedDict):
    """A pair of whole conversations; for DPO, a prompt and the two answers that follow it."""

    prompt_ids: NotRequired[list[int]]
    """Only for DPO."""
    chosen_ids: list[int]
    rejected_ids: list[int]
    p_chosen: float
    """The probability that the chosen answer is the better one."""
    weight: float
    """The factor of the pair's loss."""


class RLExample(TypedDict):
    """A prompt for RL."""

    id: str
    messages: Messages
    """For the preference models, which render it themselves."""
    ids: list[int]
    """The policy's own tokens."""
    held_out: NotRequired[bool]
    """Whether it is only evaluated on."""


# Supervised examples ------------------------------------------------------------------------------


def sft_error(record: Record) -> str | None:
    """Why a record gives no supervised example, or None.

    Accepts revision and response records, records with several responses, and TRL's `messages` and `prompt` + `completion`.
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
                return "'completion' must be a string, or one message of the assistant"
        return records.prompt_error(record)
    if "responses" in record and "response" not in record:
        return records.prompt_error(record) or records.texts_error(record["responses"], "responses")
    if records.prompt_error(record) is None and "response" not in record:
        return "no 'response', 'completion' or 'messages' field: nothing to train on"
    if error := records.rounds_error(record):
        return error
    return "the last round has no revision yet: run `cai revise` first" if records.is_open(record) else None


def conversations(record: Record, revisions: str) -> list[tuple[Messages, str]]:
    """(prompt, answer) of each example of a record: every revision (section 3.2), or only the "last"; or every response."""
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
    """The tokens that end an assistant's turn: those after an answer, up to and including the first control token."""
    tokenizer = renderer.tokenizer
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    if format != "chat":
        return end
    closing = renderer.render(Prompt(messages=[user("question"), assistant("answer")]), complete=True)[1].rpartition("answer")[2]
    ids = tokenizer(closing, add_special_tokens=False).input_ids
    control = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for i, token in enumerate(ids):
        if token in control:
            return ids[: i + 1]
    return end


def sft_example(renderer: Renderer, format: str, end: list[int], messages: Messages, answer: str, longest: int) -> SFTExample:
    """One supervised example: the loss is on the answer and the tokens that end its turn (paper, section 3.1).

    The prompt is tokenised separately, exactly as it is for generation. Skipped if the answer is empty or the example is
    longer than `longest` tokens.
    """
    if not answer.strip():
        raise Skipped("its answer is empty")
    ids, _ = renderer.render(prompts.answer({"prompt": messages}, format))
    text = answer if format == "chat" else f" {inert(answer)}"
    completion = renderer.plain(text) + end
    require_length(len(ids) + len(completion), longest)
    return {"input_ids": ids + completion, "labels": [-100] * len(ids) + completion}


# Preferences --------------------------------------------------------------------------------------


def preference_example(renderer: Renderer, format: str, record: Record, longest: int) -> PreferenceExample:
    """One pair for the preference model. Skipped if a side is empty or longer than `longest` tokens."""
    chosen, rejected = (
        renderer.score_request(prompts.pm_input_side(record, side, format)).ids for side in ("chosen", "rejected")
    )
    if not chosen or not rejected:
        raise Skipped("one of its answers is empty")
    require_length(max(len(chosen), len(rejected)), longest)
    return {"chosen_ids": chosen, "rejected_ids": rejected, **_soft_label(record)}


def dpo_example(renderer: Renderer, format: str, end: list[int], record: Record, longest: int) -> PreferenceExample:
    """One pair for DPO. The loss is on the tokens after the prompt.

    A chat is rendered as a whole, and divided at the first token where either conversation differs from the prompt, as in
    TRL. Skipped if it has no prompt or an empty answer, or if a conversation is longer than `longest` tokens.
    """
    if "prompt" not in record:
        raise Skipped("it has no prompt that both answers follow")
    asked, _ = renderer.render(prompts.answer(record, format))
    sides = []
    for side in ("chosen", "rejected"):
        value = record[side]
        text = value if isinstance(value, str) else value[-1]["content"]
        if not text.strip():
            raise Skipped("one of its answers is empty")
        if format == "chat":
            sides.append(renderer.score_request(prompts.pm_input_side(record, side, format)).ids)
        else:
            sides.append(asked + renderer.plain(f" {inert(text)}") + end)
    same = min(common_prefix(asked, ids) for ids in sides)
    require_length(max(map(len, sides)), longest)
    chosen, rejected = (ids[same:] for ids in sides)
    return {"prompt_ids": asked[:same], "chosen_ids": chosen, "rejected_ids": rejected, **_soft_label(record)}


class _SoftLabel(TypedDict):
    p_chosen: float
    weight: float


def _soft_label(record: Record) -> _SoftLabel:
    """The label of a preference; without the fields it is certain and counts once."""
    return {"p_chosen": float(record.get("p_chosen", 1.0)), "weight": float(record.get("weight", 1.0))}


def require_length(tokens: int, longest: int, limit: str = "--max-length") -> None:
    """Skipped if a row has more than `longest` tokens. `limit`: the flag or the context that sets the limit."""
    if tokens > longest:
        raise Skipped(f"its {tokens} tokens exceed the {longest} of {limit}")


def longest_side(pairs: Sequence[PreferenceExample]) -> int:
    """Tokens of the longest conversation of `pairs`, with the prompt if it is separate (DPO)."""
    return max(len(p.get("prompt_ids", [])) + max(len(p["chosen_ids"]), len(p["rejected_ids"])) for p in pairs)


# Prompts for RL -----------------------------------------------------------------------------------


def rl_prompt(renderer: Renderer, format: str, record: Record, longest: int) -> RLExample:
    """One prompt. Skipped if it has more than `longest` of the policy's own tokens."""
    ids, _ = renderer.render(prompts.answer(record, format))
    require_length(len(ids), longest, "--max-length minus --max-tokens")
    return {"id": record["id"], "messages": as_messages(record["prompt"]), "ids": ids}


def require_pm_length(reader: Renderer, format: str, record: Record, longest: int) -> None:
    """Skipped if a prompt has more than `longest` of a preference model's tokens, so that no answer fits after it."""
    ids = reader.score_request(prompts.pm_input(record["prompt"], "", format)).ids
    require_length(len(ids), longest, "the preference model's context minus --max-tokens")
