"""One image from its attributes."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ratlip_cli.demo import birds, faces, flowers, scenes
from ratlip_cli.demo.attributes import Attributes
from ratlip_cli.demo.canvas import Canvas

SEGMENTS = {"bird": birds.SEGMENTS, "flower": flowers.SEGMENTS, "face": faces.SEGMENTS}
"""Family -> the segments of its label maps; segment k has label k + 1."""

_RENDER = {"bird": birds.render, "flower": flowers.render, "face": faces.render}


class Rendering(NamedTuple):
    """An image and where its segments are."""

    image: Image.Image  # RGB, square.
    labels: NDArray[np.uint8]  # (size, size): 0 where there is no segment, k + 1 where the family's segment k is.


def render(family: str, attributes: Attributes, rng: random.Random, size: int) -> Rendering:
    """Render one image of `size` pixels a side; what `attributes` leaves open is drawn from `rng`."""
    light = (rng.choice((-1, 1)) * rng.uniform(0.3, 0.8), -rng.uniform(0.6, 0.9))
    gradient = faces.backdrop(attributes) if family == "face" else scenes.GRADIENTS[attributes["background"]]
    canvas = Canvas(size, gradient, SEGMENTS[family], light)
    _RENDER[family](attributes, canvas, rng)
    return Rendering(*canvas.finish(rng))
