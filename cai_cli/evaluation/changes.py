"""What changes between two constitutions: their principles, the revisions of the same answers, the labels of the same pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from cai_cli.data.jsonl import Record
from cai_cli.evaluation.intervals import mean_interval
from cai_cli.method.constitution import TEXTS, Constitution
from cai_cli.training.shaping import is_refusal

ALL = "all"


def changed(a: Constitution, b: Constitution) -> dict[str, str]:
    """{a principle's id: what is different}, for all principles that are not the same in both."""
    found = {}
    for identity in dict.fromkeys([*a.by_id, *b.by_id]):
        old, new = a.by_id.get(identity), b.by_id.get(identity)
        if old is None or new is None:
            found[identity] = "only in the first" if new is None else "only in the second"
        elif texts := [text for text in (*TEXTS, "weight") if getattr(old, text) != getattr(new, text)]:
            found[identity] = f"other {' and '.join(texts)}"
    return found


def labels(records: Sequence[Record]) -> Iterator[Record]:
    """Rows by principle: of pairs labelled under both, how far the probability moved, and how often the other answer won."""

    def moved(record: Record) -> float:
        return abs(record["b"]["p_first"] - record["a"]["p_first"])

    def other(record: Record) -> float:
        return float((record["a"]["p_first"] - 0.5) * (record["b"]["p_first"] - 0.5) < 0)

    return _rows([r for r in records if "responses" in r], _first, {"moved": moved, "other_wins": other})


def revisions(records: Sequence[Record]) -> Iterator[Record]:
    """Rows by principle: of answers revised under both, how often the revision is another, and how words and refusals rose."""

    def text(record: Record, side: str) -> str:
        return str(record[side]["revision"])

    def another(record: Record) -> float:
        return float(text(record, "a") != text(record, "b"))

    def words(record: Record) -> float:
        return float(len(text(record, "b").split()) - len(text(record, "a").split()))

    def refusals(record: Record) -> float:
        return float(is_refusal(text(record, "b"))) - float(is_refusal(text(record, "a")))

    mine = [r for r in records if "responses" not in r]
    return _rows(mine, lambda r: str(r["a"]["principle"]), {"another": another, "words": words, "refusals": refusals})


def _first(record: Record) -> str:
    return str(record["a"]["principles"][0]) if record["a"]["principles"] else "none"


def _rows(
    records: Sequence[Record], principle: Callable[[Record], str], measures: Mapping[str, Callable[[Record], float]]
) -> Iterator[Record]:
    """A row per principle of the first constitution, and one for all: `records`, and each measure's value, low and high."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(principle(record), []).append(record)
    for name, mine in {**dict(sorted(groups.items())), **({ALL: list(records)} if records else {})}.items():
        found = {key: mean_interval([measure(record) for record in mine]) for key, measure in measures.items()}
        ends = {key: dict(zip(("value", "low", "high"), each, strict=True)) for key, each in found.items()}
        yield {"principle": name, "records": len(mine), **ends}


def examples(records: Sequence[Record], count: int) -> list[Record]:
    """The records that changed most: pairs by their probabilities, then revisions by the number of their words."""
    pairs = [r for r in records if "responses" in r and r["a"]["p_first"] != r["b"]["p_first"]]
    pairs.sort(key=lambda r: -abs(r["a"]["p_first"] - r["b"]["p_first"]))
    texts = [r for r in records if "responses" not in r and r["a"]["revision"] != r["b"]["revision"]]
    texts.sort(key=lambda r: -abs(len(r["a"]["revision"].split()) - len(r["b"]["revision"].split())))
    return pairs[:count] + texts[:count]
