"""Further columns of metadata.jsonl, of one type each: what Arrow, and with it the `datasets` library, can open."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ratlip_cli.data.layout import Json
from ratlip_cli.files import whole_file

_DEEPEST = 16
"""Lists and objects in one another, beyond which a value is kept as text."""

_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[ T][\d:.]+(?:Z|[+-][\d:]+)?)?")
"""What Arrow takes for a date. Where all texts of a split are dates, and not all of another, types would differ."""


@dataclass(frozen=True)
class _Kind:
    """The type of a value."""

    name: str
    inner: tuple[tuple[str, _Kind], ...] = ()  # Of an object its fields; of a list what is in it, under no name.


_NULL, _MIXED = _Kind("null"), _Kind("mixed")


def settle(files: Sequence[Path]) -> None:
    """Rewrite each metadata.jsonl of a dataset in which a column is of several types, or others than elsewhere.

    Whole numbers among fractions become fractions; everything else becomes text, as JSON writes it.
    """
    by_file = {file: _kinds(file) for file in files}
    names = {name for kinds in by_file.values() for name in kinds} - {"file_name", "captions"}
    found = {name: {kinds.get(name, _NULL) for kinds in by_file.values()} for name in names}
    as_number = {name for name, kinds in found.items() if kinds == {_Kind("int"), _Kind("float")}}
    as_text = {name for name, kinds in found.items() if len(kinds) > 1 or any(map(_is_mixed, kinds))} - as_number
    as_text |= {
        name for name in names if found[name] == {_NULL} and any(name not in kinds for kinds in by_file.values())
    }
    if not as_number | as_text:
        return
    for file, kinds in by_file.items():
        blank = dict.fromkeys(sorted(name for name in as_text if kinds.get(name, _NULL) == _NULL), "")
        with (
            whole_file(file) as partial,
            partial.open("w", encoding="utf-8", newline="\n") as written,
            file.open(encoding="utf-8") as lines,
        ):
            for line in lines:
                row = json.loads(line)
                for name in row.keys() & as_number:
                    row[name] = None if row[name] is None else float(row[name])
                for name in row.keys() & as_text:
                    row[name] = _as_text(row[name])
                written.write(json.dumps(row | blank, ensure_ascii=False, allow_nan=False) + "\n")


def _kinds(file: Path) -> dict[str, _Kind]:
    """The types of the columns of a metadata.jsonl."""
    kinds: dict[str, _Kind] = {}
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            for name, value in json.loads(line).items():
                kinds[name] = _merged(kinds.get(name, _NULL), _kind(value))
    return kinds


def _kind(value: Json, depth: int = 0) -> _Kind:
    if value is None:
        return _NULL
    if isinstance(value, bool):
        return _Kind("bool")
    if isinstance(value, int):
        return _Kind("int") if -(2**63) <= value < 2**63 else _MIXED
    if isinstance(value, float):
        return _Kind("float")
    if isinstance(value, str):
        return _Kind("date" if _DATE.fullmatch(value) else "text")
    if depth == _DEEPEST:
        return _MIXED
    if isinstance(value, Mapping):
        return _Kind("object", tuple(sorted((name, _kind(item, depth + 1)) for name, item in value.items())))
    inner = _NULL
    for item in value:
        inner = _merged(inner, _kind(item, depth + 1))
    return _Kind("list", (("", inner),))


def _merged(one: _Kind, other: _Kind) -> _Kind:
    """The type of a column that holds values of both types."""
    if one == other or other == _NULL:
        return one
    if one == _NULL:
        return other
    if one.name == other.name:
        ones, others = dict(one.inner), dict(other.inner)
        names = sorted({*ones, *others})
        return _Kind(one.name, tuple((name, _merged(ones.get(name, _NULL), others.get(name, _NULL))) for name in names))
    pair = {one.name, other.name}
    return _Kind("float") if pair == {"int", "float"} else _Kind("text") if pair == {"date", "text"} else _MIXED


def _is_mixed(kind: _Kind) -> bool:
    return kind == _MIXED or any(_is_mixed(inner) for _, inner in kind.inner)


def _as_text(value: Json) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{text} " if _DATE.fullmatch(text) else text  # The blank keeps Arrow from reading a date.
