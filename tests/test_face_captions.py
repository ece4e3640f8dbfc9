"""Captions of faces are true to the attributes, say nothing else, and are English."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

import pytest

from ratlip_cli.data.sources.face_captions import ATTRIBUTES, CAPTIONS, face_captions

COLOUR = "(?:black|blond|brown|gray)"
SAYS = {
    "5_o_Clock_Shadow": r"five o'clock shadow",
    "Arched_Eyebrows": r"arched eyebrows",
    "Attractive": r"attractive",
    "Bags_Under_Eyes": r"bags under the eyes",
    "Bald": r"bald",
    "Bangs": r"bangs",
    "Big_Lips": r"big lips",
    "Big_Nose": r"big(?:, pointy)? nose",
    "Black_Hair": rf"black(?: and {COLOUR})? hair",
    "Blond_Hair": rf"(?:{COLOUR} and )?blond(?: and {COLOUR})? hair",
    "Blurry": r"blurry (?:picture|photo)",
    "Brown_Hair": rf"(?:{COLOUR} and )?brown(?: and {COLOUR})? hair",
    "Bushy_Eyebrows": r"bushy(?:, arched)? eyebrows",
    "Chubby": r"chubby",
    "Double_Chin": r"double chin",
    "Eyeglasses": r"eyeglasses",
    "Goatee": r"goatee",
    "Gray_Hair": rf"(?:{COLOUR} and )?gray hair",
    "Heavy_Makeup": r"heavy makeup",
    "High_Cheekbones": r"high cheekbones",
    "Male": r"man|he",
    "Mouth_Slightly_Open": r"slightly open mouth",
    "Mustache": r"mustache",
    "Narrow_Eyes": r"narrow eyes",
    "No_Beard": r"no beard",
    "Oval_Face": r"oval face",
    "Pale_Skin": r"pale skin",
    "Pointy_Nose": r"(?:big, )?pointy nose",
    "Receding_Hairline": r"receding hairline",
    "Rosy_Cheeks": r"rosy cheeks",
    "Sideburns": r"sideburns",
    "Smiling": r"smiling",
    "Straight_Hair": rf"straight(?: {COLOUR}(?: and {COLOUR})?)? hair",
    "Wavy_Hair": rf"wavy(?: {COLOUR}(?: and {COLOUR})?)? hair",
    "Wearing_Earrings": r"earrings",
    "Wearing_Hat": r"hat",
    "Wearing_Lipstick": r"lipstick",
    "Wearing_Necklace": r"necklace",
    "Wearing_Necktie": r"necktie",
    "Young": r"young",
}
"""What in a caption claims that an attribute holds. Written apart from the grammar that is tested."""

DENIES = {"Male": r"woman|she", "No_Beard": r"(?<!no )beard"}
"""What claims that an attribute does not hold."""

OTHER_WORDS = {
    *("a", "an", "and", "the", "this", "here", "is", "has", "wears", "wearing", "with", "of", "shows"),
    *("picture", "photo"),
}
"""Words that claim nothing by themselves."""


def faces(count: int) -> list[dict[str, bool]]:
    """Attributes of `count` faces: from none to all, contradictory ones among them."""
    rng = random.Random(0)
    return [{name: rng.random() < number / (count - 1) for name in ATTRIBUTES} for number in range(count)]


def claims(caption: str) -> dict[str, bool]:
    text = caption.lower()
    found = {name: True for name, pattern in SAYS.items() if re.search(rf"\b(?:{pattern})\b", text)}
    return found | {name: False for name, pattern in DENIES.items() if re.search(rf"\b(?:{pattern})\b", text)}


FACES = faces(400)


def test_captions_are_true_and_together_say_all_there_is() -> None:
    for number, attributes in enumerate(FACES):
        told: dict[str, bool] = {}
        for caption in face_captions(attributes, number):
            found = claims(caption)
            assert {name: attributes[name] for name in found} == found, caption
            told |= found
        silent = {name for name, holds in attributes.items() if holds} - told.keys()
        assert silent <= may_be_silent(attributes), (silent, number)


def may_be_silent(attributes: Mapping[str, bool]) -> set[str]:
    """What holds and may go unsaid: one of several colours or forms, hair of the bald, beards of women."""
    silent = {"No_Beard"} if not attributes["Male"] or attributes["Goatee"] else set()
    hair = {"Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Straight_Hair", "Wavy_Hair"}
    pairs = {"Big_Nose", "Pointy_Nose", "Bushy_Eyebrows", "Arched_Eyebrows"}
    return silent | hair | pairs


def test_no_word_says_anything_else() -> None:
    for number, attributes in enumerate(FACES):
        for caption in face_captions(attributes, number):
            rest = caption.lower()
            first = [SAYS[name] for name in ("Straight_Hair", "Wavy_Hair", "Bushy_Eyebrows", "Pointy_Nose")]
            for pattern in (*first, *SAYS.values(), *DENIES.values()):
                rest = re.sub(rf"\b(?:{pattern})\b", " ", rest)
            assert set(re.findall(r"[\w']+", rest)) <= OTHER_WORDS, caption


def test_captions_are_english() -> None:
    for number, attributes in enumerate(FACES):
        for caption in face_captions(attributes, number):
            assert re.fullmatch(r"[A-Z][a-z',]*(?: [a-z][a-z',]*)*\.", caption), caption
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", caption.lower()), caption
            assert not re.search(r"\b(\w+) \1\b|,,|, \.|and \.|with (?:and|,)|and and", caption), caption
            subject = re.match(r"(?:The|This)(?: \w+)* (?:man|woman) (\w+)|(?:He|She) (\w+)", caption)
            opening = re.match(
                r"(?:This is |Here is |(?:The|This)(?: blurry)? (?:picture|photo) shows )?[Aa]n? ", caption
            )
            assert opening or (subject and (subject[1] or subject[2]) in {"is", "has", "wears"}), caption
            assert not re.search(r"\bhe\b.*\bwoman\b|\bshe\b.*\bman\b", caption.lower()), caption


def test_ten_different_captions_of_varied_form() -> None:
    openings = set()
    for number, attributes in enumerate(FACES):
        captions = face_captions(attributes, number)
        assert len(captions) == len(set(captions)) == CAPTIONS
        openings |= {" ".join(caption.split()[:2]) for caption in captions}
    assert len(openings) >= 20


@pytest.mark.parametrize("name", ["Blurry", "Young", "Wearing_Hat", "Big_Nose", "Bald", "No_Beard"])
def test_a_single_attribute_is_enough(name: str) -> None:
    for number in range(50):
        attributes = {attribute: attribute == name for attribute in ATTRIBUTES}
        captions = face_captions(attributes, number)
        assert len(set(captions)) == CAPTIONS
        assert claims(captions[0]).get(name, name == "No_Beard")


def test_the_same_face_has_the_same_captions() -> None:
    attributes = FACES[150]
    assert face_captions(attributes, 7) == face_captions(dict(attributes), 7)
    assert face_captions(attributes, 7) != face_captions(attributes, 8)
    known = {name: name in ("Male", "Young", "Smiling", "Brown_Hair", "Wearing_Hat") for name in ATTRIBUTES}
    assert face_captions(known, 0)[:3] == PUBLISHED


PUBLISHED = (
    "The man has brown hair.",
    "He has a beard and is wearing a hat.",
    "Here is a young man.",
)
"""What was written once is written for ever: datasets are made of it."""
