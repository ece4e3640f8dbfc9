"""The one layout on disk that every dataset is brought into: what it holds, and how it is read and checked.

    DATASET/
      dataset.json            where the images come from and what they became: :class:`DatasetInfo`
      train/metadata.jsonl    {"file_name": "x.png", "captions": ["...", ...], further columns}; among them "origin",
                              the image's former name, where `plain_name` or a number changed it
      train/x.png             RGB, shorter side = :func:`stored_side` (image_size)
      test/...                and any further split, such as ``unseen``

It is the "image folder with metadata" convention, so ``datasets.load_dataset("imagefolder", data_dir=DATASET)``
reads it as it is. It is written by :func:`ratlip_cli.data.writer.write_dataset`.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import shlex
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from ratlip_cli.data.images import ImageError, read_image
from ratlip_cli.data.parallel import in_order
from ratlip_cli.errors import DataError, unknown_name
from ratlip_cli.progress import Progress, silent

LAYOUT_VERSION = 1

INFO = "dataset.json"
METADATA = "metadata.jsonl"

LONGEST_NAME = 200
"""Bytes in an image's name without its ending; file systems allow 255 with the ending and a temporary file's marks."""

_EARLIER_SOURCES = {
    "drawn by ratlip (ratlip_cli/data/drawn)": "rendered by ratlip (ratlip_cli/demo)",
    "10,000 pictures of CelebAMask-HQ, https://github.com/switchablenorms/CelebAMask-HQ": (
        "10,000 images of CelebAMask-HQ, https://github.com/switchablenorms/CelebAMask-HQ"
    ),
}
"""What dataset.json says in sets of earlier versions -> what it says now."""

Json: TypeAlias = str | int | float | bool | Sequence["Json"] | Mapping[str, "Json"] | None

ImageSource: TypeAlias = Path | bytes | Image.Image | Callable[[], Image.Image]
"""A file, its bytes, an image in memory, or a function that makes one: picklable, and called in a worker process."""


@dataclass(frozen=True)
class Record:
    """One image with its captions, as a source yields it."""

    name: str  # What the PNG file is called, see `plain_name`; numbered on where several have one name.
    split: str  # "train", "test" or a further split.
    captions: tuple[str, ...]  # At least one that is not empty, but where images without captions are kept.
    image: ImageSource  # Of any mode and size; see `images.read_image`.
    crop: tuple[int, int, int, int] | None = None  # Left, upper, right, lower; in pixels of the upright image.
    extra: Mapping[str, Json] = field(default_factory=dict)  # Further columns of metadata.jsonl.
    origin: str = ""  # What reports call it, such as the file's path in its folder; else its name.
    rank: float | None = None  # Where a share goes to test by rank: the lowest does if no other image does.


@dataclass(frozen=True)
class Problem:
    """An image that was left out or is damaged, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What dataset.json says. Who describes a dataset to be written leaves out `counts` and `left_out`."""

    name: str  # The dataset's name, for people.
    source: str  # Where the images come from: a folder, an archive's page, the renderer of the demo.
    licence: str  # The licence of the images, in words.
    checksums: Mapping[str, str] = field(default_factory=dict)  # Of what was read, by name: the state of the source.
    options: Mapping[str, Json] = field(default_factory=dict)  # What the source was asked for, by argument.
    split_rule: str  # How records were given to train and test, in words.
    image_size: int  # Side in pixels of the square crops that the images are stored for.
    flip: bool = True  # Whether training may mirror images: not where captions speak of left and right.
    counts: Mapping[str, int] = field(default_factory=dict)  # Images per split.
    left_out: tuple[Problem, ...] = ()  # What was not taken over, sorted by name.
    notes: tuple[str, ...] = ()  # What is worth knowing of the rest, in one line each.
    layout_version: int = LAYOUT_VERSION


@dataclass(frozen=True)
class Entry:
    """One image of a prepared dataset."""

    file: Path
    captions: tuple[str, ...]  # None of an image that was kept without a caption.
    extra: Mapping[str, Json]


def stored_side(image_size: int) -> int:
    """Shorter side, in pixels, of a stored image from which image_size crops are taken."""
    return round(image_size * 76 / 64)


def is_plain(name: str) -> bool:
    """Whether `name` can stand as one visible part of a path."""
    if not name or name.startswith(".") or not name.isprintable() or "/" in name or "\\" in name:
        return False
    return len(name.encode("utf-8", "surrogatepass")) <= LONGEST_NAME


def plain_name(name: str, ending: str = "") -> str:
    """`name` as a file can be called on every system, then `ending`: at most :data:`LONGEST_NAME` bytes of UTF-8.

    Unicode is composed (NFC), blanks of any kind become spaces, marks that nobody sees are dropped, and what some
    system does not allow, or the `datasets` library takes for a variable ($), becomes "_".
    """
    fit = "".join(map(_plain_character, unicodedata.normalize("NFC", name))).lstrip(".")
    if not fit.strip() or fit.split(".")[0].strip().upper() in _DEVICES:
        fit = f"_{fit}"
    return fit.encode()[: LONGEST_NAME - len(ending.encode())].decode(errors="ignore") + ending


def _plain_character(character: str) -> str:
    if character.isspace():
        return " "
    if character.isprintable():
        return "_" if character in '<>:"/\\|?*$' else character
    return "" if unicodedata.category(character) == "Cf" else "_"


_DEVICES = frozenset(
    {"CON", "PRN", "AUX", "NUL"} | {f"{device}{number}" for device in ("COM", "LPT") for number in range(1, 10)}
)
"""Names that Windows keeps for itself."""


def is_dataset(path: Path) -> bool:
    """Whether `path` is a prepared dataset; a folder that may not be read is none."""
    return os.path.isfile(path / INFO)  # noqa: PTH113  Path.is_file raises where a folder may not be read.


def read_dataset(path: Path) -> DatasetInfo:
    """Read and validate dataset.json of the dataset `path`. Raises DataError where it is missing or damaged."""
    file = path / INFO
    try:
        return _parse_info(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        command = f"ratlip prepare {shlex.quote(str(path))}" if path.exists() else "ratlip prepare"
        raise DataError(f"{path} is not a prepared dataset: it has no {INFO}. `{command}` makes one.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{file} is damaged ({error}). Remove {path} and prepare it again.") from error


def read_split(path: Path, split: str) -> list[Entry]:
    """Read the entries of one split, in the order in which they were written.

    Raises DataError where the dataset has no such split or its metadata.jsonl is missing or damaged.
    """
    info = read_dataset(path)
    if split not in info.counts:
        if difflib.get_close_matches(split, info.counts):
            raise unknown_name("split", split, info.counts)
        raise DataError(
            f"{path} has no split '{split}'. It has: {', '.join(sorted(info.counts))}. For own images, a folder "
            f"{split} or a share (--test-fraction) makes one: remove {path} and prepare it again."
        )
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


def split_fingerprint(path: Path, split: str, entries: Sequence[Entry] | None = None) -> str:
    """64 hex digits that change with the captions and with the names and sizes of the image files of a split.

    Args:
        entries: what `read_split` returned, where it was read before.

    Raises DataError where the dataset cannot be read.
    """
    entries = read_split(path, split) if entries is None else entries
    digest = hashlib.sha256((path / split / METADATA).read_bytes())
    for entry in entries:
        try:
            digest.update(entry.file.stat().st_size.to_bytes(8, "big"))
        except OSError as error:
            raise DataError(f"{entry.file}: {error.strerror}. Prepare {path} again.") from error
    return digest.hexdigest()


def check_dataset(path: Path, workers: int = 1, progress: Progress = silent) -> list[Problem]:
    """Read every image of the dataset `path` and compare it with dataset.json; the result lists what is wrong.

    Raises DataError where dataset.json or a metadata.jsonl cannot be read at all.
    """
    info = read_dataset(path)
    check = partial(_check_image, side=stored_side(info.image_size))
    total = sum(info.counts.values())
    problems = []
    done = 0
    for split in info.counts:
        files = [entry.file for entry in read_split(path, split)]
        with contextlib.closing(in_order(check, files, workers)) as checked:
            for file, reason in checked:
                done += 1
                if reason is not None:
                    problems.append(Problem(f"{split}/{file.name}", reason))
                progress("check", done, total, "images")
        strays = {file.name for file in (path / split).iterdir()} - {file.name for file in files} - _NO_STRAYS
        problems += [
            Problem(f"{split}/{name}", f"not named in {METADATA}")
            for name in sorted(strays)
            if not name.startswith(".")
        ]
    return problems


_NO_STRAYS = {METADATA, "Thumbs.db", "desktop.ini"}
"""What is no image beside those of a split; the last two are what Windows adds, as other systems add hidden files."""


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
    if not all(is_plain(split) and isinstance(count, int) for split, count in value["counts"].items()):
        raise ValueError("its counts are not images per split")
    if not (isinstance(value["image_size"], int) and value["image_size"] > 0 and isinstance(value["flip"], bool)):
        raise ValueError("image_size is not a positive number, or flip not true or false")
    return DatasetInfo(
        name=str(value["name"]),
        source=_EARLIER_SOURCES.get(value["source"], str(value["source"])),
        licence=str(value["licence"]).replace("pictures", "images"),
        checksums={str(name): str(checksum) for name, checksum in value["checksums"].items()},
        options=dict(value["options"]),
        split_rule=str(value["split_rule"]).replace("pictures", "images"),
        image_size=value["image_size"],
        flip=value["flip"],
        counts=dict(value["counts"]),
        left_out=tuple(Problem(str(item["name"]), str(item["reason"])) for item in value["left_out"]),
        notes=tuple(str(note) for note in value.get("notes", ())),
    )


def _parse_entry(folder: Path, row: Any) -> Entry:
    captions = row.pop("captions")
    name = row.pop("file_name")
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"the captions of {name} are not a list of text")
    if not is_plain(name.removesuffix(".png")):
        raise ValueError(f"{name} is not the name of a file")
    return Entry(folder / name, tuple(captions), row)
