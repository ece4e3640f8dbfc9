"""JSON that others wrote, read with suspicion: whole numbers of 64 bits, finite numbers, text that is Unicode.

Standard library only.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

DEEPEST = 32
"""Levels of lists and objects inside one another; what this package writes has five."""

_HALVES, _BYTES = range(0xD800, 0xE000), range(0xDC80, 0xDD00)
"""Halves of surrogate pairs, and those of them that stand for a byte of a file's name, as `os.fsdecode` has them."""

_KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
    str: ((str,), "a text"),
    dict: ((dict,), "an object"),
    list: ((list,), "a list"),
    types.NoneType: ((types.NoneType,), "null"),
}


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises OSError where it cannot be read; ValueError where it is no JSON, nested deeper than DEEPEST, or holds a whole
    number beyond 64 bits, a number that is not finite, or half of a surrogate pair, but for a byte of a file's name.
    """
    try:
        content = json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST} levels") from None
    _check_values(content, 0)
    return content


def is_of_kind(value: object, kind: Any) -> bool:
    """Whether a value of a JSON file is of exactly this type: `int` takes no bool and no 1.0, `X | Y` either."""
    if get_origin(kind) in (Union, types.UnionType):
        return any(is_of_kind(value, choice) for choice in get_args(kind))
    return type(value) in _KINDS[get_origin(kind) or kind][0]


def from_json(kind: type[T], values: object, optional: bool = False) -> T:
    """A dataclass from what `read_json` returned, each field of exactly the type that the dataclass gives it.

    Args:
        optional: whether fields that have a default may be left out.

    Raises ValueError naming what is unknown, missing or of another type, and what the dataclass itself raises.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{_shown(values)} is not an object")
    hints = get_type_hints(kind)
    own = fields(kind)  # type: ignore[arg-type]
    without = {field.name for field in own if field.default is MISSING and field.default_factory is MISSING}
    needed = without if optional else {field.name for field in own}
    check_keys(values, {field.name for field in own}, needed)
    for name, value in values.items():
        if not is_of_kind(value, hints[name]):
            raise ValueError(f"'{name}' must be {_name(hints[name])}, not {_shown(value)}")
    return kind(**values)


def check_keys(values: Mapping[str, Any], known: set[str], needed: set[str]) -> None:
    """Raise ValueError naming keys that are unknown or missing."""
    unknown = [_shown(key) for key in sorted(values.keys() - known)]
    missing = sorted(needed - values.keys())
    if unknown or missing:
        raise ValueError(
            f"unknown keys [{', '.join(unknown)}], missing keys {missing}; was it written by another ratlip?"
        )


def _check_values(value: object, depth: int) -> None:
    if depth > DEEPEST:
        raise ValueError(f"nested deeper than {DEEPEST} levels")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_values(key, depth)
            _check_values(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_values(item, depth + 1)
    elif isinstance(value, str):
        if not value.isascii() and any(letter in _HALVES and letter not in _BYTES for letter in map(ord, value)):
            raise ValueError(f"{_shown(value)} has half of a surrogate pair, which is no letter")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("a whole number is beyond 64 bits")


def _name(kind: Any) -> str:
    choices = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return " or ".join(_KINDS[get_origin(choice) or choice][1] for choice in choices)


def _shown(value: object) -> str:
    """A value in a message: one line, no control characters, not all of a long one."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
