"""Programs in memory: their results in order, equal requests once, and failures raised inside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cai_cli.engines.base import Completion, Failure, Feed, Key, Request, Result, Steps
from cai_cli.errors import Skipped
from cai_cli.pipeline.inline import drive


class Echo:
    """An engine that answers with a request's text, last request first. It fails for the text "bad"."""

    context = 10

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def run(self, feed: Feed) -> Iterator[tuple[Key, Result]]:
        entries: list[Any] = list(feed)
        self.asked.append([request.text for _, request in entries])
        for key, request in reversed(entries):
            yield key, Failure("broken") if request.text == "bad" else Completion(request.text.upper(), "stop", 0, 1, 1)


def asking(*texts: str, ids: int = 1) -> Steps[list[str]]:
    found = []
    for text in texts:
        results: list[Completion] = yield [Request("generate", [0] * ids, each) for each in text.split()]
        found += [result.text for result in results]
    return found


def test_results_are_in_order_and_equal_requests_are_computed_once() -> None:
    engine = Echo()
    assert drive(engine, [asking("a b", "c"), asking(), asking("b b", "", "a")], 10) == [["A", "B", "C"], [], ["B", "B", "A"]]
    assert engine.asked == [["a", "b"], ["c"], ["a"]]


def test_a_failure_ends_its_program_alone() -> None:
    first, second, third = drive(Echo(), [asking("a", "bad"), asking("a"), asking("a", ids=11)], 10)
    assert isinstance(first, Skipped)
    assert str(first) == "broken"
    assert second == ["A"]
    assert isinstance(third, Skipped)
    assert "exceed the model's context of 10" in str(third)
