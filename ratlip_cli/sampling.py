"""Prompts to images by PyTorch. `samples` has what does not depend on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from ratlip_cli import samples
from ratlip_cli.data.images import ImageError, read_image
from ratlip_cli.distributed import World
from ratlip_cli.errors import DataError, RatlipError, UsageError
from ratlip_cli.family import Family
from ratlip_cli.generation import LikeRequest
from ratlip_cli.model.losses import clip_similarity
from ratlip_cli.pixels import to_images
from ratlip_cli.samples import ImageModel, Sample
from ratlip_cli.weights.model_folder import Model


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


def read_square(file: Path, side: int) -> Image.Image:
    """The square middle of an image file at `side` pixels. Raises DataError where it cannot be read."""
    try:
        return ImageOps.fit(read_image(file), (side, side), Image.Resampling.LANCZOS)
    except ImageError as error:
        raise DataError(f"{file}: {error}.") from error


class TorchModel:
    """A loaded model as `samples.ImageModel`.

    Args:
        batch_size: see `sample`.
    """

    has_similarity = True
    like: LikeRequest | None = None
    exported_as: str | None = None

    def __init__(self, model: Model, batch_size: int | None = None) -> None:
        self.name, self.fingerprint, self.precision = model.name, model.fingerprint, model.precision
        self.together = model.sampler.together
        self._model = model
        self._batch_size = batch_size

    def noise(self, seed: int, indices: Iterable[int]) -> NDArray[np.float32]:
        """See `noise_vectors`."""
        noise: NDArray[np.float32] = noise_vectors(seed, indices, self._model.config.generator.noise_dim).numpy()
        return noise

    def truncated(self, noise: NDArray[np.float32], psi: float) -> NDArray[np.float32]:
        """See `family.Family`."""
        return self._model.family.truncated(noise, psi)

    def about(self, prompt: str) -> list[str]:
        """See `samples.ImageModel`."""
        encoder = self._model.text_encoder
        cut = samples.overlong_prompt(encoder.context_length) if encoder.is_overlong(prompt) else None
        return [line for line in (cut, self._model.unknown_words(prompt)) if line]

    def encoded(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Condition and text vector of a prompt, each of one row, on the CPU."""
        return self._model.sampler.alone(lambda: self._encoded(prompt))

    def _encoded(self, prompt: str) -> tuple[Tensor, Tensor]:
        model = self._model
        text = model.clip.encode_text([prompt])
        is_all = type(model.family).rows is Family.rows and model.text_encoder is model.clip
        return (model.of_vectors(text) if is_all else model.encode([prompt])), text.cpu()

    def between(self, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor], share: float) -> tuple[Tensor, Tensor]:
        """See `samples.ImageModel`."""
        return self._model.family.between(start[0], end[0], share), torch.lerp(start[1], end[1], share)

    def reads_alike(self, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
        """See `samples.ImageModel`."""
        return torch.equal(one[0], other[0])

    @torch.no_grad()
    def images(
        self, noise: NDArray[np.float32], encoded: Sequence[tuple[Tensor, Tensor]]
    ) -> tuple[list[Image.Image], list[float]]:
        """See `samples.ImageModel`."""
        model = self._model
        conditions, texts = (torch.cat(rows) for rows in zip(*encoded, strict=True))
        images = sample(model, torch.from_numpy(noise), conditions, self._batch_size)
        vectors = model.sampler.each(model.clip.encode_image, images.to(model.device)).cpu()
        return to_images(images), clip_similarity(vectors, texts).tolist()


class SharedModel:
    """A model whose images several processes make, each every so many; all of them have all images.

    Args:
        model: the same one in every process.
        batch_size: images at a time in each process; as suits the model if left out.
    """

    def __init__(self, model: ImageModel, group: World, batch_size: int | None = None) -> None:
        self.name, self.fingerprint, self.precision = model.name, model.fingerprint, model.precision
        self.has_similarity, self.like, self.exported_as = model.has_similarity, model.like, model.exported_as
        self.together = group.size * (batch_size or model.together)
        self._model, self._group = model, group
        self._encoded: dict[str, Any] = {}

    def noise(self, seed: int, indices: Iterable[int]) -> NDArray[np.float32]:
        """See `samples.ImageModel`."""
        return self._model.noise(seed, indices)

    def truncated(self, noise: NDArray[np.float32], psi: float) -> NDArray[np.float32]:
        """See `samples.ImageModel`."""
        return self._model.truncated(noise, psi)

    def about(self, prompt: str) -> list[str]:
        """See `samples.ImageModel`."""
        return self._model.about(prompt)

    def encoded(self, prompt: str) -> str:
        """The prompt: each process encodes those of its own images."""
        return prompt

    def between(self, start: str, end: str, share: float) -> str:
        """Raises UsageError: what lies between prompts is made by one process."""
        raise UsageError("what lies between two prompts is made by one process: leave out --devices and torchrun.")

    def reads_alike(self, one: str, other: str) -> bool:
        """See `samples.ImageModel`."""
        return self._model.reads_alike(self._model.encoded(one), self._model.encoded(other))

    def images(
        self, noise: NDArray[np.float32], encoded: Sequence[str]
    ) -> tuple[list[Image.Image], list[float | None]]:
        """See `samples.ImageModel`; each process must ask for the same."""
        rank, size = self._group.rank, self._group.size
        prompts = encoded[rank::size]
        self._encoded = {
            prompt: self._encoded[prompt] if prompt in self._encoded else self._model.encoded(prompt)
            for prompt in dict.fromkeys(prompts)
        }
        own = [self._encoded[prompt] for prompt in prompts]
        parts = self._group.gather(self._model.images(noise[rank::size], own) if own else ([], []))
        images, similarities = zip(
            *((parts[row % size][0][row // size], parts[row % size][1][row // size]) for row in range(len(noise))),
            strict=True,
        )
        return list(images), list(similarities)


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
