"""The one layout on disk that every dataset is brought into: written, validated and read here.

    DATASET/
      dataset.json            where the images come from and what they became: :class:`DatasetInfo`
      train/metadata.jsonl    {"file_name": "x.png", "captions": ["...", ...], further columns}
      train/x.png             RGB, shorter side = :func:`stored_side` (image_size)
      test/...                and any further split, such as ``unseen``

It is the "image folder with metadata" convention, so ``datasets.load_dataset("imagefolder", data_dir=DATASET)``
reads it as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, TextIO, TypeAlias

from PIL import Image

from ratlip_cli.data.images import ImageError, read_image, stored_image, upright_rgb
from ratlip_cli.data.parallel import in_order
from ratlip_cli.errors import DataError, UsageError
from ratlip_cli.files import cannot_write, remove_partials, whole_file, write_text

LAYOUT_VERSION = 1

INFO = "dataset.json"
METADATA = "metadata.jsonl"
_STAGING = ".preparing"

COMPRESSION = 1
"""zlib level of the PNG files: photographs take a third of the time of Pillow's default (6), and a tenth more room."""

LONGEST_NAME = 200
"""Bytes in an image's name; file systems allow 255 with the ending and a temporary file's marks."""

Json: TypeAlias = str | int | float | bool | Sequence["Json"] | Mapping[str, "Json"] | None

ImageSource: TypeAlias = Path | bytes | Image.Image | Callable[[], Image.Image]
"""A file, its bytes, an image in memory, or a function that makes one: picklable, and called in a worker process."""

Progress: TypeAlias = Callable[[int], None]
"""Called with the number of records done so far."""


@dataclass(frozen=True)
class Record:
    """One captioned image, as a source yields it."""

    name: str  # Stem of the PNG file; unique within its split, whatever the case of its letters.
    split: str  # "train", "test" or a further split.
    captions: tuple[str, ...]  # At least one sentence that is not empty.
    image: ImageSource  # Of any mode and size; see `images.read_image`.
    crop: tuple[int, int, int, int] | None = None  # Left, upper, right, lower; in pixels of the upright image.
    extra: Mapping[str, Json] = field(default_factory=dict)  # Further columns of metadata.jsonl.
    origin: str = ""  # What reports call it, such as the file's path in its folder; else its name.


@dataclass(frozen=True)
class Problem:
    """An image that was left out, or that a check found wanting, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class DatasetInfo:
    """What dataset.json says."""

    name: str  # The dataset's name, for people.
    source: str  # Where the images come from: a folder, an archive's page, a drawing program and its settings.
    licence: str  # The licence of the images, in words.
    checksums: Mapping[str, str]  # Of what was read, by name; they tell one state of the source from another.
    options: Mapping[str, Json]  # What the source was asked for, by the names of its arguments.
    split_rule: str  # How records were given to train and test, in words.
    image_size: int  # Side in pixels of the square crops that the images are stored for.
    flip: bool  # Whether training may mirror images: not where captions speak of left and right.
    counts: Mapping[str, int]  # Images per split.
    left_out: tuple[Problem, ...]  # What was not taken over, sorted by name.
    layout_version: int = LAYOUT_VERSION


@dataclass(frozen=True)
class Entry:
    """One captioned image of a prepared dataset."""

    file: Path
    captions: tuple[str, ...]
    extra: Mapping[str, Json]


def stored_side(image_size: int) -> int:
    """Shorter side, in pixels, of a stored image from which image_size crops are taken."""
    return round(image_size * 76 / 64)


def write_dataset(
    out: Path,
    records: Iterable[Record | Problem],
    *,
    name: str,
    source: str,
    licence: str,
    image_size: int,
    split_rule: str,
    checksums: Mapping[str, str],
    options: Mapping[str, Json] = MappingProxyType({}),
    flip: bool = True,
    workers: int = 1,
    strict: bool = False,
    progress: Progress | None = None,
) -> DatasetInfo:
    """Write `records` as the dataset `out`, which appears whole or not at all.

    The arguments after `records` are described at :class:`DatasetInfo`. A record that cannot be used, and a Problem
    that the source met, is left out and listed in the result; with `strict` the first one is a DataError. Images are
    read, resized and compressed in `workers` processes, which changes nothing in what is written; memory does not grow
    with their number.

    The work is done in a hidden folder beside `out`, which stays there when it is interrupted: called again with the
    same description, the images already there are kept. A finished dataset of the same description is returned as it
    is, one of the same `source` is replaced.

    Raises DataError where nothing usable is found or another dataset is at `out`, UsageError for an image size that is
    not positive, and RatlipError where `out` cannot be written.
    """
    if image_size < 1:
        raise UsageError(f"the image size must be positive, not {image_size}")
    wanted = DatasetInfo(
        name=name,
        source=source,
        licence=licence,
        checksums=dict(checksums),
        options=dict(options),
        split_rule=split_rule,
        image_size=image_size,
        flip=flip,
        counts={},
        left_out=(),
    )
    finished = _finished(out, wanted, strict)
    if finished is not None:
        return finished
    staging = _staging(out, wanted)
    with _Writer(staging, image_size, strict) as writer, contextlib.ExitStack() as stack:
        if isinstance(records, Generator):
            stack.callback(records.close)
        written = stack.enter_context(contextlib.closing(in_order(_write_image, writer.tasks(records), workers)))
        for task, reason in written:
            writer.add(task, reason)
            if progress is not None:
                progress(sum(writer.counts.values()) + len(writer.left_out))
    left_out = tuple(sorted(writer.left_out, key=lambda problem: (problem.name, problem.reason)))
    if not writer.counts:
        shutil.rmtree(staging, ignore_errors=True)
        hint = "See `ratlip prepare --help` for what it needs."
        if left_out:
            hint = f"The first of {len(left_out)} left out: {left_out[0].name}: {left_out[0].reason}."
        raise DataError(f"{source} has no image with a caption that can be used. {hint}")
    info = replace(wanted, counts=writer.counts, left_out=left_out)
    write_text(staging / INFO, json.dumps(asdict(info), indent=2, ensure_ascii=False) + "\n")
    _move(staging, out)
    return info


def existing(out: Path, source: str) -> DatasetInfo | None:
    """Return the dataset at `out`, None where there is nothing; raises DataError for anything not from `source`."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / INFO).is_file():
        raise DataError(f"{out} exists and is not a prepared dataset. Choose another name or --data-dir.")
    found = read_dataset(out)
    if found.source != source:
        raise DataError(f"{out} holds another dataset, from {found.source}. Choose another name or --data-dir.")
    return found


def read_dataset(path: Path) -> DatasetInfo:
    """Read and validate dataset.json of the dataset `path`. Raises DataError where it is missing or damaged."""
    file = path / INFO
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(
            f"{path} is not a prepared dataset: it has no {INFO}. `ratlip prepare {path}` makes one."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file}: {error}") from error
    try:
        return _parse_info(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{file} is damaged ({error}). Remove {path} and prepare it again.") from error


def read_split(path: Path, split: str) -> list[Entry]:
    """Read the entries of one split, in the order in which they were written.

    Raises DataError where the dataset has no such split or its metadata.jsonl is missing or damaged.
    """
    info = read_dataset(path)
    if split not in info.counts:
        raise DataError(f"{path} has no split '{split}'. It has: {', '.join(sorted(info.counts))}.")
    file = path / split / METADATA
    try:
        with file.open("rb") as lines:
            entries = [_parse_entry(file.parent, json.loads(line)) for line in lines]
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}. Remove {path} and prepare it again.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{file} is damaged ({error}). Remove {path} and prepare it again.") from error
    if len(entries) != info.counts[split]:
        raise DataError(
            f"{file} has {len(entries)} lines for {info.counts[split]} images. Remove {path} and prepare it again."
        )
    return entries


def check_dataset(path: Path, workers: int = 1, progress: Progress | None = None) -> list[Problem]:
    """Read every image of the dataset `path` and compare it with dataset.json; the result lists what is wrong.

    Raises DataError where dataset.json or a metadata.jsonl cannot be read at all.
    """
    info = read_dataset(path)
    side = stored_side(info.image_size)
    problems = []
    done = 0
    for split in info.counts:
        files = [entry.file for entry in read_split(path, split)]
        with contextlib.closing(in_order(partial(_check_image, side=side), files, workers)) as checked:
            for file, reason in checked:
                done += 1
                if reason is not None:
                    problems.append(Problem(f"{split}/{file.name}", reason))
                if progress is not None:
                    progress(done)
        strays = {file.name for file in (path / split).iterdir()} - {file.name for file in files} - {METADATA}
        problems += [Problem(f"{split}/{name}", f"not named in {METADATA}") for name in sorted(strays)]
    return problems


@dataclass(frozen=True)
class _Task:
    """One image to write, and the row that names it."""

    record: Record
    row: str
    file: Path
    side: int


class _Writer:
    """The staging folder while it is filled: one open metadata.jsonl per split, what was counted and left out."""

    def __init__(self, folder: Path, image_size: int, strict: bool) -> None:
        self.folder = folder
        self.counts: dict[str, int] = {}
        self.left_out: list[Problem] = []
        self._side = stored_side(image_size)
        self._strict = strict
        self._names: set[tuple[str, str]] = set()
        self._metadata: dict[str, TextIO] = {}
        self._open_files = contextlib.ExitStack()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open_files.__exit__(kind, error, traceback)

    def tasks(self, records: Iterable[Record | Problem]) -> Iterator[_Task]:
        """Yield what is to be written; leave out what can be told to be bad before its image is read."""
        for record in records:
            if isinstance(record, Problem):
                self._leave_out(record)
                continue
            try:
                row = _metadata_row(record)
                if (record.split, record.name.casefold()) in self._names:
                    raise ImageError("another image has the same name; rename one of them")
            except ImageError as error:
                self._leave_out(Problem(record.origin or record.name, str(error)))
                continue
            self._names.add((record.split, record.name.casefold()))
            yield _Task(record, row, self.folder / record.split / f"{record.name}.png", self._side)

    def add(self, task: _Task, reason: str | None) -> None:
        """Note an image that was written or, where there is a `reason`, could not be used."""
        split = task.record.split
        if reason is not None:
            self._leave_out(Problem(task.record.origin or task.record.name, reason))
            return
        if split not in self._metadata:
            file = self._open_files.enter_context(whole_file(self.folder / split / METADATA))
            opened = self._open_files.enter_context(file.open("w", encoding="utf-8", newline="\n"))
            self._metadata[split] = opened
        self._metadata[split].write(task.row)
        self.counts[split] = self.counts.get(split, 0) + 1

    def _leave_out(self, problem: Problem) -> None:
        if self._strict:
            raise _refusal(problem)
        printable = problem.name.encode("utf-8", "backslashreplace").decode("utf-8")
        self.left_out.append(Problem(printable, problem.reason))


def _refusal(problem: Problem) -> DataError:
    return DataError(f"{problem.name}: {problem.reason}. Mend it, or leave it out by not asking for --strict.")


def _finished(out: Path, wanted: DatasetInfo, strict: bool) -> DatasetInfo | None:
    """Return what is at `out` if it is just what is `wanted`, None if `out` may be written."""
    found = existing(out, wanted.source)
    if found is None or replace(found, counts={}, left_out=()) != wanted:
        return None
    if strict and found.left_out:
        raise _refusal(found.left_out[0])
    return found


def _staging(out: Path, wanted: DatasetInfo) -> Path:
    """Return the folder beside `out` in which `wanted`, and nothing else, is being made."""
    description = json.dumps(asdict(wanted), sort_keys=True)
    mark = hashlib.sha256(description.encode()).hexdigest()[:8]
    staging = out.with_name(f".{out.name}.{mark}{_STAGING}")
    try:
        staging.mkdir(parents=True, exist_ok=True)
        for folder in out.parent.iterdir():
            if folder.name.startswith(f".{out.name}.") and folder.name.endswith(_STAGING) and folder != staging:
                shutil.rmtree(folder)
        for split in staging.iterdir():
            remove_partials(split)
    except OSError as error:
        raise cannot_write(out, error) from error
    return staging


def _move(staging: Path, out: Path) -> None:
    """Put the finished `staging` in the place of `out`; an earlier dataset there goes last."""
    replaced = out.with_name(f".{out.name}.replaced{_STAGING}")
    if hasattr(os, "sync"):
        os.sync()  # One wait for all images, instead of one for each.
    try:
        if out.exists():
            out.rename(replaced)
        staging.rename(out)
    except OSError as error:
        raise cannot_write(out, error) from error
    shutil.rmtree(replaced, ignore_errors=True)


def _metadata_row(record: Record) -> str:
    """Return the record's line of metadata.jsonl; raises ImageError where it cannot be written."""
    if not _is_plain(record.name) or not _is_plain(record.split):
        raise ImageError(
            f"its name is empty, hidden, longer than {LONGEST_NAME} bytes or has characters files cannot have"
        )
    captions = [" ".join(caption.split()) for caption in record.captions]
    captions = [caption for caption in captions if caption]
    if not captions:
        raise ImageError("it has no caption")
    row = {"file_name": f"{record.name}.png", "captions": captions, **record.extra}
    try:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        line.encode("utf-8")
    except (ValueError, RecursionError):  # Surrogates stand for bytes that were not UTF-8.
        raise ImageError("its captions or columns are not UTF-8 or not JSON") from None
    return line


def _is_plain(name: str) -> bool:
    """Whether `name` can stand as one visible part of a path."""
    if not name or name.startswith(".") or not name.isprintable() or "/" in name or "\\" in name:
        return False
    return len(name.encode("utf-8", "surrogatepass")) <= LONGEST_NAME


def _write_image(task: _Task) -> str | None:
    """Write one image unless an earlier run did; return why it cannot be used, if it cannot. Runs in a worker."""
    if _is_whole(task.file):
        return None
    source = task.record.image
    try:
        if isinstance(source, (Path, bytes)):
            image = read_image(source)
        else:
            image = upright_rgb(source if isinstance(source, Image.Image) else source())
        image = stored_image(image, task.record.crop, task.side)
    except ImageError as error:
        return str(error)
    with whole_file(task.file, durable=False) as partial_file:
        image.save(partial_file, format="PNG", compress_level=COMPRESSION)
    return None


def _is_whole(file: Path) -> bool:
    """Whether `file` is a PNG whose every checksum is right."""
    try:
        with Image.open(file, formats=["PNG"]) as image:
            image.verify()
    except Exception:  # Decoders meet damaged files with exceptions of every kind.
        return False
    return True


def _check_image(file: Path, side: int) -> str | None:
    """Return what is wrong with a stored image, if anything is. Runs in a worker."""
    try:
        image = read_image(file)
    except ImageError as error:
        return str(error)
    if min(image.size) != side:
        return f"its shorter side is {min(image.size)} pixels, not {side}"
    return None


def _parse_info(value: Any) -> DatasetInfo:
    if value["layout_version"] != LAYOUT_VERSION:
        raise ValueError(f"layout version {value['layout_version']}, but this ratlip reads {LAYOUT_VERSION}")
    if not all(_is_plain(split) and isinstance(count, int) for split, count in value["counts"].items()):
        raise ValueError("its counts are not images per split")
    if not (isinstance(value["image_size"], int) and value["image_size"] > 0 and isinstance(value["flip"], bool)):
        raise ValueError("image_size is not a positive number, or flip not true or false")
    return DatasetInfo(
        name=str(value["name"]),
        source=str(value["source"]),
        licence=str(value["licence"]),
        checksums={str(name): str(checksum) for name, checksum in value["checksums"].items()},
        options=dict(value["options"]),
        split_rule=str(value["split_rule"]),
        image_size=value["image_size"],
        flip=value["flip"],
        counts=dict(value["counts"]),
        left_out=tuple(Problem(str(item["name"]), str(item["reason"])) for item in value["left_out"]),
    )


def _parse_entry(folder: Path, row: Any) -> Entry:
    captions = row.pop("captions")
    name = row.pop("file_name")
    if not isinstance(captions, list) or not captions or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"the captions of {name} are not a list of sentences")
    if not _is_plain(name):
        raise ValueError(f"{name} is not the name of a file")
    return Entry(folder / name, tuple(captions), row)
