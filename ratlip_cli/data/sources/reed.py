"""The captions of Reed et al., "Learning Deep Representations of Fine-grained Visual Descriptions" (CVPR 2016).

Their archives hold ten sentences for each image of CUB and of Oxford flowers, and the lists of classes that divide
both into training and test, so that no class of the test is seen in training.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ratlip_cli.data.archives import members
from ratlip_cli.data.layout import Problem
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

    def split(self, class_name: str) -> str:
        """Return the split of a class; raises ValueError for one that is in neither list."""
        if class_name not in self.splits:
            raise ValueError(f"its class {class_name} is in neither list of classes")
        return self.splits[class_name]


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
        sentences = []
        for number, line in enumerate(member.read().splitlines(), start=1):
            try:
                # A sign that the archive's makers could not read stands in it as U+FFFD.
                sentences.append(line.decode("utf-8-sig").replace("\N{REPLACEMENT CHARACTER}", " ").strip())
            except UnicodeDecodeError:
                problems.append(Problem(f"{member.name}, line {number}", "not UTF-8"))
        if name in _LISTS:
            for listed in filter(None, sentences):
                if splits.setdefault(listed, _LISTS[name]) != _LISTS[name]:
                    raise DataError(f"{place} has the class {listed} in both lists. Get the archive again from {PAGE}")
        else:
            captions[class_name, name] = tuple(filter(None, sentences))
    for name, split in _LISTS.items():
        if split not in splits.values():
            raise DataError(f"{place} holds no {name}.txt. Get the archive again from {PAGE}")
    return Reed(captions, splits, tuple(problems))
