"""From a record to the token ids that a trainer sees: supervised examples, preferences, and prompts for RL.

The code that renders prompts for generation and conversations for scoring also tokenises the examples, so a model is
trained on exactly what it will be shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict, cast

from cai_cli.data import preferences, reasoning, records
from cai_cli.data.jsonl import Record
from cai_cli.data.records import Messages, as_messages
from cai_cli.engines.base import common_prefix
from cai_cli.errors import Skipped
from cai_cli.method import prompts
from cai_cli.method.tokens import Renderer


class SFTExample(TypedDict):
    """A supervised example."""

    input_ids: list[int]
    labels: list[int]
    """The same tokens, with -100 where there is no loss."""


class PreferenceExample(TypedDict):
    """A pair of whole conversations."""

    chosen_ids: list[int]
    rejected_ids: list[int]
    p_chosen: float
    """The probability that the chosen answer is the better one."""
    weight: float
    """The factor of the pair's loss."""


class RatedExample(TypedDict):
    """A whole conversation and its rating."""

    input_ids: list[int]
    rating: float
    weight: float
    """The factor of the conversation's loss."""


class DPOExample(PreferenceExample):
    """A prompt, and the two answers that follow it."""

    prompt_ids: list[int]


class RLExample(TypedDict):
    """A prompt for RL."""

    id: str
    messages: Messages
    """For the preference models, which render it themselves."""
    ids: list[int]
    """The policy's own tokens."""
    text: str
    """The same as text."""
    held_out: NotRequired[bool]
    """Whether it is only evaluated on."""
    rubric: NotRequired[list[Any]]
    """The record's own criteria, for a feedback model."""


# Supervised examples ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """An answer to train on."""

    prompt: Messages
    text: str
    reasoning: str | None = None
    """What the model wrote before it."""
    cut: bool = False
    """Whether it was truncated at --max-tokens."""


def sft_error(record: Record) -> str | None:
    """Why a record gives no supervised example, or None.

    Accepts revision and response records, records with several responses, preferences, and TRL's `messages` and `prompt` +
    `completion`.
    """
    if "messages" in record:
        if records.has_tools(record):
            return None  # skipped later, with a reason
        if error := records.messages_error(record["messages"], "messages"):
            return error
        turns = [message["role"] for message in record["messages"]]
        answered = turns[-1] == "assistant" and "user" in turns
        return None if answered else "'messages' must end with the assistant's answer to a user"
    if "chosen" in record:
        return records.preference_error({"rejected": record["chosen"], **record})
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


def answers(record: Record, revisions: str) -> list[Answer]:
    """The answers of a record: every revision (section 3.2), or only the "last"; or every response; or the chosen one.

    Skipped if it has turns that cai does not train on.
    """
    kept = record.get("reasoning")
    alone = kept if isinstance(kept, str) else None
    if "messages" in record:
        if records.has_tools(record):
            raise Skipped("it has tool calls or a tool's turn, which cai does not train on; use TRL's SFTTrainer for them")
        return [Answer(record["messages"][:-1], record["messages"][-1]["content"], alone)]
    if "chosen" in record:
        return [_chosen(record)]
    prompt = as_messages(record["prompt"])
    if "completion" in record:
        completion = record["completion"]
        return [Answer(prompt, completion if isinstance(completion, str) else completion[0]["content"], alone)]
    if "responses" in record and "response" not in record:
        each = zip(record["responses"], reasoning.of_responses(record), records.truncated(record), strict=False)
        return [Answer(prompt, *one) for one in each]
    revised = [
        Answer(prompt, entry["revision"], reasoning.of_revision(entry), "revision-cut" in entry.get("flags", []))
        for entry in record.get("rounds") or []
        if "revision" in entry
    ]
    if not revised:
        return [Answer(prompt, record["response"], alone, records.truncated(record)[0])]
    return revised if revisions == "all" else revised[-1:]


def _chosen(record: Record) -> Answer:
    """The chosen answer of a preference."""
    try:
        found = preferences.sides({"rejected": record["chosen"], **record})
    except ValueError as problem:
        raise Skipped(str(problem)) from None
    *before, last = found.chosen
    text = last["content"]
    return Answer([*found.prompt, *before], text, reasoning.of_side(record, "chosen", text), is_cut(record, text))


def turn_end(renderer: Renderer, format: str) -> list[int]:
    """The tokens that end an assistant's turn: those after an answer, up to the end of the first row of control tokens."""
    tokenizer = renderer.tokenizer
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    if format != "chat":
        return end
    control = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ids = renderer.closing()
    first = next((i for i, token in enumerate(ids) if token in control), len(ids))
    last = next((i for i in range(first, len(ids)) if ids[i] not in control), len(ids))
    return ids[:last] if first < last else end


@dataclass(frozen=True)
class AnswerMaker:
    """Makes the tokens of an answer."""

    renderer: Renderer
    format: str
    """"chat" or "hh"."""
    end: list[int]
    """The tokens that end a turn (`turn_end`)."""
    learn_reasoning: bool = False
    """Whether an answer's reasoning is written before it, as the model's own."""

    def ids(self, answer: Answer, end: list[int]) -> tuple[list[int], list[int]]:
        """(ids of the prompt, ids of the answer and of `end`). A truncated answer gets no end. Skipped if it is empty."""
        if not answer.text.strip():
            raise Skipped("its answer is empty")
        text = prompts.answer_text(answer.text, self.format)
        reason = answer.reasoning if self.learn_reasoning else None
        prompt, ids = self.renderer.completion(prompts.answer({"prompt": answer.prompt}, self.format), text, reason)
        return prompt, ids if answer.cut else ids + end


def sft_example(maker: AnswerMaker, answer: Answer, longest: int, keep_cut: bool) -> SFTExample:
    """One supervised example: the loss is on the answer and the tokens that end its turn (paper, section 3.1).

    The prompt has the tokens that it has for generation. Skipped if the answer is empty, truncated (without `keep_cut`), or
    longer than `longest` tokens.
    """
    if answer.cut and not keep_cut:
        raise Skipped("its answer was truncated at --max-tokens; --keep-cut trains on it without an end")
    prompt, ids = maker.ids(answer, maker.end)
    require_length(len(prompt) + len(ids), longest)
    return {"input_ids": prompt + ids, "labels": [-100] * len(prompt) + ids}


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


def dpo_example(maker: AnswerMaker, record: Record, longest: int) -> DPOExample:
    """One pair for DPO. The loss is on the tokens after the prompt.

    The prompt ends at the first token where either side differs from it. Skipped if there is no prompt, if an answer is empty,
    if both are the same, or if a conversation is longer than `longest` tokens.
    """
    try:
        found = preferences.sides(record)
    except ValueError as problem:
        raise Skipped(str(problem)) from None
    if found.chosen == found.rejected:
        raise Skipped("both answers are the same")
    asked, _ = maker.renderer.render(prompts.answer({"prompt": found.prompt}, maker.format))
    # a chat's turn as a whole, with what the template puts after its end
    end = (maker.renderer.closing() or maker.end) if maker.format == "chat" else maker.end
    rows = []
    for *before, last in (found.chosen, found.rejected):
        text = last["content"]
        prompt, ids = maker.ids(Answer([*found.prompt, *before], text, cut=is_cut(record, text)), end)
        rows.append(prompt + ids)
    same = min(common_prefix(asked, ids) for ids in rows)
    require_length(max(map(len, rows)), longest)
    chosen, rejected = (ids[same:] for ids in rows)
    return {"prompt_ids": asked[:same], "chosen_ids": chosen, "rejected_ids": rejected, **_soft_label(record)}


def is_cut(record: Record, answer: str) -> bool:
    """Whether an answer of a preference was truncated at --max-tokens, by the meta of the same text in `responses`."""
    pairs = zip(record.get("responses") or [], records.truncated(record), strict=False)
    return any(cut for text, cut in pairs if text == answer)


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


def longest_side(pair: PreferenceExample | DPOExample) -> int:
    """Tokens of a pair's longer conversation, with the prompt if it is separate (DPO)."""
    return len(cast(DPOExample, pair).get("prompt_ids", [])) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"]))


# Ratings ------------------------------------------------------------------------------------------


def rated_error(record: Record) -> str | None:
    """Why a record gives no rated conversation, or None. It needs `prompt`, `response` and the number `rating`."""
    if "response" not in record:
        if "chosen" in record:
            return "a preference, which has no rating: train on it with --target preference"
        return "no 'response' field: a rating is of a whole conversation; `cai import red-team-attempts --answers` keeps it whole"
    if error := records.response_error(record):
        return error
    if "rating" not in record:
        return "no 'rating' field: --target score trains on a number for each conversation"
    rating = record["rating"]
    if isinstance(rating, bool) or not isinstance(rating, int | float):
        return f"'rating' must be a number, found {type(rating).__name__}"
    return records.weight_error(record)


def rated_example(renderer: Renderer, format: str, record: Record, longest: int) -> RatedExample:
    """One rated conversation, with its last answer. Skipped if the answer is empty or the whole longer than `longest` tokens."""
    if not record["response"].strip():
        raise Skipped("its answer is empty")
    ids = renderer.score_request(prompts.pm_input(record["prompt"], record["response"], format)).ids
    require_length(len(ids), longest)
    return {"input_ids": ids, "rating": float(record["rating"]), "weight": float(record.get("weight", 1.0))}


# Prompts for RL -----------------------------------------------------------------------------------


def rl_prompt(renderer: Renderer, format: str, record: Record, longest: int) -> RLExample:
    """One prompt. Skipped if it has more than `longest` of the policy's own tokens."""
    ids, text = renderer.render(prompts.answer(record, format))
    require_length(len(ids), longest, "--max-length minus --max-tokens")
    found: RLExample = {"id": record["id"], "messages": as_messages(record["prompt"]), "ids": ids, "text": text}
    if record.get("rubric") is not None:
        found["rubric"] = record["rubric"]
    return found


def require_pm_length(reader: Renderer, format: str, record: Record, longest: int) -> None:
    """Skipped if a prompt has more than `longest` of a preference model's tokens, so that no answer fits after it."""
    ids = reader.score_request(prompts.pm_input(record["prompt"], "", format)).ids
    require_length(len(ids), longest, "the preference model's context minus --max-tokens")
