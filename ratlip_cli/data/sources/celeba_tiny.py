"""CelebA-tiny: 10,000 of the 30,000 faces of CelebAMask-HQ, each with ten captions.

The paper's authors chose theirs at random and published neither the choice nor the captions. Here the choice is the
list celeba_tiny.txt in this package, and the captions are those of Multi-Modal-CelebA-HQ where the user has them, else
written from the attributes (:mod:`ratlip_cli.data.sources.face_captions`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files

from ratlip_cli.data.archives import members
from ratlip_cli.data.download import RemoteFile, google_drive
from ratlip_cli.data.layout import Problem, Record
from ratlip_cli.data.sources.face_captions import ATTRIBUTES, face_captions
from ratlip_cli.data.sources.official import Official, Piece, Places, missing, texts
from ratlip_cli.errors import DataError

PAGE = "https://github.com/switchablenorms/CelebAMask-HQ"

FACES = RemoteFile(name="CelebAMask-HQ.zip", addresses=google_drive("1badu11NqxGf6qM3PTTooQDJvQbejgbTv"), page=PAGE)
CAPTIONS = RemoteFile(name="celeba-caption.zip", addresses=(), page="https://github.com/IIGROUP/MM-CelebA-HQ-Dataset")

LIST = "celeba_tiny.txt"
LIST_SHA256 = "8ea57003b3f7dd07440176372041618d8dcad508b887b62aa4d0ceb79493db4a"
"""Of the list: the 10,000 numbers n with the smallest SHA-256 of "celeba-tiny/n"; the first 8,000 of them are train."""

_IMAGE = re.compile(r"(?:^|/)CelebA-HQ-img/((\d+)\.jpg)$")
_ATTRIBUTES = "CelebAMask-HQ-attribute-anno.txt"
_CAPTION = re.compile(r"(?:^|/)celeba-caption/(\d+)\.txt$")


def tiny_list() -> dict[int, str]:
    """Return the split, "train" or "test", of each of the 10,000 faces; raises DataError where the list was changed."""
    content = files(__package__).joinpath(LIST).read_bytes()
    if hashlib.sha256(content).hexdigest() != LIST_SHA256:
        raise DataError(f"the list {LIST} in the package has been changed. Install ratlip again.")
    return {int(number): split for number, split in (line.split() for line in content.decode().splitlines())}


def records(places: Places) -> Iterator[Record | Problem]:
    """Yield the faces in the order of their archive, see :class:`Official`."""
    splits = tiny_list()
    attributes, problems = _attributes(places)
    yield from problems
    captions, problems = _captions(places, splits) if CAPTIONS.name in places else (None, [])
    yield from problems
    present = set()
    for member in members(places[FACES.name], _IMAGE):
        match = _IMAGE.search(member.name)
        path, number = (match[1], int(match[2])) if match else ("", -1)
        if number not in splits:
            continue
        present.add(path)
        if isinstance(member, Problem):
            yield member
        elif number not in attributes:
            yield Problem(path, f"it has no line in {_ATTRIBUTES}")
        else:
            has = attributes[number]
            written = face_captions(has, number) if captions is None else captions.get(number, ())
            extra = {"attributes": [name for name in ATTRIBUTES if has[name]]}
            yield Record(str(number), splits[number], written, member.content, extra=extra, origin=path)
    yield from missing((f"{number}.jpg" for number in splits), present)


def _attributes(places: Places) -> tuple[dict[int, Mapping[str, bool]], list[Problem]]:
    """Return the attributes of each face, and the lines that cannot be used; raises DataError for another table."""
    (table,) = texts(places[FACES.name], _ATTRIBUTES)
    names = table[1].split() if len(table) > 1 else []
    if sorted(names) != sorted(ATTRIBUTES):
        raise DataError(f"{places[FACES.name]}: the second line of {_ATTRIBUTES} does not name the 40 attributes.")
    attributes: dict[int, Mapping[str, bool]] = {}
    problems = []
    for number, line in enumerate(table[2:], start=3):
        file, *values = line.split() or [""]
        if not re.fullmatch(r"\d{1,9}\.jpg", file) or len(values) != len(names) or not {*values} <= {"1", "-1"}:
            problems.append(Problem(f"{_ATTRIBUTES}, line {number}", "not an image and 40 times 1 or -1"))
        else:
            face = int(file.removesuffix(".jpg"))
            attributes[face] = {name: value == "1" for name, value in zip(names, values, strict=True)}
    return attributes, problems


def _captions(places: Places, splits: Mapping[int, str]) -> tuple[dict[int, tuple[str, ...]], list[Problem]]:
    """Return the user's captions of the faces in `splits`, and the files that cannot be used."""
    captions: dict[int, tuple[str, ...]] = {}
    problems = []
    for member in members(places[CAPTIONS.name], _CAPTION):
        match = _CAPTION.search(member.name)
        if isinstance(member, Problem) or match is None:
            problems.append(member if isinstance(member, Problem) else Problem(member.name, "not a number"))
            continue
        try:
            text = member.read().decode("utf-8-sig")
        except UnicodeDecodeError:
            problems.append(Problem(member.name, "not UTF-8"))
        else:
            if int(match[1]) in splits:
                captions[int(match[1])] = tuple(text.splitlines())
    return captions, problems


DATASET = Official(
    name="celeba-tiny",
    source=f"10,000 images of CelebAMask-HQ, {PAGE}",
    licence="non-commercial research, no redistribution of the images or of what is derived from them",
    split_rule=f"8,000 train and 2,000 test, drawn once: {LIST} in ratlip, SHA-256 {LIST_SHA256}",
    pieces=(
        Piece(FACES, re.compile(rf"{_IMAGE.pattern}|(?:^|/){re.escape(_ATTRIBUTES)}$")),
        Piece(CAPTIONS, _CAPTION, required=False),
    ),
    counts={"train": 8_000, "test": 2_000},
    records=records,
    must_be_accepted=True,
)
