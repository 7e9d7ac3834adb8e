"""Where every random draw comes from: (seed, step, id, round, sample index) and nothing else.

So a record draws the same principle and the same sampling seed whatever the batch, the shard,
the restart or the chain of commands that it passes through.
"""

from __future__ import annotations

from hashlib import blake2b

from cai_cli.jsonl import dumps


def draw(*parts: str | int) -> int:
    """An integer in [0, 2**48) that depends on `parts` alone.

    48 bits, so that a seed survives tools that read JSON numbers as doubles, and so that two
    requests' seeds are never neighbours (vLLM gives sample i the seed + i).
    """
    return int.from_bytes(blake2b(dumps(list(parts)).encode(), digest_size=6).digest(), "big")


def uniform(*parts: str | int) -> float:
    """A number in [0, 1) that depends on `parts` alone."""
    return draw(*parts) / 2**48
