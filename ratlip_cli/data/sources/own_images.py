"""Your own images: a folder of pictures with captions.

Captions stand in `x.txt` beside `x.jpg`, one a line, or in a `metadata.jsonl` or `metadata.csv` that names the pictures
of its folder in the column `file_name`. Folders may be nested; pictures below `train/` and `test/` go to these splits,
others by their names.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ratlip_cli.data.layout import INFO, Json, Problem, Record
from ratlip_cli.data.pictures import SUFFIXES
from ratlip_cli.errors import DataError, UsageError

LICENCE = "that of the pictures' owner"

CAPTION_COLUMNS = ("captions", "caption", "text")
"""Columns that hold captions, the first that is there, where none is asked for."""

_TABLES = ("metadata.jsonl", "metadata.csv")
_SPLITS = ("train", "test")


@dataclass(frozen=True)
class Options:
    """How a folder is read."""

    caption_column: str | None = None  # Column with a caption or a list of them; None: one of CAPTION_COLUMNS.
    test_fraction: float = 0.1  # Share, in [0,1), of the pictures outside train/ and test/ that go to test.
    seed: int = 0  # Decides which.

    def __post_init__(self) -> None:
        if not 0 <= self.test_fraction < 1:
            raise UsageError(f"the test fraction must be at least 0 and less than 1, not {self.test_fraction:g}")

    def split_rule(self) -> str:
        """Return the rule in words, for dataset.json."""
        return (
            "the folders train and test; elsewhere "
            f"{self.test_fraction:g} of the pictures are test, by name (seed {self.seed})"
        )

    def split(self, name: str) -> str:
        """Return "train" or "test", for this name alone: adding a picture moves no other."""
        draw = int.from_bytes(
            hashlib.sha256(f"{self.seed}/{name}".encode("utf-8", "surrogateescape")).digest()[:8], "big"
        )
        return "test" if draw < self.test_fraction * 2**64 else "train"


def records(folder: Path, options: Options) -> Iterator[Record | Problem]:
    """Yield the captioned pictures of `folder`, in the order of their paths, and what cannot be used.

    Raises DataError where the folder or one in it cannot be read.
    """
    return _records_in(folder, folder, options)


def count(folder: Path) -> int:
    """Return the number of pictures, with or without captions, in `folder` and the folders in it."""
    return sum(file.suffix.lower() in SUFFIXES for file in _files_below(folder))


def fingerprint(folder: Path) -> str:
    """Return 64 hex digits that change when a file of `folder` comes, goes or is written again."""
    digest = hashlib.sha256()
    for file in _files_below(folder):
        state = file.stat()
        digest.update(
            f"{file.relative_to(folder)}\0{state.st_size}\0{state.st_mtime_ns}\0".encode("utf-8", "surrogateescape")
        )
    return digest.hexdigest()


def _records_in(directory: Path, folder: Path, options: Options) -> Iterator[Record | Problem]:
    files, folders = _listing(directory)
    tables = [directory / name for name in _TABLES if directory / name in files]
    if tables:
        yield from _from_table(tables[0], folder, options)
        return
    yield from _from_text_files(files, folder, options)
    for inner in folders:
        yield from _records_in(inner, folder, options)


def _from_text_files(files: list[Path], folder: Path, options: Options) -> Iterator[Record | Problem]:
    texts = {file for file in files if file.suffix == ".txt"}
    stems = {file.stem for file in files if file.suffix.lower() in SUFFIXES}
    for file in files:
        origin, text = str(file.relative_to(folder)), file.with_suffix(".txt")
        if file.suffix.lower() not in SUFFIXES:
            if file.stem not in stems and file not in texts and text in texts:
                yield Problem(origin, "not a kind of picture that can be read; convert it to PNG or JPEG")
        elif text not in texts:
            yield Problem(origin, f"it has no caption: {text.name} is missing")
        else:
            try:
                captions = text.read_text(encoding="utf-8-sig").splitlines()
            except UnicodeDecodeError:
                yield Problem(origin, f"{text.name} is not UTF-8")
            except OSError as error:
                yield Problem(origin, f"{text.name}: {error.strerror}")
            else:
                yield _record(file, folder, options, captions, {})


def _from_table(table: Path, folder: Path, options: Options) -> Iterator[Record | Problem]:
    named = set()
    read_rows = _jsonl_rows if table.suffix == ".jsonl" else _csv_rows
    for row in read_rows(table):
        if isinstance(row, Problem):
            yield row
            continue
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            yield Problem(table.name, f"a row has no file_name: {str(row)[:80]}")
            continue
        file = table.parent / name
        named.add(file)
        try:
            captions, column = _captions(row, options.caption_column)
            if ".." in file.parts or not file.is_relative_to(table.parent):
                raise ValueError("it lies outside its folder")
        except ValueError as error:
            yield Problem(name, str(error))
            continue
        yield _record(file, folder, options, captions, _further_columns(row, column))
    for file in _files_below(table.parent):
        if file.suffix.lower() in SUFFIXES and file not in named:
            yield Problem(str(file.relative_to(folder)), f"it has no caption: {table.name} does not name it")


def _captions(row: dict[str, Any], asked: str | None) -> tuple[list[str], str]:
    """Return the captions of a row and their column; raises ValueError where there are none."""
    columns = (asked,) if asked is not None else CAPTION_COLUMNS
    column = next((column for column in columns if row.get(column) is not None), None)
    if column is None:
        raise ValueError(f"it has no caption: no column {' or '.join(columns)} among {', '.join(row)}")
    value = row[column]
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"its {column} is neither a sentence nor a list of sentences")
    return captions, column


def _further_columns(row: dict[str, Any], caption_column: str) -> dict[str, Json]:
    """Return the columns to keep: those that name files would mislead who reads the layout."""
    return {
        column: value
        for column, value in row.items()
        if column not in {caption_column, "captions", "image"} and not column.endswith(("file_name", "file_names"))
    }


def _record(file: Path, folder: Path, options: Options, captions: list[str], extra: dict[str, Json]) -> Record:
    parts = PurePath(file.relative_to(folder)).with_suffix("").parts
    if len(parts) > 1 and parts[0] in _SPLITS:
        split, parts = parts[0], parts[1:]
    else:
        split = options.split("/".join(parts))
    return Record("_".join(parts), split, tuple(captions), file, extra=extra, origin=str(file.relative_to(folder)))


def _jsonl_rows(table: Path) -> Iterator[dict[str, Any] | Problem]:
    try:
        with table.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _json_row(line, f"{table.name}, line {number}")
    except OSError as error:
        raise DataError(f"cannot read {table}: {error.strerror}") from error


def _json_row(line: str, where: str) -> dict[str, Any] | Problem:
    try:
        row = json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        return Problem(where, f"not JSON: {error}")
    return row if isinstance(row, dict) else Problem(where, "not a JSON object")


def _csv_rows(table: Path) -> Iterator[dict[str, Any] | Problem]:
    try:
        with table.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            reader = csv.DictReader(lines)
            while True:
                try:
                    row = next(reader, None)
                except csv.Error as error:
                    yield Problem(f"{table.name}, line {reader.reader.line_num}", f"not CSV: {error}")
                    continue
                if row is None:
                    return
                if None in row:
                    yield Problem(f"{table.name}, line {reader.line_num}", "more cells than columns")
                else:
                    yield row
    except OSError as error:
        raise DataError(f"cannot read {table}: {error.strerror}") from error


def _files_below(directory: Path) -> Iterator[Path]:
    files, folders = _listing(directory)
    yield from files
    for inner in folders:
        yield from _files_below(inner)


def _listing(directory: Path) -> tuple[list[Path], list[Path]]:
    """Return the visible files of `directory` and the folders to look into: no links, no prepared datasets."""
    try:
        paths = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
        files = [path for path in paths if path.is_file()]
        folders = [path for path in paths if path.is_dir() and not path.is_symlink() and not (path / INFO).exists()]
    except FileNotFoundError:
        raise DataError(f"{directory} does not exist. Give a folder of pictures with captions.") from None
    except NotADirectoryError:
        raise DataError(f"{directory} is a file. Give the folder of pictures with captions that it is in.") from None
    except OSError as error:
        raise DataError(f"cannot read {directory}: {error.strerror}") from error
    return files, folders
