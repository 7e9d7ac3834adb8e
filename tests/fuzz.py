"""Generated inputs for every reader: valid files, changed in ways that a person, a bug or an attacker might.

A command may accept an input or refuse it (exit code 0, 1 or 2). A traceback, a hang or too much memory is a failure.

    python -m tests.fuzz READER [INPUTS]             hypothesis
    python -m tests.fuzz READER --atheris [INPUTS]   guided by coverage; needs atheris

A new reader is one entry of `readers`: the name of its file, valid contents, and the command that reads it.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import typer
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cai_cli.engines import models
from cai_cli.errors import CaiError
from tests import rows
from tests.bench_overhead import Instant
from tests.tiny import ROOT, tiny_model, tiny_pm

SECONDS = 30
"""How long one input may take. Far more than any needs, so that a busy machine fails no test."""
MEMORY = 768 * 2**20
"""Bytes of address space that a run may add: a line of `jsonl.MAX_LINE` and what is made of it, many times over."""


@dataclass(frozen=True)
class Reader:
    """What reads a file."""

    file: str
    """The name of the file, whose ending may say what it holds."""
    valid: tuple[bytes, ...]
    """Contents that it accepts, or nearly."""
    read: Callable[[Path], object]
    """Reads the file at a path. CaiError (or typer's errors) if it refuses it."""
    tokens: tuple[bytes, ...] = ()
    """Parts of the language, to insert."""
    slow: int = 1
    """By how much to divide the number of inputs."""


JSON = (b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"NaN", b"1e999", b"-0", b"9" * 300, b"\\ud800", b"\\u0000", b"\xff", b"\n",
        b"[" * 99, b'{"a":' * 99, b"\xef\xbb\xbf", b"\xe2\x80\xa8")  # fmt: skip
YAML = (b"&a ", b"*a", b"<<: ", b"!!bool ", b"!!timestamp ", b"!!python/object/apply:os.system ", b"!!binary ", b"!!set ", b"? ", b"- ", b"|\n",
        b">-\n", b"---\n", b"...\n", b"%YAML 9.9\n", b"\t", b"{", b"}", b"[", b": ", b"#", b"'", b'"', b"\\ud800", b"~", b".inf", b"2001-99-99",
        b"1:" * 99, b"9" * 300, b"0x" + b"f" * 300, b"=", b"\x00", b"\xff", b"[" * 99, b"\xff\xfe")  # fmt: skip
CSV = (b'"', b'""', b",", b"\t", b"\n", b"\r", b"\r\n", b"\x00", b"\xff", b"\xef\xbb\xbf", b";", b"prompt", b"id", b"," * 99)
ODD: tuple[Any, ...] = (None, True, 0, -1, 0.5, 1e300, 10**199, -(10**18), "", " ", "x", "\n\nHuman: ", "\n\nAssistant:", "<think>", "\u2028\x1b[2J",
                        "a/0-1", [], {}, [None], [[]], [{}], {"": None}, {"role": "user", "content": "x"}, {"a": {"b": [1]}}, "🙂" * 9)  # fmt: skip
"""Values to put in the place of others."""


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value below one."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in [(value, key), *places(value[key])]]


def changed(draw: Callable[[Any], Any], value: Any) -> Any:
    """A JSON value with one part of it replaced, removed, renamed or doubled."""
    found = places(value)
    if not found:
        return draw(st.sampled_from(ODD))
    box, key = draw(st.sampled_from(found))
    how = draw(st.sampled_from(("replace", "replace", "remove", "move", "double", "rename")))
    if how == "replace":
        box[key] = draw(st.sampled_from(ODD))
    elif how == "remove":
        del box[key]
    elif how == "move":
        other, place = draw(st.sampled_from(found))
        with contextlib.suppress(IndexError, KeyError):
            box[key] = json.loads(json.dumps(other[place], default=str))
    elif isinstance(box, list):
        box.insert(key, json.loads(json.dumps(box[key], default=str)))
    else:
        box[draw(st.sampled_from(("", "id", "prompt", "meta", "x", f"{key}s")))] = box.pop(key) if how == "rename" else box[key]
    return value


def bytes_changed(draw: Callable[[Any], Any], data: bytes, tokens: tuple[bytes, ...]) -> bytes:
    """Bytes with a token put in, or a part removed or repeated."""
    start, length = draw(st.integers(0, len(data))), draw(st.integers(0, 40))
    how = draw(st.sampled_from(("token", "token", "remove", "repeat", "cut", "byte")))
    middle = {
        "token": draw(st.sampled_from(tokens or JSON)),
        "repeat": 2 * data[start : start + length],
        "byte": draw(st.binary(max_size=4)),
    }.get(how, b"")
    end = {"token": start, "cut": len(data)}.get(how, start + length)
    return data[:start] + middle + data[end:]


@st.composite
def inputs(draw: Any, reader: Reader) -> bytes:
    """A valid file of a reader, with up to four changes: of its values where it is JSON or YAML, and of its bytes."""
    data: bytes = draw(st.sampled_from(reader.valid))
    packed = data[:2] == b"\x1f\x8b"
    data = gzip.decompress(data) if packed else data
    for _ in range(draw(st.integers(0, 3))):
        with contextlib.suppress(ValueError, yaml.YAMLError, IndexError, TypeError):
            if reader.file.endswith(".yaml"):
                data = yaml.safe_dump(changed(draw, yaml.safe_load(data))).encode()
            elif data[:1] == b"[" or reader.file.endswith(".json"):
                data = json.dumps(changed(draw, json.loads(data))).encode()
            else:
                lines = data.splitlines(keepends=True)
                number = draw(st.integers(0, len(lines) - 1))
                lines[number] = json.dumps(changed(draw, json.loads(lines[number]))).encode() + b"\n"
                data = b"".join(lines)
    for _ in range(draw(st.integers(0, 2))):
        data = bytes_changed(draw, data, reader.tokens)
    data = gzip.compress(data, mtime=0) if packed else data
    return bytes_changed(draw, data, reader.tokens) if packed and draw(st.booleans()) else data


class Bad(AssertionError):
    """A reader failed."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Within it, this process may add `MEMORY` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def check(reader: Reader, data: bytes, folder: Path) -> bool:
    """Let a reader read `data`, in an empty folder. AssertionError or any exception but CaiError is a failure.

    Returns whether it was read, and not refused.
    """

    def late(*_: object) -> None:
        raise Bad(f"took more than {SECONDS} s")

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = folder / reader.file
    path.write_bytes(data)
    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        return reader.read(path) is not False
    except CaiError:
        return False
    finally:
        signal.alarm(0)


@cache
def _app(*words: str) -> Any:
    """A command: of a module of its own, as `cai_cli.commands.eval_choice`, or of its group's module."""
    name = "_".join(words).replace("-", "_")
    own = len(words) == 1 or find_spec(f"cai_cli.commands.{name}") is not None
    found = typer.main.get_command(import_module(f"cai_cli.commands.{name if own else words[0]}").app)
    return found if own else found.commands[words[1]]  # type: ignore[attr-defined]


def run(words: str, *args: str, before: Callable[[Path], None] = lambda path: None) -> Callable[[Path], bool]:
    """Runs a command as the program does. In its arguments FILE is the input, DIR its folder. `before` makes other files.

    Returns whether it ended well.
    """

    def read(path: Path) -> bool:
        before(path)
        said, real, code, usage = io.StringIO(), os.dup(1), None, False
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said), open(os.devnull, "wb") as null:
                os.dup2(null.fileno(), 1)
                try:
                    whole = [arg.replace("FILE", str(path)).replace("DIR", str(path.parent)) for arg in args]
                    _app(*words.split()).main(whole, prog_name="cai", standalone_mode=False)
                except SystemExit as end:
                    code = end.code
                except Exception as problem:
                    if not type(problem).__module__.startswith("typer"):
                        raise
                    usage = True
        finally:
            os.dup2(real, 1)
            os.close(real)
        text = said.getvalue()
        assert code in (None, 0) or (code in (1, 2) and text.strip()), f"exit code {code}: {text}"
        assert "run again with --debug" not in text, text
        assert "set_int_max_str_digits" not in text, text
        return not code and not usage

    return read


def lines(*records: dict[str, Any]) -> bytes:
    """Records as JSONL."""
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


META = {"finish": "stop", "seed": 7, "prompt_tokens": 3, "completion_tokens": 4}
CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]
PROMPT = {"id": "q1", "prompt": "What is <|im_end|>?", "kind": "red-team", "meta": {"prompt": META}}
ANSWER = {"id": "q2", "prompt": CHAT, "response": "Because.", "reasoning": "Hm.", "meta": {"response": META}, "scores": {"response": 0.5},
          "grades": {"kind": {"yes": 0.75, "no": 0.25}}}  # fmt: skip
GRADES = {"refusal": {"complies": 0.5, "refuses": 0.25, "partial": 0.25}, "reason": {"yes": 0.5, "no": 0.5}}
REFUSAL = {
    "id": "q4",
    "prompt": "Hi",
    "response": "I cannot help with that.",
    "type": "safe",
    "grades": GRADES,
    "scores": {"response": -1.5},
}
ROUND = {"principle": "ethics", "critique": "It is rude.", "flags": ["critique-cut"], "meta": {"critique": META},
         "reasoning": {"critique": "Hm."}}  # fmt: skip
OPEN = {**ANSWER, "rounds": [{**ROUND, "revision": "So."}, ROUND]}
CLOSED = {
    **ANSWER,
    "rounds": [{**ROUND, "revision": "So.", "meta": {"revision": META}}],
    "scores": {"response": 0.5, "rounds": [1.5]},
}
PAIR = {"id": "q3", "prompt": "Hi", "responses": ["Yes.", "<think>\nno\n</think>\n\nNo."], "meta": {"responses": [META, META]},
        "scores": {"responses": [0.5, 1]}}  # fmt: skip
LABEL = {"pair": [0, 1], "principles": ["ethics"], "p_first": 0.75, "orders": {"ab": 0.5, "ba": 1.0}, "mass": 0.9,
         "by_principle": {"x": 0.75}, "spread": 0.1, "reasoning": [{"principle": "x", "order": "ab", "text": "t", "p_first": 0.75, "meta": META}]}  # fmt: skip
PREFERENCE = {**rows.preference(1, 0.75), "label": LABEL, "scores": {"chosen": 1.5, "rejected": 0.5}, "weight": 1.0}
JUDGED = {"id": "q5", "prompt": "Hi", "responses": ["Yes.", "No."], "judged": {"correct": 0, "p_correct": 0.75, "label": LABEL}}
HH = {"chosen": rows.turns("Hi") + rows.turns("Why?", "So."), "rejected": rows.turns("Hi") + rows.turns("Why?", "No."), "x": 1}
MESSAGES = {"id": "q8", "messages": [*CHAT, {"role": "assistant", "content": "So.", "thinking": "Hm."}]}
EVERY = lines(PROMPT, ANSWER, OPEN | {"id": "q6"}, PAIR, PREFERENCE, JUDGED)
MADE = lines(ANSWER, PAIR)
MANIFEST = {"step": "sample", "command": ["cai", "sample", "in.jsonl", "-c", "default"], "fingerprint": {"step": "sample", "input": "x"},
            "shard": "1/1", "inputs": [{"path": "in.jsonl", "sha256": "0"}], "model": {"name": "m", "sha256": "0"}, "finished": "2026-01-01T00:00:00+00:00",
            "counts": {"records_in": 1, "records_out": 1, "prompt_tokens": 3, "seconds": 1.5}, "pm": [{"name": "pm"}], "seed": 0,
            "constitution": {"name": "default", "sha256": "0", "principles": ["x"]}, "output": {"path": "out.jsonl", "sha256": hashlib.sha256(MADE).hexdigest()},
            "versions": {"cai": "0"}, "summary": {"answers": 1}}  # fmt: skip
JOURNAL = b'["00112233445566aa",1,0,3,4,0,0,0.1]\n["00112233445566bb",1,1,3,4,0,0,0.2]\n'
ORDER = b'["1:00112233445566aa",1,0,3,4,0,0,0.1]\n["2:00112233445566bb",1,1,3,4,0,0,0.2]\n'
SKIPPED = lines({"error": "too long", "record": PROMPT})
AHEAD = b'["1:00112233445566aa",[{"id":"a"}],[],[3,4,0,0]]\n["2:00112233445566bb",[],[{"error":"x"}],[3,4,0,0]]\n'
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
REPLIES = lines(
    {"choices": [{"text": "So.", "finish_reason": "stop", "token_ids": [7, 8]}], "usage": USAGE},
    {"choices": [{"message": {"content": "So.", "reasoning": "Hm."}, "finish_reason": "length"}], "usage": USAGE},
    {
        "choices": [
            {
                "text": "A",
                "finish_reason": "length",
                "logprobs": {"top_logprobs": [{"token_id:5": -0.5, "token_id:6": -1.5, "A": -2.0}]},
            }
        ]
    },
    {
        "choices": [
            {
                "logprobs": {
                    "content": [{"top_logprobs": [{"token": "A", "logprob": -0.5}, {"token": " (B", "logprob": -1, "id": 6}]}]
                }
            }
        ]
    },
    {"choices": [{"logprobs": {"token_logprobs": [None, -0.5, -1.5, -0.1]}}], "usage": USAGE},
)
TABLE = b'id,prompt,score\n1,"Why, ""so""?",2\n2,"two\nlines",\n'
HUGGING_FACE = {"constitutions": [{"critic": "c", "revision": "r"}],
                "system_chat": [[{"role": role, "content": "x"} for role in ("user", "assistant") * 3]]}  # fmt: skip
TURN = "\n\nHuman: Hi\n\nAssistant: Yo"
FOREIGN: tuple[Any, ...] = (
    HUGGING_FACE,
    {"h0": {"prompt": ["\n\nCritiqueRequest: c\n\nCritique:"], "edit_request": "\n\nRevisionRequest: r\n\nRevision:"}},
    [f"{TURN}\n\nCritiqueRequest: c\n\nCritique: d\n\nRevisionRequest: r\n\nRevision: s"],
    ["\nPlease choose the better response. Options:"],
    [{"prompt": "\n\nHuman: Hi\n\nAssistant:", "corrects": ["a"], "incorrects": ["b"]}],
    [{"prompt": "\n\nHuman: Consider {}\n (A) [[[x]]]\n (B) [[[y]]]\n\nAssistant: So the answer is: (B)"}],
)
EVALUATION = {"prompt": f"\n\nConsider the following conversation between a human and an assistant:{TURN}\n\nHuman: Why?\n\n\nWhich? Options:"
              "\n (A) [[[x]]]\n (B) [[[y]]]\n\nThe answer is:", "corrects": [" (B)"], "incorrects": [" (A)"]}  # fmt: skip
BENCH = {
    "xstest": b"id,prompt,type\n1,Why?,safe\n", "harmbench": b"Behavior,BehaviorID,ContextString\nDo x,b1,About y\n",
    "mt-bench": lines({"question_id": 1, "category": "x", "turns": ["Hi", "Why?"]}), "hhh": lines({"input": "Hi", "targets": {"choices": ["a", "b"], "labels": [1, 0]}}),
    "rewardbench": lines({"id": 1, "prompt": "Hi", "chosen": "a", "rejected": "b", "subset": "x"}), "alpaca-eval": json.dumps([{"instruction": "Hi", "dataset": "x"}]).encode(),
}  # fmt: skip


def _stepped(words: str, *args: str) -> Callable[[Path], bool]:
    """A whole generating step, with an engine that answers at once."""
    read = run(words, *args, "--engine", "transformers", "--quiet", "--restart", "-o", "DIR/out")

    def reading(path: Path) -> bool:
        with patch("cai_cli.engines.select.Setup.open", lambda _: Instant()):
            return read(path)

    return reading


def _planned(trainer: str, *args: str) -> Callable[[Path], bool]:
    """A trainer's files, checked and made examples of, and no more."""
    read = run("plan", trainer, *args, "-o", "DIR/out", "--quiet")

    def reading(path: Path) -> bool:
        with patch("cai_cli.training.memory.table", lambda *_: []):
            return read(path)

    return reading


def _resume(path: Path) -> None:
    """Continue an unfinished output with this journal."""
    from cai_cli.pipeline.outputs import FileOutput

    (path.parent / "out.partial").write_bytes(lines(ANSWER, PAIR))
    (path.parent / "out.skipped.jsonl.partial").write_bytes(lines({"error": "x"}))
    (path.parent / "out.partial.manifest.json").write_text('{"fingerprint": {}}')
    FileOutput(str(path.parent / "out"), {}).close()


def _beside(path: Path) -> None:
    """What a manifest or an .order belongs to."""
    out = path.with_name("out.jsonl")
    parts = {"": MADE, ".manifest.json": json.dumps(MANIFEST).encode(), ".order": ORDER, ".skipped.jsonl": SKIPPED}
    for name, made in parts.items():
        if path.name != out.name + name:
            out.with_name(out.name + name).write_bytes(made)


def _ahead(path: Path) -> None:
    """What an unfinished run left of records that wait for one."""
    from cai_cli.pipeline.ahead import Ahead

    found = Ahead(path)
    for digest in list(found.known):
        if (number := found.find(digest)) is not None:
            _, made, skipped, tokens = found.take(number)
            assert all(isinstance(record, dict) for record in [*made, *skipped])
            assert len(tokens) == 4
    found.close()


def _reply(path: Path) -> None:
    """The replies of a server to requests of each kind, one per line; a record of what they give can be written."""
    from cai_cli.data import jsonl
    from cai_cli.engines.base import Request
    from cai_cli.engines.http_api import Abilities, Garbage, result

    requests = [
        Request("generate", [1, 2, 3], ""),
        Request("choose", [1, 2, 3], "", options={"A": 5, "B": 6}),
        Request("score", [1, 2, 3], "", answer=2),
    ]
    for text in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            reply = json.loads(text)  # as the client library does it
            for request in requests:
                for can in (Abilities(exact=True, top=1), Abilities(top=5), Abilities(tokens=False, top=5)):
                    with contextlib.suppress(Garbage):
                        jsonl.encode(vars(result(request, reply, can, _Decoder())))


class _Decoder:
    """A tokenizer as far as `_reply` needs it."""

    def decode(self, ids: list[int]) -> str:
        """The letter of a token."""
        return chr(60 + ids[0])


def _table(path: Path) -> None:
    """Records for a command whose config or rubric is fuzzed."""
    path.with_name("in.jsonl").write_bytes(lines(ANSWER))


def readers(model: str, pm: str) -> dict[str, Reader]:
    """Every reader by its name. `model`, `pm`: directories of tiny models, of which only the tokenizers are used."""
    dry, out = ("--dry-run", "4", "--quiet"), ("--quiet", "-o", "DIR/out")
    kept = {path.name: path.read_bytes() for path in sorted((ROOT / "constitutions").rglob("*.yaml"))}
    small = b"name: x\nnotes: n\ninclude: {name: default, only: [ethics], weights: {ethics: 2}}\nprinciples:\n" + (
        b"- {id: a, tags: [t], weight: 1.5, critique: c, revision: r, compare: p}\nexamples: {comparison: [{prompt: Hi, better: a, worse: b}]}\n"
    )
    rubric = b"criteria:\n- {id: a, question: q, classes: {good: g, bad: b}, weight: 2}\n- {id: b, question: q}\n"
    config = (
        b"max-tokens: 8\ntemperature: 0.5\nprinciples: ethics,honesty\nformat: hh\nquiet: true\nseed: 3\ntemplate-arg: [x=1]\n"
    )

    def records(words: str, *args: str, of: bytes = EVERY) -> Reader:
        return Reader("in.jsonl", (of, EVERY), run(words, *args), JSON)

    def stepped(words: str, *args: str, of: bytes) -> Reader:
        return Reader("in.jsonl", (of, EVERY), _stepped(words, "FILE", "-m", pm if words == "score" else model, *args), JSON)

    def imported(words: str, *valid: bytes, file: str = "in.jsonl", tokens: tuple[bytes, ...] = JSON) -> Reader:
        name, *more = words.split()
        return Reader(file, valid, run(f"import {name}", *more, "FILE", *out), tokens)

    return {
        "sample": records("sample", "FILE", "-m", model, "--resample", *dry, of=lines(PROMPT, ANSWER)),
        "sample --turns": stepped("sample", "--turns", of=lines({"id": "a", "prompt": "Hi", "turns": ["Hi", "So?"]})),
        "critique": stepped("critique", of=lines(ANSWER, CLOSED | {"id": "q7"})),
        "revise": stepped("revise", "--show-reasoning", of=lines(OPEN)),
        "label": stepped("label", of=lines(PAIR)),
        "score": stepped("score", "--show-reasoning", of=lines(PREFERENCE, CLOSED, PAIR)),
        "train-sft": Reader("in.jsonl", (lines(CLOSED), lines(PAIR), lines(MESSAGES)), _planned("train-sft", "FILE", "-m", model, "--learn-reasoning"), JSON),
        "train-pm": Reader("in.jsonl", (lines(PREFERENCE),), _planned("train-pm", "FILE", "-m", model), JSON),
        "train-pm --conditioned": Reader("in.jsonl", (lines({**PREFERENCE, "label": {**LABEL, "by_principle": {"ethics": 0.75}}}),), _planned("train-pm", "FILE", "-m", model, "--conditioned", "-c", "default"), JSON),
        "train-dpo": Reader("in.jsonl", (lines(PREFERENCE),), _planned("train-dpo", "FILE", "-m", model), JSON),
        "rl": Reader("in.jsonl", (lines(PROMPT, {**ANSWER, "rubric": ["q"]}),), _planned("rl", "FILE", "-m", model, "--pm", pm), JSON),
        "grade": stepped("grade", of=lines(PAIR, {**ANSWER, "rubric": ["q", {"id": "x", "question": "q", "classes": {"a": "b", "c": "d"}}]})),
        "eval choice": stepped("eval choice", of=lines(PREFERENCE, EVALUATION)),
        "eval compare": Reader("in.jsonl", (lines(ANSWER, CLOSED | {"id": "q7"}), EVERY), _stepped("eval compare", "a=FILE", "b=FILE", "-m", model), JSON),
        "eval rl": records("eval rl", "a=FILE", "b=FILE", of=lines(ANSWER, CLOSED | {"id": "q7"})),
        "constitution infer": records("constitution infer", "FILE", "-m", model, "-o", "DIR/out", *dry, of=lines(PREFERENCE, {**PREFERENCE, "id": "q9"})),
        "constitution diff": Reader("responses.jsonl", (lines(ANSWER),), _stepped("constitution diff", "single", "seafarer", "--run", "DIR", "-m", model), JSON),
        "export dataset": records("export dataset", "DIR/out", "FILE", "--quiet"),
        "prompts": records("prompts", "FILE", "-m", model, "-n", "2", *dry, of=lines(*rows.asks(6))),
        "stats": records("stats", "FILE"),
        "show": records("show", "FILE"),
        "split": records("split", "FILE", "--fraction", "0.5", *out, "--rest", "DIR/rest"),
        "mix": records("mix", "FILE", "FILE=0.5", *out),
        "combine": records("combine", "a=FILE", "b=FILE", *out, of=lines(PREFERENCE, ANSWER)),
        "trace": records("trace", "FILE", "q2"),
        "export sft": records("export sft", "FILE", "--min-grade", "kind=0.1", *out, of=lines(CLOSED)),
        "export preferences": records("export preferences", "FILE", "--weigh", *out, of=lines(PREFERENCE)),
        "export preferences --from scores": records("export preferences", "FILE", "--from", "scores", *out, of=lines(PAIR)),
        "export inspect": records("export inspect", "FILE", *out, of=lines(ANSWER, REFUSAL)),
        "eval refusal": records("eval refusal", "a=FILE", of=lines(REFUSAL)),
        "eval scores": records("eval scores", "a=FILE", "b=FILE", of=lines(ANSWER, CLOSED | {"id": "q7"})),
        "eval judges": records("eval judges", "a=FILE", of=lines(JUDGED)),
        "gzip": Reader("in.jsonl.gz", (gzip.compress(EVERY, mtime=0),), run("stats", "FILE"), JSON),
        "constitution": Reader("in.yaml", (small, kept["single.yaml"], kept["non-evasive.yaml"][:6000]), run("constitution show", "FILE"), YAML),
        "rubric": Reader("in.yaml", (rubric, kept["refusal.yaml"]), run("grade", "DIR/in.jsonl", "-r", "FILE", "-m", model, *dry, before=_table), YAML),
        "foreign constitution": Reader("in.json", tuple(json.dumps(each).encode() for each in FOREIGN), run("constitution convert", "FILE", "-o", "DIR/out"), JSON),
        "config": Reader("in.yaml", (config,), run("critique", "DIR/in.jsonl", "-m", model, "--dry-run", "1", "--config", "FILE", before=_table), YAML),
        "manifest": Reader("out.jsonl.manifest.json", (json.dumps(MANIFEST).encode(),), run("report", "DIR", "--quiet", before=_beside), JSON),
        "manifest of an input": Reader("out.jsonl.manifest.json", (json.dumps(MANIFEST).encode(),), run("trace", "DIR/out.jsonl", "q2", before=_beside), JSON),
        "manifest of a shard": Reader("out.jsonl.manifest.json", (json.dumps(MANIFEST).encode(),), run("join", "DIR/out.jsonl", *out, before=_beside), JSON),
        "journal": Reader("out.partial.journal", (JOURNAL,), _resume, JSON),
        "records ahead": Reader("out.partial.ahead", (AHEAD,), _ahead, JSON),
        "skipped records": Reader("out.jsonl.skipped.jsonl", (SKIPPED,), run("join", "DIR/out.jsonl", *out, before=_beside), JSON),
        "server replies": Reader("in.jsonl", (REPLIES,), _reply, JSON),
        "order of a shard": Reader("out.jsonl.order", (ORDER,), run("join", "DIR/out.jsonl", *out, before=_beside), JSON),
        "import hh-rlhf": imported("hh-rlhf", lines(HH)),
        "import hh-rlhf --preferences": imported("hh-rlhf --preferences", lines(HH)),
        "import preferences": imported("preferences", lines(PREFERENCE, HH), json.dumps([PREFERENCE, HH]).encode()),
        "import messages": imported("messages --answers", lines({"messages": [*CHAT, {"role": "assistant", "content": "x"}]}, {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "a"}]})),
        "import red-team-attempts": imported("red-team-attempts --answers", json.dumps([{"transcript": TURN, "rating": 3.0}]).encode()),
        "import csv": imported("csv", TABLE, file="in.csv", tokens=CSV),
        "import csv.gz": imported("csv", gzip.compress(TABLE, mtime=0), file="in.csv.gz", tokens=CSV),
        "import tsv": imported("tsv", TABLE.replace(b",", b"\t"), file="in.tsv", tokens=CSV),
        "import text": imported("text", b"one\n\ntwo\n", file="in.txt", tokens=CSV),
        "import dataset": Reader("in.jsonl", (lines(PROMPT, PROMPT),), run("import dataset", "FILE", *out), JSON, slow=40),
        **{f"import bench {name}": imported(f"bench {name}", data, file="in.csv", tokens=CSV + JSON) for name, data in BENCH.items()},
    }  # fmt: skip


def fuzz(reader: Reader, count: int, folder: Path, fixed: bool = True) -> int:
    """Let a reader read generated inputs. `fixed`: the same in every run. Returns how many it read."""
    seen = 0

    @settings(
        max_examples=max(1, count // reader.slow),
        deadline=None,
        database=None,
        derandomize=fixed,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(inputs(reader))
    def each(data: bytes) -> None:
        nonlocal seen
        seen += 1
        check(reader, data, folder / "fuzzed")

    with limited():
        each()
    return seen


def guided(reader: Reader, count: int, folder: Path) -> None:
    """The same with inputs that atheris finds by coverage. It ends the process."""
    import atheris

    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(reader.valid):
        (corpus / str(number)).write_bytes(data)
    escaped = ["\\x" + token.hex("|").replace("|", "\\x") for token in reader.tokens]
    (folder / "tokens").write_text("".join(f'"{token}"\n' for token in escaped))
    atheris.instrument_all()
    runs = [f"-runs={count // reader.slow}", f"-timeout={SECONDS}", "-rss_limit_mb=4096", "-max_len=4096", "-verbosity=0"]
    where = [f"-artifact_prefix={folder}/", f"-dict={folder / 'tokens'}"]
    atheris.Setup([sys.argv[0], *runs, *where, str(corpus)], lambda data: check(reader, data, folder / "fuzzed"))
    atheris.Fuzz()


def main() -> None:
    """Fuzz one reader, in this process."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("reader", choices=list(readers("", "")))
    parser.add_argument("count", type=int, nargs="?", default=20_000)
    parser.add_argument("--atheris", action="store_true", help="inputs that coverage guides")
    chosen = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_CACHE=tempfile.mkdtemp(), XDG_CACHE_HOME=tempfile.mkdtemp(), COLUMNS="200")
    models.load_tokenizer = cache(models.load_tokenizer)  # one per process, not one per input
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        reader = readers(tiny_model(folder / "model"), tiny_pm(folder / "pm"))[chosen.reader]
        for data in reader.valid:  # imports what it needs, before memory is limited
            check(reader, data, folder / "fuzzed")
        if chosen.atheris:
            guided(reader, chosen.count, folder)
        print(f"{chosen.reader}: {fuzz(reader, chosen.count, folder, fixed=False):,} inputs")


if __name__ == "__main__":
    main()
