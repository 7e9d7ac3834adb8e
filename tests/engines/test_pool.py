"""The pool of waiting requests: how batches are made."""

from __future__ import annotations

from cai_cli.engines.base import Request
from cai_cli.engines.pool import Pool
from tests.engine_feed import feed


def test_a_batch_has_similar_lengths_and_a_bound() -> None:
    pool = Pool(feed([Request("generate", [0] * n, "") for n in (50, 3, 48, 2, 47, 200)]))
    pool.fill()
    assert [len(r.ids) for _, r in pool.take("generate", 2, 100)] == [
        50
    ]  # the only one of similar length is too long for the bound
    assert [len(r.ids) for _, r in pool.take("generate", 2, 100)] == [3, 2]  # the oldest first, so that none waits forever
    assert [len(r.ids) for _, r in pool.take("generate", 2, 100)] == [48, 47]
    assert [len(r.ids) for _, r in pool.take("generate", 2, 100)] == [200]  # longer than the bound, it runs alone
    assert pool.take("generate", 2, 100) == []
