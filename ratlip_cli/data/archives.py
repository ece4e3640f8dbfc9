"""Files in archives and folders, read one after the other; nothing is ever unpacked to the disk.

An archive comes from a stranger. A link, or a member whose path leads out of its folder, is refused; a member that
claims to be enormous is passed over; an archive that would expand without bound is given up.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from ratlip_cli.data.folders import read_folder
from ratlip_cli.data.layout import Problem
from ratlip_cli.errors import DataError, one_line
from ratlip_cli.files import hash_of

ZIP = ".zip"

SUFFIXES = (".tar.gz", ".tgz", ".tar", ZIP)
"""File name endings, in lower case, of the archives that can be read."""

LARGEST_MEMBER = 128 * 2**20
"""Bytes; an image or text that is larger is refused."""

LARGEST_RATIO, ALWAYS_ALLOWED = 100, 64 * 2**20
"""An archive may expand to this many times its size, or to this many bytes. Photographs do not shrink; text, by ten."""


class ArchiveError(DataError):
    """An archive is damaged, cut short or none. Every member that was read before is whole."""


@dataclass(frozen=True)
class Member:
    """One file of an archive or folder."""

    name: str  # Its path in there, with "/".
    content: bytes | Path  # What is in it, or where it lies.

    def read(self) -> bytes:
        """Return its bytes; raises DataError where they cannot be read or are too many."""
        if isinstance(self.content, bytes):
            return self.content
        try:
            if self.content.stat().st_size > LARGEST_MEMBER:
                raise DataError(f"{self.content}: {_TOO_LARGE}")
            return self.content.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {self.content}: {error.strerror}") from error


_TOO_LARGE = f"larger than {LARGEST_MEMBER // 2**20} MiB"


def is_archive(file: Path) -> bool:
    """Whether the name of `file` is that of an archive."""
    return file.name.lower().endswith(SUFFIXES)


def stem(name: str) -> str:
    """Return a file name without its archive's ending."""
    ending = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(ending)]


def members(place: Path, wanted: re.Pattern[str], unread: re.Pattern[str] | None = None) -> Iterator[Member | Problem]:
    """Yield the files whose paths, with "/", in `place` the pattern `wanted` finds; a Problem for each that is refused.

    `place` is an archive (:data:`SUFFIXES`), a folder, which is searched whole and in order, or any other file, which
    stands for itself. Of a .tar, what `unread` finds comes too, with no content.

    Raises ArchiveError, after the members before, where the archive is damaged or cut short.
    """
    if place.is_dir():
        yield from _in_folder(place, wanted)
    elif is_archive(place):
        try:
            yield from _in_archive(place, wanted, unread)
        except ArchiveError as error:
            raise ArchiveError(f"{place}: {error}. Remove it and get it again.") from error
    elif wanted.search(place.name):
        yield Member(place.name, place)


def check_archive(file: Path) -> str | None:
    """Read the archive `file` to its end; return what is wrong with it, if anything is."""
    try:
        for item in _in_archive(file, wanted=re.compile(r"(?!)")):
            if isinstance(item, Problem):
                return f"{item.name}: {item.reason}"
        if _is_zip(file):
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
            return None if damaged is None else f"{damaged} is damaged"
    except ArchiveError as error:
        return str(error)
    except Exception as error:  # zipfile meets damaged members with exceptions of many kinds.
        return one_line(error)
    return None


def checksum(place: Path, wanted: re.Pattern[str]) -> str:
    """Return what tells one state of `place` from another: the MD5 of a file, or of a folder's names and sizes."""
    if place.is_dir():
        names = hashlib.md5(usedforsecurity=False)
        for member in _in_folder(place, wanted):
            size = member.content.stat().st_size if isinstance(member.content, Path) else 0
            names.update(f"{member.name}\0{size}\0".encode("utf-8", "surrogateescape"))
        return f"names and sizes, md5 {names.hexdigest()}"
    return f"md5 {md5(place)}"


def md5(file: Path) -> str:
    """Return the MD5 of a file in hexadecimal: what the datasets' publishers give, against accidents alone."""
    return hash_of(file, hashlib.md5(usedforsecurity=False))


def _in_folder(folder: Path, wanted: re.Pattern[str]) -> Iterator[Member]:
    """Links are followed: the folder is the user's own, and datasets often lie elsewhere."""
    for file in read_folder(folder, with_written=True).all_files():
        path = file.relative_to(folder).as_posix()
        if wanted.search(path) and not is_clutter(path):
            yield Member(path, file)


def _in_archive(
    file: Path, wanted: re.Pattern[str], unread: re.Pattern[str] | None = None
) -> Iterator[Member | Problem]:
    magic = _magic(file)
    limit = max(ALWAYS_ALLOWED, LARGEST_RATIO * file.stat().st_size)
    try:
        if _is_zip(file):
            with zipfile.ZipFile(file) as archive:
                yield from _in_zip(archive, wanted, limit)
        else:
            with gzip.open(file, "rb") if magic == b"\x1f\x8b" else file.open("rb") as unpacked:
                yield from _in_tar(cast(IO[bytes], unpacked), wanted, limit, unread)
    except ArchiveError:
        raise
    except Exception as error:  # Damaged archives are met with exceptions of every kind.
        raise ArchiveError(f"the archive is damaged or cut short ({one_line(error).rstrip('.')})") from error


def _is_zip(file: Path) -> bool:
    """Whether it is to be read as a .zip, by its name or its beginning, either of which may be wrong."""
    return file.name.lower().endswith(".zip") or _magic(file) == b"PK"


def _magic(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(2)
    except OSError as error:
        raise ArchiveError(f"it cannot be read ({error.strerror})") from error


def _in_zip(archive: zipfile.ZipFile, wanted: re.Pattern[str], limit: int) -> Iterator[Member | Problem]:
    for item in _listed(archive, wanted, limit):
        if isinstance(item, Problem):
            yield item
            continue
        try:
            content = _read(archive, item)
        except ArchiveError as error:
            yield Problem(item.filename, str(error))
        else:
            yield Member(item.filename, content)


def _listed(archive: zipfile.ZipFile, wanted: re.Pattern[str], limit: int) -> Iterator[zipfile.ZipInfo | Problem]:
    """Yield the wanted members of a .zip, unread, and a Problem for each that is refused."""
    infos = archive.infolist()
    if sum(info.file_size for info in infos) > limit:
        raise ArchiveError(_BOMB)
    for info in infos:
        name = info.filename
        if info.is_dir() or not wanted.search(name) or is_clutter(name):
            continue
        refusal = refusal_of(name, info.file_size, is_link=stat.S_ISLNK(info.external_attr >> 16))
        yield info if refusal is None else Problem(name, refusal)


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(info)
    except Exception as error:  # zipfile meets damaged members with exceptions of many kinds.
        raise ArchiveError(f"damaged in its archive: {one_line(error)}") from error


class OpenZip(contextlib.AbstractContextManager["OpenZip"]):
    """The files of a .zip, each of which is read when it is asked for.

    Raises ArchiveError where it cannot be read, or would expand without bound.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            with contextlib.ExitStack() as stack:
                self._archive = stack.enter_context(zipfile.ZipFile(file))
                limit = max(ALWAYS_ALLOWED, LARGEST_RATIO * file.stat().st_size)
                listed = list(_listed(self._archive, re.compile(""), limit))
                self._opened = stack.pop_all()
        except ArchiveError as error:
            raise ArchiveError(f"{file}: {error}. Remove it and get it again.") from error
        except Exception as error:  # Damaged archives are met with exceptions of every kind.
            raise ArchiveError(f"{file} is damaged or no .zip ({one_line(error)}). Get it again.") from error
        self.names = {item.filename: item for item in listed if isinstance(item, zipfile.ZipInfo)}
        self.refused = [item for item in listed if isinstance(item, Problem)]

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def open(self, name: str) -> IO[bytes]:
        """Open one of `names`; it fails as zipfile does."""
        return self._archive.open(self.names[name])

    def read(self, name: str) -> bytes:
        """Return the bytes of one of `names`; raises ArchiveError where it is damaged."""
        return _read(self._archive, self.names[name])


@dataclass
class TarHeaders:
    """What tarfile passes over in silence of a .tar, as far as it was read."""

    damaged: int = 0
    has_end: bool = False  # After the last member.

    def kind(self) -> type[tarfile.TarInfo]:
        """Return the `tarinfo` for `tarfile.open` that notes it here, and takes no name of gigabytes for one."""
        noted = self

        class Header(tarfile.TarInfo):
            @classmethod
            def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Header:
                noted.has_end = noted.has_end or (len(buf) == tarfile.BLOCKSIZE and not any(buf))
                try:
                    header = super().frombuf(buf, encoding, errors)
                    if header.size < 0 or (header.type in _OF_THE_NEXT and header.size > LARGEST_MEMBER):
                        raise tarfile.InvalidHeaderError("impossible size")  # type: ignore[attr-defined]
                except tarfile.InvalidHeaderError:  # type: ignore[attr-defined]
                    noted.damaged += 1
                    raise
                noted.has_end = False
                return header

        return Header


_OF_THE_NEXT = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
"""Kinds of headers that hold the name and the like of the next one, which tarfile reads whole."""


def _in_tar(
    unpacked: IO[bytes], wanted: re.Pattern[str], limit: int, unread: re.Pattern[str] | None = None
) -> Iterator[Member | Problem]:
    headers = TarHeaders()
    bounded = _Bounded(unpacked, limit)
    archive: tarfile.TarFile | None = None
    start, position, again = 0, -1, 0
    while True:
        try:
            if archive is None:
                bounded.seek(start)
                archive = tarfile.open(fileobj=bounded, mode="r:", tarinfo=headers.kind(), ignore_zeros=True)  # noqa: SIM115
            member = archive.next()
        except _Bomb:
            raise
        except (ArchiveError, tarfile.TarError):  # Such as a header that claims a name of gigabytes.
            start = (start if archive is None else archive.offset) + tarfile.BLOCKSIZE
            again += 1
            if again > _MOST_LIES or not _block(bounded, start):
                raise
            archive, headers.damaged = None, headers.damaged + 1
            continue
        if headers.damaged:
            yield Problem("a part of the archive", "damaged, and passed over")
            headers.damaged = 0
        if member is None:
            break
        if archive.offset <= position:
            raise ArchiveError("damaged: it leads back into itself")
        position = archive.offset
        archive.members.clear()  # type: ignore[attr-defined]  # It would keep them all.
        name = member.name
        is_wanted = not member.isdir() and wanted.search(name) is not None and not is_clutter(name)
        refusal = refusal_of(name, member.size, not member.isreg() or member.issparse())
        content, error = None, None
        if is_wanted and refusal is None:
            try:
                content = cast(IO[bytes], archive.extractfile(member)).read()
            except tarfile.TarError as short:
                error = short
        swallowed = None
        if content is not None:
            swallowed = _header_in(io.BytesIO(content), 0, len(content))
            swallowed = None if swallowed is None else member.offset_data + swallowed
        elif member.isreg() and (error is not None or not _leads_on(bounded, archive.offset)):
            swallowed = _header_in(bounded, member.offset_data, archive.offset)
        if swallowed is not None and again < _MOST_LIES:
            yield Problem(name, "its size in the archive is wrong; it is passed over, and what follows is read")
            archive, start, position, again = None, swallowed, swallowed, again + 1
        elif error is not None:
            raise error
        elif is_wanted:
            yield Problem(name, refusal or _LINK) if content is None else Member(name, content)
        elif unread is not None and refusal is None and unread.search(name) and not is_clutter(name):
            yield Member(name, b"")
    if not headers.has_end:
        raise ArchiveError("cut short: it has no end")


_MOST_LIES = 100
"""Wrong headers in one archive, after which it is given up: each costs a search for the next."""


def _block(opened: IO[bytes] | _Bounded, position: int) -> bytes:
    """The block at `position`, read from one byte before: tarfile goes back to there, and gzip to the beginning."""
    opened.seek(position - 1)
    return opened.read(1 + tarfile.BLOCKSIZE)[1:]


def _is_header(block: bytes) -> bool:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").size >= 0
    except tarfile.HeaderError:
        return False


def _leads_on(opened: _Bounded, position: int) -> bool:
    """Whether at `position` of a .tar there is what may follow a member."""
    try:
        block = _block(opened, position)
    except ArchiveError:
        return False
    return len(block) == tarfile.BLOCKSIZE and (not any(block) or _is_header(block))


def _header_in(opened: IO[bytes] | _Bounded, start: int, end: int) -> int | None:
    """Return where, between `start` and `end`, the first header stands: what is there is more than one member."""
    opened.seek(start)
    while start < end and (blocks := opened.read(min(2**20, end - start))):
        for offset in range(0, len(blocks), tarfile.BLOCKSIZE):
            if blocks[offset + 257 : offset + 262] == b"ustar" and _is_header(
                blocks[offset : offset + tarfile.BLOCKSIZE]
            ):
                return start + offset
        start += len(blocks)
    return None


class _Bomb(ArchiveError):
    """An archive expands without bound."""


class _Bounded(io.RawIOBase):
    """What an archive unpacks to, as far as is reasonable."""

    def __init__(self, unpacked: IO[bytes], limit: int) -> None:
        self._unpacked = unpacked
        self._limit = limit

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LARGEST_MEMBER:
            raise ArchiveError(f"damaged: a part of {size} bytes")
        content = self._unpacked.read(size)  # Which may be less than a header claims.
        self._check(self.tell())
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET:
            self._check(offset)
        return self._unpacked.seek(offset, whence)

    def tell(self) -> int:
        return self._unpacked.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def _check(self, position: int) -> None:
        if position > self._limit:
            raise _Bomb(_BOMB)


_BOMB = f"refused: it expands to more than {LARGEST_RATIO} times its size"
_LINK = "a link in an archive is refused"


def refusal_of(name: str, size: int, is_link: bool) -> str | None:
    """Return why a member is not read, if so."""
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
        return "it would land outside its folder, and is refused"
    if is_link:
        return _LINK
    return _TOO_LARGE if size > LARGEST_MEMBER else None


def is_clutter(path: str) -> bool:
    """Whether this is what macOS adds to archives, which looks like the image it belongs to."""
    return "__MACOSX/" in path or path.rsplit("/", 1)[-1].startswith("._")
