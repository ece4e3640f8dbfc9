"""English captions of a rendered image: true, different from one another, and silent about what they leave out."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ratlip_cli.demo.attributes import Attributes

CAPTIONS = 10
"""Captions of an image."""

LONGEST = 24
"""Words of a caption; with its start and end, no more than 32 tokens of CLIP's tokenizer."""

_SCENES = {
    "sky": ("under a blue sky", "against the blue sky", "in front of a blue sky"),
    "forest": ("in a green forest", "in the forest", "in front of a forest"),
    "sunset": ("at sunset", "in front of the setting sun", "under a sunset sky"),
    "snow": ("in the snow", "in a snowy landscape", "in winter snow"),
    "meadow": ("in a green meadow", "in a meadow", "in a grassy meadow"),
    "desert": ("in the desert", "among desert dunes", "in a sandy desert"),
}

_PERCHES = {
    "branch": ("on a branch", "on a thin branch", "on a tree branch"),
    "rock": ("on a rock", "on a grey rock", "on a stone"),
    "fence": ("on a fence", "on a wooden fence"),
    "grass": ("on the grass", "in green grass", "on the ground"),
}

_SKIN = {
    "light": ("fair skin", "light skin"),
    "tan": ("tan skin", "tanned skin"),
    "dark": ("dark skin", "dark brown skin"),
}

_SYNONYMS = {"grey": "gray", "purple": "violet", "blond": "blonde"}

_OPENINGS = ("", "", "", "", "a picture of ", "a drawing of ", "an illustration of ", "an image of ")


def captions(family: str, attributes: Attributes, rng: random.Random) -> tuple[str, ...]:
    """Ten different captions of an image with these attributes."""
    written: dict[str, None] = {}
    while len(written) < CAPTIONS:
        text = caption(family, attributes, rng)
        if len(text.split()) <= LONGEST:
            written.setdefault(text)
    return tuple(written)


def caption(family: str, attributes: Attributes, rng: random.Random) -> str:
    """One caption, with a random choice of what it mentions and how it says it."""
    spelled = {name: _SYNONYMS[v] if v in _SYNONYMS and rng.random() < 0.12 else v for name, v in attributes.items()}
    return _WRITE[family](spelled, rng)


def _bird(a: Attributes, rng: random.Random) -> str:
    noun = rng.choice(("bird", "bird", "bird", "songbird"))
    bill = rng.choice(("beak", "beak", "bill"))
    belly = rng.choice(("belly", "belly", "breast"))
    beak = rng.choice((f"{a['beak']} {bill}", f"{a['beak_length']} {bill}", f"{a['beak_length']} {a['beak']} {bill}"))
    body = a["body"] if rng.random() < 0.72 else ""
    wings = a["wings"] if rng.random() < 0.68 else ""
    features = _some(rng, [(_article(beak), 0.4), (_article(f"{a['belly']} {belly}"), 0.32)])
    direction = rng.choice(("facing {}", "facing {}", "looking {}", "looking to the {}", "turned to the {}"))
    facing = direction.format(a["facing"]) if rng.random() < 0.38 else ""
    perch = rng.choice(_PERCHES[a["perch"]]) if rng.random() < 0.34 else ""
    scene = rng.choice(_SCENES[a["background"]]) if rng.random() < 0.34 else ""
    sits = rng.choice(("sits", "perches", "stands"))
    with_wings = [*([f"{wings} wings"] if wings else []), *features]
    start, form = rng.choice(_OPENINGS), rng.random()
    if form < 0.2 and (body or with_wings):
        verbs = [f"is {body}" if body else "", f"has {_listed(with_wings)}" if with_wings else ""]
        verbs += [f"is {facing}" if facing else "", f"{sits} {perch}" if perch else ""]
        return _words(rng.choice(("this", "the")), noun, _listed([verb for verb in verbs if verb]), scene)
    if form < 0.34 and (perch or scene):
        who = _words(_article(_words(body, noun)), _with(with_wings))
        if perch and rng.random() < 0.5:
            return _words(who, sits, perch, scene)
        if not perch:
            return _words(f"{scene}, there is", who)
        return _words(f"{scene}," if scene else "", who, sits, perch)
    if form < 0.46 and wings:
        who, rest = _article(_words(f"{wings}-winged", body, noun)), _with(features)
    elif form < 0.58 and body:
        who, rest = f"a {noun}", _with(_shuffled(rng, [f"{_article(body)} body", *with_wings]))
    elif form < 0.68 and wings:
        who, rest = _article(_words(body, noun)), f"whose wings are {wings}"
    else:
        who, rest = _article(_words(body, noun)), _with(_shuffled(rng, with_wings))
    sitting = rng.choice(("", "sitting ", "perched ")) if perch else ""
    if facing and rest and rng.random() < 0.5:
        return _words(start + who, facing, rest, sitting + perch, scene)
    comma = "," if facing and rest else ""
    return _words(start + who, rest + comma, facing, sitting + perch, scene).replace(" ,", ",")


def _flower(a: Attributes, rng: random.Random) -> str:
    noun = rng.choice(("flower", "flower", "flower", "blossom"))
    middle = rng.choice(("centre", "centre", "center", "middle"))
    petals = rng.random() < 0.8
    colour = a["petals"] if petals else ""
    detail = _words(a["petal_count"] if rng.random() < 0.3 else "", a["petal_shape"] if rng.random() < 0.35 else "")
    centre = [f"{_article(a['centre'])} {middle}"] if rng.random() < 0.72 else []
    leaves = {"none": "no leaves", "one": "one leaf", "two": "two leaves"}[a["leaves"]]
    leafy = [leaves] if rng.random() < 0.24 else []
    scene = rng.choice(_SCENES[a["background"]]) if rng.random() < 0.38 else ""
    form = rng.random()
    if form < 0.3 and petals:
        whose = f"{_words(detail, colour)} petals"
        return _words(rng.choice(_OPENINGS) + f"a {noun}", _with(_shuffled(rng, [whose, *centre, *leafy])), scene)
    detailed = [f"{detail} petals"] if detail else []
    if form < 0.45 and (petals or centre or detailed):
        has = [*detailed, *centre, *leafy]
        verbs = [f"is {colour}" if colour else "", f"has {_listed(has)}" if has else ""]
        return _words(rng.choice(("this", "the")), noun, _listed([verb for verb in verbs if verb]), scene)
    if form < 0.58 and petals and centre:
        subject = rng.choice((f"the petals of this {noun} are {colour}", f"this {noun} has {colour} petals"))
        return _words(subject, f"and its {middle} is {a['centre']}", scene)
    if form < 0.7 and centre:
        who = _article(f"{colour} {noun}" if petals else noun)
        return _words(rng.choice(_OPENINGS) + who, f"whose {middle} is {a['centre']}", scene)
    who = _article(_words(colour, noun))
    features = _shuffled(rng, [*detailed, *centre, *leafy])
    if form < 0.8 and scene:
        return _words(f"{scene},", who, _with(features), rng.choice(("grows", "blooms")))
    return _words(rng.choice(_OPENINGS) + who, _with(features), scene)


def _face(a: Attributes, rng: random.Random) -> str:
    noun = rng.choice(("person", "person", "person", "face"))
    age = a["age"] if rng.random() < 0.34 else ""
    smiling = (a["smile"] == "yes") if rng.random() < 0.34 else None
    hair = rng.random() < 0.66
    length = a["hair_length"] if rng.random() < 0.34 else ""
    hairs = [f"{_words(length, a['hair'] if hair else '')} hair"] if hair or length else []
    beard = [_beard(a, rng)] if rng.random() < 0.3 else []
    skin = [rng.choice(_SKIN[a["skin"]])] if rng.random() < 0.26 else []
    glasses = ("glasses", 0.55) if a["glasses"] == "yes" else ("no glasses", 0.16)
    coloured = f"{_article(a['hat'])} hat"
    hat = ("no hat", 0.14) if a["hat"] == "none" else (rng.choice((coloured, coloured, "a hat")), 0.62)
    worn = _some(rng, [glasses, hat])
    scene = ""
    if rng.random() < 0.3:
        wall = rng.choice(("background", "background", "wall"))
        scene = rng.choice(("against", "in front of")) + f" {_article(a['background'])} {wall}"
    has = _shuffled(rng, [*hairs, *skin, *beard])
    form = rng.random()
    if form < 0.32 and (has or worn or smiling is not None):
        verbs = [f"has {_listed(has)}" if has else "", f"wears {_listed(worn)}" if worn else ""]
        verbs += [{True: "is smiling", False: "is not smiling", None: ""}[smiling]]
        return _words(rng.choice(("this", "the")), age, noun, _listed([verb for verb in verbs if verb]), scene)
    look = {True: rng.choice(("smiling", "happy", "")), False: rng.choice(("serious", "")), None: ""}[smiling]
    if smiling is not None and not look:
        has.append("a smile" if smiling else "a serious look")
    who = rng.choice((*_OPENINGS, "a portrait of ")) + _article(_words(look, age, noun))
    if worn and rng.random() < 0.5 and not any(thing.startswith("no ") for thing in worn):
        return _words(who, _with(has) + ("," if has else ""), f"wearing {_listed(worn)}", scene).replace(" ,", ",")
    return _words(who, _with([*has, *worn]), scene)


def _beard(a: Attributes, rng: random.Random) -> str:
    if a["beard"] == "no":
        return "no beard"
    return rng.choice(("a beard", f"{_article(a['hair'])} beard"))


def _some(rng: random.Random, choices: Sequence[tuple[str, float]]) -> list[str]:
    return _shuffled(rng, [text for text, odds in choices if rng.random() < odds])


def _shuffled(rng: random.Random, items: Sequence[str]) -> list[str]:
    return rng.sample(list(items), len(items))


def _with(features: Sequence[str]) -> str:
    return f"with {_listed(features)}" if features else ""


def _listed(items: Sequence[str]) -> str:
    """The items as English lists them, what is absent last: "no hat and glasses" would deny both."""
    items = sorted(items, key=lambda item: item.startswith("no "))
    if len(items) < 3:
        return " and ".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _words(*pieces: str) -> str:
    return " ".join(piece for piece in pieces if piece)


_WRITE = {"bird": _bird, "flower": _flower, "face": _face}
