"""Prompts to images.

Noise k depends on the seed and k alone, so image k of a prompt depends on the model, its precision, the prompt, the
seed and k.
"""

from __future__ import annotations

import io
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ratlip_cli.errors import RatlipError
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
    precision: str = "fp32"  # Arithmetic: fp32 or bf16.

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
    """Generate `count` images for each prompt, in the order of the prompts.

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
    best: list[Sample] = []
    for number, made in enumerate(_samples_of(model, prompts, wanted, seed, truncation, batch_size), 1):
        if best_of == 1:
            yield made
            continue
        best = sorted([*best, made], key=lambda one: -one.clip_similarity)[:count]
        if number % len(wanted) == 0:
            yield from best
            best = []


def _samples_of(
    model: Model, prompts: Sequence[str], wanted: Sequence[int], seed: int, truncation: float, batch_size: int | None
) -> Iterator[Sample]:
    """The images `wanted` of each prompt, a batch at a time, in which prompts may meet."""
    pairs = itertools.product(range(len(prompts)), wanted)
    encoded: dict[int, tuple[Tensor, Tensor]] = {}
    while batch := list(itertools.islice(pairs, batch_size or model.sampler.together)):
        encoded = {number: encoded.get(number) or _encoded(model, prompts, number) for number, _ in batch}
        conditions, texts = (torch.cat(rows) for rows in zip(*(encoded[number] for number, _ in batch), strict=True))
        noise = truncation * noise_vectors(seed, (index for _, index in batch), model.config.generator.noise_dim)
        images = sample(model, noise, conditions, batch_size)
        vectors = model.sampler.each(model.clip.encode_image, images.to(model.device)).cpu()
        similarities = clip_similarity(vectors, texts).tolist()
        for (number, index), image, similarity in zip(batch, to_images(images), similarities, strict=True):
            yield Sample(
                image=image,
                prompt=prompts[number],
                prompt_index=number,
                index=index,
                seed=seed,
                truncation=truncation,
                model=model.name,
                fingerprint=model.fingerprint,
                clip_similarity=round(similarity, 4),
                precision=model.precision,
            )


def _encoded(model: Model, prompts: Sequence[str], number: int) -> tuple[Tensor, Tensor]:
    """Condition and text vector of one prompt, each of one row, on the CPU."""
    prompt = prompts[number]
    encoder = model.text_encoder
    if encoder.is_overlong(prompt):
        read = encoder.context_length
        logger.warning("prompt %d is as long as the %d tokens that are read; its end may be cut.", number + 1, read)
    if unknown := model.unknown_words(prompt):
        logger.warning("%s", unknown)
    return model.encode([prompt]), model.clip.encode_text([prompt]).cpu()
