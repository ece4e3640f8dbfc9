"""Further columns of metadata.jsonl, of one type each: what Arrow, and with it the `datasets` library, can open."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from ratlip_cli.data.layout import METADATA, Json
from ratlip_cli.files import whole_file

_DEEPEST = 16
"""Lists and objects in one another, beyond which a value is kept as text."""

_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[ T][\d:.]+(?:Z|[+-][\d:]+)?)?")
"""What Arrow takes for a date. Where all texts of a split are dates, and not all of another, types would differ."""

Kind: TypeAlias = "str | None | tuple[str, Kind] | tuple[str, tuple[tuple[str, Kind], ...]]"
"""The type of a value: a word, or "list" and what is in it, or "object" and its fields; None of null."""

_MIXED = "mixed"


class Columns:
    """The types of the further columns of all splits of a dataset."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, Kind]] = {}  # By split and column.

    def note(self, split: str, row: Mapping[str, Json]) -> None:
        """Note the further columns of a row."""
        kinds = self._kinds.setdefault(split, {})
        for name, value in row.items():
            kinds[name] = _merged(kinds.get(name), _kind(value))

    def settle(self, folder: Path) -> None:
        """Rewrite each metadata.jsonl below `folder` in which a column is of several types, or others than elsewhere.

        Whole numbers among fractions become fractions; everything else becomes text, as JSON writes it.
        """
        names = {name: None for kinds in self._kinds.values() for name in kinds}
        as_number, as_text = set(), set()
        for name in names:
            kinds = {kinds.get(name) for kinds in self._kinds.values()}
            if kinds == {"int", "float"}:
                as_number.add(name)
            elif len(kinds) > 1 or _is_mixed(next(iter(kinds))):
                as_text.add(name)
        if not as_number | as_text:
            return
        for split, kinds in self._kinds.items():
            blank = {name: "" for name in as_text if kinds.get(name) is None}
            file = folder / split / METADATA
            with whole_file(file) as partial, partial.open("w", encoding="utf-8", newline="\n") as written:
                with file.open(encoding="utf-8") as lines:
                    for line in lines:
                        row = json.loads(line)
                        for name in row.keys() & as_number:
                            row[name] = None if row[name] is None else float(row[name])
                        for name in row.keys() & as_text:
                            row[name] = _as_text(row[name])
                        row |= blank
                        written.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def _kind(value: Json, depth: int = 0) -> Kind:
    if value is None:
        return None
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(2**63) <= value < 2**63 else _MIXED
    if isinstance(value, float):
        return "float"
    if isinstance(value, str):
        return "date" if _DATE.fullmatch(value) else "text"
    if depth == _DEEPEST:
        return _MIXED
    if isinstance(value, Mapping):
        return "object", tuple(sorted((name, _kind(item, depth + 1)) for name, item in value.items()))
    inner: Kind = None
    for item in value:
        inner = _merged(inner, _kind(item, depth + 1))
    return "list", inner


def _merged(one: Kind, other: Kind) -> Kind:
    """The type of a column that holds values of both types."""
    if one == other or other is None:
        return one
    if one is None:
        return other
    if isinstance(one, tuple) and isinstance(other, tuple) and one[0] == other[0]:
        if one[0] == "list":
            return "list", _merged(one[1], other[1])
        fields, more = dict(one[1]), dict(other[1])
        return "object", tuple(sorted((name, _merged(fields.get(name), more.get(name))) for name in {*fields, *more}))
    pair = {one, other}
    return "float" if pair == {"int", "float"} else "text" if pair == {"date", "text"} else _MIXED


def _is_mixed(kind: Kind) -> bool:
    if isinstance(kind, tuple):
        inner = [item for _, item in kind[1]] if kind[0] == "object" else [kind[1]]
        return any(map(_is_mixed, inner))
    return kind == _MIXED


def _as_text(value: Json) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{text} " if _DATE.fullmatch(text) else text  # The blank keeps Arrow from reading a date.
