"""Drawn pictures with captions and attributes in memory, drawn once and kept in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ratlip_cli.data.drawn.attributes import ATTRIBUTES, FAMILIES, PAIRED
from ratlip_cli.data.layout import stored_side
from ratlip_cli.data.parallel import in_order
from ratlip_cli.data.sources.demo import picture
from ratlip_cli.files import whole_file

IMAGE_SIZE = 64
STORED = stored_side(IMAGE_SIZE)
CACHE = Path("runs/demo-pictures")
_CHUNK = 100


@dataclass(frozen=True)
class DrawnSet:
    """N pictures; family f's are those with `family == f`."""

    pixels: np.ndarray  # (N, STORED, STORED, 3) uint8.
    family: np.ndarray  # (N,) index into FAMILIES.
    captions: list[list[str]]  # Ten of each picture.
    attributes: list[dict[str, str]]  # Every attribute of the picture's family.

    def rows(self, family: str) -> np.ndarray:
        """Indices of a family's pictures."""
        return np.flatnonzero(self.family == FAMILIES.index(family))

    def values(self, family: str, attribute: str) -> np.ndarray:
        """An attribute of a family's pictures, as indices into its values."""
        known = ATTRIBUTES[family][attribute]
        return np.array([known.index(self.attributes[row][attribute]) for row in self.rows(family)])

    def centre(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        """Centre crops (B, 3, 64, 64) in [-1,1]."""
        start = (STORED - IMAGE_SIZE) // 2
        return to_tensor(self.pixels[rows, start : start + IMAGE_SIZE, start : start + IMAGE_SIZE])

    def random_crops(self, rows: Sequence[int] | np.ndarray, rng: np.random.Generator) -> Tensor:
        """Random crops (B, 3, 64, 64) in [-1,1]."""
        corners = rng.integers(0, STORED - IMAGE_SIZE + 1, size=(len(rows), 2))
        crops = [
            self.pixels[row, y : y + IMAGE_SIZE, x : x + IMAGE_SIZE] for row, (y, x) in zip(rows, corners, strict=True)
        ]
        return to_tensor(np.stack(crops))


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Pixels (B, H, W, 3) uint8 as (B, 3, H, W) float32 in [-1,1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float() / 127.5 - 1


def drawn_set(split: str, count: int, seed: int, workers: int = 2) -> DrawnSet:
    """`count` pictures of a split, families in turn; from the cache where they have been drawn before."""
    stem = CACHE / f"{split}-{count}-{seed}"
    texts = stem.with_suffix(".json")
    if not texts.exists():
        _draw(stem, split, count, seed, workers)
    stored = json.loads(texts.read_text(encoding="utf-8"))
    return DrawnSet(
        np.load(stem.with_suffix(".npy")), np.array(stored["family"]), stored["captions"], stored["attributes"]
    )


def _draw(stem: Path, split: str, count: int, seed: int, workers: int) -> None:
    families = tuple(PAIRED) if split == "unseen" else FAMILIES
    numbers = [(families[number % len(families)], number // len(families)) for number in range(count)]
    chunks = [numbers[start : start + _CHUNK] for start in range(0, count, _CHUNK)]
    pixels = np.empty((count, STORED, STORED, 3), dtype=np.uint8)
    captions, attributes = [], []
    for _, drawn in in_order(partial(_draw_chunk, split=split, seed=seed), chunks, workers):
        for image, texts, values in drawn:
            pixels[len(captions)] = image
            captions.append(texts)
            attributes.append(values)
    with whole_file(stem.with_suffix(".npy")) as partial_file, partial_file.open("wb") as file:
        np.save(file, pixels)
    family = [FAMILIES.index(name) for name, _ in numbers]
    with whole_file(stem.with_suffix(".json")) as partial_file:
        partial_file.write_text(json.dumps({"family": family, "captions": captions, "attributes": attributes}))


def _draw_chunk(
    chunk: Sequence[tuple[str, int]], split: str, seed: int
) -> list[tuple[np.ndarray, tuple[str, ...], dict[str, str]]]:
    pictures = [picture(family, split, seed, index, STORED) for family, index in chunk]
    return [(np.asarray(drawn.image), drawn.captions, drawn.attributes) for drawn in pictures]
