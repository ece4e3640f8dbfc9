"""The rendered dataset: birds, flowers and faces with ten captions, exact attributes and segment masks each."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ratlip_cli.data.layout import Json, Record, stored_side
from ratlip_cli.data.parallel import in_order
from ratlip_cli.demo.attributes import FAMILIES, PAIRED, sample_attributes
from ratlip_cli.demo.captions import captions
from ratlip_cli.demo.render import SEGMENTS, render
from ratlip_cli.demo.segments import encode_segments
from ratlip_cli.errors import UsageError

DATASETS: Mapping[str, tuple[str, ...]] = {
    "demo": FAMILIES,
    "demo-birds": ("bird",),
    "demo-flowers": ("flower",),
    "demo-faces": ("face",),
}
"""Dataset name -> the families it shows."""

SOURCE = "rendered by ratlip (ratlip_cli/demo)"
LICENCE = "MIT, like ratlip itself"
SPLIT_RULE = (
    "10 % of the images test; 5 % unseen: birds and flowers with pairs of colours (body and wings, petals and "
    "centre) that no other split shows; the rest train"
)
SMALLEST, LARGEST = 32, 256
"""Image sizes that can be rendered."""

_CHUNK = 50
"""Images that a worker renders before it hands them over."""


class RenderedImage(NamedTuple):
    """One rendered image with all that is known of it."""

    attributes: dict[str, str]
    captions: tuple[str, ...]
    image: Image.Image
    labels: NDArray[np.uint8]


def rendered_image(family: str, split: str, seed: int, index: int, size: int) -> RenderedImage:
    """Image `index` of a family and split: the same for the same arguments, on every machine.

    Size changes neither attributes nor captions nor what the image shows.
    """
    rng = random.Random(f"{family}/{split}/{seed}/{index}")
    attributes = sample_attributes(family, rng, unseen=split == "unseen")
    written = captions(family, attributes, rng)
    return RenderedImage(attributes, written, *render(family, attributes, rng, size))


def splits(name: str) -> tuple[str, ...]:
    """The splits of the dataset `name`, in the order of its records."""
    return ("train", "test", "unseen") if any(family in PAIRED for family in DATASETS[name]) else ("train", "test")


def records(
    name: str, count: int, seed: int, image_size: int, workers: int = 1, only: Collection[str] | None = None
) -> Iterator[Record]:
    """Yield the `count` records of the dataset `name`, families in turn, rendered at the layout's stored size.

    Args:
        only: the splits whose records are wanted, each the same as among all; all of them if left out.

    Raises UsageError for an image size or a count that cannot be rendered.
    """
    if not SMALLEST <= image_size <= LARGEST:
        raise UsageError(f"image size {image_size} cannot be rendered; choose {SMALLEST} to {LARGEST}.")
    numbers = _numbers(name, count, only)
    chunks = [numbers[start : start + _CHUNK] for start in range(0, len(numbers), _CHUNK)]
    for _, rendered in in_order(partial(_records, seed=seed, size=stored_side(image_size)), chunks, workers):
        yield from rendered


def number_of_records(name: str, count: int, only: Collection[str] | None = None) -> int:
    """How many `records` there are, with the errors of them."""
    return len(_numbers(name, count, only))


def _numbers(name: str, count: int, only: Collection[str] | None) -> list[tuple[str, str, int]]:
    """(family, split, index) of every image of the splits `only` of a dataset of `count`."""
    families = DATASETS[name]
    paired = [family for family in families if family in PAIRED]
    test, unseen = count // 10, count // 20 if paired else 0
    if test < len(families) or (paired and unseen < len(paired)):
        raise UsageError(f"{count} images are too few for the splits; render at least {20 * len(families)}.")
    sizes = (("train", count - test - unseen, families), ("test", test, families), ("unseen", unseen, paired))
    return [
        (among[number % len(among)], split, number // len(among))
        for split, number_of, among in sizes
        for number in range(number_of)
        if only is None or split in only
    ]


def _records(chunk: Sequence[tuple[str, str, int]], seed: int, size: int) -> list[Record]:
    chunk_records = []
    for family, split, index in chunk:
        attributes, captions, image, labels = rendered_image(family, split, seed, index, size)
        segments = encode_segments(labels, SEGMENTS[family])
        extra: dict[str, Json] = {"class": family, "attributes": attributes, "parts": segments}
        chunk_records.append(Record(f"{family}_{index:05d}", split, captions, image, extra=extra))
    return chunk_records
