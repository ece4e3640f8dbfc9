"""What the latent views look at: pairs of real and generated images, and captions under the same noises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.explain.input_images import spread
from ratlip_cli.explain.latent import Progress, Space, Vectors, angles, crops, fake_images, unit
from ratlip_cli.weights.model_folder import Model


@dataclass(frozen=True)
class RealImages:
    """Images of a split, their first captions and their vectors."""

    files: list[str]
    captions: list[str]
    vectors: Vectors


@dataclass(frozen=True)
class PairView:
    """What one model draws for the captions of real images, pair k with noise k."""

    model: Model
    vectors: Vectors
    angles: NDArray[np.float64]
    """(n,) degrees between each real image and the one generated for its caption."""
    mismatched: NDArray[np.float64]
    """(n,) degrees between each real image and the one generated for the next caption: what chance gives."""
    mean_angle: float
    """Degrees between the mean of the real and the mean of the generated vectors."""


@dataclass(frozen=True)
class CaptionView:
    """What one model draws for several captions under the same noises."""

    model: Model
    captions: list[str]
    images: Tensor
    """(noises, captions, 3, S, S)"""
    vectors: NDArray[np.float64]
    """(noises, captions, d), each of length 1."""


def real_images(space: Space, dataset: CaptionedImages, count: int, progress: Progress) -> RealImages:
    """`count` images of a split, or all where it has fewer, evenly spread over it."""
    indices = spread(len(dataset), count)
    entries = [dataset.entries[index] for index in indices]
    vectors = space.vectors(crops(dataset, indices), progress)
    return RealImages([str(entry.file) for entry in entries], [entry.captions[0] for entry in entries], vectors)


def pair_view(space: Space, model: Model, real: RealImages, seed: int, progress: Progress) -> PairView:
    """Draw an image for each caption of `real`, and measure."""
    images = fake_images(model, real.captions, range(len(real.captions)), seed)
    vectors = space.vectors(images, progress)
    means = [vectors.mean(axis=0) for vectors in (real.vectors, vectors)]
    between = angles(*(unit(mean[None]) for mean in means))
    mismatched = angles(real.vectors, np.roll(vectors, -1, axis=0))
    return PairView(model, vectors, angles(real.vectors, vectors), mismatched, float(between[0]))


def caption_view(
    space: Space, model: Model, captions: Sequence[str], noises: int, seed: int, progress: Progress
) -> CaptionView:
    """Draw every caption under `noises` noises, the same for each."""
    numbers = [noise for noise in range(noises) for _ in captions]
    images = list(fake_images(model, [*captions] * noises, numbers, seed))
    vectors = space.vectors(images, progress)
    shape = (noises, len(captions))
    stacked = torch.stack(images)
    return CaptionView(
        model, list(captions), stacked.view(*shape, *stacked.shape[1:]), vectors.reshape(*shape, vectors.shape[-1])
    )
