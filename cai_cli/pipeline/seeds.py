"""Every random draw depends only on (seed, step, id, round or pair, sample).

So a record draws the same principle and the same sampling seed in any batch, shard, restart or chain of commands.
"""

from __future__ import annotations

from hashlib import blake2b

from cai_cli.data.jsonl import dumps


def draw(*parts: str | int) -> int:
    """An integer in [0, 2**48) that depends only on `parts`.

    48 bits are few enough for tools that read JSON numbers as doubles, and enough that the seeds of two requests are never
    neighbours (vLLM gives sample i the seed + i).
    """
    return int.from_bytes(blake2b(dumps(list(parts)).encode(), digest_size=6).digest(), "big")


def draw_uniform(*parts: str | int) -> float:
    """A number in [0, 1) that depends only on `parts`."""
    return draw(*parts) / 2**48
