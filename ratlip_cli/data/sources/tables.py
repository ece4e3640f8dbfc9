"""Tables of captions: rows of a text file, each of which names an image and says what is on it.

Cells are separated by commas, semicolons, tabs or bars, with or without a first line of column names; or each line is
a JSON object. Which of them it is, and its encoding, is told from its beginning.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from ratlip_cli.data.archives import Member
from ratlip_cli.data.images import SUFFIXES as IMAGE_SUFFIXES
from ratlip_cli.data.layout import Json, Problem
from ratlip_cli.data.sources.texts import encoding_of, unreadable
from ratlip_cli.errors import DataError

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl")

FILE_COLUMNS = (
    *("file_name", "filename", "file", "image", "image_path", "path"),
    *("image_name", "image_file", "img", "img_path", "file_path", "filepath"),
)
"""Columns that name the image: the first that is there. Case, blanks and hyphens do not count."""

CAPTION_COLUMNS = ("captions", "caption", "text", "comment", "description", "sentences", "sentence", "raw")
"""Columns that hold captions: the first that is there, where none is asked for."""

_NUMBERED = re.compile(r"(?:caption|text|comment|description|sentence)_?\d+")

DELIMITERS = ",;\t|"

_HEAD = 65536
"""Bytes from which it is told what kind of table a file is."""

_IMAGE_NAME = re.compile(
    rf"\.(?:{'|'.join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))})(?:#\d+)?\s*$", re.IGNORECASE
)
ADDRESS = "an address in the web; download the images first, for example with img2dataset, which makes shards"
"""Why an image that is not on this disk cannot be used."""

_CAPTION_NUMBER = re.compile(r"(\.\w{3,4})#\d+\s*$")


class Row(NamedTuple):
    """What a row of a table, or a sample of a shard, says."""

    file_name: str
    captions: tuple[str, ...]
    further: Mapping[str, Json] = {}  # Its other columns.
    image: bytes | Path | None = None  # None: the file of that name.
    why: str = ""  # Why there are no captions, where that is known: who needs them makes a Problem of it.


def rows(table: Path | Member, caption_column: str | None = None) -> Iterator[Row | Problem]:
    """Yield the rows of `table` in their order, and a Problem for each that cannot be used.

    Raises DataError where the table cannot be read.
    """
    file = Member(table.name, table) if isinstance(table, Path) else table
    empty = True
    for cells in _cells(file, caption_column):
        empty = False
        yield cells if isinstance(cells, Problem) else row_of(cells, _base_name(file), caption_column)
    if empty:
        yield Problem(_base_name(file), "it has no rows")


def is_caption_table(file: Member, caption_column: str | None = None) -> bool:
    """Whether the beginning of a text file, whatever its name, is that of a table of images and captions."""
    try:
        with _opened(file) as opened:
            head = _decoded_head(opened)
    except DataError:
        return False
    if head.lstrip().startswith("{"):
        try:
            row = json_object(head.strip().splitlines()[0])
        except ValueError:
            return False
        return file_column(row) is not None and bool(_caption_columns(row, caption_column))
    layout = _layout(head, caption_column)
    return layout is not None and layout.is_sure


def row_of(
    cells: Mapping[str, Any], table: str, caption_column: str | None, file_name: str | None = None
) -> Row | Problem:
    """Return the row of a table, called `table` in reports, whose cells are `cells`, and name its image if need be."""
    column = file_column(cells) if file_name is None else None
    if column is None and file_name is None:
        if found := [name for name in cells if _plain(name) in FILE_COLUMNS]:
            return Problem(table, f"a row has no file_name: its {found[0]} is {str(cells[found[0]])[:40]!r}")
        if address := next((cell for cell in cells.values() if is_address(cell)), None):
            return Problem(address, ADDRESS)
        names = ", ".join(repr(str(name)) for name in cells)[:200]
        return Problem(table, f"a row has no file_name: its columns are {names}. Name one of them file_name")
    file_name = _CAPTION_NUMBER.sub(r"\1", cells[column]) if column is not None else str(file_name)
    try:
        captions, further, why = _caption_cells(cells, caption_column)
        further = _encodable({key: value for key, value in further.items() if key != column})
    except ValueError as error:
        return Problem(file_name, str(error))
    if reason := unreadable(captions, table):
        return Problem(file_name, reason)
    return Row(file_name, captions, further, why=why)


def is_address(cell: object) -> bool:
    """Whether a cell is an address in the web."""
    return isinstance(cell, str) and re.match(r"https?://", cell) is not None


def _caption_cells(row: Mapping[str, Any], asked: str | None) -> tuple[tuple[str, ...], Mapping[str, Json], str]:
    """Return the captions of a row, its further columns, and why there are no captions.

    Columns that name files are dropped: they would mislead who reads the layout. Raises ValueError where the captions
    are no texts, or the column that is asked for is not there.
    """
    columns, why = _caption_columns(row, asked), ""
    if not columns:
        why = "it has no caption"
        if not _caption_columns(dict.fromkeys(row, ""), asked):
            wanted = CAPTION_COLUMNS[:3] if asked is None else (asked,)
            why += f": no column {' or '.join(wanted)} among {', '.join(map(str, row))[:200]}"
            if asked is not None:
                raise ValueError(why)
    captions: list[str] = []
    for column in columns:
        value = row[column]
        texts = _listed(value) if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(caption, str) for caption in texts):
            raise ValueError(f"its {column} is neither a text nor a list of texts")
        captions += texts
    further = {
        key: cell
        for key, cell in row.items()
        if key not in {*columns, "captions", "image"} and not key.endswith(("file_name", "file_names"))
    }
    return tuple(captions), further, why


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object; raises ValueError, with the reason, for anything else."""
    value = json_value(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def json_value(text: str) -> Any:
    """Parse JSON, in which NaN and infinities become null; raises ValueError, with the reason."""
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error


def file_column(row: Mapping[str, Any]) -> str | None:
    """Return the column of `row` that names its image, if one does."""
    names = {_plain(column): column for column in row if isinstance(row[column], str) and row[column].strip()}
    return next((names[column] for column in FILE_COLUMNS if column in names), None)


def _caption_columns(row: Mapping[str, Any], asked: str | None) -> list[str]:
    names = {_plain(column): column for column in row if row[column] is not None}
    if asked is not None:
        return [asked] if row.get(asked) is not None else [names[_plain(asked)]] if _plain(asked) in names else []
    one = next((names[column] for column in CAPTION_COLUMNS if column in names), None)
    return [one] if one is not None else [names[name] for name in names if _NUMBERED.fullmatch(name)]


def _plain(column: str) -> str:
    return re.sub(r"[\s-]+", "_", column.strip().casefold())


def _listed(text: str) -> list[str]:
    """The captions of a cell, which may hold a list of them as JSON."""
    if text.lstrip().startswith('["'):
        try:
            return list(json_value(text))
        except ValueError:
            pass
    return [text]


def _encodable(further: dict[str, Json]) -> Mapping[str, Json]:
    """`further` with a question mark for what UTF-8 cannot hold; raises ValueError for what is no JSON."""
    try:
        text = json.dumps(further, ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError:
        return json_object(text.encode("utf-8", "replace").decode())
    except RecursionError:
        raise ValueError("its columns are nested too deeply") from None
    return further


def _base_name(file: Member) -> str:
    return file.name.rsplit("/", 1)[-1]


def _opened(file: Member) -> IO[bytes]:
    try:
        return io.BytesIO(file.content) if isinstance(file.content, bytes) else file.content.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {file.name}: {error.strerror}") from error


def _decoded_head(opened: IO[bytes]) -> str:
    """The beginning of a text, up to the end of its last whole line."""
    head = opened.read(_HEAD)
    opened.seek(0)
    text = head.decode(encoding_of(head), "replace")
    return text if len(head) < _HEAD else text[: text.rfind("\n") + 1] or text


def _cells(file: Member, caption_column: str | None) -> Iterator[Mapping[str, Any] | Problem]:
    name = _base_name(file)
    try:
        with _opened(file) as opened:
            head = _decoded_head(opened)
            encoding = encoding_of(opened.read(_HEAD))
            opened.seek(0)
            errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
            is_jsonl = name.lower().endswith(".jsonl") or head.lstrip().startswith("{")
            lines = io.TextIOWrapper(opened, encoding, errors=errors, newline="\n" if is_jsonl else "")
            yield from _jsonl_rows(name, lines) if is_jsonl else _csv_rows(name, lines, _layout(head, caption_column))
    except OSError as error:
        raise DataError(f"cannot read {file.name}: {error.strerror}") from error


def _jsonl_rows(name: str, lines: Iterable[str]) -> Iterator[dict[str, Any] | Problem]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield json_object(line)
            except ValueError as error:
                yield Problem(f"{name}, line {number}", str(error))


class _Layout(NamedTuple):
    """How the cells of a text table stand."""

    delimiter: str
    columns: Sequence[str]
    has_header: bool  # Whether its first line names the columns.
    is_sure: bool = True  # Whether it is a table of images and captions without a doubt.
    joined: bool = False  # Whether further cells belong to the last one: captions with commas, and no quotes.


def _layout(head: str, caption_column: str | None) -> _Layout | None:
    """Tell the layout of a table from its first lines; None where it has none."""
    samples = {}
    for delimiter in DELIMITERS:
        found = [
            cells for _, cells in _records(head.splitlines(keepends=True)[:50], delimiter) if isinstance(cells, list)
        ]
        if found:
            samples[delimiter] = found
    headers = {delimiter: [cell.strip() for cell in sample[0]] for delimiter, sample in samples.items()}
    for delimiter, header in headers.items():
        row = dict.fromkeys(header, "x")
        if file_column(row) is not None and any(
            column != file_column(row) for column in _caption_columns(row, caption_column)
        ):
            return _Layout(delimiter, header, has_header=True)
    for delimiter, sample in samples.items():
        if layout := _headless(delimiter, sample, caption_column):
            return layout
    if not headers:
        return None
    delimiter, header = max(
        headers.items(), key=lambda item: (file_column(dict.fromkeys(item[1], "x")) is not None, len(item[1]))
    )
    return _Layout(delimiter, header, has_header=True, is_sure=False)


def _headless(delimiter: str, sample: list[list[str]], caption_column: str | None) -> _Layout | None:
    """The layout of a table whose first line is a row already: a column of image names, and one of longer texts."""
    width = min(len(cells) for cells in sample)
    names = [place for place in range(width) if all(_IMAGE_NAME.search(cells[place]) for cells in sample)]
    if len(names) != 1 or width < 2:
        return None
    joined = any(len(cells) != width for cells in sample)
    others = [place for place in range(width) if place != names[0]]
    lengths = {place: sum(len(cells[place]) for cells in sample) for place in others}
    caption = max(others, key=lambda place: lengths[place])
    if joined and (width != 2 or names != [0]):
        return None
    if not all(re.search(r"[^\W\d_]", cells[caption]) for cells in sample if cells[caption].strip()):
        return None
    columns = [f"column_{place + 1}" for place in range(width)]
    columns[names[0]], columns[caption] = "file_name", caption_column or "caption"
    return _Layout(delimiter, columns, has_header=False, joined=joined)


def _csv_rows(name: str, lines: Iterable[str], layout: _Layout | None) -> Iterator[dict[str, Any] | Problem]:
    if layout is None:
        return
    records = _records(lines, layout.delimiter, skip_blanks=not layout.joined)
    if layout.has_header:
        next(records)
    columns = layout.columns
    for number, cells in records:
        if isinstance(cells, str):
            yield Problem(f"{name}, line {number}", f"not CSV: {cells}")
            continue
        if layout.joined and len(cells) > len(columns):
            rest = len(columns) - 1
            cells = [*cells[:rest], layout.delimiter.join(cells[rest:])]
        if len(cells) > len(columns):
            yield Problem(f"{name}, line {number}", "more cells than columns; put quotes around its caption")
        else:
            yield dict.fromkeys(columns) | dict(zip(columns, cells, strict=False))


def _records(lines: Iterable[str], delimiter: str, skip_blanks: bool = True) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the number of its last line and the cells of each record, or what is wrong with it.

    A record that cannot be read to its end, such as one with a quote that is never closed, costs its first line alone.
    """
    source = _Lines(lines)
    reader = csv.reader(source, delimiter=delimiter, skipinitialspace=skip_blanks, strict=True)
    while True:
        source.begin()
        try:
            cells = next(reader, None)
        except csv.Error:
            first = source.back_to_second()
            reader = csv.reader(source, delimiter=delimiter, skipinitialspace=skip_blanks, strict=True)
            try:
                cells = next(csv.reader([first.rstrip("\r\n")], delimiter=delimiter, skipinitialspace=skip_blanks), [])
            except csv.Error as error:
                yield source.number, str(error)
                continue
        if cells is None:
            return
        if cells:
            yield source.number, cells


class _Lines:
    """Lines of which those of the record that is being read can be taken back."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._back: deque[str] = deque()
        self._taken: list[str] = []
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else next(self._lines)
        self._taken.append(line)
        self.number += 1
        return line

    def begin(self) -> None:
        """Let a record begin here."""
        self._taken.clear()

    def back_to_second(self) -> str:
        """Go back to the second line of the record, and return the first."""
        first, *rest = self._taken
        self._back.extendleft(reversed(rest))
        self.number -= len(rest)
        return first
