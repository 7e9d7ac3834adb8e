"""`cai export dataset`: a folder that `datasets` reads with one set of columns per file, and a card; nothing is uploaded unasked."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Here
from tests.rows import preference, read_jsonl, revisions, write_jsonl


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two files whose rows differ in their fields and types."""
    rows = revisions(3)
    rows[1] |= {"prompt": [{"role": "user", "content": "Why?"}], "meta": {"a": {"b": 1}}, "kind": "x", "odd": 3}
    rows[2] |= {"odd": "three", "meta": {"c": [1, 2]}}
    return [
        write_jsonl(tmp_path / "revised.jsonl", rows),
        write_jsonl(tmp_path / "prefs.jsonl", [preference(0, 1), preference(1, 0.7)]),
    ]


def test_datasets_reads_every_file_with_one_set_of_columns(here: Here, files: list[str], tmp_path: Path) -> None:
    from datasets import load_dataset

    out = tmp_path / "hf"
    done = here("export", "dataset", out, *files, "--license", "cc-by-4.0")
    assert "5 rows (revised 3, prefs 2)" in done.err
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "prefs.jsonl", "revised.jsonl"]
    revised: Any = load_dataset(str(out), "revised", split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["prompt"][0]["role"] for row in revised] == ["user"] * 3
    assert [row["kind"] for row in revised] == [None, "x", None]
    assert [row["odd"] and json.loads(row["odd"]) for row in revised] == [None, 3, "three"]
    assert json.loads(revised[1]["meta"]) == {"a": {"b": 1}}
    assert [entry["revision"] for entry in revised[0]["rounds"]] == ["The answer is 0.", "It is 0, I think."]
    prefs: Any = load_dataset(str(out), "prefs", split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["p_chosen"] for row in prefs] == [1.0, 0.7]
    assert [row["chosen"][-1]["role"] for row in prefs] == ["assistant", "assistant"]
    assert {len(row) for row in read_jsonl(out / "revised.jsonl")} == {len(revised.column_names)}
    here("export", "dataset", out, *files)  # once more, over the same folder


def test_rows_far_from_the_first_may_have_what_those_did_not(here: Here, tmp_path: Path) -> None:
    """A reader guesses types from the first ten megabytes."""
    from datasets import load_dataset

    rows: list[Any] = [{"id": str(i), "prompt": "x" * 1500, "kind": None, "rank": 1} for i in range(9000)]
    rows.append({"id": "last", "prompt": "y", "kind": "red-team", "rank": 0.5, "rounds": [{"principle": "p", "revision": "z"}]})
    here("export", "dataset", tmp_path / "hf", write_jsonl(tmp_path / "long.jsonl", rows))
    found: Any = load_dataset(str(tmp_path / "hf"), split="train", cache_dir=str(tmp_path / "cache"))
    assert (found[-1]["kind"], found[-1]["rank"], found[0]["rank"], found[0]["rounds"]) == ("red-team", 0.5, 1.0, None)
    assert found[-1]["rounds"] == [{"principle": "p", "critique": None, "revision": "z"}]


def test_a_prompt_in_both_sides_becomes_the_prompt(here: Here, tmp_path: Path) -> None:
    both = {side: f"\n\nHuman: Hello?\n\nAssistant: {side}" for side in ("chosen", "rejected")}
    here("export", "dataset", tmp_path / "hf", write_jsonl(tmp_path / "hh.jsonl", [both]))
    [row] = read_jsonl(tmp_path / "hf" / "hh.jsonl")
    assert row["prompt"] == [{"role": "user", "content": "Hello?"}]
    assert row["chosen"] == [{"role": "assistant", "content": "chosen"}]


@pytest.mark.parametrize(
    "field",
    [
        {"prompt": [{"role": "assistant", "tool_calls": []}]},
        {"responses": 5},
        {"rounds": {"principle": "x"}},
        {"p_chosen": [0.5]},
        {"p_chosen": "a"},
        {"p_chosen": 2},
    ],
)
def test_a_field_of_another_shape_is_named(here: Here, field: dict[str, Any], tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "odd.jsonl", [{"id": "q7", "prompt": "Hello?", **field}])
    assert f"record q7: '{next(iter(field))}' must be" in here("export", "dataset", tmp_path / "hf", source, code=2).err


def test_the_card_says_how_each_file_was_made(here: Here, tiny: str, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "Hello?"}])
    here("sample", path, "-m", tiny, "--max-tokens", 4, "-o", tmp_path / "answers.jsonl")
    here("critique", tmp_path / "answers.jsonl", "-m", tiny, "--max-tokens", 4, "--few-shot", 0, "-o", tmp_path / "rounds.jsonl")
    here("export", "dataset", tmp_path / "hf", tmp_path / "rounds.jsonl", "--license", "mit")
    card = (tmp_path / "hf" / "README.md").read_text()
    assert card.startswith('---\nconfigs: [{"config_name": "rounds", "data_files": "rounds.jsonl"}]\n')
    assert 'license: "mit"' in card
    made = [line for line in card.splitlines() if line.startswith("- ")]
    assert ["in.jsonl" in made[0], "`cai sample`" in made[1], "`cai critique`" in made[2]] == [True] * 3
    assert f"model `{tiny}`, constitution `default`" in made[2]


def test_a_folder_of_other_files_is_refused(here: Here, files: list[str], tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "mine.txt").write_text("keep")
    assert "holds other files" in here("export", "dataset", tmp_path / "hf", *files, code=2).err
    other = tmp_path / "more"
    other.mkdir()
    again = write_jsonl(other / "prefs.jsonl", [])
    assert "its name is also that of" in here("export", "dataset", tmp_path / "new", *files, again, code=2).err
    assert "OWNER/NAME" in here("export", "dataset", tmp_path / "new", *files, "--push", "name", code=2).err
    assert not (tmp_path / "new").exists()


def test_push_uploads_and_says_what_failed(here: Here, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server in place of the Hub is asked with --push only, and refuses."""
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_error(403, "no right to do that")

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    import huggingface_hub.constants
    import huggingface_hub.hf_api

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_nothing")
    try:
        here("export", "dataset", tmp_path / "hf", *files)
        assert asked == []
        done = here("export", "dataset", tmp_path / "hf", *files, "--push", "me/demo", "--private", code=1)
        assert asked == ["/api/repos/create"]
        assert "--push me/demo: " in done.err
        assert "is complete, and the same command tries again" in done.err
        assert "hf_nothing" not in done.err
    finally:
        server.shutdown()


def test_no_network_is_used_without_push(here: Here, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    here("export", "dataset", tmp_path / "hf", *files)
