"""The order of the examples in a whole run, which depends only on the seed.

TRL's samplers start over with each pass and forget earlier passes when a run is resumed. The order of its batches of similar
length also depends on how many examples a process computes at once. The orders here are the same for any number of processes.
"""

from __future__ import annotations

import math

from cai_cli.pipeline.seeds import draw

CHUNK = 50
"""The examples of so many steps are sorted by length together: enough to find similar ones, too few to move them far."""


def passes(examples: int, length: int, seed: int) -> list[int]:
    """The examples' numbers for a whole run, `length` of them: pass after pass, each in its own order."""
    turns = range(math.ceil(length / examples))
    return [i for turn in turns for i in sorted(range(examples), key=lambda i: draw(seed, "order", turn, i))][:length]


def grouped(lengths: list[int], length: int, per_step: int, seed: int) -> list[int]:
    """As `passes`, with examples of similar length in the same step, which saves padding. `lengths` are in tokens.

    Within each chunk the order of the steps is drawn, so steps of long and of short examples are mixed.
    """
    drawn = passes(len(lengths), length, seed)
    # no more than a pass, or the same example would come several times in a step
    chunk = per_step * max(1, min(CHUNK, len(lengths) // per_step))
    found: list[int] = []
    for start in range(0, length, chunk):
        part = sorted(drawn[start : start + chunk], key=lambda i: -lengths[i])
        steps = [part[i : i + per_step] for i in range(0, len(part), per_step)]
        whole, short = [s for s in steps if len(s) == per_step], [s for s in steps if len(s) < per_step]
        whole = [whole[i] for i in sorted(range(len(whole)), key=lambda i: draw(seed, "steps", start, i))]
        found += [i for step in whole + short for i in step]
    return found
