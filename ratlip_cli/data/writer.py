"""Captioned images to the one layout on disk: whole or not at all, in several processes, resumed where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import TextIO

from PIL import Image

from ratlip_cli.data.columns import Columns
from ratlip_cli.data.images import ImageError, read_image, stored_image, upright_rgb
from ratlip_cli.data.layout import (
    INFO,
    LONGEST_NAME,
    METADATA,
    DatasetInfo,
    Problem,
    Record,
    is_plain,
    read_dataset,
    stored_side,
)
from ratlip_cli.data.parallel import in_order
from ratlip_cli.errors import DataError, UsageError
from ratlip_cli.files import remove_partials, whole_file, write_text, writing
from ratlip_cli.progress import Progress, silent

_STAGING = ".preparing"

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
    progress: Progress = silent,
) -> DatasetInfo:
    """Write `records` as the dataset `out`, which appears whole or not at all.

    A record that cannot be used, and a Problem that the source met, is left out and listed in the result; with
    `strict` the first one is a DataError. Images are read, resized and compressed in `workers` processes (fewer
    than 2: in this one), which changes nothing in what is written; memory does not grow with their number.

    The work is done in a hidden folder beside `out`, which stays there when it is interrupted: called again with the
    same description, the images already there are kept. A finished dataset of the same description is returned as it
    is, one of the same source is replaced.

    Args:
        records: what is to be written; read once, and closed where it is a generator.
        info: describes the dataset; its `counts` and `left_out` are not looked at.
        one_type: make each further column one of one type (see :mod:`ratlip_cli.data.columns`).
        total: number of records, for `progress`; None where it is not known.
        progress: called with the number of records written or left out so far.

    Returns `info` with `counts` and `left_out`. Raises DataError where no record can be used or another dataset is at
    `out`, UsageError for an image size that is not positive, and RatlipError where `out` cannot be written.
    """
    if info.image_size < 1:
        raise UsageError(f"the image size must be positive, not {info.image_size}")
    info = replace(info, counts={}, left_out=())
    finished = existing(out, info.source)
    if finished is not None and replace(finished, counts={}, left_out=()) == info:
        if strict and finished.left_out:
            raise _refusal(finished.left_out[0])
        return finished
    staging = _staging(out, info)
    counts: dict[str, int] = {}
    left_out: list[Problem] = []
    metadata: dict[str, TextIO] = {}
    columns = Columns()
    with contextlib.ExitStack() as files, contextlib.ExitStack() as work:
        if isinstance(records, Generator):
            work.callback(records.close)
        tasks = _tasks(records, staging, stored_side(info.image_size))
        for task, problem in work.enter_context(contextlib.closing(in_order(_write_image, tasks, workers))):
            if problem is not None:
                if strict:
                    raise _refusal(problem)
                name, reason = (
                    text.encode("utf-8", "backslashreplace").decode() for text in (problem.name, problem.reason)
                )
                left_out.append(Problem(name, reason))
            elif isinstance(task, _Task):
                split = task.record.split
                if split not in metadata:
                    file = files.enter_context(whole_file(staging / split / METADATA))
                    metadata[split] = files.enter_context(file.open("w", encoding="utf-8", newline="\n"))
                metadata[split].write(task.row)
                columns.note(split, task.record.extra)
                counts[split] = counts.get(split, 0) + 1
            progress("prepare", sum(counts.values()) + len(left_out), total, "images")
    if not counts:
        shutil.rmtree(staging, ignore_errors=True)
        raise DataError(
            f"{info.source} has no image with a caption that can be used. {_causes(left_out)}"
            "See `ratlip prepare --help`, such as --image-root, --caption-column and --caption."
        )
    left_out.sort(key=lambda problem: (problem.name, problem.reason))
    if one_type:
        columns.settle(staging)
    info = replace(info, counts=counts, left_out=tuple(left_out))
    write_text(staging / INFO, json.dumps(asdict(info), indent=2, ensure_ascii=False) + "\n")
    _move(staging, out)
    return info


def _causes(left_out: list[Problem]) -> str:
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
    return f"{len(left_out)} left out: {''.join(told)}" if told else ""


_CAUSES = 3
"""Kinds of reasons that are told where nothing can be used."""


def existing(out: Path, source: str) -> DatasetInfo | None:
    """Return the dataset at `out`, None where there is nothing; raises DataError for anything not from `source`."""
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
    return info


@dataclass(frozen=True)
class _Task:
    """One image to write, and the row of metadata.jsonl that names it."""

    record: Record
    row: str
    file: Path
    side: int


def _tasks(records: Iterable[Record | Problem], folder: Path, side: int) -> Iterator[_Task | Problem]:
    """Yield what is to be written, and a Problem for what can be refused before its image is read."""
    names = set()
    for record in records:
        if isinstance(record, Problem):
            yield record
            continue
        name = (record.split, record.name.casefold())
        try:
            row = _metadata_row(record)
            if name in names:
                raise ImageError("another image has the same name; rename one of them")
        except ImageError as error:
            yield _problem(record, error)
        else:
            names.add(name)
            yield _Task(record, row, folder / record.split / f"{record.name}.png", side)


def _problem(record: Record, error: ImageError) -> Problem:
    return Problem(record.origin or record.name, str(error))


def _write_image(task: _Task | Problem) -> Problem | None:
    """Write one image unless an earlier run did; return why it cannot be used, if it cannot. Runs in a worker."""
    if isinstance(task, Problem):
        return task
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
        return _problem(task.record, error)
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


def _metadata_row(record: Record) -> str:
    """Return the record's line of metadata.jsonl; raises ImageError where it cannot be written."""
    if not is_plain(record.name) or not is_plain(record.split):
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


def _refusal(problem: Problem) -> DataError:
    return DataError(f"{problem.name}: {problem.reason}. Fix it, or leave it out by not asking for --strict.")


def _staging(out: Path, wanted: DatasetInfo) -> Path:
    """Return the folder beside `out` in which `wanted`, and nothing else, is being made."""
    description = json.dumps(asdict(wanted), sort_keys=True)
    mark = hashlib.sha256(description.encode()).hexdigest()[:8]
    staging = out.with_name(f".{out.name}.{mark}{_STAGING}")
    with writing(out):
        staging.mkdir(parents=True, exist_ok=True)
        for folder in out.parent.iterdir():
            if folder.name.startswith(f".{out.name}.") and folder.name.endswith(_STAGING) and folder != staging:
                shutil.rmtree(folder)
        for split in staging.iterdir():
            remove_partials(split)
    return staging


def _move(staging: Path, out: Path) -> None:
    """Put the finished `staging` in the place of `out`; an earlier dataset there goes last."""
    replaced = out.with_name(f".{out.name}.replaced{_STAGING}")
    if hasattr(os, "sync"):
        os.sync()  # One wait for all images, instead of one for each.
    with writing(out):
        if out.exists():
            out.rename(replaced)
        staging.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)
