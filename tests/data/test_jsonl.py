"""The strict reader and the writer: what goes in comes out, and what is bad is named by its line."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_cli.data import jsonl
from cai_cli.errors import InputError

text = st.text(st.characters(codec="utf-8"))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(text, values, max_size=5)


@given(st.lists(objects, max_size=8))
def test_what_is_written_is_read_back(records: list[dict]) -> None:
    data = b"".join(map(jsonl.encode, records))
    assert data.count(b"\n") == len(records)  # one line each, whatever the texts hold (U+2028, \r, \n)
    lines = list(jsonl.parse(io.BytesIO(data)))
    assert [line.record for line in lines] == records
    assert [line.number for line in lines] == list(range(1, len(records) + 1))
    assert b"".join(line.raw for line in lines) == data


@given(st.lists(objects, max_size=4), st.integers(0, 200))
def test_a_torn_tail_affects_only_the_last_line(records: list[dict], cut: int) -> None:
    data = b"".join(map(jsonl.encode, records))
    torn = data[: max(0, len(data) - cut)]
    whole = torn.count(b"\n")
    assert [line.record for line in jsonl.parse(io.BytesIO(torn))][:whole] == records[:whole]


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(data: bytes) -> None:
    for line in jsonl.parse(io.BytesIO(data)):
        assert (line.record is None) != (line.error is None)


BAD = {
    b"{": "not valid JSON",
    b'{"a": NaN}': "NaN is not JSON",
    b'{"a": -Infinity}': "-Infinity is not JSON",
    b'{"a": 1e999}': "too large",
    b'{"a": "\\ud800"}': "lone surrogate",
    b'{"a": "\xff"}': "utf-8",
    b'"text"': "expected a JSON object, found str",
    b"[1]": "expected a JSON object, found list",
    b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}": "nested deeper than 64",
}


@pytest.mark.parametrize("line", BAD, ids=[name[:12].decode(errors="replace") for name in BAD])
def test_a_bad_line_is_named_and_its_neighbours_are_read(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"id": 1}\n\n' + line + b'\n{"id": 2}\n')
    first, bad, last = jsonl.parse(io.BytesIO(path.read_bytes()))
    assert (first.record, last.record) == ({"id": 1}, {"id": 2})
    assert bad.number == 3
    assert BAD[line] in str(bad.error)
    with pytest.raises(InputError, match=r"x\.jsonl:3: .*; fix the line, or remove it$"):
        list(jsonl.read(str(path)))


def test_brackets_in_text_are_no_nesting() -> None:
    assert jsonl.loads(json.dumps({"a": "[{" * 1000 + '\\"' + "[" * 1000}))["a"].startswith("[{[{")


def test_a_line_too_long_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE", 100)
    data = b'{"a": "' + b"x" * 1000 + b'"}\n{"b": 1}\n'
    long, good = jsonl.parse(io.BytesIO(data))
    assert "longer than" in str(long.error)
    assert good.record == {"b": 1}
    assert good.number == 2


def test_gzip_is_read_and_a_truncated_one_is_an_error(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"a": 1}\n' * 1000)
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(whole)
    assert len(list(jsonl.read(str(path)))) == 1000
    path.write_bytes(whole[:-12])
    with pytest.raises(InputError, match="not a complete gzip file"):
        list(jsonl.read(str(path)))
    path.write_bytes(b"not gzip")
    with pytest.raises(InputError, match="not a complete gzip file"):
        list(jsonl.read(str(path)))


@pytest.mark.parametrize(("make", "message"), [("nothing", "no such file"), ("folder", "is a directory")])
def test_an_input_that_cannot_be_read_says_why(make: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    if make == "folder":
        path.mkdir()
    with pytest.raises(InputError, match=message):
        list(jsonl.read(str(path)))


@pytest.mark.parametrize("value", [{"a": float("nan")}, {"a": "\ud800"}])
def test_what_is_not_json_is_never_written(value: dict) -> None:
    with pytest.raises(ValueError, match=r"JSON|surrogate"):
        jsonl.encode(value)
