"""Strict YAML and JSON for files that a person writes: constitutions, rubrics, configs. They are small, and so are the limits.

PyYAML's safe loader makes no objects of Python's classes. But an alias stands for a whole value, so a few lines can stand for
gigabytes; deep nesting ends in a RecursionError, and `!!bool maybe` in a KeyError. Here every error is an InputError with
`file:line`.
"""

from __future__ import annotations

from json import JSONDecodeError
from pathlib import Path
from typing import Any

import yaml

from cai_cli.data import jsonl
from cai_cli.errors import InputError

MAX_FILE = 4 * 2**20
"""Most bytes of a file, and most characters and values after each alias is replaced by what it stands for."""


def read(path: str | Path) -> bytes:
    """The bytes of a file. OSError if it cannot be read; InputError if it has more than MAX_FILE."""
    with open(path, "rb") as stream:
        data = stream.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        line = data.count(b"\n", 0, MAX_FILE) + 1
        raise InputError(f"{path}:{line}: the file goes on after {MAX_FILE // 2**20} MiB; give a smaller one")
    return data


def load(data: bytes, source: str) -> Any:
    """The content of a JSON file, by the name `source`, or else of a YAML file. InputError with file and line."""
    form = "JSON" if source.endswith(".json") else "YAML"
    try:
        return jsonl.loads(data) if form == "JSON" else _yaml(data)
    except yaml.reader.ReaderError as problem:
        line, what = data.count(b"\n", 0, problem.position) + 1, f"{problem.reason} at character {problem.position}"
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        line = mark.line + 1 if mark else 1
        what = " ".join(" ".join(filter(None, (problem.context, problem.problem))).split())
    except JSONDecodeError as problem:
        line, what = problem.lineno, problem.msg
    except UnicodeDecodeError as problem:
        line, what = data.count(b"\n", 0, problem.start) + 1, f"not UTF-8 ({problem.reason})"
    raise InputError(f"{source}:{line}: not valid {form}: {what}")


def _yaml(data: bytes) -> Any:
    """The content of YAML. YAMLError."""
    loader = _Loader(data)
    try:
        return loader.get_single_data()
    except (ValueError, OverflowError) as problem:  # the scanner, at an escape for a character that does not exist
        raise yaml.MarkedYAMLError(problem=str(problem), problem_mark=loader.get_mark()) from None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader within limits."""

    def __init__(self, data: bytes) -> None:
        self.size, self.depth, self.deepest = 0, 0, 0
        """Characters and values so far; the depth of the node that is composed; the deepest one so far."""
        self.known: dict[yaml.Node, tuple[int, int]] = {}
        """The size and the height of each node that has been composed."""
        super().__init__(data)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node. Size and depth count an alias as what it stands for."""
        event = self.peek_event()
        size, deepest = self.size, self.deepest
        self.depth += 1
        self.deepest = self.depth
        self._require(self.depth <= jsonl.MAX_DEPTH, f"nested deeper than {jsonl.MAX_DEPTH} levels", event)
        node = super().compose_node(parent, index)
        assert node is not None
        if isinstance(event, yaml.AliasEvent):
            self._require(node in self.known, f"the alias *{event.anchor} stands for what holds it", event)
            self.size, self.deepest = self.size + self.known[node][0], self.depth + self.known[node][1]
            self._require(self.deepest <= jsonl.MAX_DEPTH, f"nested deeper than {jsonl.MAX_DEPTH} levels", event)
        else:
            self.size += 1 + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
            self.known[node] = self.size - size, self.deepest - self.depth
        self._require(self.size <= MAX_FILE, f"more than {MAX_FILE:,} characters after its aliases are replaced", event)
        self.depth, self.deepest = self.depth - 1, max(deepest, self.deepest)
        return node

    @staticmethod
    def _require(good: bool, what: str, event: Any) -> None:
        if not good:
            raise yaml.MarkedYAMLError(problem=what, problem_mark=event.start_mark)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct a value. A scalar that is not what its tag says is a YAMLError, as is a long number or a lone surrogate."""
        number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        self._require(not number or len(node.value) <= jsonl.MAX_DIGITS, f"a number of more than {jsonl.MAX_DIGITS} digits", node)
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, str):
                value.encode()
            return value
        except UnicodeEncodeError:
            what = "a lone surrogate (half of a character pair)"
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            what = f"not a {node.tag.rpartition(':')[2]}"
        raise yaml.MarkedYAMLError(problem=what, problem_mark=node.start_mark)
