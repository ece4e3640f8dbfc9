"""Birds."""

from __future__ import annotations

import random

from ratlip_cli.demo import scenes
from ratlip_cli.demo.attributes import Attributes
from ratlip_cli.demo.canvas import INK, WHITE, Canvas, Colour, dark_tone, ellipse, mix, placing, smooth, vary

SEGMENTS = ("perch", "legs", "tail", "body", "belly", "beak", "wings", "eye")

COLOURS: dict[str, Colour] = {
    "red": (214, 40, 44),
    "orange": (246, 136, 24),
    "yellow": (250, 214, 48),
    "green": (52, 158, 70),
    "blue": (44, 96, 208),
    "purple": (136, 64, 176),
    "brown": (126, 78, 42),
    "black": (46, 44, 52),
    "white": (244, 244, 240),
    "grey": (142, 146, 154),
}
"""Colour name -> plumage, before light and shade."""

_BEAK = {"yellow": (252, 208, 44), "orange": (248, 138, 30), "red": (216, 44, 44), "black": (44, 42, 48)}


def render(attributes: Attributes, canvas: Canvas, rng: random.Random) -> None:
    """Render a bird on its perch in front of its scene."""
    scenes.paint(attributes["background"], canvas, rng)
    scale, facing_left = rng.uniform(0.56, 0.65), attributes["facing"] == "left"
    x, y = 0.5 + rng.uniform(-0.03, 0.03), 0.49 + rng.uniform(-0.04, 0.04)
    place = placing(x, y, scale, rng.uniform(-0.14, 0.1), facing_left)
    bird = canvas.at(place)
    feet = y + 0.37 * scale
    _PERCHES[attributes["perch"]](canvas, rng, x, feet)
    body, wing, belly = (vary(COLOURS[attributes[name]], rng) for name in ("body", "wings", "belly"))
    for u in (-0.02, 0.1):
        hip = place(u, 0.15)
        canvas.line([hip, (hip[0], feet + 0.01)], (92, 62, 40), 0.02, "legs")
    _tail(bird, wing, rng)
    _beak(bird, vary(_BEAK[attributes["beak"]], rng, 6), attributes["beak_length"], rng)
    _body(bird, body, belly)
    _wing(bird, wing, rng)
    bird.polygon(ellipse(0.27, -0.25, 0.052, 0.052, count=16), (250, 250, 246), "eye")
    bird.polygon(ellipse(0.28, -0.25, 0.035, 0.035, count=16), INK, "eye")
    bird.polygon(ellipse(0.29, -0.263, 0.012, 0.012, count=8), WHITE, "eye")


def _tail(bird: Canvas, wing: Colour, rng: random.Random) -> None:
    lift = rng.uniform(-0.06, 0.1)
    corners = [(-0.2, -0.01), (-0.42, 0.03 - lift), (-0.56, 0.06 - lift), (-0.55, 0.15 - lift)]
    corners += [(-0.36, 0.15 - lift / 2), (-0.18, 0.13)]
    bird.outlined(smooth(corners, 4), mix(wing, INK, 0.08), "tail")


def _beak(bird: Canvas, colour: Colour, length: str, rng: random.Random) -> None:
    reach = rng.uniform(0.27, 0.31) if length == "long" else rng.uniform(0.14, 0.165)
    tip, root, half = 0.31 + reach, 0.29, 0.075
    corners = [(root, -0.22 - half), (root + 0.45 * reach, -0.225 - half * 0.8), (tip, -0.185)]
    corners += [(root + 0.4 * reach, -0.22 + half * 0.7), (root, -0.22 + half)]
    bird.outlined(corners, colour, "beak", 0.7)
    bird.line([(root, -0.2), (tip - 0.03, -0.188)], dark_tone(colour), 0.009)


def _body(bird: Canvas, body: Colour, belly: Colour) -> None:
    corners = [(-0.32, 0.07), (-0.14, -0.1), (0.08, -0.22), (0.26, -0.16), (0.33, 0.0), (0.22, 0.17), (0.0, 0.23)]
    trunk = smooth([*corners, (-0.2, 0.19)])
    head = ellipse(0.23, -0.21, 0.155, 0.15)
    edge = dark_tone(body)
    bird.outline(trunk, edge)
    bird.outline(head, edge)
    bird.shaded(trunk, body, "body")
    bird.shaded(head, body, "body", 0.8)
    front = [(0.27, -0.08), (0.305, 0.02), (0.2, 0.15), (0.02, 0.2), (-0.08, 0.17), (0.06, 0.1), (0.18, 0.02)]
    bird.shaded(smooth(front), belly, "belly", 0.5)


def _wing(bird: Canvas, colour: Colour, rng: random.Random) -> None:
    turn = rng.uniform(-0.1, 0.25) if rng.random() < 0.6 else rng.uniform(0.9, 1.3)
    wing = bird.at(placing(0.1, -0.06, rng.uniform(0.94, 1.08), turn))
    corners = [(0.05, 0.0), (-0.06, -0.1), (-0.24, -0.08), (-0.46, 0.06), (-0.3, 0.1), (-0.14, 0.14), (0.02, 0.11)]
    wing.outlined(smooth(corners), colour, "wings", 0.8)
    mark = mix(colour, INK, 0.45) if sum(colour) > 240 else mix(colour, WHITE, 0.3)
    for ends in ([(-0.08, 0.0), (-0.32, 0.045)], [(-0.06, 0.055), (-0.24, 0.085)]):
        wing.line(ends, mark, 0.01)


def _branch(canvas: Canvas, rng: random.Random, x: float, feet: float) -> None:
    slope, wood = rng.uniform(-0.07, 0.07), vary((122, 88, 60), rng, 8)
    ends = [(-0.05, feet + 0.035 - slope * (x + 0.05)), (1.05, feet + 0.035 + slope * (1.05 - x))]
    canvas.line(ends, dark_tone(wood), 0.072)
    canvas.line(ends, wood, 0.056, "perch")
    canvas.line([(a, b - 0.012) for a, b in ends], mix(wood, WHITE, 0.25), 0.014)
    for _ in range(rng.randint(3, 4)):
        u = rng.uniform(0.04, 0.96)
        v = feet + 0.035 + slope * (u - x) + 0.045
        leaf = ellipse(u, v, 0.05, 0.024, rng.uniform(0.5, 1.0) * rng.choice((-1, 1)), 14)
        canvas.polygon(leaf, vary((84, 150, 70), rng, 12), "perch")


def _rock(canvas: Canvas, rng: random.Random, x: float, feet: float) -> None:
    half = rng.uniform(0.27, 0.36)
    corners = [(x - half, 1.1), (x - half * 0.9, feet + 0.12), (x - half * 0.4, feet + 0.01)]
    corners += [(x + half * 0.3, feet), (x + half * 0.85, feet + 0.1), (x + half, 1.1)]
    canvas.outlined(corners, vary((150, 146, 148), rng, 10), "perch")
    canvas.line([(x - 0.1, feet + 0.1), (x - 0.02, feet + 0.14), (x - 0.04, feet + 0.2)], (108, 104, 110), 0.012)


def _fence(canvas: Canvas, rng: random.Random, x: float, feet: float) -> None:
    wood = vary((196, 160, 116), rng, 8)
    start = rng.uniform(0.05, 0.2)
    for u in (start, start + 0.35, start + 0.7):
        post = [(u - 0.04, 1.1), (u - 0.04, feet), (u, feet - 0.04), (u + 0.04, feet), (u + 0.04, 1.1)]
        canvas.outlined(post, mix(wood, INK, 0.06), "perch", 0.5)
    rail = [(-0.1, feet), (1.1, feet), (1.1, feet + 0.075), (-0.1, feet + 0.075)]
    canvas.outline(rail, dark_tone(wood))
    canvas.polygon(rail, wood, "perch")
    canvas.line([(-0.1, feet + 0.022), (1.1, feet + 0.022)], mix(wood, WHITE, 0.3), 0.018)


def _grass(canvas: Canvas, rng: random.Random, x: float, feet: float) -> None:
    green = vary((112, 178, 76), rng, 10)
    level = feet + 0.02
    canvas.polygon([(-0.1, 1.1), (-0.1, level), (1.1, level), (1.1, 1.1)], green, "perch")
    blade = mix(green, (20, 60, 20), 0.3)
    for slot in range(17):
        u, v, lean = (slot + rng.random()) / 17, level + rng.uniform(0.0, 0.14), rng.uniform(-0.03, 0.03)
        corners = [(u - 0.016, v + 0.03), (u + lean, v - rng.uniform(0.05, 0.09)), (u + 0.016, v + 0.03)]
        canvas.polygon(corners, green if slot % 2 else blade, "perch")


_PERCHES = {"branch": _branch, "rock": _rock, "fence": _fence, "grass": _grass}
