"""Images like an image: its CLIP image vector v in the place of a prompt's text vector T, or mixed with it.

LAFITE learns for image vectors with noise too (Zhou et al. 2022, Section 3.1), and gets them as it does in training.
Other models know text vectors alone, which lie elsewhere than image vectors (Liang et al., "Mind the Gap", 2022): v is
moved by the difference of means between the text vectors of prompts p and the image vectors of what the model generates
for them. The prompts are those of its samples in training, or, where it names none, the one that goes with the image.
With unit(h) = h/|h|:

    v'   = unit(v + mean_p (unit(T_p) - mean_k unit(v(G(z_k,T_p)))))     LAFITE: v' = v
    v''  = unit((1 - s) v' + s n)                                        n ~ N(0,I) at unit length, one an image
    text = unit((1 - w) unit(T) + w v'') times the length that text vectors have
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ratlip_cli.baselines.lafite import perturbed
from ratlip_cli.errors import UsageError
from ratlip_cli.family import Family
from ratlip_cli.generation import LikeRequest
from ratlip_cli.pixels import from_image
from ratlip_cli.sampling import TorchModel, noise_vectors, read_square, sample
from ratlip_cli.weights.model_folder import Model

logger = logging.getLogger(__name__)

GAP_PROMPTS, GAP_IMAGES = 16, 8
"""Prompts at most, and images of each, whose mean vectors are taken."""
_PERTURBATIONS = 1 << 40
"""The index of the first noise vector that perturbs an image vector: far from those of images."""


class LikeModel(TorchModel):
    """A model that generates like an image; `clip_similarity` is the cosine of what it generates and that image.

    Raises DataError where the image cannot be read; UsageError where the model does not read CLIP's vectors.
    """

    def __init__(self, model: Model, request: LikeRequest, batch_size: int | None = None) -> None:
        _check_vectors(model)
        super().__init__(model, batch_size)
        self.like = self._request = request
        image = from_image(read_square(request.image, model.config.generator.image_size))
        self.vector = image_vectors(model, image[None])  # (1,d)
        if not model.family.takes_images:
            logger.info(
                "%s learned from text vectors alone: --like is experimental with it, it suits LAFITE", self.name
            )

    @cached_property
    def _moved(self) -> Tensor:
        return torch.mul(*text_like(self._model, self.vector))

    def noise(self, seed: int, indices: Iterable[int]) -> NDArray[np.float32]:
        """z and n side by side (n,noise_dim+d)."""
        wanted = list(indices)
        others = noise_vectors(seed, (_PERTURBATIONS + index for index in wanted), self.vector.shape[1])
        return np.concatenate((super().noise(seed, wanted), others.numpy()), axis=1)

    def truncated(self, noise: NDArray[np.float32], psi: float) -> NDArray[np.float32]:
        """See `family.Family`: z is truncated, n is not."""
        z, n = self._split(noise)
        return np.concatenate((super().truncated(z, psi), n), axis=1)

    def _split(self, noise: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """z, truncated or not, and n (n,d)."""
        z, n = np.split(noise, [-self.vector.shape[1]], axis=1)
        return z, n

    def about(self, prompt: str) -> list[str]:
        """See `samples.ImageModel`."""
        return [] if prompt == self._request.label else super().about(prompt)

    def encoded(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Conditions of a prompt, or of the image where there is none, and of the image: v' at a text's length; (1,d).

        Where the model names no prompts, v' is moved by the difference of this one: no other prompt matters.
        """
        alone, family = prompt == self._request.label, self._model.family
        by_prompt = not (alone or family.takes_images or self._model.config.training.get("prompts"))
        moved = torch.mul(*text_like(self._model, self.vector, [prompt])) if by_prompt else self._moved
        return moved if alone else self._model.encode([prompt]), moved

    def images(
        self, noise: NDArray[np.float32], encoded: Sequence[tuple[Tensor, Tensor]]
    ) -> tuple[list[Image.Image], list[float]]:
        """See `samples.ImageModel`; noise from `noise`, truncated or not."""
        text, moved = (torch.cat(rows) for rows in zip(*encoded, strict=True))
        z, n = self._split(noise)
        weight, lengths, length = self._request.weight, moved.norm(dim=1, keepdim=True), text.norm(dim=1, keepdim=True)
        target = perturbed(moved / lengths, torch.from_numpy(n), self._request.noise)
        mixed = F.normalize((1 - weight) * text / length + weight * target, dim=1)
        mixed = ((1 - weight) * length + weight * lengths) * mixed
        return super().images(z, [(row[None], self.vector) for row in mixed])


def reads_vectors(model: Model) -> bool:
    """Whether a prompt's condition is CLIP's text vector as it is, or the model reads image vectors too."""
    as_it_is = type(model.family).condition is Family.condition and model.text_encoder is model.clip
    return as_it_is or model.family.takes_images


def _check_vectors(model: Model) -> None:
    """Raise UsageError where the model does not read CLIP's vectors."""
    if not reads_vectors(model):
        raise UsageError(
            f"model {model.name} does not read CLIP's vectors, so no image can take the place of a prompt: use a model "
            "of another variant, such as lafite."
        )


def text_like(model: Model, vectors: Tensor, prompts: Sequence[str] = ()) -> tuple[Tensor, float]:
    """v' (n,d) of image vectors (n,d) of unit length, and the length that the model's text vectors have.

    Args:
        prompts: to take the difference of means from where the model names none.

    Raises UsageError where there is no prompt, or the model does not read CLIP's vectors.
    """
    if model.family.takes_images:
        return vectors, 1.0
    _check_vectors(model)
    gap, length = _gap(model, list(model.config.training.get("prompts") or prompts)[:GAP_PROMPTS])
    return F.normalize(vectors + gap, dim=1), length


def _gap(model: Model, prompts: Sequence[str]) -> tuple[Tensor, float]:
    """Mean text vector of prompts minus mean image vector of what is generated for them (1,d), and the texts' length.

    Raises UsageError where there is no prompt.
    """
    if not prompts:
        raise UsageError(f"model {model.name} names no prompts that it knows: give one beside --like.")
    noise = noise_vectors(0, range(GAP_IMAGES), model.config.generator.noise_dim)
    texts = torch.cat([model.encode([prompt]) for prompt in prompts])  # (p,d)
    rows = (text.expand(GAP_IMAGES, -1) for text in texts)
    vectors = torch.cat([image_vectors(model, sample(model, noise, row)) for row in rows])
    gap = F.normalize(texts, dim=1).mean(dim=0, keepdim=True) - vectors.mean(dim=0, keepdim=True)
    return gap, float(texts.norm(dim=1).mean())


@torch.no_grad()
def image_vectors(model: Model, images: Tensor) -> Tensor:
    """CLIP's image vectors (n,d) of unit length, on the CPU."""
    return F.normalize(model.sampler.each(model.clip.encode_image, images.to(model.device)).cpu(), dim=1)
