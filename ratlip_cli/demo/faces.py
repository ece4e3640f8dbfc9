"""Faces."""

from __future__ import annotations

import math
import random

from ratlip_cli.demo.attributes import Attributes
from ratlip_cli.demo.canvas import (
    INK,
    WHITE,
    Canvas,
    Colour,
    Place,
    ellipse,
    mix,
    outline_colour,
    placed,
    placing,
    smooth,
    vary,
)

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

_SHIRTS: tuple[Colour, ...] = (
    (92, 118, 150),
    (188, 196, 204),
    (120, 146, 120),
    (168, 124, 118),
    (84, 84, 100),
    (222, 212, 192),
)


def backdrop(attributes: Attributes) -> tuple[Colour, ...]:
    """The gradient behind a face, from top to bottom."""
    colour = BACKDROPS[attributes["background"]]
    return (mix(colour, WHITE, 0.3), colour, mix(colour, INK, 0.12))


def render(attributes: Attributes, canvas: Canvas, rng: random.Random) -> None:
    """Render a face with hair, neck and shoulders in front of a wall of one colour."""
    wall = BACKDROPS[attributes["background"]]
    x, y, scale = 0.5 + rng.uniform(-0.04, 0.04), 0.49 + rng.uniform(-0.03, 0.03), rng.uniform(0.76, 0.86)
    canvas.polygon(ellipse(x, y - 0.02, 0.38, 0.38), mix(wall, WHITE, 0.22))
    tilt = rng.uniform(-0.1, 0.1)
    place = placing(x, y, scale, tilt)
    width = rng.uniform(0.225, 0.255)
    skin, hair = vary(SKIN[attributes["skin"]], rng, 7), vary(HAIR[attributes["hair"]], rng, 7)
    if attributes["hair_length"] == "long":
        _long_hair(canvas, place, hair, width, rng)
    _shoulders(canvas, x, y, scale, skin, vary(rng.choice(_SHIRTS), rng, 10))
    _head(canvas, place, skin, width)
    if attributes["beard"] == "yes":
        _beard(canvas, place, hair, width)
    _features(canvas, place, skin, hair, attributes, rng)
    _hair(canvas, place, hair, width, attributes["hair_length"], rng)
    if attributes["glasses"] == "yes":
        _glasses(canvas, place, width, rng)
    if attributes["hat"] != "none":
        _hat(canvas, place, vary(HATS[attributes["hat"]], rng, 7), width, rng)


def _long_hair(canvas: Canvas, place: Place, hair: Colour, width: float, rng: random.Random) -> None:
    low, wide = rng.uniform(0.36, 0.42), width + rng.uniform(0.09, 0.12)
    corners = [
        (0.0, -0.36),
        (wide * 0.75, -0.27),
        (wide, 0.0),
        (wide * 1.06, 0.2),
        (wide * 0.9, low),
        (0.0, low - 0.04),
        (-wide * 0.9, low),
        (-wide * 1.06, 0.2),
        (-wide, 0.0),
        (-wide * 0.75, -0.27),
    ]
    canvas.outlined(placed(smooth(corners), place), mix(hair, INK, 0.08), "hair")


def _shoulders(canvas: Canvas, x: float, y: float, scale: float, skin: Colour, shirt: Colour) -> None:
    place = placing(x, y, scale)
    half = [(0.0, 0.38), (0.22, 0.4), (0.42, 0.54), (0.46, 0.9)]
    trunk = placed(smooth([*half, *[(-u, v) for u, v in half[:0:-1]]]), place)
    canvas.outline(trunk, outline_colour(shirt))
    canvas.polygon(trunk, shirt, "shirt")
    neck = mix(skin, INK, 0.14)
    canvas.polygon(placed([(-0.1, 0.2), (0.1, 0.2), (0.11, 0.4), (0.0, 0.46), (-0.11, 0.4)], place), neck, "skin")


def _head(canvas: Canvas, place: Place, skin: Colour, width: float) -> None:
    for side in (-1, 1):
        canvas.outlined(
            placed(ellipse(side * width * 1.02, 0.03, 0.045, 0.065, count=16), place), mix(skin, INK, 0.06), "skin", 0.6
        )
    outline = smooth(
        [
            (0.0, -0.31),
            (width * 0.78, -0.22),
            (width, -0.02),
            (width * 0.86, 0.17),
            (width * 0.42, 0.295),
            (0.0, 0.32),
            (-width * 0.42, 0.295),
            (-width * 0.86, 0.17),
            (-width, -0.02),
            (-width * 0.78, -0.22),
        ]
    )
    canvas.outlined(placed(outline, place), skin, "skin", 0.55)


def _beard(canvas: Canvas, place: Place, hair: Colour, width: float) -> None:
    corners = [
        (-width * 1.0, 0.02),
        (-width * 0.9, 0.2),
        (-width * 0.46, 0.335),
        (0.0, 0.37),
        (width * 0.46, 0.335),
        (width * 0.9, 0.2),
        (width * 1.0, 0.02),
        (width * 0.72, 0.12),
        (width * 0.4, 0.115),
        (0.0, 0.1),
        (-width * 0.4, 0.115),
        (-width * 0.72, 0.12),
    ]
    points = placed(smooth(corners), place)
    canvas.outline(points, outline_colour(hair), 0.016)
    canvas.polygon(points, mix(hair, INK, 0.06), "beard")
    for u in (-0.5, -0.2, 0.2, 0.5):
        canvas.line(placed([(u * width, 0.24), (u * width * 0.9, 0.31)], place), mix(hair, WHITE, 0.18), 0.008)


def _features(
    canvas: Canvas, place: Place, skin: Colour, hair: Colour, attributes: Attributes, rng: random.Random
) -> None:
    old = attributes["age"] == "old"
    line = mix(skin, INK, 0.5)
    iris = rng.choice([(70, 104, 150), (88, 62, 40), (80, 118, 76)])
    brow = mix(hair, WHITE, 0.4) if old else mix(hair, INK, 0.25)
    for side in (-1, 1):
        u = side * 0.105
        canvas.polygon(
            placed(ellipse(u, -0.015, 0.055, 0.036 if old else 0.044, count=18), place), (250, 250, 248), "eyes"
        )
        canvas.polygon(placed(ellipse(u, -0.012, 0.031, 0.033, count=14), place), iris, "eyes")
        canvas.polygon(placed(ellipse(u, -0.012, 0.018, 0.02, count=10), place), INK, "eyes")
        canvas.line(
            placed([(u - 0.058, -0.03), (u - 0.03, -0.058), (u + 0.03, -0.058), (u + 0.058, -0.03)], place),
            mix(skin, INK, 0.7),
            0.013,
        )
        canvas.line(
            placed([(u - side * 0.05, -0.1), (u + side * 0.01, -0.122), (u + side * 0.06, -0.1)], place), brow, 0.024
        )
        if not old and attributes["beard"] == "no":
            canvas.polygon(
                placed(ellipse(side * 0.15, 0.095, 0.042, 0.03, count=16), place),
                mix(skin, (236, 96, 96), 0.32),
                "skin",
            )
    canvas.line(placed([(0.005, -0.02), (0.035, 0.075), (-0.02, 0.085)], place), line, 0.015)
    if old:
        for v, half in ((-0.165, 0.1), (-0.205, 0.085)):
            canvas.line(
                placed([(-half, v + 0.008), (-half / 2, v), (half / 2, v), (half, v + 0.008)], place), line, 0.012
            )
        for side in (-1, 1):
            canvas.line(placed([(side * 0.06, 0.05), (side * 0.16, 0.055)], place), line, 0.011)
            canvas.line(placed([(side * 0.075, 0.095), (side * 0.13, 0.17)], place), line, 0.013)
    _mouth(canvas, place, attributes["smile"] == "yes")


def _mouth(canvas: Canvas, place: Place, smiling: bool) -> None:
    lips = (178, 66, 70)
    if smiling:
        arc = [(0.105 * math.cos(t * math.pi / 8), 0.15 + 0.085 * math.sin(t * math.pi / 8)) for t in range(9)]
        canvas.polygon(placed(arc, place), (250, 248, 244), "mouth")
        canvas.line(placed([*arc, arc[0], arc[1]], place), lips, 0.019, "mouth")
    else:
        canvas.line(placed([(-0.075, 0.2), (0.0, 0.192), (0.075, 0.2)], place), lips, 0.028, "mouth")


def _hair(canvas: Canvas, place: Place, hair: Colour, width: float, length: str, rng: random.Random) -> None:
    parting, fringe, wide = rng.uniform(-0.6, 0.6) * width, rng.uniform(-0.215, -0.18), width + 0.035
    low = 0.14 if length == "long" else 0.0
    outside = [(-wide, low), (-wide * 1.07, -0.14), (-wide * 0.72, -0.33), (0.0, -0.39), (wide * 0.72, -0.33)]
    outside += [(wide * 1.07, -0.14), (wide, low)]
    line = [(width * 0.94, low - 0.02), (width * 0.86, -0.1), (width * 0.7, -0.17), (parting, fringe)]
    line += [(-width * 0.7, -0.17), (-width * 0.86, -0.1), (-width * 0.94, low - 0.02)]
    points = placed([*smooth(outside)[:36], *line], place)
    canvas.outline(points, outline_colour(hair), 0.018)
    canvas.polygon(points, mix(hair, INK, 0.06), "hair")
    crown = smooth(
        [
            (-wide * 0.86, -0.22),
            (-wide * 0.5, -0.325),
            (0.0, -0.36),
            (wide * 0.5, -0.325),
            (wide * 0.86, -0.22),
            (0.0, -0.28),
        ]
    )
    canvas.polygon(placed(crown, place), mix(hair, WHITE, 0.13))
    for u in (-0.6, -0.25, 0.1, 0.5):
        canvas.line(placed([(u * wide * 0.6, -0.35), (u * wide, -0.25)], place), mix(hair, INK, 0.25), 0.008)


def _glasses(canvas: Canvas, place: Place, width: float, rng: random.Random) -> None:
    frame = vary(rng.choice([(32, 30, 36), (96, 30, 36), (30, 44, 92)]), rng, 6)
    square = rng.random() < 0.5
    for side in (-1, 1):
        u = side * 0.112
        if square:
            rim = [(u - 0.088, -0.075), (u + 0.088, -0.075), (u + 0.078, 0.06), (u - 0.078, 0.06)]
        else:
            rim = ellipse(u, -0.008, 0.088, 0.078, count=24)
        points = placed(rim, place)
        canvas.line([*points, *points[:2]], frame, 0.026, "glasses")
        canvas.line(placed([(side * 0.2, -0.03), (side * width, -0.02)], place), frame, 0.022, "glasses")
    canvas.line(placed([(-0.028, -0.025), (0.028, -0.025)], place), frame, 0.022, "glasses")


def _hat(canvas: Canvas, place: Place, colour: Colour, width: float, rng: random.Random) -> None:
    wide, top = width + 0.04, rng.uniform(-0.47, -0.43)
    crown = placed(
        smooth(
            [
                (-wide, -0.19),
                (-wide * 0.9, -0.34),
                (-wide * 0.5, top),
                (wide * 0.5, top),
                (wide * 0.9, -0.34),
                (wide, -0.19),
            ]
        ),
        place,
    )
    canvas.outlined(crown, colour, "hat")
    if rng.random() < 0.5:
        brim = placed(ellipse(0.0, -0.19, wide * 1.32, 0.045), place)
    else:
        brim = placed(
            smooth([(-wide * 1.05, -0.25), (wide * 1.05, -0.25), (wide * 1.08, -0.15), (-wide * 1.08, -0.15)], 3), place
        )
    canvas.outlined(brim, mix(colour, INK, 0.12), "hat", 0.6)
