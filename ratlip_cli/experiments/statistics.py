"""Means over training seeds and images, differences between rows, and what they bear. Imports no torch.

A row of a table has a score for every seed, and each score is of the same images (image i: caption i, noise vector i).
Both are samples: other seeds would train other models, other captions would be other tasks. So what a row's mean is
worth has two parts,

    Var(mean) = V_seeds + V_images - V_both / S,

V_seeds: the variance of the S seeds' scores, divided by S; V_images: that of the mean when the n scenes are resampled
with replacement, the same ones for every seed (bootstrap). What is of one seed and one scene alone is in both and is
taken out once. A scene is all that is alike: the images generated for the captions of one real image, with that image.

A percentile bootstrap over seeds, then images, does not cover: three to five seeds cannot be resampled to a tail.
Here the part of the seeds has Student's t with S - 1 degrees of freedom and the part of the images the bootstrap's
variance, and the limits of the sum are those of Graybill and Wang (1980):

    half width = sqrt(t(S - 1)^2 V_seeds + t(n - 1)^2 (V_images - V_both / S))
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Array = NDArray[np.float64]

LEVEL = 0.95
FAMILY_ERROR = 1 - LEVEL
"""How often at most any of a table's comparisons is decided wrongly, by Holm's procedure."""

RESAMPLES = 1000
FEATURE_RESAMPLES = 200
"""Of metrics of sets of features, such as FID, each of which takes milliseconds to a second."""

MOST_DIMENSIONS = 256
"""Of features that are resampled. With the 2048 of Inception a table would take hours: there, seeds alone count."""

_BLOCK = 100  # Resamples in memory at a time.
_SMALLEST_P = 1e-12
_ROUNDING = 1e-9  # Of a value, within which seeds have the same one.


@dataclass(frozen=True)
class Sample:
    """A metric of one row: of every seed, and of every seed on resampled images."""

    seeds: tuple[int, ...]
    """Sorted."""
    values: Array
    """(S,), one score for each seed."""
    replicates: Array | None
    """(B,S): on B resamples of the images, the same in every row; None where values of images are not there."""
    images: int
    """n, the scenes; 0 where values of images are not there."""
    alone: str = ""
    """Why only the seeds are taken into account, where values of images are not there."""

    @property
    def bears(self) -> bool:
        """Whether it says anything of others: one seed says nothing of other seeds, one scene nothing of others.

        Nor do scores alone that are the same for every seed: how far others would lie is not in them.
        """
        if len(self.seeds) < 2 or self.images == 1:
            return False
        return self.replicates is not None or bool(np.ptp(self.values) > _ROUNDING * np.abs(self.values).max())


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, and where it lies with 95 % confidence: over other seeds and other images."""

    mean: float
    sd: float | None
    """Standard deviation over seeds; None for one seed."""
    low: float | None
    """None for one seed or one scene, which says nothing of others, and for seeds alone that have one value."""
    high: float | None
    seeds: int
    images: int
    """Scenes; 0 where only the seeds are taken into account, because values of images are not there."""

    def __str__(self) -> str:
        return f"{self.mean:.4g}" if self.low is None else f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Comparison:
    """A row minus the first row, seed by seed and image by image."""

    difference: Estimate
    p: float | None
    """By Holm's procedure over all comparisons with the first row; None where there is no interval."""
    verdict: str
    """better, worse, or not decided by N seeds; higher and lower where nobody knows which of them is better."""


def mean_sample(
    seeds: Sequence[int], values: NDArray[np.floating], scenes: NDArray[np.integer] | None = None
) -> Sample:
    """Of a metric that is a mean of values of images (S,m).

    Args:
        scenes: for each image (m,) the number of its scene; left out, each image is a scene of its own.
    """
    array = np.asarray(values, dtype=np.float64)
    sums, sizes = array.T, np.ones(array.shape[1])
    if scenes is not None:
        _, owner = np.unique(scenes, return_inverse=True)
        sizes = np.bincount(owner).astype(np.float64)
        sums = np.stack([np.bincount(owner, weights=own) for own in array], axis=1)  # (n,S)
    n = len(sizes)
    blocks = (resamples(n, _BLOCK, stream) for stream in range(RESAMPLES // _BLOCK))
    replicates = np.concatenate([counts @ sums / (counts @ sizes)[:, None] for counts in blocks])
    return _sorted(Sample(tuple(seeds), array.mean(axis=1), replicates, n))


def frechet_sample(
    seeds: Sequence[int],
    fakes: NDArray[np.floating],
    real: NDArray[np.floating],
    scenes: NDArray[np.integer] | None = None,
) -> Sample:
    """Of FID: features (S,m,d) of every seed's images against those of real images (n,d).

    Args:
        scenes: for each generated image (m,) the number of the real image that its caption belongs to: all of them are
            resampled together. Left out, real image i belongs to caption i where m = n, and to none where it is not.
    """
    from ratlip_cli.evaluation.statistics import Moments, frechet_distance  # imports torch

    m, n = fakes.shape[1], len(real)
    if scenes is None and m == n:
        scenes = np.arange(n)
    real_counts = resamples(n, FEATURE_RESAMPLES)
    counts = resamples(m, FEATURE_RESAMPLES, stream=1) if scenes is None else real_counts[:, scenes]
    enough = counts.sum(axis=1) > 1  # of a split of few captions, a resample may have none of the images
    real_counts, counts = real_counts[enough], counts[enough]
    reals = [Moments(*_moments(real, each)) for each in (np.ones(n), *real_counts)]
    distances = np.array(
        [
            [frechet_distance(Moments(*_moments(fake, each)), of_real) for fake in fakes]
            for each, of_real in zip((np.ones(m), *counts), reals, strict=True)
        ]
    )
    return _sorted(Sample(tuple(seeds), distances[0], distances[1:], m if scenes is None else n))


def _moments(features: NDArray[np.floating], counts: Array) -> tuple[Array, Array]:
    """Mean (d,) and covariance (d,d), divided by n - 1, of features (n,d) that count so often (n,)."""
    array, n = np.asarray(features, dtype=np.float64), counts.sum()
    mean = counts @ array / n
    centred = array - mean
    return mean, (centred * counts[:, None]).T @ centred / (n - 1)


def seed_sample(seeds: Sequence[int], values: Sequence[float]) -> Sample:
    """Of scores (S,) alone, where values of images are not there."""
    why = "values of images are not there"
    return _sorted(Sample(tuple(seeds), np.asarray(values, dtype=np.float64), None, 0, why))


@functools.lru_cache(maxsize=RESAMPLES // _BLOCK)
def resamples(n: int, number: int, stream: int = 0) -> Array:
    """How often each of n images counts in each resample (number, n): the same for the same arguments."""
    random = np.random.default_rng([n, stream])
    return random.multinomial(n, np.full(n, 1 / n), size=number).astype(np.float64)


def estimate(sample: Sample) -> Estimate:
    """The mean over the seeds with its 95 % interval."""
    mean = float(sample.values.mean())
    half = _half_width(sample, LEVEL) if sample.bears else None
    return Estimate(
        mean=mean,
        sd=float(sample.values.std(ddof=1)) if len(sample.seeds) > 1 else None,
        low=None if half is None else mean - half,
        high=None if half is None else mean + half,
        seeds=len(sample.seeds),
        images=sample.images,
    )


def combined(samples: Sequence[Sample], weights: Sequence[float]) -> Sample:
    """The weighted sum of rows, seed by seed and image by image, over the seeds that all of them have.

    Where a row lacks the values of images, or has others, only the seeds are taken into account.
    """
    common = sorted(set.intersection(*(set(one.seeds) for one in samples)))
    columns = [[one.seeds.index(seed) for seed in common] for one in samples]
    values = sum(w * one.values[c] for one, c, w in zip(samples, columns, weights, strict=True))
    replicates = [one.replicates for one in samples if one.replicates is not None]
    if (
        len(replicates) < len(samples)
        or len({(one.images, len(own)) for one, own in zip(samples, replicates, strict=True)}) > 1
    ):
        return Sample(tuple(common), np.asarray(values), None, 0)
    together = sum(w * r[:, c] for r, c, w in zip(replicates, columns, weights, strict=True))
    return Sample(tuple(common), np.asarray(values), np.asarray(together), samples[0].images)


def compare(samples: Sequence[Sample], higher_is_better: bool | None) -> list[Comparison]:
    """Every row but the first against the first.

    Which differences are decided is said by Holm's procedure, at 5 % for all of them together; the interval of each is
    its own 95 %.
    """
    differences = [combined((one, samples[0]), (1, -1)) for one in samples[1:]]
    tested = [p_value(one) for one in differences]
    adjusted = iter(holm([p for p in tested if p is not None]))
    ps = [None if p is None else next(adjusted) for p in tested]
    return [
        Comparison(estimate(one) if one.seeds else _nothing(), p, _verdict(one, p, higher_is_better))
        for one, p in zip(differences, ps, strict=True)
    ]


def p_value(sample: Sample) -> float | None:
    """The two-sided p value of a mean of 0, where the interval of that level ends; None where nothing is borne."""
    if not sample.bears:
        return None
    distance = abs(float(sample.values.mean()))
    if distance == 0:  # rows that are equal throughout have an interval without width there
        return 1.0

    def beyond(log_p: float) -> float:
        return _half_width(sample, 1 - math.exp(log_p)) - distance

    if beyond(math.log(_SMALLEST_P)) <= 0:
        return _SMALLEST_P
    return math.exp(optimize.brentq(beyond, math.log(_SMALLEST_P), 0.0))


def holm(ps: Sequence[float]) -> list[float]:
    """p values adjusted for being several (Holm 1979): those below 5 % are decided, wrongly in 5 % of all tables."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(np.argsort(ps, kind="stable")):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = largest
    return adjusted


def _half_width(sample: Sample, level: float) -> float:
    """Of the interval of at least two seeds; see the module."""
    tail, seeds = (1 - level) / 2, len(sample.seeds)
    square = float(stats.t.isf(tail, seeds - 1)) ** 2 * float(sample.values.var(ddof=1)) / seeds
    if sample.replicates is not None:
        of_images = float(sample.replicates.mean(axis=1).var(ddof=1))
        of_each = float(sample.replicates.var(axis=0, ddof=1).mean())  # V_images of one seed alone
        of_images -= (of_each - of_images) / (seeds - 1)
        square += float(stats.t.isf(tail, sample.images - 1)) ** 2 * max(of_images, 0.0)
    return math.sqrt(square)


def _verdict(difference: Sample, p: float | None, higher_is_better: bool | None) -> str:
    if p is None or p >= FAMILY_ERROR:
        count = len(difference.seeds)
        alone = "one image" if count > 1 and difference.images == 1 else f"{count} seed{'' if count == 1 else 's'}"
        return f"not decided by {alone}"
    higher = bool(difference.values.mean() > 0)
    if higher_is_better is None:
        return "higher" if higher else "lower"
    return "better" if higher is higher_is_better else "worse"


def _nothing() -> Estimate:
    return Estimate(mean=math.nan, sd=None, low=None, high=None, seeds=0, images=0)


def _sorted(sample: Sample) -> Sample:
    order = np.argsort(sample.seeds)
    replicates = None if sample.replicates is None else sample.replicates[:, order]
    seeds = tuple(sample.seeds[k] for k in order)
    return replace(sample, seeds=seeds, values=sample.values[order], replicates=replicates)
