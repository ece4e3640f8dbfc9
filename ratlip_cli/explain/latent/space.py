"""Where images are vectors, and the angles between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ratlip_cli.errors import unknown_name
from ratlip_cli.explain.inputs import discriminator_of
from ratlip_cli.explain.request import SPACES
from ratlip_cli.model.clip import FrozenCLIP
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

    @property
    def clip(self) -> FrozenCLIP:
        """The CLIP that reads the images."""
        return self.model.clip

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
            "clip_fingerprint": self.clip.fingerprint,
        }


def make_space(name: str, model: Model) -> Space:
    """`clip`: CLIP's image vectors; `discriminator`: Mate-D's extracted features, their mean over the patches.

    Raises UsageError for another name, WeightsError where the model has no discriminator.
    """
    if name == "clip":
        return Space(name, model, model.clip.encode_image)
    if name == "discriminator":
        discriminator = discriminator_of(model)
        return Space(name, model, lambda images: model.family.features(discriminator, model.clip, images))
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
