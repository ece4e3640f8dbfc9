"""Shards of WebDataset: tar archives in which the files of one sample have one name, up to its first dot.

000001.jpg  000001.txt                 a caption a line
000002.jpg  000002.json                or a JSON object, with captions, caption or text
22.05.jpg   22.05.txt                  whole names come first: 22.06.jpg is another sample if it has its own caption
"""

from __future__ import annotations

import gzip
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, NamedTuple, cast

from ratlip_cli.data import images
from ratlip_cli.data.archives import ArchiveError, Member, TarHeaders, is_clutter, members, refusal_of
from ratlip_cli.data.layout import Problem
from ratlip_cli.data.sources.tables import Row, json_object, row_of
from ratlip_cli.data.sources.texts import decoded

_GZIP = b"\x1f\x8b"

SUFFIXES = (".tar", ".tar.gz", ".tgz")

_TEXTS = re.compile(r"\.(?:txt|caption|json)$", re.IGNORECASE)
_IMAGES = re.compile(rf"\.(?:{'|'.join(suffix[1:] for suffix in sorted(images.SUFFIXES))})$", re.IGNORECASE)


def is_shard(file: Path) -> bool:
    """Whether the name of `file` is that of a shard."""
    return file.name.lower().endswith(SUFFIXES)


def samples(shard: Path, caption_column: str | None = None) -> Iterator[Row | Problem]:
    """Yield the images of `shard` with their captions, in their order, and a Problem for what cannot be used.

    The shard is read twice, first its texts alone, so that the files of a sample need not follow one another. Captions
    are taken from the .json file where a `caption_column` is asked for or there is no .txt file. A shard that is
    damaged or cut short is a Problem after the samples before.
    """
    told: set[Problem] = set()
    names, texts = list[str](), list[Member]()
    for member in _members(shard, _TEXTS, _IMAGES):
        if isinstance(member, Problem):
            told.add(member)
            yield member
        elif _IMAGES.search(member.name):
            names.append(member.name)
        else:
            texts.append(member)
    texts_of, problems = _assigned(names, texts, caption_column)
    yield from problems
    images = (one for one in _members(shard, _IMAGES) if not (isinstance(one, Problem) and one in told))
    yield from _captioned(images, texts_of)


def streamed(opened: IO[bytes], caption_column: str | None = None) -> Iterator[Row | Problem]:
    """Yield what `samples` does of a shard that is read once, from its beginning to its end.

    The files of a sample must follow one another, as WebDataset and img2dataset write them. Raises tarfile.TarError, or
    what reading `opened` raises, after the samples before, where the shard is damaged or cut short.
    """
    key, found = "", list[Member]()
    for member in _regular_files(opened):
        if isinstance(member, Problem):
            yield member
        elif _IMAGES.search(member.name) or _TEXTS.search(member.name):
            if found and _key(member.name) != key:
                yield from _together(found, caption_column)
                found = []
            key = _key(member.name)
            found.append(member)
    if found:
        yield from _together(found, caption_column)


def _together(files: list[Member], asked: str | None) -> Iterator[Row | Problem]:
    """The images among the files of one sample; texts that are left over belong to it, and are no problem."""
    images = [member for member in files if _IMAGES.search(member.name)]
    texts = [member for member in files if _TEXTS.search(member.name)]
    texts_of, problems = _assigned([image.name for image in images], texts, asked)
    yield from _captioned(images, texts_of) if images else problems


def _captioned(images: Iterable[Member | Problem], texts_of: Mapping[str, _Texts]) -> Iterator[Row | Problem]:
    """The images with their captions; of several of one name, the first."""
    used: set[str] = set()
    for image in images:
        if isinstance(image, Problem):
            yield image
        elif image.name in used:
            yield Problem(image.name, f"two images of the shard are called {image.name}; the first is taken")
        else:
            used.add(image.name)
            yield _sample(image, texts_of.get(image.name, _Texts()))


def _regular_files(opened: IO[bytes]) -> Iterator[Member | Problem]:
    """The files of a tar in their order; a Problem for each that is refused."""
    headers, unpacked = TarHeaders(), cast(IO[bytes], _Unpacked(opened))
    with tarfile.open(fileobj=unpacked, mode="r|*", tarinfo=headers.kind(), ignore_zeros=True) as archive:
        for member in archive:
            if headers.damaged:
                break
            archive.members.clear()  # type: ignore[attr-defined]  # It would keep them all.
            if member.isdir() or is_clutter(member.name):
                continue
            if refusal := refusal_of(member.name, member.size, not member.isreg() or member.issparse()):
                yield Problem(member.name, refusal)
            else:
                yield Member(member.name, cast(IO[bytes], archive.extractfile(member)).read())
    if headers.damaged or not headers.has_end:
        raise tarfile.ReadError("cut short or damaged: it has no end")


class _Unpacked:
    """What is read of a file, unpacked where gzip has packed it: all its parts, of which tarfile reads the first."""

    def __init__(self, opened: IO[bytes]) -> None:
        self._opened, self._start = opened, opened.read(len(_GZIP))
        self.read: Callable[[int], bytes] = self._of_file
        if self._start == _GZIP:
            self.read = gzip.GzipFile(fileobj=cast(IO[bytes], SimpleNamespace(read=self._of_file)), mode="rb").read

    def _of_file(self, size: int) -> bytes:
        start, self._start = self._start[:size], self._start[size:]
        return start + self._opened.read(size - len(start))


class _Texts(NamedTuple):
    """The files that caption an image, or the one that has taken them."""

    text: Member | None = None
    columns: Member | None = None
    asked: str | None = None
    taken_by: str | None = None


def _members(shard: Path, wanted: re.Pattern[str], unread: re.Pattern[str] | None = None) -> Iterator[Member | Problem]:
    try:
        yield from members(shard, wanted, unread)
    except ArchiveError as error:
        yield Problem("its rest", str(error))


def _assigned(
    names: Sequence[str], found: Iterable[Member], asked: str | None
) -> tuple[dict[str, _Texts], list[Problem]]:
    """Return the texts of the images called `names` among those `found`, and what cannot be used of these."""
    problems: list[Problem] = []
    texts: dict[str, Member] = {}
    for member in found:
        if member.name in texts:
            problems.append(
                Problem(member.name, f"two texts of the shard are called {member.name}; the first is taken")
            )
        else:
            texts[member.name] = member
    stems: dict[str, list[Member]] = {}
    keys: dict[str, list[Member]] = {}
    for member in texts.values():
        stems.setdefault(_TEXTS.sub("", member.name), []).append(member)
    own = {name: mine for name in names if (mine := stems.get(_IMAGES.sub("", name)) or stems.get(name))}
    taken = {member.name for mine in own.values() for member in mine}
    for member in texts.values():
        if member.name not in taken:
            keys.setdefault(_key(member.name), []).append(member)
    first_of: dict[str, str] = {}
    for name in own:
        first_of.setdefault(_key(name), name)
    owner: dict[str, str] = {}
    assigned: dict[str, _Texts] = {}
    for name in dict.fromkeys(names):
        key = _key(name)
        if name in own:
            assigned[name] = _texts(own[name], asked)
        elif key in owner:
            assigned[name] = _Texts(taken_by=owner[key])
        elif key in keys:
            assigned[name] = _texts(keys[key], asked)
            owner[key] = name
        else:
            assigned[name] = _Texts(taken_by=first_of.get(key))
    alone = [key for key in keys if key not in owner]
    problems += [Problem(key, "it has no image") for key in alone]
    return assigned, problems


def _texts(found: list[Member], asked: str | None) -> _Texts:
    columns = next((member for member in found if member.name.lower().endswith(".json")), None)
    text = next((member for member in found if not member.name.lower().endswith(".json")), None)
    return _Texts(text if asked is None else None, columns, asked)


def _key(name: str) -> str:
    """Return the path up to the first dot of the file's name, as WebDataset does."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.split('.', 1)[0]}"


def _sample(image: Member, texts: _Texts) -> Row | Problem:
    if texts.taken_by is not None:
        return Problem(image.name, f"the caption of its sample went to {texts.taken_by}; give each image its own")
    try:
        if texts.text is not None:
            captions = decoded(texts.text.read(), texts.text.name.rsplit("/", 1)[-1]).splitlines()
            return Row(image.name, tuple(captions), image=image.content)
        if texts.columns is None:
            return Row(image.name, (), image=image.content)
        cells = json_object(decoded(texts.columns.read(), texts.columns.name.rsplit("/", 1)[-1]))
    except ValueError as error:
        return Problem(image.name, str(error))
    cells = {key: cell for key, cell in cells.items() if key not in {"file_name", "image"}}
    row = row_of(cells, texts.columns.name, texts.asked, image.name)
    return row._replace(image=image.content) if isinstance(row, Row) else row
