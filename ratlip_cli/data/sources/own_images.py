"""Your own images: a folder of images with captions, a table that names images, or shards of WebDataset.

In a folder, captions stand in `x.txt` beside `x.jpg`, one a line, or in a `metadata.jsonl` or `metadata.csv` that names
the images of its folder in the column `file_name`. Folders may be nested; images below `train/` and `test/` go to
these splits, others by their names.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ratlip_cli.data import archives
from ratlip_cli.data.folders import Folder, read_folder
from ratlip_cli.data.images import is_image, is_other_image
from ratlip_cli.data.layout import Problem, Record
from ratlip_cli.data.sources import tables, webdataset
from ratlip_cli.errors import DataError, UsageError

LICENCE = "that of the images' owner"

_TABLES = ("metadata.jsonl", "metadata.csv")


@dataclass(frozen=True)
class Options:
    """How a folder is read."""

    caption_column: str | None = None  # Column with a caption or a list of them; None: one of tables.CAPTION_COLUMNS.
    test_fraction: float = 0.1  # Share, in [0,1), of the images outside train/ and test/ that go to test.
    seed: int = 0  # Decides which.

    def __post_init__(self) -> None:
        if not 0 <= self.test_fraction < 1:
            raise UsageError(f"the test fraction must be at least 0 and less than 1, not {self.test_fraction:g}")

    def split_rule(self) -> str:
        """Return the rule in words, for dataset.json."""
        share = f"{self.test_fraction:g} of the images are test, by name (seed {self.seed})"
        return f"the folders train and test; elsewhere {share}"

    def split(self, name: str) -> str:
        """Return "train" or "test", for this name alone: adding an image moves no other."""
        return "test" if self.rank(name) < self.test_fraction else "train"

    def rank(self, name: str) -> float:
        """Return a number in [0,1), for this name alone: images below the test fraction are test."""
        digest = hashlib.sha256(f"{self.seed}/{name}".encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") / 2**64


def records(path: Path, options: Options) -> Iterator[Record | Problem]:
    """Yield the captioned images of `path`, a folder in the order of its paths, and what cannot be used.

    Raises DataError where it, or a folder in it, cannot be read, or it is nothing that images can be read from.
    """
    if not path.is_file():
        return _in_folder(read_folder(path), path, options)
    if webdataset.is_shard(path):
        return _in_shard(path, path.parent, options)
    if _is_table(path):
        return _in_table(path, path.parent, options)
    raise DataError(
        f"{path} is a file. Give the folder of images with captions that it is in, a table "
        f"({', '.join(tables.SUFFIXES)}) or a shard ({', '.join(webdataset.SUFFIXES)})."
    )


def name(path: Path) -> str:
    """Return what a dataset made from `path` is called."""
    path = path.resolve()
    if not path.is_file():
        return path.name
    return archives.stem(path.name) if archives.is_archive(path) else path.stem


def count(path: Path) -> int | None:
    """Return the number of images, with or without captions, in `path`; None where shards would have to be read."""
    if path.is_file():
        return len(set(_named(path))) if _is_table(path) else None
    files = list(_files_below(path))
    if any(webdataset.is_shard(file) for file in files):
        return None
    return sum(map(is_image, files))


def passed_over(path: Path) -> tuple[str, ...]:
    """Return one line for each kind of thing in the folder `path` that is not looked at."""
    return () if path.is_file() else read_folder(path).passed_over()


def fingerprint(path: Path) -> str:
    """Return 64 hex digits that change when a file of `path` comes, goes or is written again."""
    digest = hashlib.sha256()
    folder = path.parent if path.is_file() else path
    files = [path, *(_named(path) if _is_table(path) else ())] if path.is_file() else _files_below(path)
    for file in files:
        try:
            state = file.stat()
        except OSError:  # Its folder may be listed, but not read.
            continue
        words = f"{file.relative_to(folder)}\0{state.st_size}\0{state.st_mtime_ns}\0"
        digest.update(words.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _in_folder(found: Folder, folder: Path, options: Options) -> Iterator[Record | Problem]:
    yield from found.problems
    table = next((found.path / name for name in _TABLES if found.path / name in found.files), None)
    if table is not None:
        try:
            yield from _in_table(table, folder, options)
            yield from _unnamed(table, folder)
        except DataError as error:  # It cannot be read: the other folders can.
            yield Problem(str(table.relative_to(folder)), str(error))
        return
    yield from _with_text_files(found.files, folder, options)
    for shard in filter(webdataset.is_shard, found.files):
        yield from _in_shard(shard, folder, options)
    for inner in found.folders:
        yield from _in_folder(inner, folder, options)


def _with_text_files(files: list[Path], folder: Path, options: Options) -> Iterator[Record | Problem]:
    texts = {file for file in files if file.suffix == ".txt"}
    images = {file for file in files if is_image(file)}
    stems = {file.stem for file in images}
    for file in files:
        origin, text = str(file.relative_to(folder)), file.with_suffix(".txt")
        if file not in images:
            if is_other_image(file) or (file.stem not in stems and file not in texts and text in texts):
                yield Problem(origin, "not a kind of image that can be read; convert it to PNG or JPEG")
        elif text not in texts:
            yield Problem(origin, f"it has no caption: {text.name} is missing")
        else:
            try:
                captions = tuple(text.read_text(encoding="utf-8-sig").splitlines())
            except UnicodeDecodeError:
                yield Problem(origin, f"{text.name} is not UTF-8")
            except OSError as error:
                yield Problem(origin, f"{text.name}: {error.strerror}")
            else:
                yield _record(file, folder, options, tables.Row(file.name, captions))


def _in_table(table: Path, folder: Path, options: Options) -> Iterator[Record | Problem]:
    """Rows that follow one another and name one image give it all their captions."""
    pending: tables.Row | None = None
    for row in tables.rows(table, options.caption_column):
        if isinstance(row, Problem):
            yield row
        elif pending is not None and pending.file_name == row.file_name:
            pending = pending._replace(captions=tuple(dict.fromkeys(pending.captions + row.captions)))
        else:
            if pending is not None:
                yield _from_row(pending, table, folder, options)
            pending = row
    if pending is not None:
        yield _from_row(pending, table, folder, options)


def _from_row(row: tables.Row, table: Path, folder: Path, options: Options) -> Record | Problem:
    try:
        file = _image_of(row.file_name, table)
    except ValueError as error:
        return Problem(row.file_name, str(error))
    return _record(file, folder, options, row)


def _image_of(file_name: str, table: Path) -> Path:
    """Return the image that a table calls `file_name`; raises ValueError where it lies outside its folder."""
    path = Path(file_name)
    if path.is_absolute() and path.is_relative_to(table.parent.resolve()):
        path = path.relative_to(table.parent.resolve())
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("it lies outside its folder")
    return table.parent / path


def _named(table: Path) -> Iterator[Path]:
    """Yield the images that are there and that a table names."""
    for file_name in tables.file_names(table):
        with contextlib.suppress(ValueError, OSError):  # OSError: no file can be called that.
            file = _image_of(file_name, table)
            if file.is_file():
                yield file


def _unnamed(table: Path, folder: Path) -> Iterator[Problem]:
    named = set(_named(table))
    for file in _files_below(table.parent):
        if (is_image(file) or is_other_image(file)) and file not in named:
            yield Problem(str(file.relative_to(folder)), f"it has no caption: {table.name} does not name it")


def _in_shard(shard: Path, folder: Path, options: Options) -> Iterator[Record | Problem]:
    origin = shard.relative_to(folder)
    for sample in webdataset.samples(shard, options.caption_column):
        if isinstance(sample, Problem):
            yield Problem(f"{origin}/{sample.name}", sample.reason)
        else:
            place = shard.with_name(archives.stem(shard.name)) / sample.file_name
            yield _record(place, folder, options, sample)


def _record(place: Path, folder: Path, options: Options, row: tables.Row) -> Record:
    """The record of an image, whose name and split are those of its `place` in `folder`."""
    origin = place.relative_to(folder)
    parts = (*origin.parent.parts, origin.stem)
    rank = None
    if len(parts) > 1 and parts[0] in ("train", "test"):
        split, parts = parts[0], parts[1:]
    else:
        split = options.split("/".join(parts))
        rank = options.rank("/".join(parts)) if options.test_fraction else None
    image = place if row.image is None else row.image
    return Record("_".join(parts), split, row.captions, image, extra=row.further, origin=str(origin), rank=rank)


def _is_table(file: Path) -> bool:
    return file.suffix.lower() in tables.SUFFIXES


def _files_below(directory: Path) -> Iterator[Path]:
    return read_folder(directory).all_files()
