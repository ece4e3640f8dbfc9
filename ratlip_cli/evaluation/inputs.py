"""What is scored and against what: a model on a split, or a folder of images against real ones or their captions."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.data.images import FORMATS, SUFFIXES
from ratlip_cli.data.layout import INFO, Problem, read_dataset
from ratlip_cli.data.prepare import resolve_dataset
from ratlip_cli.data.sources import own_images
from ratlip_cli.data.sources.caption_files import SUFFIXES as CAPTION_SUFFIXES
from ratlip_cli.data.sources.demo import SOURCE as RENDERED
from ratlip_cli.errors import DataError
from ratlip_cli.evaluation.folder_files import KEPT, FolderFiles, files_below, passed_over
from ratlip_cli.evaluation.images import (
    Captions,
    FolderImages,
    GeneratedImages,
    Images,
    ImagesOfImages,
    SplitImages,
    some_images,
)
from ratlip_cli.evaluation.request import CAPTIONS_PER_IMAGE, EvaluationRequest
from ratlip_cli.family import Family
from ratlip_cli.generation import LikeRequest
from ratlip_cli.outputs import RECORDS_FILE
from ratlip_cli.progress import Progress
from ratlip_cli.samples import format_of
from ratlip_cli.weights.model_folder import Model

GRID = "_grid.png"
"""How the files end in which `ratlip generate` puts all images side by side."""

_ALIKE = 0.01
"""Difference in the share of a file format below which two sets of images count as saved alike."""


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
    captions_per_image: int = CAPTIONS_PER_IMAGE
    limit: int | None = None
    """Images of the split that count, where others do not."""
    notes: tuple[str, ...] = ()
    """What makes scores of them less than they seem."""

    @property
    def n_real(self) -> int:
        """Real images."""
        return 0 if self.real is None else len(self.real)

    @property
    def scenes(self) -> NDArray[np.int64]:
        """For each fake (n,), its scene: the number of its real image where `paired`, else counted among the fakes'."""
        if self.captions is None:
            return np.arange(len(self.fake))
        scenes = self.captions.scenes[self.captions.first]
        if not self.paired:
            return np.unique(scenes, return_inverse=True)[1]
        split = self.captions.dataset
        if self.limit is None or split is None:
            return scenes
        return np.searchsorted(some_images(len(split), self.limit), scenes)


def by_captions(dataset: CaptionedImages, family: Family) -> bool:
    """Whether a split is scored by images of its captions: where each image has one, or the model takes nothing else.

    Else few generated images would stand against all real ones.
    """
    return not dataset.uncaptioned or (bool(dataset.captions) and not family.takes_images)


def check_limit(dataset: CaptionedImages, limit: int | None) -> None:
    """Raise DataError where a split has fewer images than are to be scored."""
    if limit is not None and limit > len(dataset):
        raise DataError(
            f"--limit is {limit}, but the split {dataset.split} of {dataset.path} has {len(dataset)} images; "
            "leave it out to score all."
        )


def model_inputs(
    model: Model, dataset: CaptionedImages, request: EvaluationRequest, captioned: bool | None = None
) -> Inputs:
    """One fake for every caption of a split, and every image of it; of `request.limit` images where that is set.

    Else one fake for every image, generated from CLIP's vector of it.

    Args:
        dataset: the split at the model's image size.
        captioned: whether captions are generated from; left out, see `by_captions`.

    Raises DataError for a limit above the number of images, UsageError for a model that generates for captions alone
    and a split that has none.
    """
    check_limit(dataset, request.limit)
    per_image, limit = request.captions_of(dataset.info.source == RENDERED), request.limit
    limit = None if limit == len(dataset) else limit
    numbers = None if limit is None else some_images(len(dataset), limit)
    captions: Captions | None = None
    if by_captions(dataset, model.family) if captioned is None else captioned:
        captions = Captions.of_split(dataset, per_image, numbers, competing="r-precision" in request.metrics)
        if not captions.of_image:
            raise DataError(
                f"none of the {limit or len(dataset):,} images of the split {dataset.split} of {dataset.path} that are "
                "to be scored has a caption: raise --limit, or leave it out."
            )
        fake = GeneratedImages(model, captions, request.seed, request.batch_size)
    else:
        every = list(range(len(dataset))) if numbers is None else numbers.tolist()
        fake, per_image = ImagesOfImages(model, dataset, every, request.seed, request.batch_size), 1
    fake.cache = dataset.path / KEPT
    source = {"model": model.name, "model_fingerprint": model.fingerprint}
    source |= format_of(model.exported_as)
    source |= {"dataset": str(dataset.path), "split": dataset.split, "precision": model.precision}
    some = f"{limit} of the {len(dataset):,} images of the split: compare with scores of the same --limit alone"
    notes = [] if limit is None else [some]
    if captions is None:
        without = f"{dataset.uncaptioned:,} of {len(dataset):,} images have no caption"
        why = without if dataset.uncaptioned else "captions are not looked at"
        notes.append(f"{why}: each image is generated from CLIP's vector of a real one")
    elif dataset.uncaptioned:
        notes.append(f"none is generated for {dataset.uncaptioned:,} of {len(dataset):,} images, which have no caption")
    real = SplitImages(dataset, numbers)
    notes += _enlarged(real)
    return Inputs(fake, real, captions, True, source, per_image, limit, tuple(notes))


def folder_inputs(images: Path, request: EvaluationRequest, progress: Progress) -> Inputs:
    """The images of a folder, and the real images of `reference` or `dataset` where one is named.

    Raises DataError for images that cannot be read or have several sizes, and for captions that do not fit them.
    """
    fake, captions, notes = open_folder(images, request, bool(request.clip_keys))
    source = {"images": str(images)}
    real: SplitImages | FolderImages | None = None
    if request.reference is not None:
        real, _, passed = open_folder(request.reference, request, False)
        notes += passed
        if real.size != fake.size:
            raise DataError(
                f"the samples of {images} have {_pixels(fake)} pixels, those of {request.reference} {_pixels(real)}: "
                f"--resize {min(*fake.size, *real.size)} brings them to one size."
            )
        source |= {"reference": str(request.reference)}
    elif request.dataset is not None:
        height, width = fake.size
        if height != width:
            raise DataError(
                f"the samples of {images} have {_pixels(fake)} pixels, those of a dataset are square: "
                f"--resize {min(height, width)} makes them so."
            )
        dataset = open_split(request.dataset, request, height, progress)
        real = SplitImages(dataset)
        source |= {"dataset": str(dataset.path), "split": dataset.split}
    notes += [*_copies(fake, real), *_formats(fake, real), *_enlarged(fake, real)]
    if request.resize is not None:
        source["resize"] = fake.framing
        if real is not None and real.framing != fake.framing:
            source["resize"] = f"{fake.framing}; real images: {real.framing}"
            notes.append(
                f"generated images ({fake.framing}) are framed otherwise than the real ones ({real.framing}): right "
                "where a model made images of such crops; photographs as they were taken are to be prepared first"
            )
    per_image = 0 if captions is None else max(map(len, captions.of_image))
    return Inputs(fake, real, captions, False, source, per_image, notes=tuple(dict.fromkeys(notes)))


def _enlarged(*sides: Images | None) -> list[str]:
    """Say how many images of each side are smaller than they are scored."""
    return [
        f"{side.enlarged:,} of {len(side):,} images of {side.folder} are enlarged"
        for side in sides
        if isinstance(side, SplitImages | FolderImages) and side.enlarged
    ]


def _copies(fake: Images, real: Images | None) -> list[str]:
    """Say how many images are there twice, or on both sides."""
    notes = []
    if real is not None and real.fingerprint == fake.fingerprint:
        notes = ["the generated images are the real images themselves: distances between them say nothing"]
        real = None
    theirs = set(real.digests) if isinstance(real, FolderImages) else set()
    for side in (fake, real):
        if isinstance(side, FolderImages) and (twice := len(side) - len(set(side.digests))):
            notes.append(f"{twice:,} of {len(side):,} images of {side.folder} are copies of others, byte for byte")
    if isinstance(fake, FolderImages) and (common := sum(digest in theirs for digest in fake.digests)):
        notes.append(f"{common:,} of {len(fake):,} generated images are among the real ones, byte for byte")
    return notes


def _formats(fake: Images, real: Images | None) -> list[str]:
    """Say where one side was compressed in another way than the other: that alone makes a distance."""
    if real is None:
        return []
    ours, theirs = map(_compressions, (fake, real))
    if all(abs(ours[kind] / len(fake) - theirs[kind] / len(real)) < _ALIKE for kind in {*ours, *theirs}):
        return []
    one, other = (", ".join(f"{n:,} {kind}" for kind, n in sorted(kinds.items())) for kinds in (ours, theirs))
    return [
        f"file formats differ (generated images: {one}; real images: {other}): that alone made an FID of "
        "0.07 to 0.33 where it was measured; save both sides alike, best as PNG"
    ]


def _compressions(images: Images) -> Counter[str]:
    """How many images are saved in which way; those of a prepared dataset are PNG."""
    if isinstance(images, FolderImages):
        return Counter(header.compression for header in images.headers)
    return Counter({"lossless": len(images)})


def open_split(name: str | Path, request: EvaluationRequest, image_size: int, progress: Progress) -> CaptionedImages:
    """The wanted split of a dataset at `image_size` pixels; the dataset is prepared first where that is needed."""
    folder = resolve_dataset(str(name), request.data_dir, image_size, progress, request.split)
    return CaptionedImages(folder, request.split, image_size)


def open_folder(
    folder: Path, request: EvaluationRequest, captioned: bool
) -> tuple[SplitImages | FolderImages, Captions | None, list[str]]:
    """The images of a folder, their captions where they are wanted, and lines about what was passed over.

    A prepared dataset gives its split; a folder of `ratlip generate` what its images.jsonl lists; a folder of your own
    images (see `data.sources.own_images`) its images with their captions; any other folder all its images.

    Raises DataError for a folder without images, and for captions that do not fit the images.
    """
    per_image = request.captions_of(rendered=False)
    if (folder / INFO).is_file():
        dataset = CaptionedImages(folder, request.split, request.resize or read_dataset(folder).image_size)
        own = [entry.captions[:per_image] for entry in dataset.entries]
        return SplitImages(dataset), None if dataset.uncaptioned else Captions.of_folder(own), []
    below = files_below(folder)
    notes = passed_over(folder, below.others)
    if (folder / RECORDS_FILE).is_file():
        listed, of_several = _listed(folder)
        named = {file for file, _ in listed}
        unnamed = [file for file in below.images if file not in named and not file.name.endswith(GRID)]
        notes = [*of_several, *passed_over(folder, unnamed, f"not named in {RECORDS_FILE}")]
    elif captioned:
        listed, absent = _captioned(folder, below, per_image)
        if absent:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            notes.append(f"passed over what tables in {folder} name: {absent[0].name}{more}: {absent[0].reason}")
    else:
        listed = [(file, []) for file in below.images]
    if not listed:
        raise DataError("; ".join([f"{folder} holds no images ({', '.join(FORMATS)})", *notes]) + ".")
    captions = Captions.of_folder([texts for _, texts in listed]) if all(texts for _, texts in listed) else None
    return FolderImages(folder, [file for file, _ in listed], request.resize), captions, notes


def _captioned(
    folder: Path, below: FolderFiles, captions_per_image: int
) -> tuple[list[tuple[Path, Sequence[str]]], list[Problem]]:
    """The images of a folder with their captions, and the images that its tables name and that are not in it."""
    listed: list[tuple[Path, Sequence[str]]] = []
    absent: list[Problem] = []
    for record in own_images.records(folder, own_images.Options()):
        if isinstance(record, Problem):
            file = folder / record.name
            if file in below.others:  # no image, so that it needs no caption
                continue
            if file.suffix.lower() in SUFFIXES and not os.path.lexists(file):
                absent.append(record)
                continue
            raise DataError(f"{folder / record.name}: {record.reason}. The metrics by CLIP need a caption an image.")
        texts = [caption for caption in record.captions if caption.strip()]
        if not texts:
            raise DataError(f"{folder / record.origin}: its caption is empty. The metrics by CLIP need one.")
        if not isinstance(record.image, Path):
            raise DataError(f"{folder / record.origin} is inside an archive; unpack it.")
        if os.path.lexists(record.image):
            listed.append((record.image, texts[:captions_per_image]))
        else:
            absent.append(Problem(record.origin, "the image does not exist"))
    beside_images = {text.parent for text in below.texts}
    for file in below.others:
        if file.parent in beside_images and file.suffix.lower() in CAPTION_SUFFIXES:
            raise DataError(f"{file} is the caption of no image. Bring the image, or remove the file.")
    return listed, absent


def _listed(folder: Path) -> tuple[list[tuple[Path, Sequence[str]]], list[str]]:
    """The images and prompts that `ratlip generate` noted in images.jsonl, and a line where they are of several models.

    Images that were made from another one alone have no prompt.
    """
    try:
        with (folder / RECORDS_FILE).open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        listed: list[tuple[Path, Sequence[str]]] = [(folder / str(row["file_name"]), _prompts(row)) for row in rows]
        models = {(str(row.get("model")), str(row.get("fingerprint"))): None for row in rows}
        for file, _ in listed:
            file.relative_to(folder)  # ValueError where it lies elsewhere
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{folder / RECORDS_FILE} is not what `ratlip generate` writes: {error}.") from error
    for file, _ in listed:
        if not os.path.lexists(file):
            raise DataError(
                f"{file} is named in {RECORDS_FILE}, but is not there. Bring it back, or remove its line from "
                f"{folder / RECORDS_FILE}."
            )
    named = " and ".join(f"{name} ({fingerprint})" for name, fingerprint in models)
    return listed, [f"the images are of {len(models)} models: {named}"] if len(models) > 1 else []


def _prompts(row: Mapping[str, Any]) -> list[str]:
    """The prompt that a line of images.jsonl has, unless it stands for an image alone, see `LikeRequest.label`."""
    prompt, like = str(row["prompt"]), row.get("like")
    return [] if like and prompt == LikeRequest(Path(str(like))).label else [prompt]


def _pixels(images: Images) -> str:
    height, width = images.size
    return f"{width} x {height}"
