"""Commands with --engine server: resuming, secrets, and what a chat server cannot give."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cai_cli.engines import http_server
from tests.conftest import Here
from tests.processes import cai, shell, start, wait_for_lines, wait_for_words
from tests.rows import asks, read_jsonl, write_jsonl
from tests.servers import Process, TinyApi, site, tiny_server
from tests.tiny import EXACT

pytest.importorskip("openai", reason="needs the extra `server`")


@pytest.fixture(scope="module")
def running(tiny: str) -> Iterator[Process]:
    with tiny_server(tiny) as made:
        yield made


def served(one: Process) -> tuple[str, ...]:
    return "--engine", "server", "--base-url", one.url, "--max-tokens", "8"


@pytest.mark.soak
def test_a_killed_run_and_a_killed_server_give_the_bytes_of_one_run(running: Process, tiny: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "p.jsonl", asks(200))
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    cai("sample", source, "-m", tiny, *served(running), "-o", whole)
    run = start("sample", source, "-m", tiny, *served(running), "-o", stopped)
    wait_for_lines(Path(f"{stopped}.partial"), 20, run)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    run = start("sample", source, "-m", tiny, *served(running), "-o", stopped)
    wait_for_lines(Path(f"{stopped}.partial"), 40, run)
    running.kill()
    wait_for_words("does not answer", run)
    running.start()
    assert "answers again" in run.communicate()[1]
    assert stopped.read_bytes() == whole.read_bytes()
    assert not Path(f"{stopped}.skipped.jsonl").exists()
    # the same texts as without a server
    cai("sample", source, "-m", tiny, *EXACT, "-o", tmp_path / "here.jsonl")
    assert (tmp_path / "here.jsonl").read_bytes() == whole.read_bytes()


@pytest.mark.soak
def test_three_commands_share_a_server(running: Process, tiny: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "p.jsonl", asks(12))
    flags = f"-m {tiny} {' '.join(served(running))}"
    done = shell(f"cai sample {source} {flags} | cai critique - {flags} | cai revise - {flags}")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["id"] for row in rows] == [f"q{i}" for i in range(12)]
    assert all("revision" in row["rounds"][0] for row in rows)


def test_the_key_is_nowhere(running: Process, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAI_API_KEY", "canary-31415")
    source, out = write_jsonl(tmp_path / "p.jsonl", asks(12)), tmp_path / "o.jsonl"
    run = start("sample", source, "-m", tiny, *served(running), "-o", out, "--debug")
    wait_for_lines(Path(f"{out}.partial"), 1, run)
    shown = Path(f"/proc/{run.pid}/cmdline").read_text()
    said = run.communicate()[1]
    assert run.returncode == 0, said
    files = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "canary" not in shown + said + files
    assert "canary" not in cai("sample", source, "-m", tiny, *served(running), "--dry-run", 2, "--debug").stdout


def test_what_the_manifest_and_the_fingerprint_say(
    running: Process, here: Here, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder without weights is enough; another URL continues the run, another served model does not."""
    folder = tmp_path / "without-weights"
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    source, out = write_jsonl(tmp_path / "p.jsonl", asks(4)), tmp_path / "o.jsonl"
    here("sample", source, "-m", folder, *served(running), "-o", out)
    made = json.loads(Path(f"{out}.manifest.json").read_text())
    assert made["model"] | {"sha256": ""} == {
        "name": str(folder), "sha256": "", "dtype": "unknown", "engine": "server", "served": tiny, "prompts": "tokens", "letters": "exact",
        "draws": "server",
    }  # fmt: skip
    assert running.url not in json.dumps(made["fingerprint"])
    with site(TinyApi(tiny)) as other:
        flags = "--engine", "server", "--base-url", other.url, "--max-tokens", "8"
        assert "already done" in here("sample", source, "-m", folder, *flags, "-o", out).err
    with site(TinyApi(tiny, name="another")) as other:
        flags = "--engine", "server", "--base-url", other.url, "--max-tokens", "8"
        assert "changed: served" in here("sample", source, "-m", folder, *flags, "-o", out).err
    # the server is gone: the finished output is recognised without it
    assert "already done" in here("sample", source, "-m", folder, *flags, "-o", out).err
    # one that starts after the look at the finished output may be another: nothing is computed under the recorded name
    monkeypatch.setattr(http_server, "listens", lambda url: False)
    before = out.read_bytes()
    said = here("sample", source, "-m", folder, *served(running), "--seed", 1, "-o", out, code=1).err
    assert "has started since this command began" in said
    assert (out.read_bytes(), Path(f"{out}.partial").exists()) == (before, False)
    done = here("sample", source, "-m", folder, "-o", tmp_path / "x.jsonl", code=2)
    assert "no *.safetensors in it" in done.err


def test_flags_that_do_not_fit(here: Here, tiny: str, tiny_pm: str, prompts: str, pairs: str) -> None:
    server = "--engine", "server", "--base-url", "http://127.0.0.1:1/v1"
    assert "needs --base-url" in here("sample", prompts, "-m", tiny, "--engine", "server", code=2).err
    assert "needs --engine server" in here("sample", prompts, "-m", tiny, "--base-url", "http://h/v1", code=2).err
    assert "needs --engine transformers" in here("sample", prompts, "-m", tiny, *server, "--deterministic", code=2).err
    assert "a server chose its own" in here("sample", prompts, "-m", tiny, *server, "--dtype", "float32", code=2).err
    assert "'server' is not one of" in here("score", prompts, "-m", tiny_pm, "--engine", "server", code=2).err
    assert "not read from a server" in here("eval", "choice", pairs, "-m", tiny_pm, *server, code=2).err
    here("sample", prompts, "-m", tiny, *server, "--dry-run", 1)  # asks no server


def test_label_says_what_a_chat_server_does_not_show(here: Here, tiny: str, pairs: str, tmp_path: Path) -> None:
    """Its few most likely tokens: a letter outside them gets a bound, and a query without both of them skips its record."""
    out = tmp_path / "labels.jsonl"
    with site(TinyApi(tiny, "vllm-chat")) as one:
        # noise is likely to name no letter, so the names of two likely tokens stand for the letters
        spelled = {" A": "A", " B": "B"}
        api, likely = one.api, one.api._most_likely

        def most_likely(ids: list[int], count: int) -> list[tuple[int, float]]:
            found = likely(ids, count)
            a, b = (api.tokenizer(letter, add_special_tokens=False).input_ids[0] for letter in spelled.values())
            shown = {0: [a, b], 1: [a], 2: [b], 3: []}[0 if len(ids) % 7 else 1 + len(ids) % 3]
            return [(token, found[i][1]) for i, token in enumerate([*shown, *(t for t, _ in found if t not in (a, b))][:count])]

        api._most_likely = most_likely  # type: ignore[method-assign]
        flags = "--engine", "server", "--base-url", one.url
        done = here("label", pairs, "-m", tiny, *flags, "--orders", "ab", "-o", out)
        bad = here("label", pairs, "-m", tiny, *flags, "--format", "hh", "-o", tmp_path / "hh.jsonl", code=2)
    assert "needs --format chat" in bad.err
    rows = read_jsonl(out)
    bounded = sum(row["label"].get("outside", 0) for row in rows)
    made = json.loads(Path(f"{out}.manifest.json").read_text())
    assert made["model"]["prompts"] == "messages"
    assert bounded
    assert made["summary"]["letters_outside"] == {"letters": bounded, "of": 2 * len(rows)}
    assert f"{bounded} of {2 * len(rows)} letters are outside the most likely tokens" in done.err
