"""One image from its attributes."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ratlip_cli.demo import birds, faces, flowers, scenes
from ratlip_cli.demo.attributes import Attributes
from ratlip_cli.demo.canvas import Canvas

PARTS = {"bird": birds.PARTS, "flower": flowers.PARTS, "face": faces.PARTS}
"""Family -> the parts of its label maps; part k has label k + 1."""

_DRAW = {"bird": birds.draw, "flower": flowers.draw, "face": faces.draw}


@dataclass(frozen=True)
class Drawing:
    """An image and where its parts are."""

    image: Image.Image
    """RGB, square."""
    labels: NDArray[np.uint8]
    """(size, size): 0 where there is no part, k + 1 where the family's part k is."""


def draw(family: str, attributes: Attributes, rng: random.Random, size: int) -> Drawing:
    """Draw one image of `size` pixels a side; what `attributes` leaves open is drawn from `rng`."""
    light = (rng.choice((-1, 1)) * rng.uniform(0.3, 0.8), -rng.uniform(0.6, 0.9))
    gradient = faces.backdrop(attributes) if family == "face" else scenes.GRADIENTS[attributes["background"]]
    canvas = Canvas(size, gradient, PARTS[family], light)
    _DRAW[family](attributes, canvas, rng)
    return Drawing(*canvas.finish(rng))
