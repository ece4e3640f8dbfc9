"""Images to explain: drawn by a model, from a file, or from a prepared dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.data.images import ImageError, read_image, resize_shorter_side
from ratlip_cli.data.layout import INFO, METADATA, Entry, stored_side
from ratlip_cli.demo.segments import decode_segments
from ratlip_cli.errors import DataError, UsageError
from ratlip_cli.explain.segments import phrases_naming_segments
from ratlip_cli.pixels import from_image
from ratlip_cli.sampling import check_request, noise_vectors, sample
from ratlip_cli.weights.model_folder import Model


@dataclass(frozen=True)
class InputImage:
    """An image, and the sentence that is looked for in it."""

    name: str
    """Its file, or the number of its noise."""
    prompt: str
    image: Tensor
    """(3,S,S) in [-1,1], on the CPU."""
    masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    """Part -> where it is (S,S), for images whose parts are known; parts that do not show are left out."""


def drawn(model: Model, prompt: str, count: int, seed: int) -> list[InputImage]:
    """`count` images of the prompt, the same that `ratlip generate` draws. Raises UsageError for a bad request."""
    check_request([prompt], count, seed, truncation=1.0, best_of=1)
    noise = noise_vectors(seed, range(count), model.config.generator.noise_dim)
    text = model.clip.encode_text([prompt]).cpu()
    images = sample(model, noise, text.expand(count, -1))
    return [InputImage(f"noise {k}", prompt, image) for k, image in enumerate(images)]


def from_file(file: Path, prompt: str | None, size: int) -> InputImage:
    """The square middle of an image file at `size` pixels.

    An image of a prepared dataset is seen as everything but training sees it; it brings its parts and, where no prompt
    is given, the caption that names most of them. Raises DataError where it cannot be read, UsageError where there is
    no prompt.
    """
    folder = file.absolute().parent
    if (folder.parent / INFO).is_file() and (folder / METADATA).is_file():
        dataset = CaptionedImages(folder.parent, folder.name, size)
        for index, entry in enumerate(dataset.entries):
            if entry.file.name == file.name:
                return _of_dataset(dataset, index, str(file), prompt)
    if prompt is None:
        raise UsageError(f"{file} is no image of a prepared dataset, so it has no caption: give a prompt.")
    try:
        image = read_image(file)
    except ImageError as error:
        raise DataError(f"{file}: {error}.") from error
    image = resize_shorter_side(image, size)
    left, upper = (image.width - size) // 2, (image.height - size) // 2
    return InputImage(str(file), prompt, from_image(image.crop((left, upper, left + size, upper + size))))


def from_dataset(dataset: CaptionedImages, count: int) -> list[InputImage]:
    """`count` images of a split, or all where it has fewer, evenly spread over it.

    Each comes with the first of its captions that names as many of its parts as any.
    """
    indices = spread(len(dataset), count)
    return [_of_dataset(dataset, index, str(dataset.entries[index].file)) for index in indices]


def spread(total: int, count: int) -> list[int]:
    """`count` numbers, or all where there are fewer, evenly spread over 0 ... total - 1."""
    count = min(count, total)
    return [place * total // count for place in range(count)]


def _of_dataset(dataset: CaptionedImages, index: int, name: str, prompt: str | None = None) -> InputImage:
    entry = dataset.entries[index]
    masks = _masks(entry, dataset.image_size)
    telling = max(entry.captions, key=lambda caption: len(phrases_naming_segments(caption, masks)))
    return InputImage(name, prompt or telling, dataset.centre_crop(index), masks)


def _masks(entry: Entry, size: int) -> dict[str, NDArray[np.bool_]]:
    """The parts that show in the centre crop of an entry's image."""
    encoded = entry.extra.get("parts")
    if not isinstance(encoded, Mapping):
        return {}
    cropped = {name: _centre_crop(mask, size) for name, mask in decode_segments(encoded).items()}
    return {name: mask for name, mask in cropped.items() if mask.any()}


def _centre_crop(mask: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    scale = stored_side(size) / min(mask.shape)
    height, width = (max(size, round(length * scale)) for length in mask.shape)
    resized = Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    left, upper = (width - size) // 2, (height - size) // 2
    return np.asarray(resized.crop((left, upper, left + size, upper + size))).astype(bool)
