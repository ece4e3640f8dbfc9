"""What a rendered image can show, and which combinations are kept out of training."""

from __future__ import annotations

import random
from collections.abc import Mapping

Attributes = Mapping[str, str]
"""Attribute name -> value, one entry for every attribute of the family."""

BIRD_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white", "grey")

ATTRIBUTES: dict[str, dict[str, tuple[str, ...]]] = {
    "bird": {
        "body": BIRD_COLOURS,
        "wings": BIRD_COLOURS,
        "belly": ("white", "yellow", "orange", "grey", "brown"),
        "beak": ("yellow", "orange", "red", "black"),
        "beak_length": ("short", "long"),
        "facing": ("left", "right"),
        "perch": ("branch", "rock", "fence", "grass"),
        "background": ("sky", "forest", "sunset", "snow"),
    },
    "flower": {
        "petals": ("red", "orange", "yellow", "pink", "purple", "blue", "white"),
        "centre": ("yellow", "orange", "red", "brown", "black", "white"),
        "petal_count": ("five", "six", "eight"),
        "petal_shape": ("round", "pointed"),
        "leaves": ("none", "one", "two"),
        "background": ("sky", "meadow", "sunset", "desert"),
    },
    "face": {
        "hair": ("black", "brown", "blond", "red", "grey"),
        "hair_length": ("short", "long"),
        "skin": ("light", "tan", "dark"),
        "glasses": ("no", "yes"),
        "smile": ("no", "yes"),
        "age": ("young", "old"),
        "hat": ("none", "red", "blue", "green", "yellow", "purple"),
        "beard": ("no", "yes"),
        "background": ("blue", "green", "pink", "yellow", "grey"),
    },
}
"""Family -> attribute -> its values."""

FAMILIES = tuple(ATTRIBUTES)

PAIRED = {"bird": ("body", "wings"), "flower": ("petals", "centre")}
"""The two attributes of a family whose colours always differ, and some of whose pairs training never sees."""

_ODDS = {"hat": 0.5, "beard": 0.35, "glasses": 0.45}
"""How often something that can be absent is there; every other attribute is uniform."""

HELD_OUT: dict[str, tuple[tuple[str, str], ...]] = {
    "bird": (
        ("red", "blue"),
        ("orange", "brown"),
        ("yellow", "orange"),
        ("yellow", "white"),
        ("blue", "purple"),
        ("purple", "red"),
        ("purple", "black"),
        ("brown", "yellow"),
        ("brown", "grey"),
        ("black", "blue"),
        ("white", "brown"),
        ("grey", "orange"),
        ("grey", "white"),
    ),
    "flower": (
        ("red", "white"),
        ("orange", "yellow"),
        ("yellow", "red"),
        ("pink", "black"),
        ("blue", "orange"),
        ("white", "brown"),
    ),
}
"""Family -> the pairs of colours that only the split `unseen` shows: about 15 %, at most two of any first colour."""


def _seen(family: str) -> tuple[tuple[str, str], ...]:
    first, second = (ATTRIBUTES[family][name] for name in PAIRED[family])
    return tuple((a, b) for a in first for b in second if a != b and (a, b) not in HELD_OUT[family])


SEEN = {family: _seen(family) for family in PAIRED}
"""Family -> the pairs of colours of the splits `train` and `test`."""


def sample_attributes(family: str, rng: random.Random, unseen: bool = False) -> dict[str, str]:
    """Draw one value for every attribute of `family`; with `unseen`, from the pairs held out of training."""
    attributes = {}
    for name, values in ATTRIBUTES[family].items():
        if name in _ODDS:
            absent, *present = values
            attributes[name] = rng.choice(present) if rng.random() < _ODDS[name] else absent
        else:
            attributes[name] = rng.choice(values)
    if family in PAIRED:
        first, second = PAIRED[family]
        attributes[first], attributes[second] = rng.choice((HELD_OUT if unseen else SEEN)[family])
    if family == "bird":
        attributes["belly"] = rng.choice([c for c in ATTRIBUTES["bird"]["belly"] if c != attributes["body"]])
    return attributes
