"""What a caption says, read from its words alone and not from the grammar that wrote it."""

from __future__ import annotations

import re

_SPELLINGS = {"gray": "grey", "violet": "purple", "blonde": "blond"}

_COLOUR = "(red|orange|yellow|green|blue|purple|pink|brown|black|white|grey|blond)"

_PATTERNS: dict[str, dict[str, tuple[str, ...]]] = {
    "bird": {
        "body": (rf"{_COLOUR} (?:song)?bird\b", rf"bird is {_COLOUR}", rf"{_COLOUR} body"),
        "wings": (rf"{_COLOUR} wings", rf"{_COLOUR}-winged", rf"wings are {_COLOUR}"),
        "belly": (rf"{_COLOUR} (?:belly|breast)",),
        "beak": (rf"{_COLOUR} (?:beak|bill)",),
        "beak_length": (rf"\b(short|long) (?:{_COLOUR} )?(?:beak|bill)",),
        "facing": (r"\b(?:facing|looking|turned)(?: to the)? (left|right)",),
        "perch": (r"on a (?:\w+ )*?(branch|rock|stone|fence)", r"(?:on the|in green) (grass|ground)"),
        "background": (r"\b(blue sky|forest|snow|snowy|sunset|setting sun)\b",),
    },
    "flower": {
        "petals": (
            rf"{_COLOUR} (?:flower|blossom|petals)",
            rf"(?:flower|blossom) is {_COLOUR}",
            rf"petals of this \w+ are {_COLOUR}",
        ),
        "centre": (rf"{_COLOUR} (?:centre|center|middle)", rf"(?:centre|center|middle) is {_COLOUR}"),
        "petal_count": (r"\b(five|six|eight)\b",),
        "petal_shape": (r"\b(round|pointed)\b",),
        "leaves": (r"\b(no|one|two) (?:leaf|leaves)",),
        "background": (r"\b(blue sky|meadow|desert|sunset|setting sun)\b",),
    },
    "face": {
        "hair": (rf"{_COLOUR} hair", rf"{_COLOUR} beard"),
        "hair_length": (rf"\b(short|long) (?:{_COLOUR} )?hair",),
        "skin": (r"\b(fair|light|tan|tanned|dark)(?: brown)? skin",),
        "glasses": (r"\b(no glasses|glasses)",),
        "smile": (r"\b(is not smiling|smiling|smile|happy|serious)\b",),
        "age": (r"\b(young|old)\b",),
        "hat": (rf"(?:{_COLOUR} hat|\b(no) hat|\b(a) hat)\b",),
        "beard": (r"\b(no beard|beard)",),
        "background": (rf"{_COLOUR} (?:background|wall)",),
    },
}
"""Family -> attribute -> patterns whose group is the value in the caption's words."""

_MEANINGS = {
    "perch": {"stone": "rock", "ground": "grass"},
    "background": {"blue sky": "sky", "snowy": "snow", "setting sun": "sunset"},
    "leaves": {"no": "none"},
    "skin": {"fair": "light", "tanned": "tan"},
    "glasses": {"no glasses": "no", "glasses": "yes"},
    "smile": {"is not smiling": "no", "serious": "no", "smiling": "yes", "smile": "yes", "happy": "yes"},
    "hat": {"no": "none", "a": "any"},
    "beard": {"no beard": "no", "beard": "yes"},
}
"""Attribute -> a caption's words -> the value they mean; other words are the value itself. A hat can be "any"."""


def said(family: str, caption: str) -> dict[str, str]:
    """The attributes that a caption of an image of `family` states, with their values."""
    for other, usual in _SPELLINGS.items():
        caption = re.sub(rf"\b{other}\b", usual, caption)
    stated = {}
    for attribute, patterns in _PATTERNS[family].items():
        for pattern in patterns:
            if match := re.search(pattern, caption):
                words = next(group for group in match.groups() if group)
                stated[attribute] = _MEANINGS.get(attribute, {}).get(words, words)
                break
    return stated


def holds(attribute_value: str, stated: str) -> bool:
    """Whether an image with this value of an attribute shows what a caption stated of it."""
    return attribute_value == stated or (stated == "any" and attribute_value != "none")
