"""Prompts to images.

Noise k depends on the seed and k alone, so image k of a prompt depends on the model, the prompt, the seed and k.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ratlip_cli.errors import RatlipError
from ratlip_cli.fast.sampling import BATCH_SIZE
from ratlip_cli.generation import check_request
from ratlip_cli.model.losses import clip_similarity
from ratlip_cli.pixels import to_images
from ratlip_cli.weights.model_folder import Model

logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Sample:
    """One generated image and how it was made."""

    image: Image.Image
    prompt: str
    prompt_index: int  # Which of the prompts of this call, from 0.
    index: int  # Which noise, from 0: k.
    seed: int
    truncation: float
    model: str
    fingerprint: str  # Of the model.
    clip_similarity: float  # Cosine of the image and its prompt under the model's CLIP, in [-1,1].

    def __repr__(self) -> str:
        return f"<Sample {self.index} of '{self.prompt[:40]}', seed {self.seed}, by {self.model}>"

    def _repr_png_(self) -> bytes:
        shown = io.BytesIO()
        self.image.save(shown, "PNG")
        return shown.getvalue()

    def record(self) -> dict[str, object]:
        """Everything but the pixels."""
        return {name: value for name, value in vars(self).items() if name not in ("image", "prompt_index")}


def noise_vectors(seed: int, indices: Iterable[int], noise_dim: int) -> Tensor:
    """z (n,noise_dim) ~ N(0,I), one row an index; each row depends on `seed` and its index alone."""
    rows = []
    for index in indices:
        state = np.random.SeedSequence([seed, index]).generate_state(2)
        generator = torch.Generator().manual_seed((int(state[0]) << 31) ^ int(state[1]))
        rows.append(torch.randn(noise_dim, generator=generator))
    return torch.stack(rows)


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


@torch.no_grad()
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
    """Generate `count` images for each prompt, prompt by prompt.

    Args:
        seed: decides every noise, together with its index.
        truncation: psi, by which noise is scaled; below 1 images are more alike.
        best_of: generate this many times `count` images, and keep those of highest CLIP similarity, best first.
        batch_size: see `sample`.
        indices: the images k of each prompt, instead of the first `count`.

    Raises UsageError: an empty prompt, or numbers out of range.
    """
    check_request(prompts, count, seed, truncation, best_of, batch_size, indices)
    wanted = range(count * best_of) if indices is None else indices
    for prompt_index, prompt in enumerate(prompts):
        if model.text_encoder.is_overlong(prompt):
            read = model.text_encoder.context_length
            logger.warning(
                "prompt %d is as long as the %d tokens that are read; its end may be cut.", prompt_index + 1, read
            )
        best: list[Sample] = []
        for made in _samples_of(model, prompt, prompt_index, wanted, seed, truncation, batch_size):
            if best_of == 1:
                yield made
            else:
                best = sorted([*best, made], key=lambda one: -one.clip_similarity)[:count]
        yield from best


def _samples_of(
    model: Model,
    prompt: str,
    prompt_index: int,
    wanted: Sequence[int],
    seed: int,
    truncation: float,
    batch_size: int | None,
) -> Iterator[Sample]:
    """The images `wanted` of one prompt, a batch at a time."""
    condition, text = model.encode([prompt]), model.clip.encode_text([prompt]).cpu()
    together = batch_size or BATCH_SIZE
    for start in range(0, len(wanted), together):
        indices = wanted[start : start + together]
        noise = truncation * noise_vectors(seed, indices, model.config.generator.noise_dim)
        images = sample(model, noise, condition.expand(len(indices), *condition.shape[1:]), batch_size)
        similarities = clip_similarity(
            torch.cat([model.clip.encode_image(image[None].to(model.device)).cpu() for image in images]), text
        )
        for index, image, similarity in zip(indices, to_images(images), similarities.tolist(), strict=True):
            yield Sample(
                image=image,
                prompt=prompt,
                prompt_index=prompt_index,
                index=index,
                seed=seed,
                truncation=truncation,
                model=model.name,
                fingerprint=model.fingerprint,
                clip_similarity=round(similarity, 4),
            )
