"""Whether a value from a file has the type that a TypedDict promises."""

from __future__ import annotations

import types
from functools import cache
from typing import Any, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

_NAMES = {str: "a string", bool: "true or false", float: "a number", int: "an integer", list: "a list", dict: "an object"}


@cache  # evaluating the hints takes longer than comparing a record with them
def _hints(wanted: Any) -> dict[str, Any]:
    return get_type_hints(wanted, include_extras=True)


def type_error(value: object, wanted: Any, field: str) -> str | None:
    """What is wrong with a field's value, or None. An integer is also a number; an object may hold further fields.

    `object` stands for any value.
    """
    if wanted is object:
        return None
    origin = get_origin(wanted)
    if origin in (Union, types.UnionType):
        errors = [type_error(value, choice, field) for choice in get_args(wanted)]
        return None if None in errors else errors[0]
    base = dict if is_typeddict(wanted) else origin or wanted
    accepted = (int, float) if base is float else base
    if not isinstance(value, accepted) or (isinstance(value, bool) and base is not bool):
        return f"'{field}' must be {_NAMES.get(base, 'null')}, found {type(value).__name__}"
    parts: list[tuple[object, Any, str]] = []
    if is_typeddict(wanted) and isinstance(value, dict):
        for name, hint in _hints(wanted).items():
            optional = get_origin(hint) is NotRequired or not wanted.__total__
            if name not in value and not optional:
                return f"'{field}' has no '{name}'"
            if name in value:
                parts.append((value[name], get_args(hint)[0] if get_origin(hint) is NotRequired else hint, f"{field}.{name}"))
    elif isinstance(value, dict):
        parts = [(entry, get_args(wanted)[1], f"{field}.{name}") for name, entry in value.items()]
    elif isinstance(value, list):
        parts = [(entry, get_args(wanted)[0], f"{field}[{i}]") for i, entry in enumerate(value)]
    return next((error for part in parts if (error := type_error(*part))), None)
