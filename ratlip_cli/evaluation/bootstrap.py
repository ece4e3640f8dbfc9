"""95 % intervals by bootstrap (Efron 1979) over the images of a set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]


class Counts(NamedTuple):
    """How often each image counts: once, or as often as a resample has it."""

    fake: NDArray[np.int64]  # (n_fake,)
    real: NDArray[np.int64]  # (n_real,)


def resamples(number: int, n_real: int, scenes: NDArray[np.int64], paired: bool) -> Iterator[Counts]:
    """Resample scenes with replacement; all fakes of a scene come and go together, because they are alike.

    Args:
        number: how many resamples.
        n_real: number of real images.
        scenes: for each fake, the number of its scene, below `n_real` where `paired`.
        paired: whether scene k is the real image k, which then comes and goes with its fakes.
    """
    random = np.random.default_rng(0)
    n_scenes = n_real if paired else int(scenes.max()) + 1
    for _ in range(number):
        counts = _resample(random, n_scenes)
        yield Counts(counts[scenes], counts if paired else _resample(random, n_real))


def interval(value: float, replicates: Sequence[float]) -> Interval:
    """The middle 95 % of the replicates, moved so that their mean falls on `value`.

    The move takes out the bias that having the same image twice puts into distances between sets.
    """
    low, high = np.quantile(replicates, (0.025, 0.975)) - np.mean(replicates)
    return value + float(low), value + float(high)


def _resample(random: np.random.Generator, count: int) -> NDArray[np.int64]:
    return np.bincount(random.integers(max(count, 1), size=count), minlength=count)
