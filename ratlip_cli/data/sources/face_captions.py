"""Captions of faces, written from CelebA's attributes by a small grammar.

Only what an attribute says is said: an attribute that holds, and of those that do not, that a face is not male (a
woman) and not without a beard (a beard). Ten captions share out all that can be said of a face.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import NamedTuple

CAPTIONS = 10
"""Captions of each face."""

ATTRIBUTES = (
    *("5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose"),
    *("Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses"),
    *("Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache"),
    *("Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks"),
    *("Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick"),
    *("Wearing_Necklace", "Wearing_Necktie", "Young"),
)
"""CelebA's 40, in its order."""

_HAIR_COLOURS = {"Black_Hair": "black", "Blond_Hair": "blond", "Brown_Hair": "brown", "Gray_Hair": "gray"}
_HAIR_FORMS = {"Straight_Hair": "straight", "Wavy_Hair": "wavy"}
_NOSES = {"Big_Nose": "big", "Pointy_Nose": "pointy"}
_EYEBROWS = {"Bushy_Eyebrows": "bushy", "Arched_Eyebrows": "arched"}

_QUALITIES = {word.capitalize(): word for word in ("attractive", "smiling", "chubby", "bald", "young")}
"""In the order in which they stand before a noun."""

_FEATURES = {
    "5_o_Clock_Shadow": "a five o'clock shadow",
    "Bags_Under_Eyes": "bags under the eyes",
    "Bangs": "bangs",
    "Big_Lips": "big lips",
    "Double_Chin": "a double chin",
    "Goatee": "a goatee",
    "High_Cheekbones": "high cheekbones",
    "Mouth_Slightly_Open": "a slightly open mouth",
    "Mustache": "a mustache",
    "Narrow_Eyes": "narrow eyes",
    "Oval_Face": "an oval face",
    "Pale_Skin": "pale skin",
    "Receding_Hairline": "a receding hairline",
    "Rosy_Cheeks": "rosy cheeks",
    "Sideburns": "sideburns",
}

_WORN = {
    "Eyeglasses": "eyeglasses",
    "Heavy_Makeup": "heavy makeup",
    "Wearing_Earrings": "earrings",
    "Wearing_Hat": "a hat",
    "Wearing_Lipstick": "lipstick",
    "Wearing_Necklace": "a necklace",
    "Wearing_Necktie": "a necktie",
}

_OPENINGS = (
    *("{}", "This is {}", "Here is {}"),
    *("A picture of {}", "A photo of {}", "This is a picture of {}", "This is a photo of {}"),
    *("The picture shows {}", "The photo shows {}", "This picture shows {}", "This photo shows {}"),
)


class _Kind(Enum):
    """Where in a caption a fact can stand."""

    QUALITY = auto()  # "a bald man", "is bald"
    FEATURE = auto()  # "with bangs", "has bangs"
    WORN = auto()  # "wearing a hat", "wears a hat"
    BLURRY = auto()  # "a blurry picture of"


class _Fact(NamedTuple):
    """Something that is true of a face, and the phrases that say it."""

    kind: _Kind
    phrases: tuple[str, ...]


def face_captions(attributes: Mapping[str, bool], number: int) -> tuple[str, ...]:
    """Write ten captions of face `number`, of which each of the 40 `attributes` holds or does not.

    They are the same for the same arguments, on every machine, and all different.
    """
    rng = random.Random(f"celeba-tiny/{number}")
    facts = _facts(attributes)
    rng.shuffle(facts)
    share = max(1, math.ceil(len(facts) / CAPTIONS))
    captions: list[str] = []
    dealt = 0
    while len(captions) < CAPTIONS:
        fewest = 0 if len(facts) == 1 and captions else share  # One fact is too little for ten captions.
        count = min(len(facts), rng.randint(fewest, share + 2))
        chosen = [facts[(dealt + place) % len(facts)] for place in range(count)]
        caption = _caption("man" if attributes["Male"] else "woman", chosen, rng)
        if caption not in captions:
            captions.append(caption)
            dealt += count
    return tuple(captions)


def _facts(attributes: Mapping[str, bool]) -> list[_Fact]:
    """Return all that is said of a face, besides whether it is a man's or a woman's."""

    def holding(words: Mapping[str, str]) -> list[str]:
        return [word for attribute, word in words.items() if attributes[attribute]]

    facts = [_Fact(_Kind.QUALITY, (word,)) for word in holding(_QUALITIES)]
    facts += [_Fact(_Kind.FEATURE, (phrase,)) for phrase in holding(_FEATURES)]
    facts += [_Fact(_Kind.WORN, (phrase,)) for phrase in holding(_WORN)]
    if noses := holding(_NOSES):
        facts.append(_Fact(_Kind.FEATURE, (f"a {', '.join(noses)} nose", f"a {noses[0]} nose")))
    if eyebrows := holding(_EYEBROWS):
        facts.append(_Fact(_Kind.FEATURE, (f"{', '.join(eyebrows)} eyebrows", f"{eyebrows[0]} eyebrows")))
    hair = [] if attributes["Bald"] else _hair(holding(_HAIR_COLOURS), holding(_HAIR_FORMS))
    if hair:
        facts.append(_Fact(_Kind.FEATURE, tuple(hair)))
    if attributes["Male"] and not attributes["No_Beard"]:
        facts.append(_Fact(_Kind.FEATURE, ("a beard",)))
    if attributes["Male"] and attributes["No_Beard"] and not attributes["Goatee"]:
        facts.append(_Fact(_Kind.FEATURE, ("no beard",)))
    if attributes["Blurry"]:
        facts.append(_Fact(_Kind.BLURRY, ("blurry",)))
    return facts


def _hair(colours: Sequence[str], forms: Sequence[str]) -> list[str]:
    """Return the phrases for hair of these colours and forms: of both, or of one of them."""
    colour = [" and ".join(colours[:2])] if colours else []
    described = [f"{form} {word}" for form in forms for word in colour]
    return [f"{words} hair" for words in [*described, *colour, *forms]]


def _caption(noun: str, facts: Sequence[_Fact], rng: random.Random) -> str:
    said: dict[_Kind, list[str]] = {kind: [] for kind in _Kind}
    for fact in facts:
        said[fact.kind].append(rng.choice(fact.phrases))
    said[_Kind.QUALITY].sort(key=list(_QUALITIES.values()).index)
    if said[_Kind.BLURRY] or len(facts) == 0 or rng.random() < 0.4:
        return _noun_phrase(noun, said, rng)
    return _statement(noun, said, rng)


def _noun_phrase(noun: str, said: Mapping[_Kind, Sequence[str]], rng: random.Random) -> str:
    """A noun phrase, or one that something shows: "A photo of a bald man with big lips, wearing a hat."."""
    words = " ".join([*said[_Kind.QUALITY], noun])
    phrase = f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
    if said[_Kind.FEATURE]:
        phrase += f" with {_enumeration(said[_Kind.FEATURE])}"
    if said[_Kind.WORN]:
        phrase += f"{',' if said[_Kind.FEATURE] else ''} wearing {_enumeration(said[_Kind.WORN])}"
    blurry = bool(said[_Kind.BLURRY])
    opening = rng.choice([words for words in _OPENINGS if not blurry or "picture" in words or "photo" in words])
    if blurry:
        opening = opening.replace("picture", "blurry picture").replace("photo", "blurry photo")
    return _as_sentence(opening.format(phrase))


def _statement(noun: str, said: Mapping[_Kind, Sequence[str]], rng: random.Random) -> str:
    """Subject and predicates: "This young man has big lips and wears a hat."."""
    qualities = list(said[_Kind.QUALITY])
    has_others = bool(said[_Kind.FEATURE] or said[_Kind.WORN])
    before_noun = qualities if has_others and rng.random() < 0.5 else []
    predicates = [f"is {_enumeration(qualities)}"] if qualities and not before_noun else []
    if said[_Kind.FEATURE]:
        predicates.append(f"has {_enumeration(said[_Kind.FEATURE])}")
    if said[_Kind.WORN]:
        predicates.append(f"{rng.choice(('wears', 'is wearing'))} {_enumeration(said[_Kind.WORN])}")
    subject = " ".join([rng.choice(("the", "this")), *before_noun, noun])
    if not before_noun and rng.random() < 0.4:
        subject = "he" if noun == "man" else "she"
    return _as_sentence(f"{subject} {_enumeration(predicates)}")


def _enumeration(phrases: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"; with a comma before the last "and" where a phrase has one of its own."""
    if len(phrases) == 1:
        return phrases[0]
    last = ", and" if any(" and " in phrase for phrase in phrases) else " and"
    return f"{', '.join(phrases[:-1])}{last} {phrases[-1]}"


def _as_sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."
