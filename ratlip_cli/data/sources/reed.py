"""The captions of Reed et al., "Learning Deep Representations of Fine-grained Visual Descriptions" (CVPR 2016).

Their archives hold ten captions for each image of CUB and of Oxford flowers, and the lists of classes that divide
both into training and test, so that no class of the test is seen in training.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ratlip_cli.data.archives import Member, members
from ratlip_cli.data.layout import Problem, Record
from ratlip_cli.errors import DataError

PAGE = "https://github.com/reedscot/cvpr2016"

INSIDE = re.compile(r"(?:^|/)(?:text_c10/[^/]+/[^/]+\.txt|(?:trainval|test)classes\.txt)$")
_LISTS = {"trainvalclasses": "train", "testclasses": "test"}


@dataclass(frozen=True)
class Reed:
    """What the archive of one dataset says."""

    captions: Mapping[tuple[str, str], tuple[str, ...]]  # By class and by the stem of the image's file.
    splits: Mapping[str, str]  # "train" or "test" of each class.
    problems: tuple[Problem, ...]

    def record(
        self, image: Member, path: str, directory: str, class_name: str, crop: tuple[int, int, int, int] | None = None
    ) -> Record | Problem:
        """Return the record of an image; a Problem where its class is in neither list.

        Reports call it `path`, whose stem is the record's name; its captions are in the class's folder `directory`.
        `class_name` is what the column `class` says.
        """
        if directory not in self.splits:
            return Problem(path, f"its class {directory} is in neither list of classes")
        name, split = PurePosixPath(path).stem, self.splits[directory]
        captions = self.captions.get((directory, name), ())
        return Record(name, split, captions, image.content, crop=crop, extra={"class": class_name}, origin=path)


def read_reed(place: Path) -> Reed:
    """Read an archive of captions, or a folder in which it is unpacked.

    Raises DataError where it is damaged, lacks a list of classes, or has a class in both.
    """
    captions: dict[tuple[str, str], tuple[str, ...]] = {}
    splits: dict[str, str] = {}
    problems = []
    for member in members(place, INSIDE):
        if isinstance(member, Problem):
            problems.append(member)
            continue
        class_name, name = ("", *member.name.removesuffix(".txt").split("/"))[-2:]
        lines = []
        for number, line in enumerate(member.read().splitlines(), start=1):
            try:
                # A sign that the archive's makers could not read stands in it as U+FFFD.
                lines.append(line.decode("utf-8-sig").replace("\N{REPLACEMENT CHARACTER}", " ").strip())
            except UnicodeDecodeError:
                problems.append(Problem(f"{member.name}, line {number}", "not UTF-8"))
        if name in _LISTS:
            for listed in filter(None, lines):
                if splits.setdefault(listed, _LISTS[name]) != _LISTS[name]:
                    raise DataError(f"{place} has the class {listed} in both lists. Get the archive again from {PAGE}")
        else:
            captions[class_name, name] = tuple(filter(None, lines))
    for name, split in _LISTS.items():
        if split not in splits.values():
            raise DataError(f"{place} holds no {name}.txt. Get the archive again from {PAGE}")
    return Reed(captions, splits, tuple(problems))
