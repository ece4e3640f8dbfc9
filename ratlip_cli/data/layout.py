"""The one layout on disk that every dataset is brought into: written, validated and read here.

    DATASET/
      dataset.json            where the pictures come from and what they became: :class:`DatasetInfo`
      train/metadata.jsonl    {"file_name": "x.png", "captions": ["...", ...], further columns}
      train/x.png             RGB, shorter side = :func:`stored_side` (image_size)
      test/...                and any further split, such as ``unseen``

It is the "image folder with metadata" convention, so ``datasets.load_dataset("imagefolder", data_dir=DATASET)``
reads it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Union

from PIL import Image
from typing_extensions import TypeAlias

LAYOUT_VERSION = 1

Json: TypeAlias = Union[str, int, float, bool, None, Sequence["Json"], Mapping[str, "Json"]]

Picture: TypeAlias = Union[Path, Image.Image, Callable[[], Image.Image]]
"""A file, a picture in memory, or a function that makes one: picklable, and called in a worker process."""

Progress: TypeAlias = Callable[[int], None]
"""Called with the number of records done so far."""


@dataclass(frozen=True)
class Record:
    """One captioned picture, as a source yields it."""

    name: str  # Stem of the PNG file; unique within its split, whatever the case of its letters.
    split: str  # "train", "test" or a further split.
    captions: tuple[str, ...]  # At least one sentence that is not empty.
    image: Picture  # Of any mode and size; see `pictures.read_picture`.
    crop: tuple[int, int, int, int] | None = None  # Left, upper, right, lower; in pixels of the upright picture.
    extra: Mapping[str, Json] = field(default_factory=dict)  # Further columns of metadata.jsonl.


@dataclass(frozen=True)
class Problem:
    """A picture that was left out, or that a check found wanting, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class DatasetInfo:
    """What dataset.json says."""

    name: str  # The dataset's name, for people.
    source: str  # Where the pictures come from: a folder, an archive's page, a drawing program and its settings.
    licence: str  # The licence of the pictures, in words.
    checksums: Mapping[str, str]  # Of what was read, by name; they tell one state of the source from another.
    split_rule: str  # How records were given to train and test, in words.
    image_size: int  # Side in pixels of the square crops that the pictures are stored for.
    flip: bool  # Whether training may mirror pictures: not where captions speak of left and right.
    counts: Mapping[str, int]  # Pictures per split.
    left_out: tuple[Problem, ...]  # What was not taken over, sorted by name.
    layout_version: int = LAYOUT_VERSION


@dataclass(frozen=True)
class Entry:
    """One captioned picture of a prepared dataset."""

    file: Path
    captions: tuple[str, ...]
    extra: Mapping[str, Json]


def stored_side(image_size: int) -> int:
    """Shorter side, in pixels, of a stored picture from which image_size crops are taken."""
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
    flip: bool = True,
    workers: int = 1,
    strict: bool = False,
    progress: Progress | None = None,
) -> DatasetInfo:
    """Write `records` as the dataset `out`, which appears whole or not at all."""
    raise NotImplementedError


def read_dataset(path: Path) -> DatasetInfo:
    """Read and validate dataset.json of the dataset `path`."""
    raise NotImplementedError


def read_split(path: Path, split: str) -> list[Entry]:
    """Read the entries of one split, in the order in which they were written."""
    raise NotImplementedError
