"""Prompts to images by PyTorch. `samples` has what does not depend on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ratlip_cli import noise as numpy_noise
from ratlip_cli import samples
from ratlip_cli.errors import RatlipError
from ratlip_cli.model.losses import clip_similarity
from ratlip_cli.pixels import to_images
from ratlip_cli.samples import PromptedModel, Sample
from ratlip_cli.weights.model_folder import Model


def noise_vectors(seed: int, indices: Iterable[int], noise_dim: int) -> Tensor:
    """z (n,noise_dim) ~ N(0,I), one row an index; each row depends on `seed` and its index alone."""
    return torch.from_numpy(numpy_noise.noise_vectors(seed, indices, noise_dim))


def sample(model: Model, noise: Tensor, text: Tensor, batch_size: int | None = None) -> Tensor:
    """Generate one image per row of noise (n,noise_dim) and conditions (n,...).

    Args:
        batch_size: images at a time, see `fast.Sampler`; left out, an image is the same to the bit on a CPU whatever
            else is generated.

    Returns:
        Images (n,3,S,S) on the CPU, float32, clamped to [-1,1]. Raises RatlipError where the generator made NaN.
    """
    images = model.sampler(noise, text, batch_size)
    if not images.isfinite().all():
        raise RatlipError(
            f"model {model.name} generates pixels that are not numbers: its weights are broken; take another."
        )
    return images.clamp(-1, 1)


class TorchModel:
    """A loaded model as `samples.ImageModel`.

    Args:
        batch_size: see `sample`.
    """

    has_similarity = True

    def __init__(self, model: Model, batch_size: int | None = None) -> None:
        self.name, self.fingerprint = model.name, model.fingerprint
        self.noise_dim = int(model.config.generator.noise_dim)
        self.context_length = model.clip.context_length
        self.is_overlong = model.clip.is_overlong
        self._model = model
        self._batch_size = batch_size

    @torch.no_grad()
    def prompted(self, prompt: str) -> PromptedModel:
        """See `samples.ImageModel`."""
        model = self._model
        condition, text = model.encode([prompt]), model.clip.encode_text([prompt]).cpu()

        @torch.no_grad()
        def images_of(noise: NDArray[np.float32]) -> tuple[list[Image.Image], Sequence[float | None]]:
            conditions = condition.expand(len(noise), *condition.shape[1:])
            images = sample(model, torch.from_numpy(noise), conditions, self._batch_size)
            similarities = clip_similarity(
                torch.cat([model.clip.encode_image(image[None].to(model.device)).cpu() for image in images]), text
            )
            return to_images(images), similarities.tolist()

        return images_of


def generate(
    model: Model,
    prompts: Sequence[str],
    count: int = 1,
    seed: int = 0,
    truncation: float = 1.0,
    best_of: int = 1,
    batch_size: int | None = None,
    indices: Sequence[int] | None = None,
) -> Iterator[Sample]:
    """`samples.generate` of a loaded model; `batch_size` is that of `sample` too."""
    yield from samples.generate(
        TorchModel(model, batch_size), prompts, count, seed, truncation, best_of, batch_size, indices
    )
