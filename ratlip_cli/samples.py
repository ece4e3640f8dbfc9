"""From prompts to images, whatever computes them: PyTorch (`sampling`) or an exported model (`exported`).

No torch here. Noise k depends on the seed and k alone; image k of a prompt on the model, the prompt, the seed and k.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ratlip_cli.errors import UsageError
from ratlip_cli.generation import check_request
from ratlip_cli.noise import noise_vectors

logger = logging.getLogger(__name__)

BATCH_SIZE = 16
"""Images that are made before the first of them is shown, where nobody says how many."""


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
    clip_similarity: float | None  # Cosine of image and prompt under the model's CLIP; None where that is not at hand.

    def __repr__(self) -> str:
        return f"<Sample {self.index} of '{self.prompt[:40]}', seed {self.seed}, by {self.model}>"

    def _repr_png_(self) -> bytes:
        shown = io.BytesIO()
        self.image.save(shown, "PNG")
        return shown.getvalue()

    def record(self) -> dict[str, object]:
        """Everything but the pixels."""
        return {name: value for name, value in vars(self).items() if name not in ("image", "prompt_index")}


class PromptedModel(Protocol):
    """A model that was given its prompt."""

    def __call__(self, noise: NDArray[np.float32]) -> tuple[list[Image.Image], Sequence[float | None]]:
        """One image per row of noise (n,noise_dim), and its CLIP similarity, None where the CLIP is not at hand.

        Raises RatlipError where the generator makes NaN.
        """
        ...


class ImageModel(Protocol):
    """What `generate` asks of a model."""

    @property
    def name(self) -> str:
        """What the user called it by."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of its weights."""
        ...

    @property
    def noise_dim(self) -> int:
        """Numbers of a noise vector."""
        ...

    @property
    def context_length(self) -> int:
        """Tokens of a prompt that its CLIP reads."""
        ...

    @property
    def has_similarity(self) -> bool:
        """Whether it has the CLIP that compares images with prompts."""
        ...

    def is_overlong(self, prompt: str) -> bool:
        """Whether a prompt is longer than that, so that its end is cut."""
        ...

    def prompted(self, prompt: str) -> PromptedModel:
        """Encode a prompt."""
        ...


def generate(
    model: ImageModel,
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
        batch_size: noise vectors that the model is given at a time; 16 if left out.
        indices: the images k of each prompt, instead of the first `count`.

    Raises UsageError: an empty prompt, numbers out of range, or `best_of` of a model that has no CLIP similarity.
    """
    check_request(prompts, count, seed, truncation, best_of, batch_size, indices)
    if best_of > 1 and not model.has_similarity:
        raise UsageError(
            f"{model.name} was exported without CLIP's image encoder, which --best-of chooses by: export it again."
        )
    wanted = range(count * best_of) if indices is None else indices
    for prompt_index, prompt in enumerate(prompts):
        if model.is_overlong(prompt):
            logger.warning(
                "prompt %d is as long as the %d tokens that CLIP reads; its end may be cut.",
                prompt_index + 1,
                model.context_length,
            )
        prompted = model.prompted(prompt)
        best: list[Sample] = []
        for start in range(0, len(wanted), batch_size or BATCH_SIZE):
            some = wanted[start : start + (batch_size or BATCH_SIZE)]
            noise = np.float32(truncation) * noise_vectors(seed, some, model.noise_dim)
            images, similarities = prompted(noise)
            made = [
                Sample(
                    image=image,
                    prompt=prompt,
                    prompt_index=prompt_index,
                    index=index,
                    seed=seed,
                    truncation=truncation,
                    model=model.name,
                    fingerprint=model.fingerprint,
                    clip_similarity=None if similarity is None else round(similarity, 4),
                )
                for index, image, similarity in zip(some, images, similarities, strict=True)
            ]
            if best_of == 1:
                yield from made
            else:
                best = sorted([*best, *made], key=lambda one: -(one.clip_similarity or 0))[:count]
        yield from best
