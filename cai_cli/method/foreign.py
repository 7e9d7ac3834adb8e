"""Constitution files in other formats, converted to ours.

The files published with the paper (JSON):
    CritiqueRevisionInstructions     {"harmful0": {"prompt": ["\n\nCritiqueRequest: ...\n\nCritique:"], "edit_request": ...}, ...}
    CritiqueRevisionFewShotPrompts   ["\n\nHuman: ...\n\nAssistant: ...\n\nCritiqueRequest: ...", ...]
    RLMadisonInstructions            ["\nPlease choose the assistant response ... Options:", ...]
    RLMadisonFewShotPrompts          [{"prompt": "\n\nHuman: ...\n\nAssistant:", "corrects": [...], "incorrects": [...]}, ...]
    RLMadisonPrecogFewShotPrompts    [{"prompt": "\n\nHuman: Consider ...{}\n (A) [[[...]]] ... So the answer is: (B)"}, ...]

The file that Hugging Face's scripts read:
    {"constitutions": [{"critic": ..., "revision": ...}], "system_chat": [[{"role", "content"} x 6], ...]}

The paper's questions with a known answer, which `cai eval choice` takes:
    438HHHEvaluations     {"prompt": "\n\nConsider ...\n\nThe answer is:", "corrects": [" (B)"], "incorrects": [" (A)"]}

The paper numbers its critiques and its comparisons both from 0 to 15: files given together are joined by number.
"""

from __future__ import annotations

import re
from typing import Any

from cai_cli.data import transcripts
from cai_cli.data.records import Messages
from cai_cli.data.transcripts import CRITIQUE, CRITIQUE_REQUEST, REVISION, REVISION_REQUEST
from cai_cli.errors import InputError

OPTIONS = " Options:"
_EVALUATION = re.compile(
    r"\n\nConsider the following conversation between a human and an assistant:(\n\nHuman:.*)\n\n\n(.*?) Options:"
    r"\n \(A\) \[\[\[(.*)\]\]\]\n \(B\) \[\[\[(.*)\]\]\]\n\nThe answer is:",
    re.DOTALL,
)
_CHAT_PARTS = (CRITIQUE_REQUEST, CRITIQUE, REVISION_REQUEST, REVISION)


def content(data: Any, source: str) -> dict[str, Any]:
    """The content of a JSON constitution in the format of a YAML one. InputError if its format is not known."""
    try:
        if isinstance(data, dict) and data.keys() & {"principles", "include", "examples"}:
            return data
        if isinstance(data, dict) and "constitutions" in data:
            return _hugging_face(data)
        if (
            isinstance(data, dict)
            and data
            and all(isinstance(entry, dict) and "edit_request" in entry for entry in data.values())
        ):
            return {"principles": [_instruction(name, entry) for name, entry in data.items()]}
        if isinstance(data, list) and data:
            if all(isinstance(entry, str) for entry in data):
                return _texts(data)
            if all("corrects" in entry for entry in data):
                return {"examples": {"comparison": [_comparison(entry) for entry in data]}}
            return {"examples": {"reasoned": [entry["prompt"] for entry in data]}}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as problem:
        raise InputError(f"{source}: not a constitution in a known format ({type(problem).__name__}: {problem})") from None
    raise InputError(f"{source}: not a constitution in a known format; docs/constitutions.md lists the formats")


def _between(text: str, start: str, end: str) -> str:
    """The text between two markers. ValueError unless it begins with `start` and ends with `end`."""
    if not text.startswith(start) or not text.endswith(end):
        raise ValueError(f"a text must begin with {start!r} and end with {end!r}")
    return text[len(start) : len(text) - len(end)]


def _instruction(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """A principle of the paper's critique and revision file."""
    [ask] = entry["prompt"]
    return {
        "id": name,
        "critique": _between(ask, CRITIQUE_REQUEST, CRITIQUE),
        "revision": _between(entry["edit_request"], REVISION_REQUEST, REVISION),
    }


def _texts(data: list[str]) -> dict[str, Any]:
    """The paper's two files that are lists of texts: few-shot rounds, or comparison sentences."""
    if all(CRITIQUE_REQUEST in text for text in data):
        return {"examples": {"critique": data}}
    return {"principles": [{"id": f"harmful{i}", "compare": _between(text, "", OPTIONS)} for i, text in enumerate(data)]}


def _comparison(entry: dict[str, Any]) -> dict[str, Any]:
    [better], [worse] = entry["corrects"], entry["incorrects"]
    *prompt, last = transcripts.messages(entry["prompt"])
    if last != {"role": "assistant", "content": ""}:
        raise ValueError("an example's 'prompt' must end with 'Assistant:'")
    return {"prompt": prompt, "better": better, "worse": worse}


def _hugging_face(data: dict[str, Any]) -> dict[str, Any]:
    principles = [
        {"id": f"principle-{i}", "critique": entry["critic"], "revision": entry["revision"]}
        for i, entry in enumerate(data["constitutions"], 1)
    ]
    return {"principles": principles, "examples": {"critique": [_chat(turns) for turns in data.get("system_chat") or []]}}


def _chat(turns: Messages) -> str:
    """A conversation whose last four messages are critique request, critique, revision request and revision."""
    talk, round_ = turns[:-4], turns[-4:]
    if len(round_) < 4 or not talk:
        raise ValueError("a conversation of 'system_chat' needs six messages")
    return transcripts.transcript(talk) + "".join(
        f"{part} {transcripts.inert(turn['content'])}" for part, turn in zip(_CHAT_PARTS, round_, strict=True)
    )


def evaluation(record: dict[str, Any]) -> tuple[Messages, list[str], int, str]:
    """(prompt, the two answers, which is right, comparison sentence) of a question in the paper's evaluation form.

    Its `prompt` is the whole question that the feedback model is shown, up to "The answer is:". `corrects` and `incorrects`
    hold " (A)" and " (B)", or the reverse. ValueError for any other form. Paper, section 2 and figure 4.
    """
    found = _EVALUATION.fullmatch(str(record.get("prompt")))
    letters = [record.get("corrects"), record.get("incorrects")]
    if not found or letters not in ([[" (A)"], [" (B)"]], [[" (B)"], [" (A)"]]):
        raise ValueError("not a question in the paper's evaluation form: 'prompt' with two options, 'corrects' and 'incorrects'")
    talk, compare, first, second = found.groups()
    prompt = transcripts.messages(talk, exact=True)
    if prompt[-1]["role"] != "user":
        raise ValueError("the conversation of 'prompt' must end with the human's turn")
    return prompt, [first, second], 0 if letters[0] == [" (A)"] else 1, compare
