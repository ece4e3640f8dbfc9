"""Where images are vectors, the angles between them, and planes that show them: components, t-SNE and UMAP."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ratlip_cli.errors import UsageError, unknown_name
from ratlip_cli.explain.inputs import discriminator_of
from ratlip_cli.explain.request import SPACES, check_method, check_points
from ratlip_cli.progress import Progress, silent
from ratlip_cli.weights.model_folder import Model

Vectors = NDArray[np.float64]
"""(n,d), one row an image, each of length 1."""


@dataclass(frozen=True)
class Space:
    """Where images are vectors."""

    name: str
    """One of SPACES."""
    model: Model
    """Whose CLIP, and whose discriminator, make the vectors: of all images, whichever model generated them."""
    embed: Callable[[Tensor], Tensor]
    """Images (B,3,H,W) in [-1,1] to vectors (B,d)."""

    @torch.no_grad()
    def vectors(
        self, images: Iterable[Tensor], progress: Progress = silent, what: str = "images", total: int | None = None
    ) -> Vectors:
        """Vectors of images (3,H,W), one at a time; `what` and `total` go to `progress`."""
        rows = []
        for image in images:
            rows.append(self.embed(image[None].to(self.model.device))[0].cpu().double().numpy())
            progress(what, len(rows), total, "images")
        return unit(np.stack(rows))

    def record(self) -> dict[str, object]:
        """What the numbers say of it."""
        return {
            "name": self.name,
            "of": self.model.name,
            "clip": self.model.config.clip,
            "clip_fingerprint": self.model.clip.fingerprint,
        }


def make_space(name: str, model: Model) -> Space:
    """`clip`: CLIP's image vectors; `discriminator`: what the discriminator finds in them, see `Family.features`.

    Raises UsageError for another name, WeightsError where the model has no discriminator.
    """
    if name == "clip":
        return Space(name, model, model.clip.encode_image)
    if name == "discriminator":
        discriminator = discriminator_of(model)
        return Space(name, model, lambda images: model.family.features(discriminator, model.clip, images))
    raise unknown_name("space", name, SPACES)


def check_sizes(space: Space, models: Sequence[Model]) -> None:
    """Raise UsageError where models generate images of a size that the space's discriminator never saw.

    One that looks through CLIP sees all at CLIP's size.
    """
    if space.name != "discriminator" or space.model.family.feature_map(discriminator_of(space.model)) is None:
        return
    size = space.model.config.generator.image_size
    for model in models:
        if (other := model.config.generator.image_size) != size:
            raise UsageError(
                f"{model.name} generates images of {other} pixels, and the discriminator of {space.model.name} sees "
                f"those of {size} alone: take --space clip."
            )


def unit(vectors: NDArray[np.floating]) -> Vectors:
    """Rows scaled to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float64).tiny), dtype=np.float64)


def angles(first: Vectors, second: Vectors) -> NDArray[np.float64]:
    """Angles (n,) in degrees, 0 to 180, between rows of unit vectors (n,d); exact for small angles too."""
    halved = np.arctan2(np.linalg.norm(first - second, axis=-1), np.linalg.norm(first + second, axis=-1))
    degrees: NDArray[np.float64] = np.degrees(2 * halved)
    return degrees


class Projection(NamedTuple):
    """Points of a plane."""

    method: str  # Of METHODS.
    points: NDArray[np.float64]  # (n,2)
    explained: tuple[float, float] | None  # Shares of the variance that the axes show; None where it is not known.


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
        return Projection(method, tsne.fit_transform(vectors.astype(np.float32)).astype(np.float64), None)
    from umap import UMAP

    umap = UMAP(n_neighbors=min(15, len(vectors) - 1), init="random", random_state=seed % 2**32, n_jobs=1)
    return Projection(method, np.asarray(umap.fit_transform(vectors), dtype=np.float64), None)


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
    return Projection("pca", points, (first, second))
