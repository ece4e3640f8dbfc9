"""From prompts to images, whatever computes them: PyTorch (`sampling`) or an exported model (`exported`).

No torch here. Noise k depends on the seed and k alone, so image k of a prompt depends on the model, its precision, the
prompt, the seed and k.
"""

from __future__ import annotations

import io
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ratlip_cli.errors import UsageError
from ratlip_cli.generation import InterpolationRequest, LikeRequest, check_request

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
    clip_similarity: float | None  # Cosine of image and prompt under the model's CLIP; None where that is not at hand.
    precision: str = "fp32"  # Arithmetic: fp32, bf16 or bf16-autocast, see `fast.resolve_precision`.
    like: LikeRequest | None = None  # The image that it was to be like, with which `clip_similarity` is then.
    model_format: str | None = None  # That of an exported model.

    def __repr__(self) -> str:
        return f"<Sample {self.index} of '{self.prompt[:40]}', seed {self.seed}, by {self.model}>"

    def _repr_png_(self) -> bytes:
        shown = io.BytesIO()
        self.image.save(shown, "PNG")
        return shown.getvalue()

    def record(self) -> dict[str, object]:
        """Everything but the pixels."""
        like, apart = self.like, ("image", "prompt_index", "like", "model_format")
        own = {name: value for name, value in vars(self).items() if name not in apart}
        beside = {"like": str(like.image), "like_weight": like.weight, "like_noise": like.noise} if like else {}
        return {**own, **format_of(self.model_format), **beside}


def format_of(name: str | None) -> dict[str, str]:
    """What a record says of the format of an exported model: its images are the model's to rounding only."""
    return {} if name is None else {"model_format": name}


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
    def precision(self) -> str:
        """Arithmetic of its images, see `fast.resolve_precision`."""
        ...

    @property
    def exported_as(self) -> str | None:
        """The format of an exported model, None for any other."""
        ...

    @property
    def together(self) -> int:
        """Images at a time where nobody says how many."""
        ...

    @property
    def like(self) -> LikeRequest | None:
        """The image that its images are to be like, if any."""
        ...

    @property
    def has_similarity(self) -> bool:
        """Whether it has the CLIP that compares images with prompts."""
        ...

    def noise(self, seed: int, indices: Iterable[int]) -> NDArray[np.float32]:
        """z (n,noise_dim) ~ N(0,I), one row an index; each row depends on `seed` and its index alone."""
        ...

    def truncated(self, noise: NDArray[np.float32], psi: float) -> NDArray[np.float32]:
        """Noise as `images` takes it for truncation psi: below 1, images vary less; at 1 it is what it was.

        Raises UsageError where the model cannot truncate.
        """
        ...

    def about(self, prompt: str) -> list[str]:
        """What of a prompt it cannot read, in lines."""
        ...

    def encoded(self, prompt: str) -> Any:
        """What its `images` takes of a prompt."""
        ...

    def between(self, start: Any, end: Any, share: float) -> Any:
        """What lies between two encoded prompts: their images are those of `start` at share 0, of `end` at 1."""
        ...

    def reads_alike(self, one: Any, other: Any) -> bool:
        """Whether two encoded prompts are the same to it."""
        ...

    def images(
        self, noise: NDArray[np.float32], encoded: Sequence[Any]
    ) -> tuple[list[Image.Image], Sequence[float | None]]:
        """One image per row of noise, truncated or not, each of its own encoded prompt, and its CLIP similarity.

        That is None where the CLIP is not at hand. Raises RatlipError where the generator makes NaN.
        """
        ...


def overlong_prompt(tokens: int) -> str:
    """Says that so many tokens are read of a prompt that has more."""
    return f"the prompt is as long as the {tokens} tokens that are read; its end may be cut."


def unknown_words(name: str, words: Sequence[str]) -> str:
    """Says that the CLIP of a model does not know these words, at least one."""
    quoted = [f"'{word}'" for word in words]
    known = {1: f"does not know {quoted[0]}", 2: f"knows neither {' nor '.join(quoted)}"}.get(
        len(words), f"knows none of {', '.join(quoted)}"
    )
    return f"{name} {known}"


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
    """Generate `count` images for each prompt, in the order of the prompts.

    Args:
        seed: decides every noise, together with its index.
        truncation: psi, see `ImageModel.truncated`; below 1 images are more alike.
        best_of: generate this many times `count` images, and keep those of highest CLIP similarity, best first.
        batch_size: noise vectors that the model is given at a time; as suits it if left out.
        indices: the images k of each prompt, instead of the first `count`.

    Raises UsageError: an empty prompt, numbers out of range, or `best_of` of a model that has no CLIP similarity.
    """
    check_request(prompts, count, seed, truncation, best_of, batch_size, indices)
    if best_of > 1 and not model.has_similarity:
        raise UsageError(
            f"{model.name} was exported without CLIP's image encoder, which --best-of chooses by: export it again."
        )
    wanted = range(count * best_of) if indices is None else indices
    best: list[Sample] = []
    for number, made in enumerate(_samples_of(model, prompts, wanted, seed, truncation, batch_size), 1):
        if best_of == 1:
            yield made
            continue
        best = sorted([*best, made], key=lambda one: -(one.clip_similarity or 0))[:count]
        if number % len(wanted) == 0:
            yield from best
            best = []


def interpolate(
    model: ImageModel, request: InterpolationRequest, batch_size: int | None = None
) -> Iterator[Image.Image]:
    """The frames of an interpolation, in their order, each of the same noise vector; see `family.Family.between`.

    Raises UsageError, before any is generated, where the model reads prompts that follow each other as the same.
    """
    encoded = [_encoded(model, request.prompts, number) for number in range(len(request.prompts))]
    for start, end in sorted({(start, end) for start, end, _ in request.places()}):
        if model.reads_alike(encoded[start], encoded[end]):
            raise UsageError(
                f"model {model.name} reads '{request.prompts[start]}' and '{request.prompts[end]}' as the same, "
                "between which nothing would change: give prompts that differ in words it knows."
            )
    noise = model.truncated(model.noise(request.seed, [request.index]), request.truncation)
    places = iter(request.places())
    while batch := list(itertools.islice(places, batch_size or model.together)):
        texts = [model.between(encoded[start], encoded[end], share) for start, end, share in batch]
        yield from model.images(noise.repeat(len(batch), axis=0), texts)[0]


def _samples_of(
    model: ImageModel,
    prompts: Sequence[str],
    wanted: Sequence[int],
    seed: int,
    truncation: float,
    batch_size: int | None,
) -> Iterator[Sample]:
    """The images `wanted` of each prompt, a batch at a time, in which prompts may meet."""
    pairs = ((number, index) for number in range(len(prompts)) for index in wanted)  # product() would copy `wanted`
    encoded: dict[int, Any] = {}
    while batch := list(itertools.islice(pairs, batch_size or model.together)):
        numbers = dict.fromkeys(number for number, _ in batch)
        encoded = {
            number: encoded[number] if number in encoded else _encoded(model, prompts, number) for number in numbers
        }
        noise = model.truncated(model.noise(seed, (index for _, index in batch)), truncation)
        images, similarities = model.images(noise, [encoded[number] for number, _ in batch])
        for (number, index), image, similarity in zip(batch, images, similarities, strict=True):
            yield Sample(
                image=image,
                prompt=prompts[number],
                prompt_index=number,
                index=index,
                seed=seed,
                truncation=truncation,
                model=model.name,
                fingerprint=model.fingerprint,
                clip_similarity=None if similarity is None else round(similarity, 4),
                precision=model.precision,
                like=model.like,
                model_format=model.exported_as,
            )


def _encoded(model: ImageModel, prompts: Sequence[str], number: int) -> Any:
    """Encode one of the prompts, and say what of it the model cannot read."""
    which = f"prompt {number + 1}: " if len(prompts) > 1 else ""
    for line in model.about(prompts[number]):
        logger.warning("%s%s", which, line)
    return model.encoded(prompts[number])
