"""How diverse a set of answers is, and which phrases its answers share that another set's do not. Pure functions.

Words are what white space separates, in lower case. So a language that is written without spaces is not measured.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from math import ceil
from typing import TypeVar

from cai_cli.data.jsonl import Record

T = TypeVar("T", bound=Hashable)
SAMPLE = 200
"""Diversity is measured on at most so many texts. More texts are less distinct and more alike, whoever wrote them."""
PHRASE_WORDS, PHRASE_SHARE, PHRASE_LEAST, PHRASE_RATIO = 5, 0.05, 3, 0.2
"""A new phrase has at least so many words, is in this share of the texts and in so many, and in the others this much as often."""
PHRASES = 10
"""Most phrases that `new_phrases` returns."""


def words(text: str) -> list[str]:
    """The words of a text."""
    return text.lower().split()


def ngrams(text: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """Every run of n words of a text that was split into words."""
    return (tuple(text[i : i + n]) for i in range(len(text) - n + 1))


def distinct(texts: Sequence[str], n: int, limit: int | None = None) -> float | None:
    """Distinct-n (Li et al. 2016): different n-grams per n-gram, of the first `limit` ones; None if there are none."""
    grams = [gram for text in texts for gram in ngrams(words(text), n)][:limit]
    return len(set(grams)) / len(grams) if grams else None


def self_bleu(texts: Sequence[str]) -> float | None:
    """Self-BLEU (Zhu et al. 2018), 0 to 1: the mean BLEU of each text, with all the others as its references.

    Tokens, n-grams, smoothing and formula are sacrebleu's, as in its `sentence_score`. That counts the n-grams of all the
    references again for each text; here they are counted once. None for fewer than two texts.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.helpers import extract_all_word_ngrams

    if len(texts) < 2:
        return None
    bleu = BLEU(effective_order=True)
    counted = [extract_all_word_ngrams(bleu.tokenizer(text.rstrip()), 1, bleu.max_ngram_order) for text in texts]
    most, second = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()  # how often an n-gram is in the texts that have most
    for grams, _ in counted:
        for gram, count in grams.items():
            if count > most[gram]:
                most[gram], second[gram] = count, most[gram]
            elif count > second[gram]:
                second[gram] = count
    scores = []
    for i, (grams, length) in enumerate(counted):
        correct, total = [0] * bleu.max_ngram_order, [0] * bleu.max_ngram_order
        for gram, count in grams.items():
            total[len(gram) - 1] += count
            correct[len(gram) - 1] += second[gram] if count == most[gram] else count
        closest = min((abs(other - length), other) for j, (_, other) in enumerate(counted) if j != i)[1]
        scores.append(BLEU.compute_bleu(correct, total, length, closest, "exp", effective_order=True).score / 100)
    return sum(scores) / len(scores)


def drawn(groups: Mapping[T, Sequence[str]], seed: int = 0) -> dict[T, list[str]]:
    """Equally many texts of each group, at most SAMPLE, in a random order. Texts without a word are never drawn.

    Of groups of equal size the texts at the same places are drawn.
    """
    full = {name: [text for text in texts if text.strip()] for name, texts in groups.items()}
    size = min([SAMPLE, *(len(texts) for texts in full.values() if texts)])
    return {name: random.Random(seed).sample(texts, min(size, len(texts))) for name, texts in full.items()}


def diversity(groups: Mapping[T, Sequence[str]], seed: int = 0) -> dict[T, Record]:
    """`distinct_1`, `distinct_2` and `self_bleu` of each group, of `drawn` texts; None where a group has too few words.

    Distinct-n falls as texts grow, so it is computed over equally many n-grams of each group: `ngrams` of two words.
    """
    texts = drawn(groups, seed)
    found: dict[T, Record] = {name: {"drawn": len(each)} for name, each in texts.items()}
    for n in (1, 2):
        totals = [sum(max(0, len(words(text)) - n + 1) for text in each) for each in texts.values()]
        limit = min((total for total in totals if total), default=0)
        for name, each in texts.items():
            found[name] |= {"ngrams": limit, f"distinct_{n}": distinct(each, n, limit)}
    for name, each in texts.items():
        found[name]["self_bleu"] = self_bleu(each)
    return found


def new_phrases(texts: Sequence[str], base: Sequence[str]) -> list[Record]:
    """Phrases that many texts share and few of `base` have: `phrase`, and the shares of the texts and of `base` with it.

    A phrase has PHRASE_WORDS words or more, is in PHRASE_SHARE of the texts and in PHRASE_LEAST of them, and at most
    PHRASE_RATIO times as often in `base`. First comes the one that covers the most words of the texts. Those words are then
    taken out, so no later one overlaps it.
    """
    need = max(PHRASE_LEAST, ceil(PHRASE_SHARE * len(texts)))
    others = [f" {' '.join(words(text))} " for text in base]
    pieces = [(i, words(text)) for i, text in enumerate(texts)]
    found: list[Record] = []
    known: dict[tuple[str, ...], int] = {}  # in how many of the others a phrase is

    def is_new(phrase: tuple[str, ...], count: int) -> bool:
        if phrase not in known:
            known[phrase] = sum(f" {' '.join(phrase)} " in other for other in others)
        return known[phrase] / max(1, len(base)) <= PHRASE_RATIO * count / len(texts)

    while len(found) < PHRASES:
        shared = {gram: count for gram, at in _places(pieces).items() if (count := _texts(pieces, at)) >= need}
        pieces = list(_covered(pieces, shared))  # a longer shared phrase consists of shared ones
        seeds = [gram for gram, count in shared.items() if is_new(gram, count)]
        if not seeds:
            break
        start = max(seeds, key=lambda gram: (shared[gram], gram))
        grown = _grown(pieces, start, _places(pieces)[start], need)
        phrase, count, at = max((each for each in grown if is_new(each[0], each[1])), key=lambda each: each[1] * len(each[0]))
        found.append({"phrase": " ".join(phrase), "share": count / len(texts), "base": known[phrase] / max(1, len(base))})
        pieces = list(_without(pieces, len(phrase), at))
    return found


Pieces = list[tuple[int, list[str]]]
"""Runs of words, each with the number of its text."""
Places = list[tuple[int, int]]
"""Where a phrase begins: (number of the piece, number of the word)."""


def _places(pieces: Pieces) -> dict[tuple[str, ...], Places]:
    """Where each run of PHRASE_WORDS words is."""
    found = defaultdict(list)
    for number, (_, piece) in enumerate(pieces):
        for at, gram in enumerate(ngrams(piece, PHRASE_WORDS)):
            found[gram].append((number, at))
    return found


def _texts(pieces: Pieces, places: Places) -> int:
    """In how many texts these places are."""
    return len({pieces[number][0] for number, _ in places})


def _covered(pieces: Pieces, shared: Mapping[tuple[str, ...], int]) -> Iterator[tuple[int, list[str]]]:
    """The parts of the pieces in which every run of PHRASE_WORDS words is shared."""
    for text, piece in pieces:
        start = None
        for at, gram in enumerate([*ngrams(piece, PHRASE_WORDS), ()]):
            if gram in shared:
                start = at if start is None else start
            elif start is not None:
                yield text, piece[start : at + PHRASE_WORDS - 1]
                start = None


def _grown(pieces: Pieces, phrase: tuple[str, ...], places: Places, need: int) -> Iterator[tuple[tuple[str, ...], int, Places]]:
    """A phrase, and the longer ones that hold it in `need` texts: each time by the word before or after it in most texts."""
    while (count := _texts(pieces, places)) >= need:
        yield phrase, count, places
        longer: dict[tuple[str, ...], Places] = defaultdict(list)
        for number, at in places:
            piece, end = pieces[number][1], at + len(phrase)
            if at > 0:
                longer[piece[at - 1], *phrase].append((number, at - 1))
            if end < len(piece):
                longer[*phrase, piece[end]].append((number, at))
        if not longer:
            return
        phrase, places = max(longer.items(), key=lambda each: (_texts(pieces, each[1]), each[0]))


def _without(pieces: Pieces, size: int, places: Places) -> Iterator[tuple[int, list[str]]]:
    """What is left of the pieces without the `size` words at each of these places."""
    cuts = defaultdict(list)
    for number, at in places:
        cuts[number].append(at)
    for number, (text, piece) in enumerate(pieces):
        start = 0
        for at in sorted(cuts[number]):
            yield text, piece[start:at]
            start = max(start, at + size)
        yield text, piece[start:]
