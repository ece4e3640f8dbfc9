"""95 % intervals by bootstrap (Efron 1979) over the images of a set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]


class Resample(NamedTuple):
    """How often each image counts in one draw."""

    real: NDArray[np.int64]  # (n_real,)
    fake: NDArray[np.int64]  # (n_fake,)


def resamples(draws: int, n_real: int, scenes: NDArray[np.int64], paired: bool) -> Iterator[Resample]:
    """Draw scenes with replacement; all fakes of a scene come and go together, because they are alike.

    Args:
        draws: how many.
        n_real: number of real images.
        scenes: for each fake, the number of its scene, below `n_real` where `paired`.
        paired: whether scene k is the real image k, which then comes and goes with its fakes.
    """
    random = np.random.default_rng(0)
    n_scenes = n_real if paired else int(scenes.max()) + 1
    for _ in range(draws):
        counts = _draw(random, n_scenes)
        yield Resample(counts if paired else _draw(random, n_real), counts[scenes])


def interval(value: float, replicates: Sequence[float]) -> Interval:
    """The middle 95 % of the replicates, moved so that their mean falls on `value`.

    The move takes out the bias that drawing the same image twice puts into distances between sets.
    """
    low, high = np.quantile(replicates, (0.025, 0.975)) - np.mean(replicates)
    return value + float(low), value + float(high)


def _draw(random: np.random.Generator, count: int) -> NDArray[np.int64]:
    return np.bincount(random.integers(max(count, 1), size=count), minlength=count)
