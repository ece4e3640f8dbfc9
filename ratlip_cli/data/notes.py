"""What is worth knowing of a dataset's images and captions: counted while it is written, told in one line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ENLARGED, PROFILE = "enlarged from", "colour profile not used"
"""What may be remarked of an image: the keys of the texts in its PNG file."""


@dataclass
class Stored:
    """One image of the dataset."""

    split: str
    name: str  # Of its file.
    captions: int  # A hash of its captions.
    content: bytes  # Tells its pixels from those of other images.
    remarks: dict[str, str]  # See ENLARGED and PROFILE; most images have none.
    rank: float | None  # See `layout.Record.rank`.


def notes(images: Sequence[Stored], side: int) -> tuple[str, ...]:
    """Return what is worth knowing of the `images` of a dataset, whose shorter side is `side` pixels."""
    lines = (
        _no_split(images),
        _no_caption(images),
        _one_caption(images),
        _in_both(images),
        _enlarged(images, side),
        _profiles(images),
    )
    return tuple(line for line in lines if line)


def _no_split(images: Sequence[Stored]) -> str:
    """One of train and test has no image: one image cannot be in both, and folders and options say where others go."""
    splits = {image.split for image in images}
    absent = [split for split in ("train", "test") if split not in splits]
    if not absent:
        return ""
    if any(image.rank is not None for image in images):
        why = f"{_count(len(images), 'image is', 'images are')} too few for two splits"
    else:
        why = f"{_NEEDED_BY[absent[0]]} needs some, such as those of a folder {absent[0]}"
    return f"no image is in the {absent[0]} split: {why}"


_NEEDED_BY = {"train": "training", "test": "`ratlip evaluate`"}


def _no_caption(images: Sequence[Stored]) -> str:
    without = sum(image.captions == _NONE for image in images)
    if not without:
        return ""
    return (
        f"{without} of {_count(len(images), 'image', 'images')} {'has' if without == 1 else 'have'} no caption: "
        "`ratlip train --variant lafite --language-free` learns from images alone"
    )


_NONE = hash(frozenset[str]())


def _one_caption(images: Sequence[Stored]) -> str:
    train = {image.captions for image in images if image.split == "train"}
    if len(train) != 1 or _NONE in train:
        return ""
    return (
        "all images of the train split have the same caption: no pair of an image and a caption of another image is "
        "wrong, so training cannot learn what captions mean"
    )


def _in_both(images: Sequence[Stored]) -> str:
    train = {image.content: image.name for image in images if image.split == "train"}
    twice = [image for image in images if image.split != "train" and image.content in train]
    if not twice:
        return ""
    first = twice[0]
    return (
        f"{_count(len(twice), 'image', 'images')} outside the train split can be seen in it, pixel for pixel, such as "
        f"{first.split}/{first.name}, which is train/{train[first.content]} too: scores on them say nothing"
    )


def _enlarged(images: Sequence[Stored], side: int) -> str:
    small = list(_remarked(images, ENLARGED))
    if not small:
        return ""
    smallest, size = min(small, key=lambda found: min(map(int, found[1].split(" x "))))
    return (
        f"{len(small)} of {_count(len(images), 'image', 'images')} had a shorter side of less than {side} pixels and "
        f"became larger, and blurred; the smallest, {smallest}, had {size}"
    )


def _profiles(images: Sequence[Stored]) -> str:
    unused = list(_remarked(images, PROFILE))
    if not unused:
        return ""
    name, reason = unused[0]
    return (
        f"the colour profile of {_count(len(unused), 'image', 'images')} could not be used, and colours were taken as "
        f"sRGB, such as in {name}: {reason}"
    )


def _remarked(images: Sequence[Stored], key: str) -> Iterator[tuple[str, str]]:
    return ((f"{image.split}/{image.name}", image.remarks[key]) for image in images if key in image.remarks)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
