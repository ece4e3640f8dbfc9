"""The file that a table means, where it spells its name in another way than the disk does."""

from __future__ import annotations

import difflib
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable, Set
from pathlib import PurePosixPath

from ratlip_cli.data.images import SUFFIXES
from ratlip_cli.data.layout import LONGEST_NAME

_HINTS = 20
"""Names that are not there for which the nearest is looked for: it takes long, and nobody reads more."""


_LONGEST = 255
"""Bytes in a file's name on every usual file system."""

_FOLDER = "it is the name of a folder, not of an image"


class ImageFiles:
    """The files of a folder or archive, by relative paths with "/".

    Args:
        names: lists them; called when a name is first spelled in another way.
        exists: whether a file has exactly this name.
    """

    def __init__(self, names: Callable[[], Iterable[str]], exists: Callable[[str], bool]) -> None:
        self._names = names
        self._exists = exists
        self._listed = False
        self._by_path: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}  # Images alone: by their path without an ending.
        self._by_name: dict[str, list[str]] = {}  # By the last part of both.
        self._folders: set[str] = set()
        self._hints = _HINTS

    def exact(self, wanted: str, base: str = "") -> str | None:
        """Return the file that is called `wanted` from the folder `base`, to the letter.

        Raises ValueError where that lies outside, or is no name of a file.
        """
        for name in (wanted, wanted.replace("\\", "/"), wanted.strip()):
            path = posixpath.normpath(posixpath.join(base, name))
            if path.split("/")[0] == ".." or is_absolute(wanted):
                raise ValueError("it lies outside its folder: --image-root says where names begin")
            if self._exists(path):
                return path
        if not re.search(r"[^./\\\s]", wanted):
            raise ValueError(_FOLDER)
        return None

    def similar(self, wanted: str, base: str = "", taken: Set[str] = frozenset()) -> str | None:
        """Return the one file that `wanted` means, spelled in another way, in another folder or without its ending.

        A file in another folder is not meant if it is among `taken`, which other names mean. Raises ValueError where
        several files may be meant, or with the nearest name; returns None where no name is near.
        """
        if not self._listed:
            self._list()
        path = _plain(posixpath.join(base, wanted))
        last = path.rsplit("/", 1)[-1]
        found = self._by_path.get(path) or self._by_stem.get(path) or []
        if not found:
            relative = _plain(wanted)
            near = [name for name in self._by_name.get(last, ()) if _one_ends_the_other(name, base, path, relative)]
            inside = [name for name in near if name.startswith(f"{base}/")]
            found = inside or near
            longest = max((_common(_plain(name), relative) for name in found), default=0)
            found = [name for name in found if _common(_plain(name), relative) == longest]
            found = [name for name in found if name not in taken]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"{len(found)} files are called so: {', '.join(found[:3])}; give the path of one")
        if path in self._folders:
            raise ValueError(_FOLDER)
        nearest = self._nearest(last, taken)
        if nearest is not None or not wanted.isprintable() or len(wanted) > LONGEST_NAME:
            hint = "" if nearest is None else f"; the nearest name is {nearest}"
            if any(len(part.encode("utf-8", "surrogatepass")) > _LONGEST for part in wanted.split("/")):
                hint = ": a name too long for a file system"
            raise ValueError(f"the image does not exist{hint}")
        return None

    def _list(self) -> None:
        for name in self._names():
            path = _plain(name)
            self._by_path.setdefault(path, []).append(name)
            self._folders.update(parent.as_posix() for parent in PurePosixPath(path).parents)
            self._by_name.setdefault(path.rsplit("/", 1)[-1], []).append(name)
            stem, ending = posixpath.splitext(path)
            if ending in SUFFIXES:
                self._by_stem.setdefault(stem, []).append(name)
                self._by_name.setdefault(stem.rsplit("/", 1)[-1], []).append(name)
        self._listed = True

    def _nearest(self, last: str, apart: Set[str]) -> str | None:
        self._hints -= 1
        if self._hints < 0:
            return None
        images = {key.rsplit("/", 1)[-1]: names[0] for key, names in self._by_stem.items() if names[0] not in apart}
        near = difflib.get_close_matches(posixpath.splitext(last)[0], images, n=1)
        return images[near[0]] if near else None


def is_absolute(name: str) -> bool:
    """Whether a path begins at a root or a drive, on any system."""
    return name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", name) is not None


def _plain(name: str) -> str:
    """What all spellings of a path have in common."""
    path = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name.replace("\\", "/")).casefold())
    parts = [part.strip() for part in posixpath.normpath(path).split("/")]
    parts[-1] = re.sub(r"\.tiff$", ".tif", re.sub(r"\.jpeg$", ".jpg", parts[-1]))
    return "/".join(parts).lstrip("/")


def _one_ends_the_other(name: str, base: str, path: str, relative: str) -> bool:
    """Whether the path of a file ends as the wanted one does, whole parts alone, or the other way round."""
    here = _plain(name)
    inner = here.removeprefix(f"{_plain(base)}/") if base else here
    here, inner = (posixpath.splitext(text)[0] for text in (here, inner))
    wanted = (path, relative, posixpath.splitext(path)[0], posixpath.splitext(relative)[0])
    return any(
        f"/{one}".endswith(f"/{other}") or f"/{other}".endswith(f"/{one}") for one in (here, inner) for other in wanted
    )


def _common(name: str, wanted: str) -> int:
    """How many parts at their ends two paths have in common."""
    pairs = zip(reversed(name.split("/")[:-1]), reversed(wanted.split("/")[:-1]), strict=False)
    return next(
        (count for count, (one, other) in enumerate(pairs) if one != other), min(name.count("/"), wanted.count("/"))
    )
