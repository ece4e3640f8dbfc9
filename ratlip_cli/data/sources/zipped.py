"""A .zip of captioned images, read where it lies: with a table in it, or a text file for each image."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Set
from functools import partial
from pathlib import Path, PurePosixPath

from ratlip_cli.data.archives import ArchiveError, Member, OpenZip, stem
from ratlip_cli.data.images import is_image, why_not_read
from ratlip_cli.data.layout import Problem
from ratlip_cli.data.sources import named_images, parquet
from ratlip_cli.data.sources.caption_files import CaptionFiles, unread_images
from ratlip_cli.data.sources.image_files import ImageFiles
from ratlip_cli.data.sources.tables import Row
from ratlip_cli.data.sources.texts import decoded


def samples(
    file: Path, caption_column: str | None = None, without_caption: bool = False, apart: Set[str] = frozenset()
) -> Iterator[Row | Problem]:
    """Yield the images of the .zip `file` with their captions, and a Problem for what cannot be used.

    Args:
        without_caption: yield images that have none, too.
        apart: names of images that are used already.

    A .zip that is damaged, or refused, is a Problem.
    """
    try:
        with OpenZip(file) as opened:
            yield from opened.refused
            yield from _samples(opened, caption_column, without_caption, set(apart))
    except ArchiveError as error:
        yield Problem("its content", str(error))


def top(file: Path) -> str:
    """Return the folder in the .zip `file` that stands for all of it: called as it is, or with train or test in it."""
    try:
        with OpenZip(file) as opened:
            names = [name.split("/") for name in opened.names]
    except ArchiveError:
        return ""  # It is told where it is read.
    first = {parts[0] for parts in names if len(parts) > 1}
    if len(first) != 1 or any(len(parts) == 1 for parts in names):
        return ""
    (only,) = first
    is_whole = only == stem(file.name) or any(parts[1] in ("train", "test") for parts in names if len(parts) > 2)
    return only if is_whole and only not in ("train", "test") else ""


def _samples(
    opened: OpenZip, caption_column: str | None, without_caption: bool, done: set[str]
) -> Iterator[Row | Problem]:
    names = [name for name in opened.names if not re.search(r"(?:^|/)\.", name)]  # As hidden files of a folder.
    texts = CaptionFiles(names)
    files = ImageFiles(lambda: names, opened.names.__contains__)
    tables = [table for name in names if (table := _table(name, opened, texts, caption_column))]
    known = sorted(filter(_rank, tables), key=_rank)
    metadata = {posixpath.dirname(table.name): table for table in known}
    loose = [table for table in tables if not _rank(table) and _of_folders(table.name, metadata) is None]
    for group, is_loose in ((metadata.values(), False), (loose, True)):
        for item in named_images.of_tables(
            ((named_images.rows(table, caption_column), posixpath.dirname(table.name)) for table in group), files
        ):
            if isinstance(item, tuple) and not isinstance(item, Row):
                name, row = item
                if name not in done and not (is_loose and texts.beside(name)):
                    done.add(name)
                    yield _with_image(row._replace(file_name=name), opened)
            else:
                if isinstance(item, Problem):
                    done.add(item.name)
                yield item
    left = (name for name in names if not (name.endswith(".txt") and _of_folders(name, metadata)))
    rest = {PurePosixPath(name): name for name in left if name not in done}
    images = {file: name for file, name in rest.items() if is_image(file, partial(opened.open, name))}
    for file in unread_images(rest, images.keys()):
        yield Problem(rest[file], why_not_read(file))
    for name in images.values():
        table = _of_folders(name, metadata)
        text = texts.of(name) if table is None else None
        if text is not None:
            try:
                captions = tuple(decoded(opened.read(text), posixpath.basename(text)).splitlines())
            except (ValueError, ArchiveError) as error:
                yield Problem(name, str(error))
            else:
                yield _with_image(Row(name, captions), opened)
        elif without_caption:
            yield _with_image(Row(name, ()), opened)
        elif table is not None:
            yield Problem(name, f"it has no caption: {posixpath.basename(table.name)} does not name it")
        else:
            missing, _ = posixpath.splitext(posixpath.basename(name))
            yield Problem(name, f"it has no caption: {missing}.txt is missing")


def _rank(table: Member) -> int:
    """The place of a metadata.* among those of a folder, of which the highest counts; 0: it is another table."""
    name = posixpath.basename(table.name).lower()
    return len(named_images.METADATA) - named_images.METADATA.index(name) if name in named_images.METADATA else 0


def _of_folders(name: str, metadata: Mapping[str, Member]) -> Member | None:
    """The metadata.* of the folders that the file `name` is in: the nearest."""
    folders = map(str, PurePosixPath(name).parents)
    return next((metadata[folder] for folder in folders if folder in metadata), metadata.get(""))


def _table(name: str, opened: OpenZip, texts: CaptionFiles, caption_column: str | None) -> Member | None:
    """The file `name` of a .zip where it is a table of captions."""
    if not name.lower().endswith(named_images.SUFFIXES) or name.lower().endswith(parquet.SUFFIXES):
        return None
    if texts.belongs(name) or texts.is_beside_image(name):
        return None
    try:
        table = Member(name, opened.read(name))
    except ArchiveError:
        return None
    return table if _rank(table) or named_images.is_table(table, caption_column) else None


def _with_image(row: Row, opened: OpenZip) -> Row | Problem:
    try:
        return row._replace(image=opened.read(row.file_name))
    except ArchiveError as error:
        return Problem(row.file_name, str(error))
