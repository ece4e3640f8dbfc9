"""Parquet files, as the `datasets` library stores images: a column with the bytes and the name of each, or its name.

pyarrow, which reads them, is an extra: ``pip install 'ratlip[parquet]'``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ratlip_cli.data import images
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
        of_bytes = [field.name for field in table.schema_arrow if _holds_bytes(field.type)]
        column = _image_column(of_bytes)
        if column is None and of_bytes:
            names = ", ".join(of_bytes)
            yield Problem(file.name, f"which of its columns is the image is not clear: {names}. Name one of them image")
            return
        for batch in table.iter_batches(batch_size=_AT_ONCE):
            for cells in batch.to_pylist():
                others = {key: _as_json(cell) for key, cell in cells.items() if key not in of_bytes}
                if column is None:
                    yield tables.row_of(others, file.name, caption_column)
                else:
                    yield _row(others, cells[column], f"{folder}/{number:06d}", file.name, caption_column)
                number += 1


def holds_images(file: Path) -> bool:
    """Whether the images are in `file` itself, or it cannot be read: else it names them."""
    try:
        import pyarrow.parquet

        columns = pyarrow.parquet.read_schema(file)
    except Exception:  # It is missing, or meets a damaged file with exceptions of many kinds: told where it is read.
        return True
    return any(_holds_bytes(column.type) for column in columns)


def _folder(stem: str) -> str:
    split = re.fullmatch(r"(train|test)(?:-(\d+)-of-(\d+).*)?", stem)
    if split is None:
        return stem
    is_only = split[3] is None or int(split[3]) == 1
    return split[1] if is_only else f"{split[1]}/{split[2]}"


def _holds_bytes(kind: Any) -> bool:
    """Whether a column of this type of Arrow's has bytes, or a structure with the field `bytes`."""
    names = [field.name for field in kind] if str(kind).startswith("struct<") else []
    kind = kind.field(names.index("bytes")).type if "bytes" in names else kind
    return re.match(r"(?:large_|fixed_size_)?binary", str(kind)) is not None


def _image_column(of_bytes: Sequence[str]) -> str | None:
    """Which of the columns with bytes is the image: the one that is called so, or the only one; else None."""
    called = (column for column in of_bytes if f".{column.casefold()}" in images.SUFFIXES)
    named = tables.file_column(dict.fromkeys(of_bytes, "x")) or next(called, None)
    return of_bytes[0] if named is None and len(of_bytes) == 1 else named


def _row(cells: dict[str, Any], image: Any, name: str, table: str, caption_column: str | None) -> Row | Problem:
    """The row of `image`, bytes or a structure of them and their name, and of its other `cells`."""
    content = image.get("bytes") if isinstance(image, Mapping) else image
    if not isinstance(content, bytes):
        return Problem(name, "it has no image")
    path = image.get("path") if isinstance(image, Mapping) else None
    base = PurePosixPath(path.replace("\\", "/")).name if isinstance(path, str) else ""
    row = tables.row_of(cells, table, caption_column, str(PurePosixPath(name).with_name(base)) if base else name)
    return row._replace(image=content) if isinstance(row, Row) else row


def _as_json(value: Any) -> Any:
    """A cell as JSON can hold it; other kinds, such as dates, as text, and bytes not at all."""
    if isinstance(value, dict):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    if isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
