"""Latent views (Section IV-D, Fig. 5): vectors of real and generated images, their angles, interpolations."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.errors import RatlipError, UsageError, unknown_name
from ratlip_cli.explain.gradcam import discriminator_of
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.sampling import noise_vectors, sample
from ratlip_cli.weights.model_folder import Model

SPACES = ("clip", "discriminator")
METHODS = ("pca", "tsne", "umap")
FEWEST_POINTS = 3

Vectors = NDArray[np.float64]
"""(n,d), one row an image, each of length 1."""

Progress = Callable[[int], None]
"""Called with the number of further images done."""


@dataclass(frozen=True)
class Space:
    """Where images are vectors."""

    name: str
    """One of SPACES."""
    model: Model
    """Whose CLIP, and whose discriminator, make the vectors: of all images, whoever drew them."""
    embed: Callable[[Tensor], Tensor]
    """Images (B,3,H,W) in [-1,1] to vectors (B,d)."""

    @property
    def clip(self) -> FrozenCLIP:
        """The CLIP that looks at the images."""
        return self.model.clip

    @torch.no_grad()
    def vectors(self, images: Iterable[Tensor], progress: Progress | None = None) -> Vectors:
        """Vectors of images (3,H,W), one at a time."""
        rows = []
        for image in images:
            rows.append(self.embed(image[None].to(self.model.device))[0].cpu().double().numpy())
            if progress is not None:
                progress(1)
        return unit(np.stack(rows))

    def describe(self) -> dict[str, object]:
        """For the record."""
        return {
            "name": self.name,
            "of": self.model.name,
            "clip": self.model.config.clip,
            "clip_fingerprint": self.clip.fingerprint,
        }


@dataclass(frozen=True)
class Projection:
    """Points of a plane."""

    points: NDArray[np.float64]
    """(n,2)"""
    explained: tuple[float, float] | None
    """Shares of the variance that the two axes show; None for a method that does not say."""


@dataclass(frozen=True)
class Interpolation:
    """Images on the way from one caption to another."""

    model: Model
    images: Tensor
    """(K,3,S,S)"""
    vectors: Vectors
    to_start: NDArray[np.float64]
    """CLIP similarity (K,) of each image and the first caption, by the space's CLIP."""
    to_end: NDArray[np.float64]


def make_space(name: str, model: Model) -> Space:
    """`clip`: CLIP's image vectors; `discriminator`: Mate-D's extracted features, averaged over the patches.

    Raises UsageError for another name, WeightsError where the model has no discriminator.
    """
    if name == "clip":
        return Space(name, model, model.clip.encode_image)
    if name == "discriminator":
        discriminator = discriminator_of(model)

        def vectors(images: Tensor) -> Tensor:
            return model.family.features(discriminator, model.clip, images)

        return Space(name, model, vectors)
    raise unknown_name("space", name, SPACES)


def unit(vectors: NDArray[np.floating]) -> Vectors:
    """Rows scaled to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float64).tiny), dtype=np.float64)


def angles(first: Vectors, second: Vectors) -> NDArray[np.float64]:
    """Angles (n,) in degrees, 0 to 180, between rows of unit vectors (n,d); exact for small angles too."""
    halved = np.arctan2(np.linalg.norm(first - second, axis=-1), np.linalg.norm(first + second, axis=-1))
    degrees: NDArray[np.float64] = np.degrees(2 * halved)
    return degrees


def crops(dataset: CaptionedImages, indices: Sequence[int]) -> Iterable[Tensor]:
    """Centre crops of the images `indices` of a split."""
    return (dataset.centre_crop(index) for index in indices)


def fake_images(model: Model, captions: Sequence[str], noises: Sequence[int], seed: int) -> Iterable[Tensor]:
    """One image (3,S,S) for each caption and the noise beside it, by the model's own CLIP."""
    for caption, noise in zip(captions, noises, strict=True):
        z = noise_vectors(seed, [noise], model.config.generator.noise_dim)
        yield sample(model, z, model.clip.encode_text([caption]).cpu())[0]


def check_method(method: str) -> None:
    """Raise UsageError for a method that is none of METHODS, RatlipError where it is not installed."""
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if method == "umap" and importlib.util.find_spec("umap") is None:
        raise RatlipError("UMAP is not installed: `pip install umap-learn`, or choose --method pca or tsne.")


def check_points(count: int) -> None:
    """Raise UsageError where so many points make no plane."""
    if count < FEWEST_POINTS:
        raise UsageError(f"points: {count}, but a plane needs {FEWEST_POINTS}. Raise --count or take a larger dataset.")


def project(vectors: NDArray[np.float64], method: str, seed: int = 0) -> Projection:
    """Vectors (n,d) in a plane that is fitted on all of them, by one of METHODS; n is at least 3.

    Raises like `check_method` and `check_points`.
    """
    check_method(method)
    check_points(len(vectors))
    if method == "pca":
        return _pca(vectors)
    if method == "tsne":
        from sklearn.manifold import TSNE  # takes a second to import

        tsne = TSNE(perplexity=min(30.0, (len(vectors) - 1) / 3), init="pca", random_state=seed % 2**32)
        return Projection(tsne.fit_transform(vectors.astype(np.float32)).astype(np.float64), None)
    from umap import UMAP

    umap = UMAP(n_neighbors=min(15, len(vectors) - 1), init="random", random_state=seed % 2**32, n_jobs=1)
    return Projection(np.asarray(umap.fit_transform(vectors), dtype=np.float64), None)


def _pca(vectors: NDArray[np.float64]) -> Projection:
    """Principal components, the larger variance first, each turned so that its largest loading is positive."""
    centred = vectors - vectors.mean(axis=0)
    _, singular, components = np.linalg.svd(centred, full_matrices=False)
    axes = components[:2]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    points = np.zeros((len(vectors), 2))
    points[:, : len(axes)] = centred @ axes.T
    shares = singular**2 / max(float((singular**2).sum()), np.finfo(np.float64).tiny)
    first, second = (*shares[:2].tolist(), 0.0)[:2]
    return Projection(points, (first, second))


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Spherical interpolation of two vectors (n,) of any length: `start` at share 0, `end` at 1.

    Normal noise has nearly one length in many dimensions; a straight line would leave that sphere.
    """
    cosine = torch.nn.functional.cosine_similarity(start, end, dim=0).clamp(-1, 1)
    omega = torch.arccos(cosine)
    if torch.sin(omega) < 1e-6:
        return torch.lerp(start, end, share)
    # Both shares are exactly 0 or 1 at the ends.
    of_start, of_end = (torch.sin(part * omega) / torch.sin(omega) for part in (1 - share, share))
    return of_start * start + of_end * end


@torch.no_grad()
def interpolate(
    model: Model,
    space: Space,
    captions: tuple[str, str],
    steps: int,
    noises: tuple[int, int],
    seed: int,
    progress: Progress | None = None,
) -> Interpolation:
    """Draw `steps` images from one caption to the other: linear for text, spherical for noise.

    Args:
        noises: index of the noise at the start and at the end; equal where it stays the same.
    """
    start, end = noise_vectors(seed, noises, model.config.generator.noise_dim)
    # One by one, as `generate` reads them: the ends are its images to the bit.
    text = torch.cat([model.clip.encode_text([caption]) for caption in captions]).cpu()
    drawn = []
    for share in np.linspace(0, 1, steps).tolist():
        drawn.append(sample(model, slerp(start, end, share)[None], torch.lerp(text[0], text[1], share)[None])[0])
        if progress is not None:
            progress(1)
    images = torch.stack(drawn)
    seen = space.clip.encode_text(captions)
    looked = torch.cat([space.clip.encode_image(image[None].to(space.model.device)) for image in images])
    similarity = torch.nn.functional.cosine_similarity(looked[:, None], seen[None], dim=2).cpu().double().numpy()
    return Interpolation(model, images, space.vectors(images), similarity[:, 0], similarity[:, 1])
