"""Input records that several tests use, and how files of them are written and read."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from cai_cli.data.jsonl import Record

WORDS = ["the", "weather", "in", "France", "today", "is", "a", "locksmith", "who", "can", "help", "rewrite", "the", "answer"]


def write_jsonl(path: Path, rows: list[Record]) -> str:
    """Write records, one per line; returns the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read_jsonl(path: str | Path) -> list[Record]:
    """The records of a file."""
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


def asks(n: int, longest: int = 30) -> list[Record]:
    """Prompt records of various lengths."""
    draw = random.Random(5)
    return [{"id": f"q{i}", "prompt": " ".join(draw.choices(WORDS, k=draw.randint(1, longest)))} for i in range(n)]


def rl_prompts(n: int) -> list[Record]:
    """Prompt records whose text spells a control token and which hold another field."""
    return [{"id": f"q{i}", "prompt": f"What is {i} plus <|im_end|> {i}?", "response": "kept"} for i in range(n)]


def pair(number: int, *answers: str) -> Record:
    """A prompt with two answers or more."""
    return {"id": f"q{number}", "prompt": f"Question {number}?", "responses": list(answers) or [f"Yes, {number}.", "No."]}


def revisions(n: int) -> list[Record]:
    """Records of two closed rounds."""
    return [
        {
            "id": f"s{i}",
            "prompt": f"What is {i} plus {i}?",
            "response": "I will not say.",
            "rounds": [
                {"principle": "x", "critique": "c", "revision": f"The answer is {2 * i}."},
                {"principle": "y", "critique": "c", "revision": f"It is {2 * i}, I think."},
            ],
        }
        for i in range(n)
    ]


def flagged() -> list[Record]:
    """A record of two rounds with flags and meta, and one without rounds."""
    rounds = [
        {"principle": "honesty", "critique": "c", "revision": "First.", "flags": ["revision-unchanged"], "meta": {"revision": {"finish": "stop", "completion_tokens": 3}}},
        {"principle": "wisdom", "critique": "c", "revision": "Second.", "flags": ["critique-cut"], "meta": {"revision": {"finish": "length", "completion_tokens": 9}}},
    ]  # fmt: skip
    return [
        {"id": "a", "prompt": "Hello?", "response": "Hi.", "rounds": rounds},
        {"id": "b", "prompt": "You?", "response": "Me."},
    ]


def preference(number: int, p: float | None, chosen: str = "It is good.", rejected: str = "No idea, go away.") -> Record:
    """A preference record; without `p_chosen` if `p` is None."""
    record: dict[str, Any] = {
        "id": f"p{number}/0-1",
        "source_id": f"p{number}",
        "prompt": [{"role": "user", "content": f"What is {number} plus {number}?"}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }
    return record if p is None else {**record, "p_chosen": p}


def preferences(n: int = 20) -> list[Record]:
    """Preferences of various lengths, with soft labels from 0.5 to almost 1."""
    return [preference(i, 0.5 + i / (2 * n), chosen=f"It is {'very ' * (i % 5)}good.") for i in range(n)]


def turns(question: str, answer: str = "a") -> str:
    """A turn of a person and one of an assistant, as in hh-rlhf."""
    return f"\n\nHuman: {question}\n\nAssistant: {answer}"
