"""Which files of a folder are images, told by their content, and what is said of the others."""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ratlip_cli.data.images import FORMATS, SUFFIXES, is_image
from ratlip_cli.data.sources.caption_files import CaptionFiles
from ratlip_cli.errors import DataError

_NAMED = 3
"""Files that are named for each ending, and endings that are named."""

KEPT = ".features"
"""Ratlip's own folder beside images."""

_FAMILIES = {"MPO": "JPEG", "WEBP": "WebP", "AVIF": "AVIF", "JPEG": "JPEG", "GIF": "GIF"}
"""Formats that may lose something, by Pillow's names; of the others nothing is lost."""


class FolderFiles(NamedTuple):
    """The files below a folder, in the order of their paths."""

    images: list[Path]
    others: list[Path]  # What is passed over: no images, and hidden ones.
    texts: list[Path]  # Captions beside images.


def files_below(folder: Path) -> FolderFiles:
    """Tell the images below a folder from other files. Linked folders are followed, each folder once.

    Raises DataError for what is no folder, and for a folder that may not be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} {'is no folder' if folder.exists() else 'does not exist'}; give a folder of images.")
    images: list[Path] = []
    others: list[Path] = []
    for path in sorted(_walk(folder)):
        if any(name.startswith(".") for name in path.relative_to(folder).parts):
            others += [path] if path.suffix.lower() in SUFFIXES else []
        else:
            (images if path.is_file() and is_image(path) else others).append(path)
    texts = CaptionFiles(path.relative_to(folder).as_posix() for path in (*images, *others))
    found = (texts.beside(image.relative_to(folder).as_posix()) for image in images)
    beside = {folder / text for text in found if text is not None}
    return FolderFiles(images, [path for path in others if path not in beside], sorted(beside))


def _walk(folder: Path) -> Iterator[Path]:
    entered = set()
    for directory, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        if (place := os.path.realpath(directory)) in entered:
            folders.clear()
            continue
        entered.add(place)
        folders[:] = sorted(name for name in folders if name != KEPT)
        yield from (Path(directory, name) for name in files)


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot read {error.filename}: {error.strerror}.") from error


def passed_over(folder: Path, files: Sequence[Path], why: str = "no images") -> list[str]:
    """A line that counts and names the files of `folder` that are passed over; none where there are none."""
    if not files:
        return []
    named: defaultdict[str, list[str]] = defaultdict(list)
    for file in files:
        inside = file.relative_to(folder)
        hidden = any(name.startswith(".") for name in inside.parts)
        named["hidden" if hidden else inside.suffix or "without an ending"].append(str(inside))
    endings = sorted(named, key=lambda ending: -len(named[ending]))
    kinds = [
        f"{len(named[ending]):,} {ending} ({', '.join(named[ending][:_NAMED])}"
        f"{', ...' if len(named[ending]) > _NAMED else ''})"
        for ending in endings[:_NAMED]
    ]
    rest = sum(len(named[ending]) for ending in endings[_NAMED:])
    kinds += [f"{rest:,} others"] if rest else []
    return [f"passed over in {folder}, {why}: {', '.join(kinds)}"]


class Header(NamedTuple):
    """What the first bytes of an image say of it."""

    compression: str  # The name of a format that may lose something, or `lossless`.
    shorter_side: int  # In pixels.


def headers(files: Sequence[Path]) -> list[Header]:
    """The headers of those files that can be read."""
    read = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for file in files:
            try:
                with Image.open(file, formats=FORMATS) as image:
                    read.append(Header(_FAMILIES.get(image.format or "", "lossless"), min(image.size)))
            except Exception:  # Pillow meets damaged files with exceptions of every kind
                continue
    return read
