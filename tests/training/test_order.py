"""The order of examples in a run."""

from __future__ import annotations

import numpy as np

from cai_cli.training import order


def test_steps_hold_examples_of_similar_length() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(5, 200, 1000).tolist()
    found = order.grouped(lengths, 2500, 8, seed=1)
    assert found == order.grouped(lengths, 2500, 8, seed=1) != order.grouped(lengths, 2500, 8, seed=2)
    assert len(found) == 2500
    assert {found.count(i) for i in range(1000)} <= {2, 3}  # two passes and a half

    def padded(sequence: list[int]) -> int:
        return sum(8 * max(lengths[i] for i in sequence[at : at + 8]) for at in range(0, 2496, 8))

    drawn = order.passes(1000, 2500, seed=1)
    assert padded(found) < 1.1 * sum(lengths[i] for i in found)
    assert padded(drawn) > 1.5 * sum(lengths[i] for i in drawn)
    few = order.grouped(lengths[:16], 64, 4, seed=1)
    assert all(len({*few[at : at + 4]}) == 4 for at in range(0, 64, 4))  # several passes in a run, but no example twice in a step
    first = [max(lengths[i] for i in found[at : at + 8]) for at in range(0, 400, 8)]
    assert first != sorted(first)  # long and short steps follow each other at random
