"""When a run writes a checkpoint."""

from __future__ import annotations

import pytest

from cai_cli.training.progress import SAVE_SECONDS, SAVE_SHARE, checkpoint_is_due


@pytest.mark.parametrize("cost", [0.5, 5.0, 60.0, 600.0])
def test_checkpoints_take_at_most_a_tenth_of_the_time(cost: float) -> None:
    """A day of steps of 10 seconds. Only the first checkpoint, whose time nobody knows, may take more."""
    now = since = saving = last = 0.0
    written = []
    while now < 86_400:
        now, since = now + 10, since + 10
        if checkpoint_is_due(since, now, saving, last):
            now, saving, last, since = now + cost, saving + cost, cost, 0.0
            written.append(now)
            assert saving <= max(cost, 1.01 * SAVE_SHARE * now)
    assert SAVE_SECONDS < written[0] < SAVE_SECONDS + 20 + cost
    assert len(written) > min(86_400 / (SAVE_SECONDS + cost + 10), 86_400 * SAVE_SHARE / cost) - 2
