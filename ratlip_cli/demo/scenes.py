"""Backgrounds: pale enough that an outlined object stands out from every one of them."""

from __future__ import annotations

import random

from ratlip_cli.demo.canvas import WHITE, Canvas, Colour, ellipse, mix, smooth, vary

GRADIENTS: dict[str, tuple[Colour, ...]] = {
    "sky": ((112, 176, 232), (160, 206, 244), (208, 232, 250)),
    "forest": ((140, 184, 142), (164, 204, 152), (178, 212, 160)),
    "sunset": ((176, 128, 178), (242, 158, 134), (252, 206, 138)),
    "snow": ((198, 208, 224), (216, 224, 236), (232, 238, 246)),
    "meadow": ((206, 234, 214), (184, 222, 168), (142, 196, 112)),
    "desert": ((240, 226, 196), (238, 214, 166), (226, 190, 134)),
}
"""Scene -> its colours from top to bottom."""


def paint(scene: str, canvas: Canvas, rng: random.Random) -> None:
    """Add the things that make `scene` what it is to a canvas that has its gradient."""
    _PAINTERS[scene](canvas, rng)


def _sky(canvas: Canvas, rng: random.Random) -> None:
    for _ in range(rng.randint(2, 3)):
        x, y, width = rng.uniform(0.05, 0.95), rng.uniform(0.06, 0.9), rng.uniform(0.1, 0.17)
        cloud = vary((246, 250, 254), rng, 4)
        for offset, radius in ((-0.8, 0.5), (0.0, 0.75), (0.8, 0.55)):
            puff = ellipse(x + offset * width, y - radius * width * 0.25, radius * width, radius * width * 0.6)
            canvas.polygon(puff, cloud)
        canvas.polygon(ellipse(x, y + 0.04 * width, 1.25 * width, 0.25 * width), cloud)


def _forest(canvas: Canvas, rng: random.Random) -> None:
    trunk, leaf = vary((122, 140, 106), rng, 6), vary((126, 172, 120), rng, 8)
    for slot in range(4):
        x, width = (slot + rng.uniform(0.15, 0.85)) / 4, rng.uniform(0.02, 0.035)
        canvas.polygon([(x - width, 1), (x - width * 0.7, 0), (x + width * 0.7, 0), (x + width, 1)], trunk)
    for slot in range(5):
        x, y = (slot + rng.uniform(0.0, 1.0)) / 5, rng.uniform(-0.02, 0.1)
        crown = ellipse(x, y, rng.uniform(0.12, 0.17), rng.uniform(0.08, 0.14))
        canvas.polygon(crown, mix(leaf, WHITE, rng.uniform(0, 0.1)))
    ground = [(0.3, rng.uniform(0.86, 0.92)), (0.7, rng.uniform(0.86, 0.92))]
    canvas.polygon(smooth([(-0.1, 1.1), (-0.1, 0.9), *ground, (1.1, 0.9), (1.1, 1.1)]), leaf)


def _sunset(canvas: Canvas, rng: random.Random) -> None:
    x, y, radius = rng.uniform(0.12, 0.88), rng.uniform(0.42, 0.62), rng.uniform(0.1, 0.14)
    canvas.polygon(ellipse(x, y, radius * 1.35, radius * 1.35), (252, 196, 142))
    canvas.polygon(ellipse(x, y, radius, radius), (255, 232, 170))
    _hills(canvas, rng, 0.76, vary((172, 112, 140), rng, 8))


def _snow(canvas: Canvas, rng: random.Random) -> None:
    fir = vary((134, 162, 162), rng, 8)
    for slot in range(4):
        x, base, height = (slot + rng.uniform(0.1, 0.9)) / 4, rng.uniform(0.72, 0.8), rng.uniform(0.22, 0.34)
        for tier in range(3):
            top, low = base - height + tier * height * 0.24, base - height + (tier + 1.6) * height * 0.3
            half = height * (0.14 + 0.08 * tier)
            canvas.polygon([(x, top), (x - half, low), (x + half, low)], fir)
    _hills(canvas, rng, 0.78, (244, 247, 252))
    for _ in range(14):
        canvas.polygon(ellipse(rng.random(), rng.random(), 0.011, 0.011, count=8), (252, 253, 255))


def _meadow(canvas: Canvas, rng: random.Random) -> None:
    _hills(canvas, rng, rng.uniform(0.5, 0.6), vary((158, 208, 128), rng, 8))
    blade = vary((116, 176, 92), rng, 8)
    for _ in range(16):
        x, y, lean = rng.random(), rng.uniform(0.72, 1.0), rng.uniform(-0.03, 0.03)
        canvas.polygon([(x - 0.012, y), (x + lean, y - rng.uniform(0.07, 0.13)), (x + 0.012, y)], blade)


def _desert(canvas: Canvas, rng: random.Random) -> None:
    _hills(canvas, rng, rng.uniform(0.55, 0.66), vary((222, 184, 128), rng, 6))
    _hills(canvas, rng, rng.uniform(0.74, 0.84), vary((208, 166, 110), rng, 6))
    x, height = rng.choice([rng.uniform(0.06, 0.2), rng.uniform(0.8, 0.94)]), rng.uniform(0.2, 0.28)
    cactus = (138, 168, 122)
    canvas.line([(x, 0.8), (x, 0.8 - height)], cactus, 0.045)
    arm = [(x - 0.06, 0.8 - height * 0.75), (x - 0.06, 0.8 - height * 0.4), (x, 0.8 - height * 0.4)]
    canvas.line(arm, cactus, 0.03)


def _hills(canvas: Canvas, rng: random.Random, level: float, colour: Colour) -> None:
    tops = [(x, level + rng.uniform(-0.06, 0.06)) for x in (-0.15, 0.2, 0.5, 0.8, 1.15)]
    canvas.polygon([(-0.2, 1.2), *smooth([*tops, (1.3, 1.2), (-0.3, 1.2)])[: 6 * len(tops)], (1.2, 1.2)], colour)


_PAINTERS = {"sky": _sky, "forest": _forest, "sunset": _sunset, "snow": _snow, "meadow": _meadow, "desert": _desert}
