"""Faces."""

from __future__ import annotations

import math
import random

from ratlip_cli.demo.attributes import Attributes
from ratlip_cli.demo.canvas import INK, WHITE, Canvas, Colour, dark_tone, ellipse, mix, placing, smooth, symmetric, vary

SEGMENTS = ("shirt", "skin", "hair", "eyes", "mouth", "beard", "glasses", "hat")

BACKDROPS: dict[str, Colour] = {
    "blue": (158, 196, 236),
    "green": (172, 214, 170),
    "pink": (246, 192, 208),
    "yellow": (248, 228, 152),
    "grey": (202, 204, 208),
}
"""Colour name -> the wall behind the face."""

HAIR: dict[str, Colour] = {
    "black": (42, 38, 44),
    "brown": (104, 56, 24),
    "blond": (240, 204, 104),
    "red": (206, 80, 28),
    "grey": (172, 174, 180),
}
"""Colour name -> hair and beard, before light and shade."""

SKIN: dict[str, Colour] = {"light": (252, 218, 190), "tan": (222, 170, 124), "dark": (150, 104, 76)}
"""Skin -> its colour, before light and shade."""

HATS: dict[str, Colour] = {
    "red": (206, 40, 48),
    "blue": (48, 96, 204),
    "green": (52, 150, 76),
    "yellow": (250, 212, 50),
    "purple": (136, 68, 178),
}
"""Colour name -> hat, before light and shade."""

_SHIRTS = ((92, 118, 150), (188, 196, 204), (120, 146, 120), (168, 124, 118), (84, 84, 100), (222, 212, 192))


def backdrop(attributes: Attributes) -> tuple[Colour, ...]:
    """The gradient behind a face, from top to bottom."""
    colour = BACKDROPS[attributes["background"]]
    return (mix(colour, WHITE, 0.3), colour, mix(colour, INK, 0.12))


def render(attributes: Attributes, canvas: Canvas, rng: random.Random) -> None:
    """Render a face with hair, neck and shoulders in front of a wall of one colour."""
    wall = BACKDROPS[attributes["background"]]
    x, y, scale = 0.5 + rng.uniform(-0.04, 0.04), 0.49 + rng.uniform(-0.03, 0.03), rng.uniform(0.76, 0.86)
    canvas.polygon(ellipse(x, y - 0.02, 0.38, 0.38), mix(wall, WHITE, 0.22))
    face = canvas.at(placing(x, y, scale, rng.uniform(-0.1, 0.1)))
    width = rng.uniform(0.225, 0.255)
    skin, hair = vary(SKIN[attributes["skin"]], rng, 7), vary(HAIR[attributes["hair"]], rng, 7)
    if attributes["hair_length"] == "long":
        _long_hair(face, hair, width, rng)
    _shoulders(canvas.at(placing(x, y, scale)), skin, vary(rng.choice(_SHIRTS), rng, 10))
    _head(face, skin, width)
    if attributes["beard"] == "yes":
        _beard(face, hair, width)
    _features(face, skin, hair, attributes, rng)
    _mouth(face, attributes["smile"] == "yes")
    _hair(face, hair, width, attributes["hair_length"], rng)
    if attributes["glasses"] == "yes":
        _glasses(face, width, rng)
    if attributes["hat"] != "none":
        _hat(face, vary(HATS[attributes["hat"]], rng, 7), width, rng)


def _long_hair(face: Canvas, hair: Colour, width: float, rng: random.Random) -> None:
    low, wide = rng.uniform(0.36, 0.42), width + rng.uniform(0.09, 0.12)
    half = [(0.0, -0.36), (wide * 0.75, -0.27), (wide, 0.0), (wide * 1.06, 0.2), (wide * 0.9, low), (0.0, low - 0.04)]
    face.outlined(smooth(symmetric(half)), mix(hair, INK, 0.08), "hair")


def _shoulders(upright: Canvas, skin: Colour, shirt: Colour) -> None:
    trunk = smooth(symmetric([(0.0, 0.38), (0.22, 0.4), (0.42, 0.54), (0.46, 0.9)]))
    upright.outline(trunk, dark_tone(shirt))
    upright.polygon(trunk, shirt, "shirt")
    neck = [(-0.1, 0.2), (0.1, 0.2), (0.11, 0.4), (0.0, 0.46), (-0.11, 0.4)]
    upright.polygon(neck, mix(skin, INK, 0.14), "skin")


def _head(face: Canvas, skin: Colour, width: float) -> None:
    for side in (-1, 1):
        ear = ellipse(side * width * 1.02, 0.03, 0.045, 0.065, count=16)
        face.outlined(ear, mix(skin, INK, 0.06), "skin", 0.6)
    half = [(0.0, -0.31), (width * 0.78, -0.22), (width, -0.02), (width * 0.86, 0.17), (width * 0.42, 0.295)]
    face.outlined(smooth(symmetric([*half, (0.0, 0.32)])), skin, "skin", 0.55)


def _beard(face: Canvas, hair: Colour, width: float) -> None:
    corners = [(-width, 0.02), (-width * 0.9, 0.2), (-width * 0.46, 0.335), (0.0, 0.37)]
    corners += [(width * 0.46, 0.335), (width * 0.9, 0.2), (width, 0.02)]
    corners += [(width * 0.72, 0.12), (width * 0.4, 0.115), (0.0, 0.1), (-width * 0.4, 0.115), (-width * 0.72, 0.12)]
    shape = smooth(corners)
    face.outline(shape, dark_tone(hair), 0.016)
    face.polygon(shape, mix(hair, INK, 0.06), "beard")
    for u in (-0.5, -0.2, 0.2, 0.5):
        face.line([(u * width, 0.24), (u * width * 0.9, 0.31)], mix(hair, WHITE, 0.18), 0.008)


def _features(face: Canvas, skin: Colour, hair: Colour, attributes: Attributes, rng: random.Random) -> None:
    old = attributes["age"] == "old"
    line = mix(skin, INK, 0.5)
    iris = rng.choice([(70, 104, 150), (88, 62, 40), (80, 118, 76)])
    brow = mix(hair, WHITE, 0.4) if old else mix(hair, INK, 0.25)
    for side in (-1, 1):
        u = side * 0.105
        face.polygon(ellipse(u, -0.015, 0.055, 0.036 if old else 0.044, count=18), (250, 250, 248), "eyes")
        face.polygon(ellipse(u, -0.012, 0.031, 0.033, count=14), iris, "eyes")
        face.polygon(ellipse(u, -0.012, 0.018, 0.02, count=10), INK, "eyes")
        lid = [(u - 0.058, -0.03), (u - 0.03, -0.058), (u + 0.03, -0.058), (u + 0.058, -0.03)]
        face.line(lid, mix(skin, INK, 0.7), 0.013)
        face.line([(u - side * 0.05, -0.1), (u + side * 0.01, -0.122), (u + side * 0.06, -0.1)], brow, 0.024)
        if not old and attributes["beard"] == "no":
            face.polygon(ellipse(side * 0.15, 0.095, 0.042, 0.03, count=16), mix(skin, (236, 96, 96), 0.32), "skin")
    face.line([(0.005, -0.02), (0.035, 0.075), (-0.02, 0.085)], line, 0.015)
    if old:
        for v, half in ((-0.165, 0.1), (-0.205, 0.085)):
            face.line([(-half, v + 0.008), (-half / 2, v), (half / 2, v), (half, v + 0.008)], line, 0.012)
        for side in (-1, 1):
            face.line([(side * 0.06, 0.05), (side * 0.16, 0.055)], line, 0.011)
            face.line([(side * 0.075, 0.095), (side * 0.13, 0.17)], line, 0.013)


def _mouth(face: Canvas, smiling: bool) -> None:
    lips = (178, 66, 70)
    if smiling:
        arc = [(0.105 * math.cos(t * math.pi / 8), 0.15 + 0.085 * math.sin(t * math.pi / 8)) for t in range(9)]
        face.polygon(arc, (250, 248, 244), "mouth")
        face.line([*arc, arc[0], arc[1]], lips, 0.019, "mouth")
    else:
        face.line([(-0.075, 0.2), (0.0, 0.192), (0.075, 0.2)], lips, 0.028, "mouth")


def _hair(face: Canvas, hair: Colour, width: float, length: str, rng: random.Random) -> None:
    parting, fringe, wide = rng.uniform(-0.6, 0.6) * width, rng.uniform(-0.215, -0.18), width + 0.035
    low = 0.14 if length == "long" else 0.0
    outside = [(-wide, low), (-wide * 1.07, -0.14), (-wide * 0.72, -0.33), (0.0, -0.39), (wide * 0.72, -0.33)]
    outside += [(wide * 1.07, -0.14), (wide, low)]
    line = [(width * 0.94, low - 0.02), (width * 0.86, -0.1), (width * 0.7, -0.17), (parting, fringe)]
    line += [(-width * 0.7, -0.17), (-width * 0.86, -0.1), (-width * 0.94, low - 0.02)]
    shape = [*smooth(outside)[:36], *line]
    face.outline(shape, dark_tone(hair), 0.018)
    face.polygon(shape, mix(hair, INK, 0.06), "hair")
    crown = [(-wide * 0.86, -0.22), (-wide * 0.5, -0.325), (0.0, -0.36), (wide * 0.5, -0.325)]
    crown += [(wide * 0.86, -0.22), (0.0, -0.28)]
    face.polygon(smooth(crown), mix(hair, WHITE, 0.13))
    for u in (-0.6, -0.25, 0.1, 0.5):
        face.line([(u * wide * 0.6, -0.35), (u * wide, -0.25)], mix(hair, INK, 0.25), 0.008)


def _glasses(face: Canvas, width: float, rng: random.Random) -> None:
    frame = vary(rng.choice([(32, 30, 36), (96, 30, 36), (30, 44, 92)]), rng, 6)
    square = rng.random() < 0.5
    for side in (-1, 1):
        u = side * 0.112
        if square:
            rim = [(u - 0.088, -0.075), (u + 0.088, -0.075), (u + 0.078, 0.06), (u - 0.078, 0.06)]
        else:
            rim = ellipse(u, -0.008, 0.088, 0.078, count=24)
        face.line([*rim, *rim[:2]], frame, 0.026, "glasses")
        face.line([(side * 0.2, -0.03), (side * width, -0.02)], frame, 0.022, "glasses")
    face.line([(-0.028, -0.025), (0.028, -0.025)], frame, 0.022, "glasses")


def _hat(face: Canvas, colour: Colour, width: float, rng: random.Random) -> None:
    wide, top = width + 0.04, rng.uniform(-0.47, -0.43)
    crown = [(-wide, -0.19), (-wide * 0.9, -0.34), (-wide * 0.5, top), (wide * 0.5, top), (wide * 0.9, -0.34)]
    face.outlined(smooth([*crown, (wide, -0.19)]), colour, "hat")
    if rng.random() < 0.5:
        brim = ellipse(0.0, -0.19, wide * 1.32, 0.045)
    else:
        brim = smooth([(-wide * 1.05, -0.25), (wide * 1.05, -0.25), (wide * 1.08, -0.15), (-wide * 1.08, -0.15)], 3)
    face.outlined(brim, mix(colour, INK, 0.12), "hat", 0.6)
