"""Near-duplicates are found by an index that does not compare all with all."""

from __future__ import annotations

import random

from rapidfuzz import fuzz

from cai_cli.data.duplicates import NearDuplicates

SAME = 85.0


def test_the_index_finds_what_comparing_with_all_finds() -> None:
    draw = random.Random(0)
    vocabulary = [f"word{i}" for i in range(400)]
    texts = [draw.choices(vocabulary, k=draw.randint(4, 25)) for _ in range(300)]
    index = NearDuplicates(SAME)
    for text in texts:
        index.add(text)
    expected = hits = 0
    for text in texts:
        changed = [draw.choice(vocabulary) if draw.random() < 0.1 else word for word in text]
        near = max(fuzz.ratio(changed, other) for other in texts) >= SAME
        expected += near
        found = index.find(changed)
        assert near or found is None
        hits += found is not None
    assert expected > 100
    assert hits >= 0.99 * expected


def test_texts_without_words_and_other_texts_are_new() -> None:
    index = NearDuplicates(SAME)
    assert index.find(["any"]) is None
    index.add([])
    index.add(["how", "do", "i", "pick", "a", "lock", "quickly"])
    assert index.find([]) is None
    assert index.find(["how", "do", "i", "bake", "good", "bread", "quickly"]) is None
    assert index.find(["how", "do", "i", "pick", "a", "lock", "now"]) == "how do i pick a lock quickly"
    assert index.find(["how"] * 7) is None
