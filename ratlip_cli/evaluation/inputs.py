"""What is scored and against what: a model on a split, or a folder of images against real ones or their captions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.data.images import SUFFIXES
from ratlip_cli.data.layout import INFO, Problem, read_dataset
from ratlip_cli.data.prepare import resolve_dataset
from ratlip_cli.data.sources import own_images
from ratlip_cli.errors import DataError
from ratlip_cli.evaluation.images import Captions, FolderImages, GeneratedImages, Images, SplitImages
from ratlip_cli.evaluation.request import EvaluationRequest
from ratlip_cli.outputs import RECORDS_FILE
from ratlip_cli.progress import Progress
from ratlip_cli.weights.model_folder import Model


@dataclass(frozen=True)
class Inputs:
    """What is scored and against what."""

    fake: Images
    real: Images | None
    captions: Captions | None
    paired: bool
    """Whether the captions' scene k is the real image k."""
    source: Mapping[str, str]
    """Where all of it is from, for the record."""

    @property
    def n_real(self) -> int:
        """Real images."""
        return 0 if self.real is None else len(self.real)

    @property
    def scenes(self) -> NDArray[np.int64]:
        """For each fake, its scene."""
        return np.arange(len(self.fake)) if self.captions is None else self.captions.scenes[self.captions.first]


def model_inputs(model: Model, dataset: CaptionedImages, request: EvaluationRequest) -> Inputs:
    """One fake for every caption of a split, and every image of it.

    Args:
        dataset: the split at the model's image size.
    """
    captions = Captions.of_split(dataset, request.captions_per_image)
    fake = GeneratedImages(model, captions, request.seed, request.batch_size)
    source = {"model": model.name, "model_fingerprint": model.fingerprint}
    source |= {"dataset": str(dataset.path), "split": dataset.split}
    return Inputs(fake, SplitImages(dataset), captions, True, source)


def folder_inputs(images: Path, request: EvaluationRequest, progress: Progress) -> Inputs:
    """The images of a folder, and the real images of `reference` or `dataset` where one is named.

    Raises DataError for images that cannot be read or have several sizes, and for captions that do not fit them.
    """
    fake, captions = open_folder(images, request.split, bool(request.clip_keys), request.captions_per_image)
    source = {"images": str(images)}
    real: Images | None = None
    if request.reference is not None:
        real, _ = open_folder(request.reference, request.split, False, request.captions_per_image)
        if real.size != fake.size:
            raise DataError(
                f"the samples of {images} have {_pixels(fake)} pixels, those of {request.reference} {_pixels(real)}: "
                "bring them to one size."
            )
        source |= {"reference": str(request.reference)}
    elif request.dataset is not None:
        height, width = fake.size
        if height != width:
            raise DataError(f"the samples of {images} have {_pixels(fake)} pixels, those of a dataset are square.")
        dataset = open_split(request.dataset, request, height, progress)
        real = SplitImages(dataset)
        source |= {"dataset": str(dataset.path), "split": dataset.split}
    return Inputs(fake, real, captions, False, source)


def open_split(name: str | Path, request: EvaluationRequest, image_size: int, progress: Progress) -> CaptionedImages:
    """The wanted split of a dataset at `image_size` pixels; the dataset is prepared first where that is needed."""
    folder = resolve_dataset(str(name), request.data_dir, image_size, progress)
    return CaptionedImages(folder, request.split, image_size)


def open_folder(
    folder: Path, split: str, captioned: bool, captions_per_image: int
) -> tuple[SplitImages | FolderImages, Captions | None]:
    """The images of a folder, and their captions where they are wanted.

    A prepared dataset gives its split; a folder of `ratlip generate` what its images.jsonl lists; a folder of your own
    images (see `data.sources.own_images`) its images with their captions; any other folder all its images.

    Raises DataError for a folder without images, and for captions that do not fit the images.
    """
    if (folder / INFO).is_file():
        dataset = CaptionedImages(folder, split, read_dataset(folder).image_size)
        return SplitImages(dataset), Captions.of_folder([own.captions[:captions_per_image] for own in dataset.entries])
    if (folder / RECORDS_FILE).is_file():
        listed = _listed(folder)
    elif captioned:
        listed = _captioned(folder, captions_per_image)
    else:
        listed = [(file, []) for file in _images_below(folder)]
    if not listed:
        raise DataError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}).")
    captions = Captions.of_folder([texts for _, texts in listed]) if listed[0][1] else None
    return FolderImages(folder, [file for file, _ in listed]), captions


def _captioned(folder: Path, captions_per_image: int) -> list[tuple[Path, Sequence[str]]]:
    listed: list[tuple[Path, Sequence[str]]] = []
    for record in own_images.records(folder, own_images.Options()):
        if isinstance(record, Problem):
            raise DataError(f"{folder / record.name}: {record.reason}. The metrics by CLIP need a caption an image.")
        texts = [caption for caption in record.captions if caption.strip()]
        if not texts:
            raise DataError(f"{folder / record.origin}: its caption is empty. The metrics by CLIP need one.")
        if not isinstance(record.image, Path):
            raise DataError(f"{folder / record.origin} is inside an archive; unpack it.")
        listed.append((record.image, texts[:captions_per_image]))
    with_image = {file.with_suffix(".txt") for file, _ in listed}
    for directory in sorted({text.parent for text in with_image if text.is_file()}):
        for text in sorted(directory.glob("*.txt")):
            if text not in with_image:
                raise DataError(f"{text} is the caption of no image. Bring the image, or remove the file.")
    return listed


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
        if not any(name.startswith(".") for name in path.relative_to(folder).parts)
    )


def _pixels(images: Images) -> str:
    height, width = images.size
    return f"{width} x {height}"
