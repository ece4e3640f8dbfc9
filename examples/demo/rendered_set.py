"""Rendered images with captions and attributes in memory, rendered once and kept in a file.

A `RenderedSet` holds images as the demo's dataset has them. A `TwinSet` holds pairs whose images differ in one
attribute, or have the colours of two segments exchanged, with captions that differ in just those words.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ratlip_cli.data.layout import stored_side
from ratlip_cli.data.parallel import in_order
from ratlip_cli.data.sources.demo import RenderedImage, rendered_image
from ratlip_cli.demo.attributes import ATTRIBUTES, FAMILIES, PAIRED, SEEN, sample_attributes
from ratlip_cli.demo.captions import LONGEST, caption
from ratlip_cli.demo.render import SEGMENTS, Rendering, render
from ratlip_cli.files import whole_file

IMAGE_SIZE = 64
STORED = stored_side(IMAGE_SIZE)
CACHE = Path("runs/demo-images")
TWIN_CAPTIONS = 8
EXCHANGED = 0.3
"""Share of the twins whose two paired colours (body and wings, petals and centre) are exchanged."""
_CHUNK = 100


@dataclass(frozen=True)
class RenderedSet:
    """N images; family f's are those with `family == f`."""

    pixels: np.ndarray  # (N, STORED, STORED, 3) uint8.
    family: np.ndarray  # (N,) index into FAMILIES.
    captions: list[list[str]]  # Ten of each image.
    attributes: list[dict[str, str]]  # Every attribute of the image's family.
    labels: np.ndarray  # (N, STORED, STORED) uint8: k + 1 where segment k of the family's SEGMENTS is.

    def rows(self, family: str) -> np.ndarray:
        """Indices of a family's images."""
        return np.flatnonzero(self.family == FAMILIES.index(family))

    def values(self, family: str, attribute: str) -> np.ndarray:
        """An attribute of a family's images, as indices into its values."""
        known = ATTRIBUTES[family][attribute]
        return np.array([known.index(self.attributes[row][attribute]) for row in self.rows(family)])

    def centre(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        """Centre crops (B, 3, 64, 64) in [-1,1]."""
        start = (STORED - IMAGE_SIZE) // 2
        return to_tensor(self.pixels[rows, start : start + IMAGE_SIZE, start : start + IMAGE_SIZE])


@dataclass(frozen=True)
class TwinSet:
    """N pairs: images 2n and 2n + 1 are twins."""

    pixels: np.ndarray  # (2N, STORED, STORED, 3) uint8.
    family: np.ndarray  # (N,) index into FAMILIES.
    captions: list[list[list[str]]]  # (N, TWIN_CAPTIONS, 2): of one template, one caption of each twin.
    attributes: list[dict[str, str]]  # 2N; every attribute of the image's family.
    labels: np.ndarray  # (2N, STORED, STORED) uint8, as in RenderedSet.


COLOURED_BY = {"body": ("body",), "wings": ("wings", "tail"), "petals": ("petals",), "centre": ("centre",)}
"""Attribute -> the segments that show its colour."""


def paint(pixels: np.ndarray, labels: np.ndarray, family: str, attribute: str, rng: np.random.Generator) -> None:
    """Paint the segments that show one of the paired attributes over, in place, in a colour of no name.

    `pixels` is one image (STORED, STORED, 3) and `labels` its label map (STORED, STORED).
    """
    covered = np.isin(labels, [SEGMENTS[family].index(segment) + 1 for segment in COLOURED_BY[attribute]])
    pixels[ndimage.binary_dilation(covered)] = rng.integers(0, 256, 3)


def random_crops(pixels: np.ndarray, rows: Sequence[int] | np.ndarray, rng: np.random.Generator) -> Tensor:
    """Random crops (B, 3, 64, 64) in [-1,1] of some of the images (N, STORED, STORED, 3)."""
    corners = rng.integers(0, STORED - IMAGE_SIZE + 1, size=(len(rows), 2))
    crops = [pixels[row, y : y + IMAGE_SIZE, x : x + IMAGE_SIZE] for row, (y, x) in zip(rows, corners, strict=True)]
    return to_tensor(np.stack(crops))


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Pixels (B, H, W, 3) uint8 as (B, 3, H, W) float32 in [-1,1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float() / 127.5 - 1


def rendered_set(split: str, count: int, seed: int, workers: int = 2) -> RenderedSet:
    """`count` images of a split, families in turn; from the cache where they have been rendered before."""
    stem = CACHE / f"{split}-{count}-{seed}"
    texts = stem.with_suffix(".json")
    if not (texts.exists() and stem.with_suffix(".labels.npy").exists()):
        _render(stem, split, count, seed, workers)
    stored = json.loads(texts.read_text(encoding="utf-8"))
    pixels, labels = (np.load(stem.with_suffix(suffix)) for suffix in (".npy", ".labels.npy"))
    return RenderedSet(pixels, np.array(stored["family"]), stored["captions"], stored["attributes"], labels)


def _render(stem: Path, split: str, count: int, seed: int, workers: int) -> None:
    families = tuple(PAIRED) if split == "unseen" else FAMILIES
    numbers = [(families[number % len(families)], number // len(families)) for number in range(count)]
    chunks = [numbers[start : start + _CHUNK] for start in range(0, count, _CHUNK)]
    pixels = np.empty((count, STORED, STORED, 3), dtype=np.uint8)
    labels = np.empty((count, STORED, STORED), dtype=np.uint8)
    captions, attributes = [], []
    for _, rendered in in_order(partial(_render_chunk, split=split, seed=seed), chunks, workers):
        for one in rendered:
            pixels[len(captions)], labels[len(captions)] = one.image, one.labels
            captions.append(one.captions)
            attributes.append(one.attributes)
    for suffix, array in ((".npy", pixels), (".labels.npy", labels)):
        with whole_file(stem.with_suffix(suffix)) as partial_file, partial_file.open("wb") as file:
            np.save(file, array)
    family = [FAMILIES.index(name) for name, _ in numbers]
    with whole_file(stem.with_suffix(".json")) as partial_file:
        partial_file.write_text(json.dumps({"family": family, "captions": captions, "attributes": attributes}))


def _render_chunk(chunk: Sequence[tuple[str, int]], split: str, seed: int) -> list[RenderedImage]:
    return [rendered_image(family, split, seed, index, STORED) for family, index in chunk]


def twin_set(count: int, seed: int, workers: int = 2) -> TwinSet:
    """`count` pairs of the training split's combinations, families in turn; from the cache where they are rendered."""
    stem = CACHE / f"twins-{count}-{seed}"
    texts = stem.with_suffix(".json")
    if not texts.exists():
        numbers = [(FAMILIES[number % len(FAMILIES)], number) for number in range(count)]
        chunks = [numbers[start : start + _CHUNK] for start in range(0, count, _CHUNK)]
        pixels = np.empty((2 * count, STORED, STORED, 3), dtype=np.uint8)
        labels = np.empty((2 * count, STORED, STORED), dtype=np.uint8)
        captions: list[list[list[str]]] = []
        for _, rendered in in_order(partial(_render_twins, seed=seed), chunks, workers):
            for twins, written in rendered:
                for place, one in enumerate(twins, start=2 * len(captions)):
                    pixels[place], labels[place] = one.image, one.labels
                captions.append(written)
        for suffix, array in ((".npy", pixels), (".labels.npy", labels)):
            with whole_file(stem.with_suffix(suffix)) as partial_file, partial_file.open("wb") as file:
                np.save(file, array)
        with whole_file(texts) as partial_file:
            partial_file.write_text(json.dumps(captions))
    captions = json.loads(texts.read_text(encoding="utf-8"))
    attributes = [
        attributes
        for number in range(count)
        for attributes in _twin_attributes(FAMILIES[number % len(FAMILIES)], number, seed)[:2]
    ]
    pixels, labels = (np.load(stem.with_suffix(suffix)) for suffix in (".npy", ".labels.npy"))
    return TwinSet(pixels, np.arange(count) % len(FAMILIES), captions, attributes, labels)


def _render_twins(chunk: Sequence[tuple[str, int]], seed: int) -> list[tuple[list[Rendering], list[list[str]]]]:
    twins = []
    for family, number in chunk:
        one, other, rng = _twin_attributes(family, number, seed)
        written = [_same_template(family, one, other, rng) for _ in range(TWIN_CAPTIONS)]
        twins.append(([render(family, attributes, rng, STORED) for attributes in (one, other)], written))
    return twins


def _twin_attributes(family: str, number: int, seed: int) -> tuple[dict[str, str], dict[str, str], random.Random]:
    rng = random.Random(f"twins/{family}/{seed}/{number}")
    one = sample_attributes(family, rng)
    return one, _twin(family, one, rng), rng


def _twin(family: str, attributes: dict[str, str], rng: random.Random) -> dict[str, str]:
    """The same attributes with one changed, or with the two paired colours exchanged; never a pair held out."""
    while True:
        twin = dict(attributes)
        if family in PAIRED and rng.random() < EXCHANGED:
            first, second = PAIRED[family]
            twin[first], twin[second] = attributes[second], attributes[first]
        else:
            changed = rng.choice(sorted(attributes))
            twin[changed] = rng.choice([value for value in ATTRIBUTES[family][changed] if value != attributes[changed]])
        known = all(twin[name] in ATTRIBUTES[family][name] for name in twin)
        seen = family not in PAIRED or tuple(twin[name] for name in PAIRED[family]) in SEEN[family]
        if known and seen and twin.get("belly") != twin.get("body", "none"):
            return twin


def _same_template(family: str, one: dict[str, str], other: dict[str, str], rng: random.Random) -> list[str]:
    """A caption of each that says the same but for what differs."""
    while True:
        template = rng.random()
        pair = [caption(family, attributes, random.Random(template)) for attributes in (one, other)]
        if pair[0] != pair[1] and all(len(text.split()) <= LONGEST for text in pair):
            return pair
