"""Does a map show what the target depends on? Insertion and deletion (Petsiuk et al. 2018, RISE) against other orders.

Cells of the CLIP grid are taken out of the image, the most important first (deletion), or put into a blurred copy of
it (insertion), and the target is measured at each step. A map that is right makes the target fall and rise early.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ImageFilter
from torch import Tensor
from torch.nn import functional as F

from ratlip_cli.pixels import from_image, to_images

KINDS = ("insertion", "deletion")
STEPS = 10
"""The share of cells goes from 0 to 1 in so many steps."""
RANDOM_ORDERS = 10
_BLUR = 1 / 12
"""Standard deviation of the blur, as a share of the image's side."""


@dataclass(frozen=True)
class Curve:
    """The target while cells are put in or taken out in one order."""

    kind: str
    """One of KINDS."""
    order: str
    """`map`, `centre` (from the middle outwards) or `random K`."""
    shares: NDArray[np.float64]
    """Of the cells, from 0 to 1."""
    scores: NDArray[np.float64]

    @property
    def auc(self) -> float:
        """Area under the curve: the mean of the target over the shares."""
        return float(np.sum((self.scores[1:] + self.scores[:-1]) / 2 * np.diff(self.shares)))


@dataclass(frozen=True)
class Faithfulness:
    """The area under the map's curve beside those of other orders; insertion is better high, deletion better low."""

    kind: str
    auc: float
    random: float
    """Mean over the random orders."""
    random_sd: float
    """Their standard deviation."""
    random_orders: int
    better_than_random: int
    """How many of the random orders the map is better than."""
    centre: float
    better_than_centre: bool


def curves(
    scores: Callable[[Tensor], Tensor], image: Tensor, cells: NDArray[np.float32], random: np.random.Generator
) -> list[Curve]:
    """Insertion and deletion curves of the map, of the order from the middle outwards and of random orders.

    Args:
        scores: the target (n,) of images (n,3,S,S).
        image: the image (3,S,S) in [-1,1].
        cells: the map (g,g); where cells are equal, chance decides their order.
        random: makes the random orders.
    """
    places = np.arange(len(cells)) - (len(cells) - 1) / 2  # from the image's middle
    orders = {
        "map": _descending(cells, random),
        "centre": _descending(-np.hypot(places[:, None], places), random),
        **{f"random {k}": random.permutation(cells.size) for k in range(RANDOM_ORDERS)},
    }
    counts = np.round(np.linspace(0, cells.size, STEPS + 1)).astype(int)
    size = image.shape[-1]
    masks = torch.stack([_first(order, count, size) for order in orders.values() for count in counts[1:-1]])
    masks = masks.to(image.device)[:, None]  # (n,1,S,S), true where a cell is among the first
    grey, blurred = image.mean(dim=(1, 2), keepdim=True).expand_as(image), _blurred(image)
    whole, empty, unsharp = scores(torch.stack((image, grey, blurred))).tolist()
    measured = {
        "insertion": (scores(torch.where(masks, image, blurred)), unsharp, whole),
        "deletion": (scores(torch.where(masks, grey, image)), whole, empty),
    }
    return [
        Curve(kind, order, counts / cells.size, np.array([first, *values.tolist(), last]))
        for kind, (inner, first, last) in measured.items()
        for order, values in zip(orders, inner.view(len(orders), -1), strict=True)
    ]


def compare(measured: list[Curve]) -> list[Faithfulness]:
    """The map's areas beside the others', for insertion and deletion."""
    return [_compare(kind, {curve.order: curve.auc for curve in measured if curve.kind == kind}) for kind in KINDS]


def _compare(kind: str, auc: dict[str, float]) -> Faithfulness:
    sign = 1 if kind == "insertion" else -1
    own, centre = auc["map"], auc["centre"]
    others = np.array([value for order, value in auc.items() if order.startswith("random")])
    return Faithfulness(
        kind=kind,
        auc=own,
        random=float(others.mean()),
        random_sd=float(others.std(ddof=1)),
        random_orders=len(others),
        better_than_random=int((sign * own > sign * others).sum()),
        centre=centre,
        better_than_centre=sign * own > sign * centre,
    )


def _descending(cells: NDArray[np.floating], random: np.random.Generator) -> NDArray[np.int64]:
    return np.lexsort((random.permutation(cells.size), -cells.ravel()))


def _first(order: NDArray[np.int64], count: int, size: int) -> Tensor:
    """Mask (S,S) of the first `count` cells of an order."""
    mask = torch.zeros(len(order))
    mask[order[:count].copy()] = 1
    grid = round(len(order) ** 0.5)
    return F.interpolate(mask.view(1, 1, grid, grid), size=(size, size), mode="nearest")[0, 0] > 0


def _blurred(image: Tensor) -> Tensor:
    blur = ImageFilter.GaussianBlur(_BLUR * image.shape[-1])
    return from_image(to_images(image[None])[0].filter(blur)).to(image.device)
