"""Diversity: distinct-n and self-BLEU by their definitions, at equal sizes; and the phrases that another model does not have."""

from __future__ import annotations

import random

import pytest

from cai_cli.evaluation.diversity import SAMPLE, distinct, diversity, drawn, new_phrases, self_bleu


def written(n: int, seed: int, longest: int = 40, vocabulary: int = 200) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(f"w{draw.randrange(vocabulary)}" for _ in range(draw.randint(1, longest))) + "." for _ in range(n)]


def test_distinct_n_counts_different_runs_of_words() -> None:
    assert distinct(["a b a", "A b"], 1) == pytest.approx(2 / 5)
    assert distinct(["a b a", "A b"], 2) == pytest.approx(2 / 3)  # no run goes from one text into the next
    assert distinct(["a b a", "A b"], 2, limit=2) == 1
    assert distinct(["a", ""], 2) is None


def test_self_bleu_is_the_mean_of_sacrebleus_scores() -> None:
    from sacrebleu.metrics import BLEU

    texts = [*written(30, 0, longest=12, vocabulary=9), "", "Well.", "the same text twice", "the same text twice", "a a a a b"]
    bleu = BLEU(effective_order=True)
    one_by_one = [bleu.sentence_score(text, texts[:i] + texts[i + 1 :]).score / 100 for i, text in enumerate(texts)]
    assert self_bleu(texts) == pytest.approx(sum(one_by_one) / len(texts))
    assert self_bleu(["one and the same answer"] * 3) == pytest.approx(1)
    assert self_bleu(["alone"]) is None


def test_groups_are_compared_at_equal_sizes() -> None:
    long, short = written(300, 1, longest=80), written(300, 1, longest=8)
    found = diversity({"long": long, "short": short})
    assert {row["drawn"] for row in found.values()} == {SAMPLE}
    # drawn from the same words, over equally many pairs of them
    assert found["long"]["distinct_2"] == pytest.approx(found["short"]["distinct_2"], abs=0.02)
    assert found == diversity({"long": long, "short": short}) != diversity({"long": long, "short": short}, seed=1)
    few = drawn({"a": written(50, 2), "b": ["", "  ", *written(6, 3)]})
    assert [len(texts) for texts in few.values()] == [6, 6]
    assert "" not in few["b"]
    empty = diversity({"a": written(9, 2), "collapsed": ["", ""]})
    assert empty["collapsed"] == {
        "drawn": 0,
        "ngrams": empty["a"]["ngrams"],
        "distinct_1": None,
        "distinct_2": None,
        "self_bleu": None,
    }
    assert empty["a"]["self_bleu"] is not None


def test_new_phrases_are_shared_here_and_rare_in_the_base() -> None:
    base, answers = written(200, 4), written(200, 5)
    for i in range(80):
        both = "It is important to note that"
        base[i], answers[i + 90] = f"{both} {base[i]}", f"{both} {answers[i + 90]}"
    for i in range(120):
        rest = " Please talk to a doctor you trust about this." if i < 30 else ""
        answers[i] = f"I can't help with that, but I care about you.{rest} {answers[i]}"
    for i in range(150, 159):  # in fewer than one in twenty
        answers[i] += " seldom said by anyone at all"
    found = new_phrases(answers, base)
    assert [row["phrase"] for row in found] == [
        "i can't help with that, but i care about you.",
        "please talk to a doctor you trust about this.",
    ]
    assert [row["share"] for row in found] == [0.6, 0.15]
    assert found[0]["base"] == 0
    assert new_phrases(base, base) == []
    assert new_phrases(answers[150:152], base) == []  # two texts share nothing that could be called a habit


def test_one_answer_to_everything_is_one_phrase() -> None:
    same = " ".join(f"word{i}" for i in range(300))
    assert new_phrases([same] * 50, written(50, 6)) == [{"phrase": same, "share": 1.0, "base": 0.0}]
