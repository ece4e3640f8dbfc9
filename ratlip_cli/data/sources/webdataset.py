"""Shards of WebDataset: tar archives in which the files of one sample follow one another under one name.

000001.jpg  000001.txt                 a caption a line
000002.jpg  000002.json                or a JSON object, with captions, caption or text
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

from ratlip_cli.data import images
from ratlip_cli.data.archives import ArchiveError, Member, members
from ratlip_cli.data.layout import Json, Problem
from ratlip_cli.data.sources.tables import Row, caption_cells, json_object

SUFFIXES = (".tar", ".tar.gz", ".tgz")

_INSIDE = re.compile(rf"\.(?:{'|'.join(suffix[1:] for suffix in sorted(images.SUFFIXES))}|txt|json)$", re.IGNORECASE)


def is_shard(file: Path) -> bool:
    """Whether the name of `file` is that of a shard."""
    return file.name.lower().endswith(SUFFIXES)


def samples(shard: Path, caption_column: str | None = None) -> Iterator[Row | Problem]:
    """Yield the samples of `shard` in their order, and a Problem for what cannot be used.

    Captions are taken from the .json file where a `caption_column` is asked for or there is no .txt file. A shard that
    is damaged or cut short is a Problem after the samples before.
    """
    for key, files in groupby(_members(shard), key=_key):
        if isinstance(key, Problem):
            yield key
        else:
            yield _sample(key, files, caption_column)


def _members(shard: Path) -> Iterator[Member | Problem]:
    try:
        yield from members(shard, _INSIDE)
    except ArchiveError as error:
        yield Problem("its rest", str(error))


def _key(member: Member | Problem) -> str | Problem:
    """Return the path up to the first dot of the file's name, as WebDataset does."""
    if isinstance(member, Problem):
        return member
    folder, slash, name = member.name.rpartition("/")
    return f"{folder}{slash}{name.split('.', 1)[0]}"


def _sample(key: str, files: Iterable[Member | Problem], caption_column: str | None) -> Row | Problem:
    by_ending = {file.name.lower().rsplit(".", 1)[-1]: file for file in files if isinstance(file, Member)}
    text, columns = by_ending.pop("txt", None), by_ending.pop("json", None)
    if not by_ending:
        return Problem(key, "it has no image")
    image = next(iter(by_ending.values()))
    captions: tuple[str, ...] = ()
    further: Mapping[str, Json] = {}
    try:
        if text is not None and caption_column is None:
            captions = tuple(text.read().decode("utf-8-sig").splitlines())
        elif columns is not None:
            captions, further = caption_cells(json_object(columns.read().decode("utf-8-sig")), caption_column)
    except UnicodeDecodeError:
        return Problem(image.name, "its caption is not UTF-8")
    except ValueError as error:
        return Problem(image.name, str(error))
    return Row(image.name, captions, further, image.content)
