"""Finished records that wait on disk for an unfinished one before them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from cai_cli.data.jsonl import Record
from cai_cli.engines.base import Choice, Completion, Engine, Feed, Key, Request, Result, Steps
from cai_cli.errors import Skipped
from cai_cli.pipeline import ahead, outputs, stage, window
from tests.rows import asks, read_jsonl, write_jsonl


class HeadLast(Engine):
    """An engine that holds the first request back until all others are done, and counts the requests that it gets."""

    context = 512
    asked = 0
    limit: float = float("inf")
    """Raises KeyboardInterrupt after so many results."""

    def run(self, feed: Feed) -> Iterator[tuple[Key, Result]]:
        held: list[tuple[Key, Request]] = []
        given = 0
        for entry in feed:
            if entry is not None:
                HeadLast.asked += 1
                held.append(entry)
            while len(held) > 1:
                given += 1
                if given > self.limit:
                    raise KeyboardInterrupt
                key, request = held.pop()
                yield key, Completion(f"{request.ids[0]}", "stop", 0, 1, 1)
            if entry is None and held:
                yield held.pop()[0], Completion("0", "stop", 0, 1, 1)


def program(record: Record) -> Steps[list[Record]]:
    number = int(record["id"][1:])
    [done] = yield [Request("generate", [number], "")]
    if number % 7 == 3:
        raise Skipped("its number", {**record, "far": True})
    return [{**record, "response": done.text}] * (number % 3)


def run(source: str, out: Path, size: int = 4) -> outputs.FileOutput | outputs.StreamOutput:
    HeadLast.asked = 0
    output = outputs.FileOutput(str(out), {"a": 1})
    job = stage.Job("test", lambda record: None, program, HeadLast, 512, {}, {})
    try:
        stage._Run(job, stage.RunOptions(source, window=size, quiet=True), output, {}).run()
        output.finish({})
    finally:
        output.close()
    return output


def test_a_long_text_at_the_head_holds_nothing_back(tmp_path: Path) -> None:
    """All others are asked while the first is unfinished, and the output is in order."""
    source = write_jsonl(tmp_path / "in.jsonl", asks(200))
    run(source, tmp_path / "out")
    run(source, tmp_path / "wide", size=1000)
    assert HeadLast.asked == 200
    assert (tmp_path / "out").read_bytes() == (tmp_path / "wide").read_bytes()
    assert [row["id"] for row in read_jsonl(tmp_path / "out")] == [
        f"q{n}" for n in range(200) for _ in range(n % 3) if n % 7 != 3
    ]
    assert (tmp_path / "out.skipped.jsonl").read_bytes() == (tmp_path / "wide.skipped.jsonl").read_bytes()
    assert not list(tmp_path.glob("*.partial*"))


def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "AHEAD", 10)
    most = 0
    add = window.Window.add

    def counted(self: window.Window, item: window.Item) -> None:
        nonlocal most
        add(self, item)
        most = max(most, len(self.items))

    monkeypatch.setattr(window.Window, "add", counted)
    run(write_jsonl(tmp_path / "in.jsonl", asks(200)), tmp_path / "out")
    assert most == 14


@pytest.mark.parametrize("torn", ["", "cut", "strange"])
def test_an_interrupted_run_finds_what_waited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: str) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", asks(200)), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(HeadLast, "limit", 150)
        with pytest.raises(KeyboardInterrupt):
            run(source, out)
    left = Path(f"{out}.partial.ahead")
    waited = left.read_bytes().count(b"\n")
    assert waited > 140
    if torn:
        *whole, last = left.read_bytes().splitlines(keepends=True)
        left.write_bytes(b"".join(whole) + (last[:-5] if torn == "cut" else b"{}\n"))
        waited -= 1
    run(source, out)
    assert HeadLast.asked == 200 - waited
    run(source, tmp_path / "whole")
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()
    assert not list(tmp_path.glob("*.partial*"))


def test_the_file_of_those_that_wait_does_not_grow_with_the_run(tmp_path: Path) -> None:
    held = ahead.Ahead(tmp_path / "x")
    for turn in range(3):
        places = [held.put((f"{n}:d", [{"n": n, "turn": turn}], [], (1, 2, 3, 4))) for n in range(5)]
        assert [held.take(place)[1][0]["n"] for place in places] == list(range(5))
        assert (tmp_path / "x").stat().st_size == 0
    held.close()


def test_nor_with_one_that_always_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long texts follow each other so closely that some record waits at every moment. What waits survives a new start."""
    monkeypatch.setattr(ahead, "SLACK", 1000)
    held, waiting, most = ahead.Ahead(tmp_path / "x"), deque[int](), 0
    for n in range(500):
        waiting.append(held.put((f"{n}:d", [{"n": n}], [], (1, 2, 3, 4))))
        if n >= 7:
            assert held.take(waiting.popleft())[1] == [{"n": n - 7}]
        held.flush()
        most = max(most, (tmp_path / "x").stat().st_size)
    assert most < 3000
    held.close()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    again = ahead.Ahead(tmp_path / "x")
    assert again.find("493:d") is not None
    numbers = [again.find(f"{n}:d") for n in range(494, 500)]
    assert [again.take(number)[1][0]["n"] for number in numbers if number is not None] == list(range(494, 500))


def test_letters_are_read_while_texts_are_written(tmp_path: Path) -> None:
    """The second request of a record reaches the engine while other records wait for their first result."""
    seen: list[str] = []

    class OneByOne(Engine):
        context = 512

        def run(self, feed: Feed) -> Iterator[tuple[Key, Result]]:
            held: list[tuple[Key, Request]] = []
            for entry in feed:
                held += [entry] if entry is not None else []
                if entry is None:
                    key, request = held.pop()
                    seen.append(request.kind)
                    text = Completion("text", "stop", 0, 1, 1)
                    yield key, text if request.kind == "generate" else Choice({"A": -1.0}, 1)

    def asking(record: Record) -> Steps[list[Record]]:
        yield [Request("generate", [1], "")]
        [choice] = yield [Request("choose", [1], "", options={"A": 1})]
        return [{**record, "p": choice.logprobs["A"]}]

    output = outputs.FileOutput(str(tmp_path / "out"), {"a": 1})
    job = stage.Job("test", lambda record: None, asking, OneByOne, 512, {}, {})
    source = write_jsonl(tmp_path / "in.jsonl", asks(20))
    stage._Run(job, stage.RunOptions(source, quiet=True), output, {}).run()
    output.finish({})
    output.close()
    assert len(read_jsonl(tmp_path / "out")) == 20
    assert seen == ["generate", "choose"] * 20
