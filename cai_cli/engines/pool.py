"""The requests that wait for a batch, and the choice of the next batch.

The transformers engine and the scorer take their batches from a `Pool`.
"""

from __future__ import annotations

from collections import Counter
from itertools import count

from cai_cli.engines.base import Feed, Key, Kind, Request

PREFILL_TOKENS = 16_384
"""The largest number of prompt tokens, padding included, that are computed in one pass. It bounds memory."""
READ_TOKENS = 2048
"""Limit in its place on a CPU, where nothing is generated: a larger batch does not fit the CPU's caches, and takes longer."""
SHARED_TOKENS = 32
"""The shortest prefix, in tokens, that is worth computing once for many requests."""


class Pool:
    """Requests that were taken from a feed and wait for a batch."""

    def __init__(self, feed: Feed) -> None:
        self.feed, self.ended, self._numbers = feed, False, count()
        # By kind, then by prefix, oldest first, each with its number: a batch looks only at requests of one prefix, not at all.
        self._waiting: dict[Kind, dict[tuple[int, ...], list[tuple[int, Key, Request]]]] = {}
        self._counts: Counter[Kind] = Counter()

    @property
    def waiting(self) -> bool:
        """Whether a request waits."""
        return self._counts.total() > 0

    def count(self, kind: Kind) -> int:
        """How many requests of a kind wait."""
        return self._counts[kind]

    def fill(self) -> None:
        """Take every request that the feed has at the moment."""
        while not self.ended:
            try:
                entry = next(self.feed)
            except StopIteration:
                self.ended = True
                return
            if entry is None:
                return
            request = entry[1]
            alike = self._waiting.setdefault(request.kind, {}).setdefault(tuple(prefix_of(request)), [])
            alike.append((next(self._numbers), *entry))
            self._counts[request.kind] += 1

    def take(self, kind: Kind, rows: int, tokens: int = PREFILL_TOKENS) -> list[tuple[Key, Request]]:
        """The oldest request of a kind and others of similar length with the same prefix.

        At most `rows`, and at most `tokens` with padding.

        Requests with the same prefix are ranked by length and divided into batches of `rows`; this returns the batch of the
        oldest request.
        """
        if not self._counts[kind] or rows < 1:
            return []
        waiting = self._waiting[kind]
        # Only requests with the same prefix can start from the same copy of its keys and values.
        prefix = min(waiting, key=lambda prefix: waiting[prefix][0][0])
        alike = waiting.pop(prefix)
        lengths = [len(request.ids) for _, _, request in alike]
        ranked = sorted(range(len(alike)), key=lengths.__getitem__)
        # Fixed slices of the ranking, not the nearest neighbours of the oldest request: neighbours would leave the
        # shortest and the longest requests together in the last batch, and that batch would be mostly padding.
        place = ranked.index(0)
        batch = range(place // rows * rows, min(place // rows * rows + rows, len(ranked)))
        # Within the slice, go outwards from the oldest request, so that it always runs, even if it is longer than `tokens`
        # by itself. A padded batch computes as many tokens as its longest row has without the prefix, times its rows.
        chosen: list[int] = []
        longest = 0
        for i in (ranked[at] for at in sorted(batch, key=lambda at: abs(at - place))):
            longest = max(longest, lengths[i] - len(prefix))
            if chosen and longest * (len(chosen) + 1) > tokens:
                break
            chosen.append(i)
        # In order of arrival, so that results do not depend on how ties in length were ranked.
        taken = [alike[i][1:] for i in sorted(chosen)]
        gone = set(chosen)
        if left := [entry for i, entry in enumerate(alike) if i not in gone]:
            waiting[prefix] = left
        self._counts[kind] -= len(taken)
        return taken


def prefix_of(request: Request) -> list[int]:
    """The prefix that a request shares with others; empty if it is shorter than SHARED_TOKENS.

    Never the whole prompt: every request must compute its last token itself, to get the logits after it.
    """
    return request.ids[: min(request.shared, len(request.ids) - 1)] if request.shared >= SHARED_TOKENS else []


def read_tokens(device: str) -> int:
    """The largest number of tokens, padding included, in one pass over texts after which nothing is generated."""
    return READ_TOKENS if device == "cpu" else PREFILL_TOKENS
