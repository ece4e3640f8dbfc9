"""Captioned images for training and evaluation (Section IV-A): crops, flips, batches and text vectors."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import logging
import shutil
import time
from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ratlip_cli.data.images import ImageError, read_image, resize_shorter_side
from ratlip_cli.data.layout import read_dataset, read_split, split_fingerprint, stored_side
from ratlip_cli.data.readers import leave_signals_to_parent, read_in_turn
from ratlip_cli.errors import DataError, RatlipError, UsageError, WeightsError, keeping
from ratlip_cli.pixels import from_image
from ratlip_cli.progress import Progress, duration, silent
from ratlip_cli.tensor_files import fingerprint, load_tensors_and_metadata, save_tensors

if TYPE_CHECKING:
    from ratlip_cli.model.clip import FrozenCLIP

_log = logging.getLogger(__name__)

_VECTORS = "text_vectors"
"""Name of the one tensor that is kept."""

PIECE = 4096
"""Captions whose text vectors are kept together until those of all are there; a multiple of the batch size."""

_SOON = 5.0
"""Seconds of encoding that nobody is told of."""

COARSE = 0.1
"""Where so large a share of all pairs of images is of one class, or a larger, classes do not say whose captions fit."""

_MOST_WORDS = 5
"""How many of the words that a CLIP does not know are named."""

_ORDER, _SAMPLE = 0, 1
"""What a random generator is for; part of its seed, so that no two purposes share their numbers."""


class Batch(NamedTuple):
    """Images and, for each, one of its captions where it has any."""

    images: Tensor  # (B,3,S,S) float32 in [-1,1].
    captions: Tensor | tuple[str, ...]
    """(B,) int64, rows of `text_vectors` and positions in `CaptionedImages.captions`; -1: none.

    Of a stream, the captions themselves; "": none.
    """


class CaptionedImages:
    """One split of a prepared dataset as square images of `image_size` pixels.

    Training reads it as an endless stream of samples in which every image comes once per epoch, in a new order, with
    a random crop, flip and caption. The sample at position p depends on (`seed`, p) alone: whoever knows how many
    samples were seen can go on from there, and it does not matter who reads which.

    Args:
        path: folder of the prepared dataset.
        split: "train", "test" or a further split that the dataset has.
        image_size: side of the images in pixels. Where it is not the size that the dataset was prepared for, the
            stored images are resized.
        seed: not negative; decides orders, crops, flips and captions of the training stream.

    Raises DataError where the dataset cannot be read, UsageError for an impossible size or seed.
    """

    def __init__(self, path: Path, split: str, image_size: int, seed: int = 0) -> None:
        if image_size < 1 or seed < 0:
            raise UsageError(f"image size {image_size} must be positive and seed {seed} not negative")
        self.path = path
        self.split = split
        self.image_size = image_size
        self.seed = seed
        self.info = read_dataset(path)
        self.entries = read_split(path, split)
        self.captions = [caption for entry in self.entries for caption in entry.captions]
        self.uncaptioned = sum(not entry.captions for entry in self.entries)
        self._first_caption = np.cumsum([0] + [len(entry.captions) for entry in self.entries])

    def __len__(self) -> int:
        """Number of images."""
        return len(self.entries)

    def check_captioned(self, otherwise: str) -> None:
        """Raise DataError, which ends with what to do `otherwise`, where images have no caption."""
        if self.uncaptioned:
            counts = f"{self.uncaptioned:,} of the {len(self):,} {self.split} images of {self.path}"
            raise DataError(f"{counts} have no caption. Prepare them with --caption, or {otherwise}.")

    @functools.cached_property
    def fingerprint(self) -> str:
        """64 hex digits that change with the captions and with the names and sizes of the image files."""
        return split_fingerprint(self.path, self.split, self.entries)

    @functools.cached_property
    def classes(self) -> NDArray[np.int64] | None:
        """For each caption a number that it shares with those of its image's class alone, -1 where that has none.

        By the column `class` of metadata.jsonl. None where there is none, or where classes are COARSE: captions of one
        species of birds go with each other's images, captions of any two birds do not.
        """
        names = [entry.extra.get("class") for entry in self.entries]
        numbers = {
            name: number for number, name in enumerate(sorted({str(name) for name in names if name is not None}))
        }
        of_image = np.array([-1 if name is None else numbers[str(name)] for name in names], dtype=np.int64)
        shares = np.bincount(of_image[of_image >= 0]) / max(1, len(names))
        if not numbers or (shares**2).sum() >= COARSE:
            return None
        return np.repeat(of_image, np.diff(self._first_caption))

    def training_sample(self, position: int) -> tuple[Tensor, int]:
        """Return the image (3,S,S) in [-1,1] and the number of its caption, or -1, at `position` of the stream."""
        epoch, place = divmod(position, len(self))
        index = int(_epoch_order(self.seed, epoch, len(self))[place])
        random = np.random.default_rng([self.seed, _SAMPLE, position])
        image = random_view(self._read(index), self.image_size, self.info.flip, random)
        first, end = self._first_caption[index : index + 2]
        return image, int(random.integers(first, end)) if first < end else -1

    def centre_crop(self, index: int) -> Tensor:
        """Return image `index` (3,S,S) in [-1,1], as everything that is not training sees it."""
        return centre_view(self._read(index), self.image_size)

    def _read(self, index: int) -> Image.Image:
        file = self.entries[index].file
        try:
            image = read_image(file)
        except ImageError as error:
            raise DataError(f"{file}: {error}. Remove {self.path} and prepare it again.") from error
        return resize_shorter_side(image, stored_side(self.image_size))


def random_view(image: Image.Image, side: int, flip: bool, random: np.random.Generator) -> Tensor:
    """A random square of `side` pixels of `image`, mirrored or not, as a tensor (3,side,side) in [-1,1]."""
    left = int(random.integers(image.width - side, endpoint=True))
    upper = int(random.integers(image.height - side, endpoint=True))
    image = _crop(image, left, upper, side)
    if flip and random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return from_image(image)


def centre_view(image: Image.Image, side: int) -> Tensor:
    """The square of `side` pixels in the middle of `image`, as a tensor (3,side,side) in [-1,1]."""
    left, upper = ((length - side) // 2 for length in image.size)
    return from_image(_crop(image, left, upper, side))


def training_batches(
    dataset: CaptionedImages,
    batch_size: int,
    start: int = 0,
    workers: int = 0,
    pin_memory: bool = False,
    rows: Sequence[int] | None = None,
) -> Generator[Batch, None, None]:
    """Yield the training stream's batches without end, from the sample at position `start` on.

    `start` is the number of samples seen before, in batches of whatever size; a dataset smaller than a batch comes more
    than once in it. With `rows` only these rows of each batch are read. Images are read in `workers` processes (0: in
    this one), which changes nothing in the batches. The workers leave SIGINT, SIGTERM and SIGHUP to this process, so
    that it can end its step and save; they end with it, or when the generator is closed. Raises DataError, naming the
    file, for an image that cannot be read, and where a worker was killed.
    """
    loader = DataLoader(
        _TrainingStream(dataset),
        batch_sampler=(
            [first + row for row in (range(batch_size) if rows is None else rows)]
            for first in itertools.count(start, batch_size)
        ),
        num_workers=workers,
        collate_fn=as_it_is,
        pin_memory=pin_memory,
        worker_init_fn=leave_signals_to_parent,
        generator=torch.Generator(),  # The loader draws a number; not from the generator that everybody shares.
    )

    return read_in_turn([loader], lambda: 0)


def text_vectors(
    dataset: CaptionedImages,
    clip: FrozenCLIP,
    batch_size: int = 256,
    some: Sequence[int] | None = None,
    progress: Progress = silent,
) -> Tensor:
    """Return the text vectors (number of captions, d), float32 on the CPU, of `dataset.captions` in their order.

    Args:
        some: the numbers of the captions that are wanted, all if left out.

    They are kept beside the data, under what the CLIP that made them computes, with a checksum of all that decides
    them and of themselves; those of the first captions also where somebody stops it. They are computed again, with a
    note, where the file does not fit, and without one where the captions changed or the folder cannot be written.
    Raises WeightsError as `encode_captions` does.
    """
    texts = dataset.captions if some is None else [dataset.captions[number] for number in some]
    part = "" if some is None else f"-{_digest(texts)[:12]}"
    file = dataset.path / ".text_vectors" / f"{clip.computes}-{dataset.split}{part}.safetensors"
    if (whole := _read_kept(file, texts, clip)) is not None:
        return whole
    unfinished, parts, kept = file.with_suffix(".unfinished"), list[Tensor](), 0
    again = "run the same again to go on."
    with keeping(lambda: f"The text vectors of {kept:,} of {len(texts):,} captions are kept: {again}" if kept else ""):
        for start in range(0, len(texts), PIECE):
            place, piece = unfinished / f"{start:07d}.safetensors", texts[start : start + PIECE]
            vectors = _read_kept(place, piece, clip)
            if vectors is None:
                vectors = encode_captions(clip, piece, batch_size, _telling_time(progress, start, len(texts)))
                if len(piece) < len(texts):
                    _keep(place, vectors, piece, clip)
            parts.append(vectors)
            kept += len(vectors) if place.is_file() else 0
        vectors = torch.cat(parts)
        _keep(file, vectors, texts, clip)
    shutil.rmtree(unfinished, ignore_errors=True)
    return vectors


def _telling_time(progress: Progress, before: int, total: int) -> Progress:
    """Tell of all `total` captions, not of those behind the first `before` alone, and of a long time once."""
    started = time.perf_counter()

    def tell(what: str, done: int, _: int | None, unit: str) -> None:
        progress(what, before + done, total, unit)
        seconds = (time.perf_counter() - started) / max(done, 1) * (total - before - done)
        if before == 0 and done and not told and seconds > _SOON:
            told.append(done)
            _log.info("%s captions: about %s", f"{total:,}", duration(seconds))

    told: list[int] = []
    return tell


def encode_captions(
    clip: FrozenCLIP, captions: Sequence[str], batch_size: int = 256, progress: Progress = silent
) -> Tensor:
    """Return the text vectors (number of captions, d), float32 on the CPU.

    Raises WeightsError where they are not finite: the CLIP's weights are broken.
    """
    batches = []
    for start in range(0, len(captions), batch_size):
        progress("captions", start, len(captions), "captions")
        batches.append(clip.encode_text(captions[start : start + batch_size]).cpu())
    progress("captions", len(captions), len(captions), "captions")
    vectors = torch.cat(batches)
    if not vectors.isfinite().all():
        raise WeightsError(f"CLIP {clip.spec} makes text vectors that are not numbers: its weights are broken.")
    return vectors


def caption_notes(clip: FrozenCLIP, captions: Sequence[str]) -> list[str]:
    """Say what of the captions the CLIP cannot read, a line for what is cut and one for unknown words."""
    return [line for line in (cut_captions(clip, captions), unread_words(clip, captions)) if line]


def unread_words(clip: FrozenCLIP, captions: Sequence[str]) -> str | None:
    """Say how many captions have words that the CLIP does not know, and name the most frequent; None where none has."""
    if clip.vocabulary is None:
        return None
    unknown = [clip.unknown_words(caption) for caption in captions]
    counted = Counter(word for words in unknown for word in words)
    if not counted:
        return None
    named = ", ".join(f"'{word}'" for word, _ in counted.most_common(_MOST_WORDS))
    more = f" and {len(counted) - _MOST_WORDS:,} more" if len(counted) > _MOST_WORDS else ""
    have = f"{sum(map(bool, unknown)):,} of {len(captions):,} captions have words that CLIP does not know"
    return f"{have}, which are all the same to it: {named}{more}"


def cut_captions(clip: FrozenCLIP, captions: Sequence[str]) -> str | None:
    """Say how many captions are longer than what the CLIP reads of them, None where none is."""
    cut = clip.overlong(captions)
    if not cut:
        return None
    said = (
        f"{len(cut):,} of {len(captions):,} captions are longer than the {clip.context_length} tokens that CLIP reads"
    )
    alike = clip.alike([captions[number] for number in cut])
    same = f"; {alike:,} of them have the same text vector as another, because their beginnings are the same"
    return f"{said}, and their ends are cut{same if alike else ''}: shorten them"


def _read_kept(file: Path, texts: Sequence[str], clip: FrozenCLIP) -> Tensor | None:
    """The text vectors that are kept of these captions; None, with a note, where others are said to be theirs."""
    if not file.is_file():
        return None
    captions = _digest(texts)
    try:
        kept, metadata = load_tensors_and_metadata(file)
    except WeightsError:
        kept, metadata = {}, {"captions": captions}
    if metadata.get("captions") != captions:
        return None
    if _fit(kept, metadata, captions, clip):
        return kept[_VECTORS]
    _log.info("%s does not hold what this ratlip keeps there: the captions are encoded again", file)
    return None


def _keep(file: Path, vectors: Tensor, texts: Sequence[str], clip: FrozenCLIP) -> None:
    """Keep text vectors where the folder can be written."""
    with contextlib.suppress(RatlipError):
        save_tensors(file, {_VECTORS: vectors}, _described(vectors, _digest(texts), clip))


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _fit(kept: dict[str, Tensor], metadata: dict[str, str], captions: str, clip: FrozenCLIP) -> bool:
    """Whether a file holds what `text_vectors` keeps for these captions and this CLIP."""
    if kept.keys() != {_VECTORS} or kept[_VECTORS].dtype != torch.float32:
        return False
    return bool(kept[_VECTORS].isfinite().all()) and metadata == _described(kept[_VECTORS], captions, clip)


def _described(vectors: Tensor, captions: str, clip: FrozenCLIP) -> dict[str, str]:
    """The metadata of kept text vectors."""
    return {"captions": captions, "checksum": fingerprint({_VECTORS: vectors}, [captions, clip.computes])}


@functools.lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, images: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(images)


class _TrainingStream(Dataset[Batch]):
    """The training stream for torch's DataLoader, which asks for a batch by its positions."""

    def __init__(self, dataset: CaptionedImages) -> None:
        self._dataset = dataset

    def __getitems__(self, positions: list[int]) -> Batch | DataError:
        """Return the batch, or the error to raise: raised in a worker it would come out as a traceback in its text."""
        try:
            images, captions = zip(*(self._dataset.training_sample(position) for position in positions), strict=True)
        except DataError as error:
            return error
        return Batch(torch.stack(images), torch.tensor(captions))


def _crop(image: Image.Image, left: int, upper: int, side: int) -> Image.Image:
    return image.crop((left, upper, left + side, upper + side))


def as_it_is(batch: Any) -> Any:
    return batch
