"""Tables of captions: rows of a .csv or .jsonl file, each of which names an image and says what is on it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ratlip_cli.data.layout import Json, Problem
from ratlip_cli.errors import DataError

SUFFIXES = (".csv", ".jsonl")

FILE_COLUMNS = ("file_name", "filename", "file", "image", "image_path", "path")
"""Columns that name the image: the first that is there."""

CAPTION_COLUMNS = ("captions", "caption", "text")
"""Columns that hold captions: the first that is there, where none is asked for."""


class Row(NamedTuple):
    """What a row of a table, or a sample of a shard, says."""

    file_name: str
    captions: tuple[str, ...]
    further: Mapping[str, Json] = {}  # Its other columns.
    image: bytes | Path | None = None  # None: the file of that name.


def rows(table: Path, caption_column: str | None = None) -> Iterator[Row | Problem]:
    """Yield the rows of `table` in their order, and a Problem for each that cannot be used.

    Raises DataError where the table cannot be read.
    """
    for row in _cells(table):
        if isinstance(row, Problem):
            yield row
            continue
        column = _file_column(row)
        if column is None:
            yield Problem(table.name, f"a row has no file_name: {str(row)[:80]}")
            continue
        try:
            captions, further = caption_cells(row, caption_column)
        except ValueError as error:
            yield Problem(row[column], str(error))
        else:
            yield Row(row[column], captions, {key: value for key, value in further.items() if key != column})


def file_names(table: Path) -> Iterator[str]:
    """Yield the names of images in `table`, whatever it says of them; raises DataError where it cannot be read."""
    for row in _cells(table):
        if not isinstance(row, Problem) and (column := _file_column(row)) is not None:
            yield row[column]


def caption_cells(row: Mapping[str, Any], asked: str | None) -> tuple[tuple[str, ...], Mapping[str, Json]]:
    """Return the captions of a row and its further columns; raises ValueError where there are no captions.

    Columns that name files are dropped: they would mislead who reads the layout.
    """
    columns = (asked,) if asked is not None else CAPTION_COLUMNS
    column = next((column for column in columns if row.get(column) is not None), None)
    if column is None:
        raise ValueError(f"it has no caption: no column {' or '.join(columns)} among {', '.join(row)[:200]}")
    value = row[column]
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"its {column} is neither a text nor a list of texts")
    further = {
        key: cell
        for key, cell in row.items()
        if key not in {column, "captions", "image"} and not key.endswith(("file_name", "file_names"))
    }
    return tuple(captions), further


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object; raises ValueError, with the reason, for anything else."""
    try:
        value = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _file_column(row: Mapping[str, Any]) -> str | None:
    return next((column for column in FILE_COLUMNS if isinstance(row.get(column), str) and row[column]), None)


def _cells(table: Path) -> Iterator[dict[str, Any] | Problem]:
    read, newline = (_jsonl_rows, "\n") if table.suffix.lower() == ".jsonl" else (_csv_rows, "")
    try:
        with table.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline) as lines:
            yield from read(table.name, lines)
    except OSError as error:
        raise DataError(f"cannot read {table}: {error.strerror}") from error


def _jsonl_rows(name: str, lines: Iterable[str]) -> Iterator[dict[str, Any] | Problem]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield json_object(line)
            except ValueError as error:
                yield Problem(f"{name}, line {number}", str(error))


def _csv_rows(name: str, lines: Iterable[str]) -> Iterator[dict[str, Any] | Problem]:
    reader = csv.DictReader(lines)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield Problem(f"{name}, line {reader.reader.line_num}", f"not CSV: {error}")
            continue
        if row is None:
            return
        if None in row:
            yield Problem(f"{name}, line {reader.line_num}", "more cells than columns")
        else:
            yield row
