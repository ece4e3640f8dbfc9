"""Images to score: of a dataset's split, of any folder, or drawn by a model. Read or drawn a batch at a time."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ratlip_cli.data.dataset import CaptionedImages, text_vectors
from ratlip_cli.data.images import SUFFIXES, ImageError, read_image
from ratlip_cli.data.layout import INFO, Problem, read_dataset
from ratlip_cli.data.sources import own_images
from ratlip_cli.errors import DataError
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.pixels import from_image, to_uint8
from ratlip_cli.sampling import RECORDS_FILE, noise_vectors, sample
from ratlip_cli.weights.model_folder import Model

_READERS = 4
"""Threads that read images while a network works on those before."""

_AHEAD = 2
"""Batches that are read before they are asked for."""

_TEXT_BATCH = 256


class Images(Protocol):
    """Images of one size, in an order of their own."""

    @property
    def fingerprint(self) -> str:
        """Hex digits that change with the images."""
        ...

    @property
    def cache(self) -> Path | None:
        """Folder in which features of these images may be kept."""
        ...

    def __len__(self) -> int: ...

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Yield all images in order, (B,3,H,W) uint8 on the CPU."""
        ...


class Captions:
    """What the images that are scored should show.

    Args:
        sentences: all of them.
        of_image: for each image, the numbers of its sentences.
        scenes: for each sentence, the number of the image it was written for.
        dataset: where they are all the captions of a split, in its order; their text vectors are kept beside the data.
    """

    def __init__(
        self,
        sentences: Sequence[str],
        of_image: Sequence[Sequence[int]],
        scenes: NDArray[np.int64],
        dataset: CaptionedImages | None = None,
    ) -> None:
        self.sentences = sentences
        self.of_image = of_image
        self.scenes = scenes
        self._dataset = dataset
        self._vectors: dict[str, Tensor] = {}

    @classmethod
    def of_folder(cls, captions: Sequence[Sequence[str]]) -> Captions:
        """The captions of a folder's images, one or more for each."""
        scenes = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
        first = np.cumsum([0] + [len(own) for own in captions])
        of_image = [range(first[image], first[image + 1]) for image in range(len(captions))]
        return cls([sentence for own in captions for sentence in own], of_image, scenes)

    @classmethod
    def of_split(cls, dataset: CaptionedImages, per_image: int) -> Captions:
        """The captions of a split, of which a model draws the first `per_image` of each image: one image each."""
        scenes = np.repeat(np.arange(len(dataset)), [len(entry.captions) for entry in dataset.entries])
        place = np.arange(len(scenes)) - np.searchsorted(scenes, scenes)
        drawn = np.flatnonzero(place < per_image)
        return cls(dataset.captions, [[number] for number in drawn.tolist()], scenes, dataset)

    @cached_property
    def fingerprint(self) -> str:
        """Hex digits that change with the sentences and with whose they are."""
        return hashlib.sha256(
            json.dumps([list(self.sentences), [list(numbers) for numbers in self.of_image]]).encode()
        ).hexdigest()

    @property
    def first(self) -> list[int]:
        """The number of each image's sentence, of the first where it has several."""
        return [numbers[0] for numbers in self.of_image]

    def vectors(self, clip: FrozenCLIP) -> Tensor:
        """Sentence vectors (number of sentences, d) of a CLIP, on the CPU."""
        if clip.fingerprint not in self._vectors:
            self._vectors[clip.fingerprint] = (
                text_vectors(self._dataset, clip) if self._dataset else _encode(clip, self.sentences)
            )
        return self._vectors[clip.fingerprint]


class SplitImages:
    """The centre crops of a dataset's split."""

    def __init__(self, dataset: CaptionedImages) -> None:
        self._dataset = dataset
        self.cache = dataset.path / ".features"

    @property
    def fingerprint(self) -> str:
        """Changes with the dataset, the split and the size of the crops."""
        parts = (self._dataset.fingerprint, self._dataset.split, str(self._dataset.image_size))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._dataset)

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Yield the crops (B,3,S,S). Raises DataError, naming the file, for an image that cannot be read."""
        return _read_batches(lambda index: to_uint8(self._dataset.centre_crop(index)), len(self), batch_size)


class FolderImages:
    """Image files of one size, as they are.

    Args:
        folder: where they are from.
        files: the images; at least one.

    Raises DataError where the first cannot be read.
    """

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        self.folder = folder
        self._files = files
        self.cache = folder / ".features"
        _, height, width = self._read(0).shape
        self.size = (height, width)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the names and bytes of the files."""
        digest = hashlib.sha256()
        for file in self._files:
            try:
                content = hashlib.sha256(file.read_bytes()).digest()
            except OSError as error:
                raise DataError(f"{file} cannot be read: {error.strerror}.") from error
            digest.update(str(file.relative_to(self.folder)).encode("utf-8", "surrogateescape") + b"\0" + content)
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._files)

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Yield the images (B,3,H,W). Raises DataError for one that cannot be read or is of another size."""
        return _read_batches(self._read_of_size, len(self), batch_size)

    def _read(self, index: int) -> Tensor:
        try:
            return to_uint8(from_image(read_image(self._files[index])))
        except ImageError as error:
            raise DataError(f"{self._files[index]}: {error}. Mend or remove it.") from error

    def _read_of_size(self, index: int) -> Tensor:
        image = self._read(index)
        _, height, width = image.shape
        if (height, width) != self.size:
            raise DataError(
                f"{self._files[index]} has {width} x {height} pixels, but {self._files[0].name} {self.size[1]} x "
                f"{self.size[0]}: give images of one size."
            )
        return image


class GeneratedImages:
    """One image for every sentence, drawn by a model with the noise of the sentence's number.

    Args:
        model: what draws.
        captions: what is drawn; see `Captions.of_split`.
        seed: of the noises.
        batch_size: images drawn at a time; see `sampling.draw`.
    """

    cache = None

    def __init__(self, model: Model, captions: Captions, seed: int, batch_size: int | None = None) -> None:
        self._model = model
        self._captions = captions
        self._seed = seed
        self._batch_size = batch_size

    @property
    def fingerprint(self) -> str:
        """Changes with the model, the sentences and the seed."""
        parts = (self._model.fingerprint, self._captions.fingerprint, str(self._seed))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._captions.of_image)

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Yield the images (B,3,S,S). Raises RatlipError where the model draws NaN."""
        drawn, text = self._captions.first, self._captions.vectors(self._model.clip)
        for start in range(0, len(drawn), batch_size):
            numbers = drawn[start : start + batch_size]
            noise = noise_vectors(self._seed, numbers, self._model.config.generator.noise_dim)
            yield to_uint8(sample(self._model, noise, text[numbers], self._batch_size))


def open_folder(
    folder: Path, split: str, captioned: bool, captions_per_image: int
) -> tuple[SplitImages | FolderImages, tuple[int, int], Captions | None]:
    """The images of a folder, their height and width, and their captions where they are wanted.

    A prepared dataset gives its split; a folder of `ratlip generate` what its images.jsonl lists; a folder of your own
    images (see `data.sources.own_images`) its images with their captions; any other folder all its images.

    Raises DataError for a folder without images, and for captions that do not fit the images.
    """
    if (folder / INFO).is_file():
        dataset = CaptionedImages(folder, split, read_dataset(folder).image_size)
        own = Captions.of_folder([entry.captions[:captions_per_image] for entry in dataset.entries])
        return SplitImages(dataset), (dataset.image_size, dataset.image_size), own
    if (folder / RECORDS_FILE).is_file():
        found = _listed(folder)
    elif captioned:
        found = _captioned(folder, captions_per_image)
    else:
        found = [(file, []) for file in _images_below(folder)]
    if not found:
        raise DataError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}).")
    images = FolderImages(folder, [file for file, _ in found])
    captions = Captions.of_folder([sentences for _, sentences in found]) if found[0][1] else None
    return images, images.size, captions


def _captioned(folder: Path, captions_per_image: int) -> list[tuple[Path, Sequence[str]]]:
    found: list[tuple[Path, Sequence[str]]] = []
    for record in own_images.records(folder, own_images.Options()):
        if isinstance(record, Problem):
            raise DataError(f"{folder / record.name}: {record.reason}. The metrics by CLIP need a caption an image.")
        sentences = [sentence for sentence in record.captions if sentence.strip()]
        if not sentences:
            raise DataError(f"{folder / record.origin}: its caption is empty. The metrics by CLIP need one.")
        if not isinstance(record.image, Path):
            raise DataError(f"{folder / record.origin} is inside an archive; unpack it.")
        found.append((record.image, sentences[:captions_per_image]))
    own_texts = {file.with_suffix(".txt") for file, _ in found}
    for directory in sorted({text.parent for text in own_texts if text.is_file()}):
        for text in sorted(directory.glob("*.txt")):
            if text not in own_texts:
                raise DataError(f"{text} is the caption of no image. Bring the image, or remove the file.")
    return found


def _listed(folder: Path) -> list[tuple[Path, Sequence[str]]]:
    """The images and prompts that `ratlip generate` noted in images.jsonl."""
    try:
        with (folder / RECORDS_FILE).open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        return [(folder / str(row["file_name"]), [str(row["prompt"])]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / RECORDS_FILE} is not what `ratlip generate` writes: {error}.") from error


def _images_below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder of images.")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _encode(clip: FrozenCLIP, sentences: Sequence[str]) -> Tensor:
    starts = range(0, len(sentences), _TEXT_BATCH)
    return torch.cat([clip.encode_text(sentences[start : start + _TEXT_BATCH]).cpu() for start in starts])


def _read_batches(read: Callable[[int], Tensor], count: int, batch_size: int) -> Iterator[Tensor]:
    """Yield `count` images in batches, read by threads a little ahead."""
    coming: deque[list[Future[Tensor]]] = deque()
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, count, batch_size):
            indices = range(start, min(start + batch_size, count))
            coming.append([pool.submit(read, index) for index in indices])
            if len(coming) > _AHEAD:
                yield torch.stack([image.result() for image in coming.popleft()])
        while coming:
            yield torch.stack([image.result() for image in coming.popleft()])
