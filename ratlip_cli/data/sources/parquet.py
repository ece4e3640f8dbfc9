"""Parquet files, as the `datasets` library stores images: a column with the bytes and the name of each, or its name.

pyarrow, which reads them, is an extra: ``pip install 'ratlip[parquet]'``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ratlip_cli.data.layout import Problem
from ratlip_cli.data.sources import tables
from ratlip_cli.data.sources.tables import Row
from ratlip_cli.errors import DataError, RatlipError, one_line

SUFFIXES = (".parquet",)

_AT_ONCE = 32
"""Rows that are held at a time: an image may be of megabytes."""


def rows(file: Path, caption_column: str | None = None) -> Iterator[Row | Problem]:
    """Yield the rows of `file` in their order, and a Problem for each that cannot be used.

    Images in it are called by the file's own name and theirs, or the number of their row; those of
    train-00000-of-00002, as the `datasets` library calls files, are in the folder train. Raises DataError where the
    file cannot be read, RatlipError where pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise RatlipError(f"{file} is Parquet, which needs pyarrow: `pip install pyarrow`.") from None
    number = 0
    try:
        for row in streamed(file, file, caption_column):
            yield row
            number += 1
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        if number == 0:
            raise DataError(
                f"{file} cannot be read as Parquet: {one_line(error).rstrip('.')}. Get it again."
            ) from error
        yield Problem(f"{file.name}, from row {number}", f"damaged: {one_line(error)}")


def streamed(opened: IO[bytes] | Path, file: Path, caption_column: str | None = None) -> Iterator[Row | Problem]:
    """Yield the rows of `opened`, which is called `file`, as `rows` does; what pyarrow raises comes through."""
    import pyarrow.parquet

    number, folder = 0, _folder(file.stem)
    with pyarrow.parquet.ParquetFile(opened) as table:
        for batch in table.iter_batches(batch_size=_AT_ONCE):
            for cells in batch.to_pylist():
                yield _row(cells, folder, f"{number:06d}", file.name, caption_column)
                number += 1


def _folder(stem: str) -> str:
    split = re.fullmatch(r"(train|test)(?:-(\d+)-of-(\d+).*)?", stem)
    if split is None:
        return stem
    is_only = split[3] is None or int(split[3]) == 1
    return split[1] if is_only else f"{split[1]}/{split[2]}"


def _row(cells: dict[str, Any], folder: str, number: str, table: str, caption_column: str | None) -> Row | Problem:
    image, file_name = None, None
    for column, value in cells.items():
        content = value.get("bytes") if isinstance(value, Mapping) else value
        if isinstance(content, bytes):
            image = content
            name = value.get("path") if isinstance(value, Mapping) else None
            base = PurePosixPath(name.replace("\\", "/")).name if isinstance(name, str) else ""
            file_name = f"{folder}/{base or number}"
            cells = {key: cell for key, cell in cells.items() if key != column}
            break
    row = tables.row_of({key: _as_json(cell) for key, cell in cells.items()}, table, caption_column, file_name)
    return row._replace(image=image) if isinstance(row, Row) else row


def _as_json(value: Any) -> Any:
    """A cell as JSON can hold it; other kinds, such as dates, as text, and bytes not at all."""
    if isinstance(value, dict):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    if isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
