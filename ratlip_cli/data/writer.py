"""Captioned images to the one layout on disk: whole or not at all, in several processes, resumed where it stopped."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import NamedTuple, TextIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ratlip_cli.data.columns import settle
from ratlip_cli.data.images import FORMATS, NO_AVIF, PROFILE_UNUSED, ImageError, read_image, stored_image, upright_rgb
from ratlip_cli.data.layout import (
    INFO,
    METADATA,
    DatasetInfo,
    Problem,
    Record,
    is_plain,
    plain_name,
    read_dataset,
    stored_side,
)
from ratlip_cli.data.notes import ENLARGED, PROFILE, Stored, notes
from ratlip_cli.data.parallel import in_order
from ratlip_cli.errors import DataError, RatlipError, UsageError
from ratlip_cli.files import held, printable, remove_partials, whole_file, write_text, writing
from ratlip_cli.progress import Progress, silent

_STAGING, _REPLACED = ".preparing", "replaced"
_MARK = f"([0-9a-f]{{8}}|{_REPLACED})"
"""What stands between the name of a dataset and `_STAGING` in that of a folder which is made into it, or was it."""

LARGEST_SIZE = 2048
"""Side in pixels of images at most; no model here is of more than 512."""

CUT_SHORT = "what was finished is kept"
"""In the reason of a Problem: more is to be had by another call, which therefore reads again.

So it is with a shard that is elsewhere and could not be read to its end. Earlier versions wrote it of the image at
which a signal stopped them.
"""

COMPRESSION = 1
"""zlib level of the PNG files: photographs take a third of the time of Pillow's default (6), and a tenth more room."""


def write_dataset(
    out: Path,
    records: Iterable[Record | Problem],
    info: DatasetInfo,
    *,
    total: int | None = None,
    workers: int = 1,
    strict: bool = False,
    one_type: bool = False,
    part: bool = False,
    anew: bool = False,
    keep_uncaptioned: bool = False,
    expected: Mapping[str, int] | None = None,
    progress: Progress = silent,
) -> DatasetInfo:
    """Write `records` as the dataset `out`, which appears whole or not at all.

    A record that cannot be used, and a Problem that the source met, is left out and listed in the result; with `strict`
    the first one is a DataError. Files get names that every system allows, numbered on where several records have one
    name; metadata.jsonl keeps the origin of those whose name changed. Where records have a rank and one of train and
    test would be empty, it gets the image that is next; a single one is train. Images are read, resized and compressed
    in `workers` processes (fewer than 2: in this one), which changes nothing in what is written; of each, memory keeps
    a line.

    The work is done in a hidden folder beside `out`, which stays there when it is interrupted: called again with the
    same description, the images already there are kept. A finished dataset of the same description is returned as it
    is, one of the same source is replaced.

    Args:
        records: what is to be written; read once, and closed where it is a generator.
        info: describes the dataset; its `counts` and `left_out` are not looked at. What is worth knowing of the images
            is added to its `notes`.
        one_type: make each further column one of one type (see :mod:`ratlip_cli.data.columns`).
        part: some splits alone: the others are not missed, and what was begun of the whole stays for later.
        expected: images of the official splits; a split that comes to another number is listed as a Problem.
        anew: use nothing of an interrupted call: the source may have changed since, and its names mean other images.
        keep_uncaptioned: write images that have no caption, with an empty list of captions, too.
        total: number of records, for `progress`; None where it is not known.
        progress: called with the number of records written or left out so far.

    Returns `info` with `counts`, `left_out` and `notes`. Raises DataError where no record can be used or `out` holds
    another dataset, UsageError for an image size out of range, and RatlipError where `out` cannot be written.
    """
    if not 1 <= info.image_size <= LARGEST_SIZE:
        raise UsageError(f"the image size must be 1 to {LARGEST_SIZE}, not {info.image_size}")
    info = replace(info, counts={}, left_out=())
    out = out.resolve() if out.is_symlink() else out  # a link to another disk stays one
    finished = existing(out, info.source)
    if finished is not None and replace(finished, counts={}, left_out=(), notes=info.notes) == info:
        if strict and finished.left_out:
            raise refusal(finished.left_out[0])
        return finished
    with unused(out):  # told before hours of work
        pass
    staging = _staging(out, replace(info, notes=()), alone=not part, anew=anew)
    stored: list[Stored] = []
    left_out: list[Problem] = []
    metadata: dict[str, TextIO] = {}
    side = stored_side(info.image_size)
    with contextlib.ExitStack() as files, contextlib.ExitStack() as work:
        if isinstance(records, Generator):
            work.callback(records.close)
        tasks = _tasks(records, staging, side, keep_uncaptioned)
        for task, outcome in work.enter_context(contextlib.closing(in_order(_write_image, tasks, workers))):
            if isinstance(outcome, Problem):
                if strict:
                    raise refusal(outcome)
                left_out.append(Problem(printable(outcome.name), printable(outcome.reason)))
            elif isinstance(task, _Task):
                split = task.record.split
                file = staging / split / METADATA
                with writing(file):
                    if split not in metadata:
                        metadata[split] = files.enter_context(file.open("w", encoding="utf-8", newline="\n"))
                    metadata[split].write(task.row)
                captions = hash(frozenset(task.captions))
                stored.append(Stored(split, task.file.name, captions, *outcome, rank=task.record.rank))
            progress("prepare", len(stored) + len(left_out), total, "images")
        for split, opened in metadata.items():
            with writing(staging / split / METADATA):
                opened.close()
    if not stored:
        shutil.rmtree(staging, ignore_errors=True)
        raise DataError(
            f"{printable(info.source)} has no image{'' if keep_uncaptioned else ' with a caption'} that can be used. "
            f"{_causes(left_out, info.notes)}See `ratlip prepare --help`, such as --image-root, --caption-column and "
            "--caption; with --keep-uncaptioned, `ratlip train --variant lafite --language-free` needs no captions."
        )
    _give_both_splits(stored, staging)
    counts: dict[str, int] = {}
    for image in stored:
        counts[image.split] = counts.get(image.split, 0) + 1
    left_out += [
        Problem(split, f"{counts.get(split, 0)} images with captions were found, not {number}")
        for split, number in (expected or {}).items()
        if counts.get(split, 0) != number
    ]
    if strict and left_out:
        raise refusal(left_out[0])
    left_out.sort(key=lambda problem: (problem.name, problem.reason))
    if one_type:
        settle([staging / split / METADATA for split in counts])
    told = info.notes if part else (*info.notes, *notes(stored, side))
    info = replace(info, counts=counts, left_out=tuple(left_out), notes=told)
    description = json.dumps(asdict(info), indent=2, ensure_ascii=False) + "\n"
    write_text(staging / INFO, description)
    _move(staging, out)
    return info


def _causes(left_out: list[Problem], passed_over: tuple[str, ...]) -> str:
    """Why everything was left out, by kind and counted: in the order met, in which causes come before consequences."""
    kinds: dict[str, list[Problem]] = {}
    for problem in left_out:
        own_name = rf"(?<!\w){re.escape(PurePath(problem.name).stem)}\."
        kinds.setdefault(re.sub(own_name, "*.", problem.reason), []).append(problem)
    most = sorted(kinds, key=lambda kind: -len(kinds[kind]))[:_CAUSES]
    told = []
    for same in (problems for kind, problems in kinds.items() if kind in most):
        names = {problem.name for problem in same}
        more = (
            f" ({len(same)} times)" if len(names) == 1 < len(same) else f" and {len(same) - 1} more" * (len(same) > 1)
        )
        told.append(f"{same[0].name}{more}: {same[0].reason.rstrip('.')}. ")
    lines = [f"{len(left_out)} left out: {''.join(told)}"] if told else []
    lines += [f"{note[0].upper()}{note[1:]}. " for note in passed_over]
    return "".join(lines) or "It holds neither images nor tables of captions. "


_CAUSES = 3
"""Kinds of reasons that are told where nothing can be used."""


def existing(out: Path, source: str) -> DatasetInfo | None:
    """Return the dataset at `out`, None where there is none, it is not finished, or an image in it can now be read.

    Raises DataError for anything not from `source`.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / INFO).is_file():
        raise DataError(f"{out} exists and is not a prepared dataset. Choose another name or --data-dir.")
    info = read_dataset(out)
    if info.source != source:
        raise DataError(
            f"{out} holds another dataset, from {info.source}. Choose another name or --data-dir, or give --dataset "
            f"{out} to use it as it is."
        )
    more = (CUT_SHORT, *((NO_AVIF,) if "AVIF" in FORMATS else ()))
    return None if any(mark in problem.reason for problem in info.left_out for mark in more) else info


@dataclass(frozen=True)
class _Task:
    """One image to write, and the row of metadata.jsonl that names it."""

    record: Record
    captions: tuple[str, ...]
    row: str
    file: Path
    side: int


class _Outcome(NamedTuple):
    """What became of an image: see `notes.Stored`."""

    content: bytes
    remarks: dict[str, str]


def _tasks(
    records: Iterable[Record | Problem], folder: Path, side: int, keep_uncaptioned: bool
) -> Iterator[_Task | Problem]:
    """Yield what is to be written, and a Problem for what can be refused before its image is read."""
    names = _Names()
    for record in records:
        if isinstance(record, Problem):
            yield record
            continue
        try:
            captions = _captions(record, keep_uncaptioned)
            name = names.free(record)
            row = _metadata_row(record, name, captions)
        except ImageError as error:
            yield _problem(record, error)
        else:
            names.take(record, name)
            yield _Task(record, captions, row, folder / record.split / f"{name}.png", side)


class _Names:
    """What the files of a dataset are called; no two of a split differ in the case of letters alone."""

    def __init__(self) -> None:
        self._taken: set[tuple[str, str]] = set()
        self._number: dict[tuple[str, str], int] = {}  # The last one given, by the name without it.

    def free(self, record: Record) -> str:
        """Return the name of the record's file, numbered on where it is taken."""
        name = plain_name(record.name)
        key = (record.split, name.casefold())
        while (record.split, name.casefold()) in self._taken:
            self._number[key] = self._number.get(key, 1) + 1
            name = plain_name(record.name, f"_{self._number[key]}")
        return name

    def take(self, record: Record, name: str) -> None:
        """Give this name to no other record."""
        self._taken.add((record.split, name.casefold()))


def _problem(record: Record, error: ImageError) -> Problem:
    return Problem(record.origin or record.name, str(error))


def _write_image(task: _Task | Problem) -> _Outcome | Problem:
    """Write one image unless an earlier run did, or say why it cannot be used. Runs in a worker."""
    if isinstance(task, Problem):
        return task
    outcome = _stored_before(task.file)
    if outcome is not None:
        return outcome
    source = task.record.image
    try:
        if isinstance(source, (Path, bytes)):
            read = read_image(source)
        else:
            read = upright_rgb(source if isinstance(source, Image.Image) else source())
        image, enlarged_from = stored_image(read, task.record.crop, task.side)
    except ImageError as error:
        return _problem(task.record, error)
    remarks = {}
    if enlarged_from is not None:
        remarks[ENLARGED] = f"{enlarged_from[0]} x {enlarged_from[1]}"
    if PROFILE_UNUSED in read.info:
        remarks[PROFILE] = read.info[PROFILE_UNUSED]
    texts = PngInfo()
    for key, remark in remarks.items():
        texts.add_text(key, remark)
    try:
        with whole_file(task.file, durable=False) as partial_file:
            image.save(partial_file, format="PNG", compress_level=COMPRESSION, pnginfo=texts)
    except RatlipError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NAME_REFUSED:
            reason = f"the file system refuses the name {task.file.name}: {error.__cause__.strerror}"
            return _problem(task.record, ImageError(reason))
        raise
    return _Outcome(_content(image), remarks)


_NAME_REFUSED = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


def _stored_before(file: Path) -> _Outcome | None:
    """Return what became of an image that an earlier run wrote: None where `file` is no PNG that is whole."""
    try:
        with Image.open(file, formats=["PNG"]) as image:
            image.verify()
        with Image.open(file, formats=["PNG"]) as image:
            image.load()
            remarks = {key: str(value) for key, value in image.info.items() if key in (ENLARGED, PROFILE)}
            return _Outcome(_content(image), remarks)
    except Exception:  # Decoders meet damaged files with exceptions of every kind.
        return None


def _content(image: Image.Image) -> bytes:
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()[:16]


def _captions(record: Record, none_allowed: bool) -> tuple[str, ...]:
    """Return the record's captions in one line each; raises ImageError where it has none, unless that is allowed."""
    captions = tuple(line for caption in record.captions if (line := " ".join(caption.split())))
    if not captions and not none_allowed:
        raise ImageError("it has no caption")
    return captions


def _metadata_row(record: Record, name: str, captions: tuple[str, ...]) -> str:
    """Return the record's line of metadata.jsonl; raises ImageError where it cannot be written."""
    if not is_plain(record.split):
        raise ImageError(f"{record.split!r} cannot be the name of a split")
    origin = {} if name == record.name else {"origin": printable(record.origin or record.name)}
    row = {"file_name": f"{name}.png", "captions": captions, **origin, **record.extra}
    try:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        line.encode("utf-8")
    except (ValueError, RecursionError):  # Surrogates stand for bytes that were not UTF-8.
        raise ImageError("its captions or columns are not UTF-8 or not JSON") from None
    return line


def _give_both_splits(images: list[Stored], folder: Path) -> None:
    """Where a share was promised and train or test is empty, move the image to it whose rank is next.

    A single image goes to train.
    """
    for empty, full, nearest in (("test", "train", min), ("train", "test", max)):
        own = [image for image in images if image.split == full]
        ranked = [image for image in own if image.rank is not None]
        enough = len(own) > 1 or empty == "train"
        if ranked and enough and not any(image.split == empty for image in images):
            moved = nearest(ranked, key=lambda image: image.rank or 0.0)
            with writing(folder):
                lines = (folder / full / METADATA).read_bytes().splitlines(keepends=True)
                line = lines.pop(own.index(moved))
                (folder / empty).mkdir(exist_ok=True)
                (folder / full / moved.name).replace(folder / empty / moved.name)
                (folder / empty / METADATA).write_bytes(line)
                (folder / full / METADATA).write_bytes(b"".join(lines))
                if not lines:
                    shutil.rmtree(folder / full)
            moved.split = empty


def refusal(problem: Problem) -> DataError:
    """The error for an image that is left out where `strict` was asked for."""
    return DataError(f"{problem.name}: {problem.reason}. Fix it, or leave it out by not asking for --strict.")


def _staging(out: Path, wanted: DatasetInfo, alone: bool, anew: bool) -> Path:
    """Return the folder beside `out` in which `wanted` is being made.

    `alone`: and nothing else any more; `anew`: and which is empty.
    """
    description = json.dumps(asdict(wanted), sort_keys=True)
    mark = hashlib.sha256(description.encode()).hexdigest()[:8]
    staging = out.with_name(f".{out.name}.{mark}{_STAGING}")
    with writing(out):
        if anew and staging.exists():
            shutil.rmtree(staging)
        staging.mkdir(parents=True, exist_ok=True)
        for folder in out.parent.iterdir() if alone else ():
            if folder == staging or not re.fullmatch(rf"\.{re.escape(out.name)}\.{_MARK}{_STAGING}", folder.name):
                continue
            if folder.is_symlink():  # as an earlier version moved one aside
                folder.unlink()
            else:
                shutil.rmtree(folder)
        for split in staging.iterdir():
            remove_partials(split)
    return staging


def _move(staging: Path, out: Path) -> None:
    """Put the finished `staging` in the place of `out`; an earlier dataset there goes last."""
    replaced = out.with_name(f".{out.name}.{_REPLACED}{_STAGING}")
    if hasattr(os, "sync"):
        os.sync()  # One wait for all images, instead of one for each.
    with writing(out), unused(out):
        if out.exists():
            out.rename(replaced)
        staging.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)


@contextlib.contextmanager
def unused(out: Path) -> Iterator[None]:
    """Keep runs from beginning on the dataset `out`; raises DataError where one trains on it, see `in_use`."""
    with contextlib.ExitStack() as stack:
        if out.is_dir() and not stack.enter_context(held(out)):
            raise DataError(
                f"{out} cannot be prepared again while a run trains on it, which would get other images: wait for its "
                "end, or stop it and go on with it later; or prepare what has changed under another --name."
            )
        yield


@contextlib.contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Keep the dataset at `path` from being prepared again, which `unused` does not do meanwhile."""
    with held(path, with_others=True):
        yield
