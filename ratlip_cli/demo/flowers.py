"""Flowers."""

from __future__ import annotations

import math
import random

from ratlip_cli.demo import scenes
from ratlip_cli.demo.attributes import Attributes
from ratlip_cli.demo.canvas import INK, WHITE, Canvas, Colour, Point, dark_tone, ellipse, mix, placing, smooth, vary

SEGMENTS = ("stem", "leaves", "petals", "centre")

PETALS: dict[str, Colour] = {
    "red": (216, 38, 44),
    "orange": (246, 134, 26),
    "yellow": (252, 218, 52),
    "pink": (248, 140, 184),
    "purple": (138, 66, 180),
    "blue": (52, 100, 212),
    "white": (248, 247, 244),
}
"""Colour name -> petals, before light and shade."""

CENTRES: dict[str, Colour] = {
    "yellow": (252, 208, 40),
    "orange": (240, 128, 20),
    "red": (204, 36, 40),
    "brown": (118, 72, 38),
    "black": (44, 40, 46),
    "white": (246, 246, 240),
}
"""Colour name -> centre, before light and shade."""

_COUNT = {"five": 5, "six": 6, "eight": 8}


def render(attributes: Attributes, canvas: Canvas, rng: random.Random) -> None:
    """Render a flower with its stem and leaves in front of its scene."""
    scenes.paint(attributes["background"], canvas, rng)
    x, y = 0.5 + rng.uniform(-0.05, 0.05), 0.44 + rng.uniform(-0.03, 0.03)
    radius = rng.uniform(0.26, 0.31)
    foot = (x + rng.uniform(-0.08, 0.08), 1.05)
    _stem(canvas, rng, (x, y), foot, attributes["leaves"])
    squash = rng.uniform(0.86, 1.0)
    turned = placing(0, 0, 1, rng.uniform(-0.3, 0.3))

    def place(u: float, v: float) -> Point:
        a, b = turned(u, v * squash)
        return (x + radius * a, y + radius * b)

    flower = canvas.at(place)
    _petals(flower, rng, vary(PETALS[attributes["petals"]], rng), attributes)
    _centre(flower, rng, vary(CENTRES[attributes["centre"]], rng, 7))


def _stem(canvas: Canvas, rng: random.Random, top: Point, foot: Point, leaves: str) -> None:
    green = vary((62, 140, 66), rng, 10)
    edge = dark_tone(green)
    middle = ((top[0] + foot[0]) / 2 + rng.uniform(-0.04, 0.04), 0.78)
    canvas.line([top, middle, foot], edge, 0.05)
    canvas.line([top, middle, foot], green, 0.032, "stem")
    sides = {"none": (), "one": (rng.choice((False, True)),), "two": (False, True)}[leaves]
    for left in sides:
        y = middle[1] + rng.uniform(0.05, 0.09)
        leaf = canvas.at(placing(middle[0], y, rng.uniform(0.26, 0.3), rng.uniform(-0.65, -0.35), left))
        corners = [(0.0, 0.0), (0.3, -0.2), (0.7, -0.2), (1.05, 0.0), (0.7, 0.17), (0.3, 0.17)]
        leaf.outlined(smooth(corners), mix(green, (140, 200, 90), 0.25), "leaves")
        leaf.line([(0.05, 0.0), (0.85, -0.01)], edge, 0.009)


def _petals(flower: Canvas, rng: random.Random, colour: Colour, attributes: Attributes) -> None:
    count = _COUNT[attributes["petal_count"]]
    half = min(0.5, 0.84 * math.tan(math.pi / count) * 0.72)
    if attributes["petal_shape"] == "round":
        upper = [(0.42, -half * 0.8), (0.76, -half), (0.98, -half * 0.5)]
        shape = smooth([(0.15, 0.0), *upper, *((u, -v) for u, v in reversed(upper))], 4)
    else:
        lens = [(0.15, 0.0), (0.45, -half * 0.85), (0.7, -half * 0.72), (1.08, 0.0)]
        lens = smooth([*lens, (0.7, half * 0.72), (0.45, half * 0.85)], 4)
        shape = [(u, v if u < 1.0 else v * 0.6) for u, v in lens]
    start = rng.uniform(0, 2 * math.pi)
    vein = mix(colour, INK, 0.28)
    for number in range(count):
        length, turn = rng.uniform(0.95, 1.05), start + 2 * math.pi * number / count + rng.uniform(-0.05, 0.05)
        petal = flower.at(placing(0, 0, length, turn))
        tone = mix(colour, WHITE if number % 2 else INK, 0.07)
        petal.outlined(shape, tone, "petals", 0.8)
        petal.line([(0.4, 0.0), (0.78, 0.0)], vein, 0.01)


def _centre(flower: Canvas, rng: random.Random, colour: Colour) -> None:
    size = rng.uniform(0.33, 0.39)
    flower.outlined(ellipse(0, 0, size, size), colour, "centre", 0.7)
    seed = mix(colour, INK, 0.3) if sum(colour) > 240 else mix(colour, WHITE, 0.25)
    for ring, count in ((0.72, 9), (0.36, 5)):
        for number in range(count):
            turn = 2 * math.pi * number / count + rng.uniform(-0.1, 0.1)
            u, v = ring * size * math.cos(turn), ring * size * math.sin(turn)
            flower.polygon(ellipse(u, v, 0.032, 0.032, count=8), seed)
