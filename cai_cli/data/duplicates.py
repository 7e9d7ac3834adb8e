"""Nearly equal texts among many, without comparing each with all: MinHash with bands, in SQLite.

A text's MinHash has 64 numbers. Each is equal in two texts with the probability of their Jaccard similarity, the share of words
that both have (Broder 1997). The numbers form 16 bands of 4. Texts with an equal band are candidates: 99.7% of the pairs with a
similarity of 0.74, 2.5% of those with 0.2. Only candidates are compared.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from zlib import crc32

import numpy as np
from rapidfuzz import fuzz, process

BANDS, ROWS = 16, 4
_RANDOM = np.random.default_rng(0)
_FACTORS, _SHIFTS, _MIX = (
    _RANDOM.integers(1, 2**63, size, dtype=np.uint64) for size in (BANDS * ROWS, BANDS * ROWS, (BANDS, ROWS))
)
_ODD = np.uint64(1)


def bands(words: Iterable[str]) -> list[int]:
    """The bands of a text's MinHash, each as one number."""
    hashes = np.array([crc32(word.encode(errors="surrogatepass")) for word in set(words)], dtype=np.uint64)
    least = (hashes[:, None] * (_FACTORS | _ODD) + _SHIFTS).min(0)  # modulo 2^64
    return ((least.reshape(BANDS, ROWS) * (_MIX | _ODD)).sum(1, dtype=np.uint64)).view(np.int64).tolist()


class NearDuplicates:
    """Texts, each a list of words, and which of them a new one nearly equals. They are on disk if they are many."""

    def __init__(self, same: float) -> None:
        """`same`: two texts are nearly equal if at least this percentage of their words is in both, in the same order."""
        self.same, self.count = same, 0
        self.index = sqlite3.connect("")  # an empty name: a temporary file, removed when it is closed
        self.index.executescript(
            "CREATE TABLE texts (number INTEGER PRIMARY KEY, words TEXT);"
            "CREATE TABLE bands (band INTEGER, number INTEGER, PRIMARY KEY (band, number)) WITHOUT ROWID;"
        )

    def add(self, words: Sequence[str]) -> None:
        """Remember a text."""
        self.index.execute("INSERT INTO texts VALUES (?, ?)", (self.count, " ".join(words)))
        if words:
            self.index.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?)", [(band, self.count) for band in bands(words)])
        self.count += 1

    def find(self, words: Sequence[str]) -> str | None:
        """The remembered text that a text nearly equals the most; None if there is none."""
        if not words:
            return None
        marks = ", ".join("?" * BANDS)
        rows = self.index.execute(
            f"SELECT words FROM texts WHERE number IN (SELECT number FROM bands WHERE band IN ({marks})) ORDER BY number",
            bands(words),
        )
        texts = [text for (text,) in rows]
        found = process.extractOne(words, [text.split(" ") for text in texts], scorer=fuzz.ratio, score_cutoff=self.same)
        return texts[found[2]] if found else None
