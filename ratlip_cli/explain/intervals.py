"""Means with their intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95
_RESAMPLES = 2000


@dataclass(frozen=True)
class Mean:
    """A mean and where it lies with 95 % confidence, by the percentile bootstrap."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]"


def mean_interval(values: ArrayLike, seed: int = 0) -> Mean:
    """The mean of at least one value; the same interval for the same values and seed."""
    array = np.asarray(values, dtype=np.float64)
    random = np.random.default_rng([seed, array.size])
    means = array[random.integers(array.size, size=(_RESAMPLES, array.size))].mean(axis=1)
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Mean(float(array.mean()), float(low), float(high), array.size)
