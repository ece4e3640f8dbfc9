"""Means with their intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

LEVEL = 0.95

FEWEST = 10
"""Fewer values than this give no verdict: what their interval takes for granted cannot be seen in so few."""


@dataclass(frozen=True)
class Mean:
    """A mean and where it lies with 95 % confidence, by Student's t."""

    mean: float
    low: float | None
    """None for one value, which says nothing of others."""
    high: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3g}{self.interval('.3g')}"

    def interval(self, places: str) -> str:
        """` [low, high]` in this format; empty where there is none."""
        return "" if self.low is None else f" [{self.low:{places}}, {self.high:{places}}]"

    @property
    def side(self) -> int:
        """1 where the whole interval lies above 0, -1 where it lies below; else 0, and of fewer values than FEWEST."""
        if self.low is None or self.high is None or self.n < FEWEST:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    def verdict(self, below: str, neither: str, above: str) -> str:
        """The words for where the interval lies of 0, or that there are too few values to say."""
        return "too few to say" if self.n < FEWEST else (neither, above, below)[self.side]


def mean_interval(values: ArrayLike) -> Mean:
    """The mean of at least one value."""
    array = np.asarray(values, dtype=np.float64)
    mean, n = float(array.mean()), array.size
    if n == 1:
        return Mean(mean, None, None, n)
    quantile = float(special.stdtrit(n - 1, (1 + LEVEL) / 2))  # of Student's t; scipy.stats takes long to import
    half = quantile * float(array.std(ddof=1)) / math.sqrt(n)
    return Mean(mean, mean - half, mean + half, n)
