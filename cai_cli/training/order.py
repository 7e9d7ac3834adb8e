"""The order in which a whole run reads its examples, drawn from the seed alone.

TRL's samplers begin anew with each pass, and forget the passes where a run is resumed; and the order of its batches of like
length depends on how many examples a process computes at once. These hold for a run, however it is split over processes.
"""

from __future__ import annotations

import math

from cai_cli.seeds import draw

CHUNK = 50
"""Steps whose examples are sorted by length together: enough to find like ones, too few to change what comes when."""


def passes(examples: int, length: int, seed: int) -> list[int]:
    """The examples' numbers for a whole run, `length` of them: pass after pass, each in an order of its own."""
    turns = range(math.ceil(length / examples))
    return [i for turn in turns for i in sorted(range(examples), key=lambda i: draw(seed, "order", turn, i))][:length]


def grouped(lengths: list[int], length: int, per_step: int, seed: int) -> list[int]:
    """The same, with examples of like length in the same step, which saves padding. `lengths` are in tokens.

    Steps of long and of short examples follow each other at random.
    """
    drawn = passes(len(lengths), length, seed)
    found: list[int] = []
    for start in range(0, length, CHUNK * per_step):
        part = sorted(drawn[start : start + CHUNK * per_step], key=lambda i: -lengths[i])
        steps = [part[i : i + per_step] for i in range(0, len(part), per_step)]
        whole, short = [s for s in steps if len(s) == per_step], [s for s in steps if len(s) < per_step]
        whole = [whole[i] for i in sorted(range(len(whole)), key=lambda i: draw(seed, "steps", start, i))]
        found += [i for step in whole + short for i in step]
    return found
