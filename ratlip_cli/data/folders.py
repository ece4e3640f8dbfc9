"""The files of a folder as people have them: links are followed, circles are not, and what is passed over is named."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ratlip_cli.data.images import is_image, is_other_image
from ratlip_cli.data.layout import INFO, Problem
from ratlip_cli.errors import DataError
from ratlip_cli.files import printable

_KNOWN_ENDINGS = frozenset(
    {".txt", ".caption", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".tar", ".tgz", ".gz", ".zip"}
)
"""Files that may hold captions, or images and captions: whether they do is not for this module to say."""

_SHOWN = 3
"""Names in a line about files or folders that were passed over."""


@dataclass(frozen=True)
class Folder:
    """What is in a folder, hidden files left aside; paths begin with that of the folder at the top."""

    path: Path
    files: list[Path] = field(default_factory=list)  # In the order of their names.
    folders: list[Folder] = field(default_factory=list)  # Those to look into, also through links; in order as well.
    problems: list[Problem] = field(default_factory=list)  # What could not be read, by its path in the top folder.
    written: list[Path] = field(default_factory=list)  # Folders that ratlip wrote; not looked into.
    repeated: list[Path] = field(default_factory=list)  # Links to folders that are read anyway; not followed.

    def each(self) -> Iterator[Folder]:
        """Yield this folder and all below it."""
        yield self
        for inner in self.folders:
            yield from inner.each()

    def all_files(self) -> Iterator[Path]:
        """Yield the files of this folder and then, folder by folder, of those in it."""
        for folder in self.each():
            yield from folder.files

    def images(self) -> list[Path]:
        """The files that are to be read as images, see `images.is_image`."""
        return [file for file in self.all_files() if is_image(file)]

    def passed_over(self) -> tuple[str, ...]:
        """One line for each kind of thing that is neither an image nor may hold captions."""
        others = [
            file
            for file in self.all_files()
            if not (file.suffix.lower() in _KNOWN_ENDINGS or is_image(file) or is_other_image(file))
        ]
        written = [path for folder in self.each() for path in folder.written]
        repeated = [path for folder in self.each() for path in folder.repeated]
        lines = (
            ("files that are neither images nor captions", others),
            ("folders that ratlip wrote", written),
            ("links to folders that are read anyway", repeated),
        )
        return tuple(self.line(what, paths) for what, paths in lines if paths)

    def line(self, what: str, paths: Sequence[Path]) -> str:
        """Say that `paths` in this folder, which are `what`, are passed over."""
        names = [printable(path.relative_to(self.path)) for path in sorted(paths)]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return f"passed over {what}: {', '.join(names[:_SHOWN])}{more}"


def read_folder(top: Path, with_written: bool = False) -> Folder:
    """Return what is in the folder `top` and below it.

    Args:
        with_written: whether folders of generated images, runs and figures are looked into, which ratlip wrote.
            Prepared datasets never are. The folder `top` itself is, whoever wrote it.

    Raises DataError where `top` is no folder or cannot be read; a folder in it that cannot be read is a Problem.
    """
    try:
        return _Reader(top, with_written).read(top, top.resolve(), sorted(os.scandir(top), key=_place))
    except FileNotFoundError:
        raise DataError(f"{top} does not exist. Give a folder of images with captions.") from None
    except NotADirectoryError:
        raise DataError(f"{top} is a file. Give the folder of images with captions that it is in.") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself, before Python 3.13.
        why = getattr(error, "strerror", None) or error
        raise DataError(
            f"cannot read {top}: {why}. Check what its path leads to, and whether you may read it."
        ) from error


def file_state(file: Path) -> str:
    """Return what tells one state of a file from another: size, time, whether it may be read. Raises OSError."""
    state = file.stat()
    effective = os.access in os.supports_effective_ids
    refused = "" if os.access(file, os.R_OK, effective_ids=effective) else "\0may not be read"
    return f"{state.st_size}\0{state.st_mtime_ns}{refused}"


class _Reader:
    def __init__(self, top: Path, with_written: bool) -> None:
        self._top = top
        self._real_top = top.resolve()
        self._visited = {self._real_top}
        self._with_written = with_written

    def read(self, path: Path, real: Path, entries: Sequence[os.DirEntry[str]]) -> Folder:
        """Return the folder `path`, whose place without links is `real`."""
        folder = Folder(path)
        for entry in entries:
            if not entry.name.startswith("."):
                try:
                    self._add(folder, real, entry)
                except (OSError, RuntimeError) as error:
                    reason = f"cannot be read: {getattr(error, 'strerror', None) or error}"
                    folder.problems.append(self._problem(path / entry.name, reason))
        if any(_is_dataset(written) for written in folder.written):  # Then this is where datasets are prepared.
            downloads = [inner for inner in folder.folders if inner.path.name == "downloads"]
            folder.folders[:] = [inner for inner in folder.folders if inner not in downloads]
            folder.written.extend(inner.path for inner in downloads)
        return folder

    def _add(self, folder: Folder, real: Path, entry: os.DirEntry[str]) -> None:
        path = folder.path / entry.name
        if entry.is_file():
            folder.files.append(path)
        elif entry.is_dir():
            self._add_folder(folder, path, real, is_link=entry.is_symlink())
        elif entry.is_symlink() and not path.exists():
            folder.problems.append(self._problem(path, f"a link to {printable(path.readlink())}, which is not there"))
        else:
            folder.problems.append(self._problem(path, "neither a file nor a folder, but a pipe, socket or device"))

    def _add_folder(self, folder: Folder, path: Path, real: Path, is_link: bool) -> None:
        target = path.resolve() if is_link else real / path.name
        is_read = target.is_relative_to(self._real_top) or real.is_relative_to(target)
        if target in self._visited or (is_link and is_read):
            folder.repeated.append(path)
            return
        self._visited.add(target)
        entries = sorted(os.scandir(path), key=_place)
        if _is_dataset(path) or (not self._with_written and _is_output(path, {entry.name for entry in entries})):
            folder.written.append(path)
        else:
            folder.folders.append(self.read(path, target, entries))

    def _problem(self, path: Path, reason: str) -> Problem:
        return Problem(str(path.relative_to(self._top)), reason)


def _place(entry: os.DirEntry[str]) -> Path:
    return Path(entry.name)


def _is_dataset(path: Path) -> bool:
    return _holds(path / INFO, b'"layout_version"')


def _is_output(path: Path, names: set[str]) -> bool:
    """Whether the folder `path` of these `names` is a run, a model, or of generated images or figures alone."""
    if {"config.toml", "metrics.jsonl"} <= names or {"config.json", "generator.safetensors"} <= names:
        return True
    if not all(_NUMBERED.match(name) for name in names if is_image(path / name)):
        return False
    return _holds(path / "images.jsonl", b'"clip_similarity"') or any(
        _holds(path / name, b'"says"') for name in names if _NUMBERED.match(name) and name.endswith(".json")
    )


_NUMBERED = re.compile(r"\d{4,}_")
"""How the names of generated images and of figures begin."""


def _holds(file: Path, words: bytes) -> bool:
    try:
        return words in file.read_bytes()
    except OSError:
        return False
