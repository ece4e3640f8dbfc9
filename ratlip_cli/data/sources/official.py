"""The datasets of the paper: what their archives are called, where they are, and how they come here."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ratlip_cli.data.archives import checksum, is_archive, members, stem
from ratlip_cli.data.download import RemoteFile, fetch
from ratlip_cli.data.layout import Problem, Record
from ratlip_cli.errors import DataError, UsageError
from ratlip_cli.progress import Progress

_log = logging.getLogger(__name__)

Places: TypeAlias = Mapping[str, Path]
"""Where each piece of a dataset lies, by the name of its file: that file, or a folder in which it is unpacked."""


@dataclass(frozen=True)
class Piece:
    """One file of a dataset."""

    file: RemoteFile
    inside: re.Pattern[str]  # What is needed of it: found in paths of members, with "/".
    required: bool = True  # Whether there is no dataset without it; what is not required is not downloaded.


@dataclass(frozen=True)
class Official:
    """One dataset, as its publishers give it."""

    name: str
    source: str
    licence: str
    split_rule: str
    pieces: tuple[Piece, ...]
    counts: Mapping[str, int]  # Images per split, if all is there.
    records: Callable[[Places], Iterator[Record | Problem]]
    """In the order of the images' archive, and what cannot be used; raises DataError where an archive is damaged or
    lacks what all of them need."""
    must_be_accepted: bool = False  # Whether the licence asks more of its user than the usual.

    def check_accepted(self, accepted: bool) -> None:
        """Raise UsageError where a licence that must be accepted is not."""
        if self.must_be_accepted and not accepted:
            raise UsageError(
                f"{self.name} is for {self.licence}. Who accepts that calls: "
                f"ratlip prepare {self.name} --accept-license"
            )

    def downloaded(self, folder: Path, progress: Progress) -> Places:
        """Return where the required pieces lie in `folder`, downloading those that do not.

        Raises DataError, which says what to get by hand and how to go on, where some could not be downloaded; the
        others are there then.
        """
        places, failures = {}, []
        for piece in self.pieces:
            if piece.required:
                try:
                    places[piece.file.name] = fetch(piece.file, folder, progress)
                except DataError as error:
                    failures.append(str(error))
        if failures:
            raise DataError(
                f"{'; '.join(failures)}. Put what is missing in {folder} and go on with: "
                f"ratlip prepare {self.name} --raw {shlex.quote(str(folder))}"
            )
        return places

    def located(self, raw: Path) -> Places:
        """Return where the pieces lie in `raw`, as archives in it or one folder deeper, or unpacked anywhere below.

        Raises DataError, naming what is missing and where to get it, where a required one does not.
        """
        if not raw.is_dir():
            names = ", ".join(piece.file.name for piece in self.pieces if piece.required)
            raise DataError(f"--raw {raw} is not a folder. Give the one that holds {names}, packed or unpacked.")
        files = [path for path in sorted([*raw.iterdir(), *raw.glob("*/*")]) if path.is_file()]
        places, missing = {}, []
        for piece in self.pieces:
            wanted = piece.file.name
            named = [path for path in files if path.name == wanted]
            repacked = [path for path in files if is_archive(path) and stem(path.name) == stem(wanted)]
            if named or repacked:
                places[wanted] = (named or repacked)[0]
            elif any(True for _ in members(raw, piece.inside)):
                places[wanted] = raw
            elif piece.required:
                missing.append(f"{wanted} (from {piece.file.page})")
        if missing:
            raise DataError(
                f"{raw} has neither {' nor '.join(missing)}, nor what is in it, unpacked. Put it there and go on with: "
                f"ratlip prepare {self.name} --raw {shlex.quote(str(raw))}"
            )
        return places

    def checksums(self, places: Places) -> dict[str, str]:
        """Return what tells one state of the pieces from another; warns of a file that is not the official one."""
        checksums = {}
        for piece in self.pieces:
            name = piece.file.name
            if name in places:
                actual = checksums[name] = checksum(places[name], piece.inside)
                if places[name].is_file() and piece.file.md5 not in (None, actual.removeprefix("md5 ")):
                    _log.warning("%s is not the official file: %s, not %s", places[name], actual, piece.file.md5)
        return checksums


def texts(place: Path, *names: str) -> list[list[str]]:
    """Return the lines of the first text of each of these names; raises DataError where one is missing or not UTF-8."""
    inside = re.compile(rf"(?:^|/)({'|'.join(map(re.escape, names))})$")
    lines: dict[str, list[str]] = {}
    for member in members(place, inside):
        if isinstance(member, Problem):
            raise DataError(f"{place}: {member.name}: {member.reason}")
        try:
            lines.setdefault(member.name.rsplit("/", 1)[-1], member.read().decode("utf-8-sig").splitlines())
        except UnicodeDecodeError:
            raise DataError(f"{place}: {member.name} is not UTF-8 text. Get the archive again.") from None
        if len(lines) == len(names):
            return [lines[name] for name in names]
    raise DataError(f"{place} holds no {' and no '.join(sorted({*names} - {*lines}))}. Get the archive again.")


def missing(expected: Iterable[str], present: set[str]) -> Iterator[Problem]:
    """Yield a Problem for each image that is expected but not present."""
    for name in expected:
        if name not in present:
            yield Problem(name, "its archive does not hold it")
