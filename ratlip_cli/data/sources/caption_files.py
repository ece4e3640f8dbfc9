"""Text files of captions: beside an image, or in a folder of their own that has the same folders in it.

x.jpg  with  x.txt, x.caption, x.jpg.txt or x.jpg.caption, also as X.TXT
images/001.red/x.jpg  with  text/001.red/x.txt
x.jpg  with  captions/x.txt
"""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Iterable, Iterator, Set
from pathlib import PurePath
from typing import TypeVar

from ratlip_cli.data.images import SUFFIXES as IMAGE_SUFFIXES
from ratlip_cli.data.images import is_other_image

SUFFIXES = (".txt", ".caption")

FOLDERS = frozenset({"text", "texts", "txt", "caption", "captions", "text_c10"})
"""What folders that hold captions alone are called."""

IMAGE_FOLDERS = frozenset({"image", "images", "img", "imgs", "jpg", "jpgs", "picture", "pictures", "photo", "photos"})


class CaptionFiles:
    """Which text file holds the captions of which image, both by relative paths with "/"."""

    def __init__(self, names: Iterable[str]) -> None:
        files = list(names)
        self._texts = {name for name in files if name.lower().endswith(SUFFIXES)}
        self._elsewhere = self._matched(files)
        self._used = set(self._elsewhere.values())
        images = {name for name in files if posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES}
        self._stems = images | {posixpath.splitext(name)[0] for name in images}
        self._alike: dict[str, list[str]] = {}  # Texts that have the exact name of no image, in any spelling.
        for text in self._texts:
            if not (text.endswith(SUFFIXES) and self.is_beside_image(text)):
                self._alike.setdefault(_alike(text), []).append(text)

    def beside(self, image: str) -> str | None:
        """Return the text file beside `image`, if there is one; its case and Unicode form may be others."""
        names = [stem + end for stem in (posixpath.splitext(image)[0], image) for end in SUFFIXES]
        exact = [name for name in names if name in self._texts]
        alike = [self._alike.get(_alike(name), []) for name in names]
        return next(iter(exact + [found[0] for found in alike if len(found) == 1]), None)

    def of(self, image: str) -> str | None:
        """Return the text file that belongs to `image`, if there is one."""
        return self.beside(image) or self._elsewhere.get(image)

    def belongs(self, text: str) -> bool:
        """Whether `text` lies in a folder of captions, for an image elsewhere."""
        return text in self._used

    def is_beside_image(self, file: str) -> bool:
        """Whether `file` has the name of an image beside it, but for its ending."""
        return posixpath.splitext(file)[0] in self._stems

    def _matched(self, files: list[str]) -> dict[str, str]:
        """The text files in folders of their own, by their images: the best match of each, if it is the only one."""
        texts = {key: name for name in sorted(self._texts) for key in _without_folder(name)}
        if not texts:
            return {}
        claims: dict[str, dict[int, list[str]]] = {}
        for image in files:
            if posixpath.splitext(image)[1].lower() in IMAGE_SUFFIXES:
                for rank, key in _keys(image):
                    if key in texts:
                        claims.setdefault(texts[key], {}).setdefault(rank, []).append(image)
                        break
        best = ((text, ranked[min(ranked)]) for text, ranked in claims.items())
        return {images[0]: text for text, images in best if len(images) == 1}


_File = TypeVar("_File", bound=PurePath)


def unread_images(files: Iterable[_File], images: Set[_File]) -> list[_File]:
    """Those of `files` that are images of a kind that is not read: by their ending, or by a text of their name."""
    others = [file for file in files if file not in images]
    texts = {file for file in others if file.suffix == ".txt"}
    captioned = {file.with_suffix("") for file in texts} - {file.with_suffix("") for file in images}
    return [
        file for file in others if is_other_image(file) or (file not in texts and file.with_suffix("") in captioned)
    ]


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _without_folder(text: str) -> Iterator[str]:
    """Yield the paths that an image may have to which `text` belongs: without its folder for captions, and ending."""
    stem, _ = posixpath.splitext(text)
    inner, ending = posixpath.splitext(stem)
    parts = (inner if ending.lower() in IMAGE_SUFFIXES else stem).split("/")
    for place, part in enumerate(parts[:-1]):
        if part.casefold() in FOLDERS:
            yield "/".join(parts[:place] + parts[place + 1 :])


def _keys(image: str) -> Iterator[tuple[int, str]]:
    """Yield the paths under which the captions of `image` may lie, the likeliest first, with how likely they are."""
    parts = posixpath.splitext(image)[0].split("/")
    yield 0, "/".join(parts)
    known = [place for place, part in enumerate(parts[:-1]) if part.casefold() in IMAGE_FOLDERS]
    for place in known:
        yield 0, "/".join(parts[:place] + parts[place + 1 :])
    for place in known:
        for start in range(place):
            yield 1, "/".join(parts[:start] + parts[place + 1 :])
    for place in range(len(parts) - 1):
        yield 2, "/".join(parts[:place] + parts[place + 1 :])
