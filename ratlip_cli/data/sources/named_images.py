"""Images that a table names, with all the captions that its rows give them."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from ratlip_cli.data.archives import ZIP, ArchiveError, Member, OpenZip, stem
from ratlip_cli.data.images import SUFFIXES as IMAGE_SUFFIXES
from ratlip_cli.data.layout import Problem
from ratlip_cli.data.sources import captions_json, parquet, tables
from ratlip_cli.data.sources.image_files import ImageFiles, is_absolute
from ratlip_cli.data.sources.tables import Row

SUFFIXES = (*tables.SUFFIXES, *captions_json.SUFFIXES, *parquet.SUFFIXES)

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.tsv", "metadata.parquet")
"""Tables that belong to all images of their folder: the first that is there."""


class Place:
    """The files below a folder, and in the .zip files there, under paths relative to it."""

    def __init__(self, root: Path, files: Callable[[], Iterable[Path]], closing: ExitStack) -> None:
        self.root = root
        self._files = files
        self._closing = closing
        self._zips: dict[str, OpenZip] | None = None
        self.images = ImageFiles(self._names, self._exists)

    def content(self, name: str) -> Path | bytes:
        """Return where the file `name` lies, or its bytes; raises ArchiveError where its .zip is damaged."""
        opened, inner = self._inside(name)
        return self.root / name if opened is None else opened.read(inner)

    def relative(self, found: Iterable[Row | Problem], base: str) -> Iterator[Row | Problem]:
        """Yield rows, in which names from the root of the disk that lead into this folder begin at `base` instead."""
        roots = [f"{root.as_posix().rstrip('/')}/" for root in (self.root.absolute(), self.root.resolve())]
        for row in found:
            root = None if isinstance(row, Problem) else next((r for r in roots if row.file_name.startswith(r)), None)
            if isinstance(row, Problem) or root is None:
                yield row
            else:
                inner = posixpath.normpath(row.file_name[len(root) :])
                yield row._replace(file_name=posixpath.relpath(inner, base) if base else inner)

    def zip_of(self, name: str) -> Path | None:
        """Return the .zip file that holds `name`, if one does."""
        opened, _ = self._inside(name)
        return None if opened is None else opened.file

    def _names(self) -> Iterator[str]:
        for file in self._files():
            yield file.relative_to(self.root).as_posix()
        for prefix, opened in self._opened().items():
            for inner in opened.names:
                yield prefix + inner

    def _exists(self, name: str) -> bool:
        return os.path.isfile(self.root / name) or self._inside(name)[0] is not None  # noqa: PTH113  it never raises

    def _inside(self, name: str) -> tuple[OpenZip | None, str]:
        for prefix, opened in self._opened().items():
            if name.startswith(prefix) and name[len(prefix) :] in opened.names:
                return opened, name[len(prefix) :]
        return None, name

    def _opened(self) -> dict[str, OpenZip]:
        if self._zips is None:
            self._zips = {}
            for file in self._files():
                if file.name.lower().endswith(ZIP):
                    try:
                        opened = self._closing.enter_context(OpenZip(file))
                    except ArchiveError:
                        continue  # It is told where it is read for itself.
                    self._zips[f"{file.relative_to(self.root).with_name(stem(file.name)).as_posix()}/"] = opened
        return self._zips


def is_table(file: Member, caption_column: str | None = None) -> bool:
    """Whether `file`, which is no metadata.* and does not stand beside an image of its name, is a table of captions."""
    name = file.name.lower()
    if name.endswith(captions_json.SUFFIXES):
        return captions_json.is_captions(file) or tables.is_caption_table(file, caption_column)
    if name.endswith(tables.SUFFIXES):
        return ".lemma." not in name and tables.is_caption_table(file, caption_column)
    return name.endswith(parquet.SUFFIXES)


def rows(table: Member, caption_column: str | None) -> Iterator[Row | Problem]:
    """Yield the rows of a table of any kind; raises DataError where it cannot be read."""
    if isinstance(table.content, Path) and table.name.lower().endswith(parquet.SUFFIXES):
        return parquet.rows(table.content, caption_column)
    if table.name.lower().endswith(captions_json.SUFFIXES) and not tables.is_caption_table(table, caption_column):
        return captions_json.rows(table, caption_column)
    return tables.rows(table, caption_column)


def of_tables(
    tables: Iterable[tuple[Iterable[Row | Problem], str]], files: ImageFiles, anywhere: bool = False
) -> Iterator[tuple[str, Row] | Row | Problem]:
    """Yield the images that the rows of tables name, with all their captions: the file of each, and its row.

    A file of which there is nothing near comes as well: who reads it says that it does not exist. Rows that hold their
    image come as they are.

    Args:
        tables: the rows of each, and the folder at which its names begin.
        anywhere: look for names that begin at a root by their ends.
    """
    by_file: dict[str, Row] = {}
    for found, base in tables:
        for item in _of_table(found, files, base, anywhere):
            if isinstance(item, (Row, Problem)):
                yield item
            else:
                by_file[item[0]] = _with_captions(by_file.get(item[0]), item[1])
    yield from by_file.items()


def _of_table(
    found: Iterable[Row | Problem], files: ImageFiles, base: str, anywhere: bool
) -> Iterator[tuple[str, Row] | Row | Problem]:
    by_name: dict[str, Row] = {}
    for row in found:
        if isinstance(row, Problem):
            yield _placed(row, files, base)
        elif row.image is not None:
            yield row
        else:
            by_name[row.file_name] = _with_captions(by_name.get(row.file_name), row)
    places: dict[str, str | ValueError] = {}
    for name in by_name:
        try:
            exact = None if anywhere and is_absolute(name) else files.exact(name, base)
        except ValueError as error:
            places[name] = error
        else:
            if exact is not None:
                places[name] = exact
    taken = {place for place in places.values() if isinstance(place, str)}
    for name, row in by_name.items():
        place = places.get(name)
        if place is None:
            try:
                others = frozenset() if is_absolute(name) else taken
                relative = re.sub(r"^(?:[A-Za-z]:)?[/\\]+", "", name)
                place = files.similar(relative, base, others)
                if place is None and tables.is_address(name):
                    raise ValueError
                place = place or posixpath.normpath(posixpath.join(base, name))
            except ValueError as error:
                place = ValueError(tables.ADDRESS) if tables.is_address(name) else error
        if isinstance(place, ValueError):
            yield Problem(name, str(place))
        else:
            yield place, row


def _placed(problem: Problem, files: ImageFiles, base: str) -> Problem:
    """The problem of a row, under the path of the image that it names, where there is one."""
    if posixpath.splitext(problem.name)[1].lower() not in IMAGE_SUFFIXES:
        return problem
    try:
        place = files.exact(problem.name, base) or files.similar(problem.name, base)
    except ValueError:
        return problem
    return problem if place is None else Problem(place, problem.reason)


def _with_captions(before: Row | None, row: Row) -> Row:
    if before is None:
        return row._replace(captions=tuple(dict.fromkeys(row.captions)))
    return before._replace(captions=tuple(dict.fromkeys(before.captions + row.captions)))
