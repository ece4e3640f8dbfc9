"""Antialiased shapes in unit coordinates, and beside the image a map that says which segment each pixel shows."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]
Place = Callable[[float, float], Point]
"""Takes a point of an object's own coordinates to the image's."""

SUPERSAMPLING = 4
"""Shapes are rendered this many times larger than the image and averaged down."""

WHITE: Colour = (255, 255, 255)
INK: Colour = (26, 22, 32)


class Canvas:
    """A square image of `size` pixels; coordinates run from 0 to 1, x to the right and y down.

    `segments` names the labels 1, 2, ... of the label map; 0 is whatever belongs to no segment. `light` is where the
    light comes from, as a direction in the image. Widths are in units of the image's side, also on a canvas of `at`.
    """

    def __init__(self, size: int, background: Sequence[Colour], segments: Sequence[str], light: Point) -> None:
        self.size = size
        self.side = size * SUPERSAMPLING
        self.light = light
        self._label = {name: number for number, name in enumerate(segments, start=1)}
        column = Image.new("RGB", (1, len(background)))
        column.putdata(list(background))
        self.image = column.resize((self.side, self.side), Image.Resampling.BILINEAR)
        self.labels = Image.new("L", (self.side, self.side))
        self._draw = ImageDraw.Draw(self.image)
        self._draw_label = ImageDraw.Draw(self.labels)
        self._place: Place | None = None

    def at(self, place: Place) -> Canvas:
        """The same canvas for points in the own coordinates of an object that `place` takes to this one's."""
        outer, inner = self._place, copy.copy(self)
        inner._place = place if outer is None else lambda u, v: outer(*place(u, v))
        return inner

    def polygon(self, points: Sequence[Point], colour: Colour, segment: str | None = None) -> None:
        """Fill a polygon; with `segment`, its pixels take that label."""
        pixels = self._pixels(self._placed(points))
        self._draw.polygon(pixels, fill=colour)
        if segment is not None:
            self._draw_label.polygon(pixels, fill=self._label[segment])

    def line(self, points: Sequence[Point], colour: Colour, width: float, segment: str | None = None) -> None:
        """Draw a line with round joints."""
        pixels = self._pixels(self._placed(points))
        thick = max(1, round(width * self.side))
        self._draw.line(pixels, fill=colour, width=thick, joint="curve")
        if segment is not None:
            self._draw_label.line(pixels, fill=self._label[segment], width=thick, joint="curve")

    def outline(self, points: Sequence[Point], colour: Colour, width: float = 0.022) -> None:
        """Draw the closed line around `points`; what is filled afterwards covers its inner half."""
        self.line([*points, *points[:2]], colour, width)

    def shaded(self, points: Sequence[Point], colour: Colour, segment: str | None = None, depth: float = 1.0) -> None:
        """Fill a star-shaped polygon as if it were round: dark at its edge, lightest on the side of the light."""
        placed = self._placed(points)
        x, y = (sum(coordinates) / len(placed) for coordinates in zip(*placed, strict=True))
        reach = 0.3 * max(math.hypot(px - x, py - y) for px, py in placed)
        x, y = x + reach * self.light[0], y + reach * self.light[1]
        dark, bright = mix(colour, INK, 0.22 * depth), mix(colour, WHITE, 0.24 * depth)
        self.polygon(points, dark, segment)
        for share in (0.9, 0.78, 0.62, 0.44, 0.26):
            ring = [(x + share * (px - x), y + share * (py - y)) for px, py in placed]
            self._draw.polygon(self._pixels(ring), fill=mix(bright, dark, share**1.5))

    def outlined(self, points: Sequence[Point], colour: Colour, segment: str | None = None, depth: float = 1.0) -> None:
        """`outline` in a dark tone of the colour, then `shaded`."""
        self.outline(points, dark_tone(colour))
        self.shaded(points, colour, segment, depth)

    def finish(self, rng: random.Random) -> tuple[Image.Image, np.ndarray]:
        """The image under a slightly coloured, slightly uneven light, and its label map (size, size) uint8."""
        pixels = np.asarray(self.image.reduce(SUPERSAMPLING), dtype=np.float32)
        brightness, warmth = rng.uniform(0.92, 1.06), rng.uniform(-0.03, 0.03)
        across = np.linspace(-0.5, 0.5, self.size, dtype=np.float32)
        fall = 1 + 0.1 * (self.light[0] * across[None, :] + self.light[1] * across[:, None])
        tint = np.array([brightness + warmth, brightness, brightness - warmth], dtype=np.float32)
        lit = np.clip(pixels * fall[..., None] * tint + 0.5, 0, 255).astype(np.uint8)
        middle = SUPERSAMPLING // 2
        labels = np.ascontiguousarray(np.asarray(self.labels)[middle::SUPERSAMPLING, middle::SUPERSAMPLING])
        return Image.fromarray(lit), labels

    def _placed(self, points: Sequence[Point]) -> Sequence[Point]:
        return points if self._place is None else [self._place(u, v) for u, v in points]

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self.side, y * self.side) for x, y in points]


def mix(colour: Colour, other: Colour, share: float) -> Colour:
    """`colour` with `share` of `other` in it."""
    red, green, blue = (round(c + share * (o - c)) for c, o in zip(colour, other, strict=True))
    return (red, green, blue)


def vary(colour: Colour, rng: random.Random, amount: int = 10) -> Colour:
    """`colour` moved by up to `amount` levels together and half of that in each channel."""
    level = rng.uniform(-amount, amount)
    red, green, blue = (min(255, max(0, round(c + level + rng.uniform(-amount, amount) / 2))) for c in colour)
    return (red, green, blue)


def dark_tone(colour: Colour) -> Colour:
    """A dark tone of `colour` that stands out from it and from pale backgrounds."""
    return mix(colour, INK, 0.72)


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0, count: int = 28) -> list[Point]:
    """Points of an ellipse; `angle` in radians turns it from x towards y."""
    cos, sin = math.cos(angle), math.sin(angle)
    points = []
    for step in range(count):
        turn = 2 * math.pi * step / count
        u, v = rx * math.cos(turn), ry * math.sin(turn)
        points.append((x + u * cos - v * sin, y + u * sin + v * cos))
    return points


def smooth(corners: Sequence[Point], steps: int = 6) -> list[Point]:
    """Points of the closed Catmull-Rom curve through `corners`."""
    points = []
    for index, (x1, y1) in enumerate(corners):
        x0, y0 = corners[index - 1]
        x2, y2 = corners[(index + 1) % len(corners)]
        x3, y3 = corners[(index + 2) % len(corners)]
        for step in range(steps):
            t = step / steps
            a, b, c, d = -t + 2 * t * t - t**3, 2 - 5 * t * t + 3 * t**3, t + 4 * t * t - 3 * t**3, t**3 - t * t
            points.append(((a * x0 + b * x1 + c * x2 + d * x3) / 2, (a * y0 + b * y1 + c * y2 + d * y3) / 2))
    return points


def symmetric(half: Sequence[Point]) -> list[Point]:
    """A closed outline from its right half, where x is not negative; points on the axis x = 0 stand once."""
    return [*half, *((-x, y) for x, y in reversed(half) if x > 0)]


def placing(x: float, y: float, scale: float, angle: float = 0.0, mirrored: bool = False) -> Place:
    """Scale, turn by `angle` (radians, clockwise), mirror left to right if asked, and move the origin to (x, y)."""
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    side = -1 if mirrored else 1

    def place(u: float, v: float) -> Point:
        return (x + side * (u * cos - v * sin), y + u * sin + v * cos)

    return place
