"""What the latent views show: pairs of real and generated images, captions under the same noise, interpolations."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.errors import UsageError
from ratlip_cli.explain.inputs import spread
from ratlip_cli.explain.latent.space import Space, Vectors, angles, unit
from ratlip_cli.progress import Progress, silent
from ratlip_cli.sampling import TorchModel, noise_vectors, sample
from ratlip_cli.weights.model_folder import Model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RealImages:
    """Images of a split, their first captions and their vectors."""

    dataset: Path
    files: list[str]
    captions: list[str]
    vectors: Vectors


@dataclass(frozen=True)
class PairView:
    """What one model generates for the captions of real images, pair k with noise vector k."""

    model: Model
    vectors: Vectors
    angles: NDArray[np.float64]
    """(n,) degrees between each real image and the one generated for its caption."""
    mismatched: NDArray[np.float64]
    """(n,) degrees between each real image and the one generated for the next caption: what chance gives."""
    mean_angle: float
    """Degrees between the mean of the real and the mean of the generated vectors."""


@dataclass(frozen=True)
class Pairs:
    """Real images, and what each model generates for their captions."""

    real: RealImages
    views: list[PairView]

    @property
    def vectors(self) -> Vectors:
        """Of the n real images, then of the n generated ones of each model."""
        return np.concatenate([self.real.vectors, *(view.vectors for view in self.views)])


@dataclass(frozen=True)
class Swap:
    """One caption in place of another under the same noise vectors."""

    start: str
    end: str
    angles: NDArray[np.float64]
    """Degrees (n,) between the images of the two."""
    text_angle: float
    """Degrees between their text vectors."""


@dataclass(frozen=True)
class CaptionView:
    """What one model generates for several captions from the same noise vectors."""

    model: Model
    captions: list[str]
    images: Tensor
    """(noise vectors, captions, 3, S, S)"""
    vectors: NDArray[np.float64]
    """(noise vectors, captions, d), each of length 1."""
    swaps: list[Swap]
    """Of every two captions."""

    @property
    def noise_angles(self) -> NDArray[np.float64]:
        """Degrees between images of one caption and neighbouring noise vectors: what changes without other words.

        (noise vectors - 1,), each the mean over the captions, which share their noise vectors.
        """
        turned: NDArray[np.float64] = angles(self.vectors[:-1], self.vectors[1:]).mean(axis=1)
        return turned


@dataclass(frozen=True)
class Interpolation:
    """Images from one caption to another."""

    model: Model
    noise: tuple[int, int]
    """Index of the noise vector at the start and at the end; equal where it stays the same."""
    images: Tensor
    """(K,3,S,S)"""
    vectors: Vectors
    to_start: NDArray[np.float64]
    """CLIP similarity (K,) of each image and the first caption, by the space's CLIP."""
    to_end: NDArray[np.float64]

    @property
    def step_angles(self) -> NDArray[np.float64]:
        """Degrees (K-1,) between each image and the next."""
        return angles(self.vectors[:-1], self.vectors[1:])


def real_images(space: Space, dataset: CaptionedImages, count: int, progress: Progress = silent) -> RealImages:
    """`count` images of a split, or all where it has fewer, evenly spread over it.

    Raises DataError where images have no caption.
    """
    dataset.check_captioned("name the captions: --caption A --caption B")
    indices = spread(len(dataset), count)
    entries = [dataset.entries[index] for index in indices]
    crops = (dataset.centre_crop(index) for index in indices)
    vectors = space.vectors(crops, progress, "real images", len(indices))
    files = [str(entry.file) for entry in entries]
    return RealImages(dataset.path, files, [entry.captions[0] for entry in entries], vectors)


def generated_images(model: Model, captions: Sequence[str], indices: Sequence[int], seed: int) -> Iterable[Tensor]:
    """One image (3,S,S) for each caption and the index of its noise vector, by the model's own CLIP."""
    for caption, index in zip(captions, indices, strict=True):
        noise = noise_vectors(seed, [index], model.config.generator.noise_dim)
        yield sample(model, noise, model.encode([caption]))[0]


def _say_unread(model: Model, captions: Sequence[str]) -> None:
    """Warn of what a model cannot read of captions."""
    images = TorchModel(model)
    for line in dict.fromkeys(line for caption in captions for line in images.about(caption)):
        logger.warning("%s", line)


def pair_view(space: Space, model: Model, real: RealImages, seed: int, progress: Progress = silent) -> PairView:
    """Generate an image for each caption of `real`, and measure the angles."""
    count = len(real.captions)
    images = generated_images(model, real.captions, range(count), seed)
    vectors = space.vectors(images, progress, f"images of {model.name}", count)
    (between,) = angles(*(unit(each.mean(axis=0, keepdims=True)) for each in (real.vectors, vectors)))
    mismatched = angles(real.vectors, np.roll(vectors, -1, axis=0))
    return PairView(model, vectors, angles(real.vectors, vectors), mismatched, float(between))


def caption_view(
    space: Space, model: Model, captions: Sequence[str], count: int, seed: int, progress: Progress = silent
) -> CaptionView:
    """Generate images of every caption from `count` noise vectors, the same for each caption."""
    _say_unread(model, captions)
    indices = [noise for noise in range(count) for _ in captions]
    images = list(generated_images(model, [*captions] * count, indices, seed))
    vectors = space.vectors(images, progress, f"captions by {model.name}", len(images))
    vectors = vectors.reshape(count, len(captions), -1)
    swaps = []
    for (a, start), (b, end) in combinations(enumerate(captions), 2):
        one, other = unit(space.model.clip.encode_text([start, end]).cpu().double().numpy())
        text_angle = float(angles(one[None], other[None])[0])
        swaps.append(Swap(start, end, angles(vectors[:, a], vectors[:, b]), text_angle))
    stacked = torch.stack(images)
    stacked = stacked.view(count, len(captions), *stacked.shape[1:])
    return CaptionView(model, list(captions), stacked, vectors, swaps)


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Spherical interpolation of two vectors (n,) of any length: `start` at share 0, `end` at 1.

    Normal noise has nearly one length in many dimensions; a straight line would leave that sphere.
    """
    cosine = torch.nn.functional.cosine_similarity(start, end, dim=0).clamp(-1, 1)
    omega = torch.arccos(cosine)
    if torch.sin(omega) < 1e-6:
        return torch.lerp(start, end, share)
    # Both weights are exactly 0 or 1 at the ends.
    of_start, of_end = (torch.sin(weight * omega) / torch.sin(omega) for weight in (1 - share, share))
    return of_start * start + of_end * end


@torch.no_grad()
def interpolate(
    model: Model,
    space: Space,
    captions: tuple[str, str],
    steps: int,
    noise: tuple[int, int],
    seed: int,
    progress: Progress = silent,
) -> Interpolation:
    """Generate `steps` images from one caption to the other: linear for text vectors, spherical for noise vectors.

    Args:
        noise: see `Interpolation`.

    Raises UsageError where the model reads both captions as the same, and one noise vector is at both ends.
    """
    _say_unread(model, captions)
    start, end = noise_vectors(seed, noise, model.config.generator.noise_dim)
    # One by one, as `generate` encodes them: the ends are its images to the bit.
    text = torch.cat([model.encode([caption]) for caption in captions])
    if torch.equal(*text) and noise[0] == noise[1]:
        raise UsageError(
            f"model {model.name} reads '{captions[0]}' and '{captions[1]}' as the same, between which nothing would "
            "change: give prompts that differ in words it knows, or two noise vectors."
        )
    generated: list[Tensor] = []
    for share in np.linspace(0, 1, steps).tolist():
        condition = model.family.between(text[0], text[1], share)
        generated.append(sample(model, slerp(start, end, share)[None], condition[None])[0])
        progress(f"interpolation by {model.name}", len(generated), steps, "images")
    images = torch.stack(generated)
    of_captions = space.model.clip.encode_text(captions)
    of_images = torch.cat([space.model.clip.encode_image(image[None].to(space.model.device)) for image in images])
    similarity = torch.nn.functional.cosine_similarity(of_images[:, None], of_captions[None], dim=2)
    to_start, to_end = similarity.cpu().double().numpy().T
    return Interpolation(model, noise, images, space.vectors(images), to_start, to_end)
