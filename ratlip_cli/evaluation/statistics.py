"""Features to statistics: distances between two sets of features, scores of images and captions, and their intervals.

FID, KID, precision and recall are made of the distances. Each takes how often every image counts, so that it can be
computed again on a bootstrap resample.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack
from torch import Tensor

from ratlip_cli.errors import DataError, RatlipError
from ratlip_cli.evaluation.feature_file import FeatureFile
from ratlip_cli.evaluation.images import Captions
from ratlip_cli.model.losses import clip_similarity
from ratlip_cli.progress import Progress, silent

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020
"""Of the kernel distance, as in torch-fidelity."""

NEIGHBOURS = 3
"""Of the manifold."""

CANDIDATES = 100
"""Captions among which an image's own must rank first."""

Matrix = NDArray[np.float64]
Interval = tuple[float, float]


class Moments(NamedTuple):
    """What the Fréchet distance takes of a set of features."""

    mean: NDArray[np.float64]  # (d,)
    covariance: Matrix  # (d,d), divided by n - 1.


def moments(features: FeatureFile, counts: NDArray[np.int64] | None = None) -> Moments:
    """Mean and covariance in float64, in one pass over chunks of the file.

    Args:
        counts: how often each image counts (n,); once each if left out.
    """
    n = 0
    mean = np.zeros(features.dimensions)
    scatter = np.zeros((features.dimensions, features.dimensions))
    for rows in features.chunks():
        chunk = features[rows].astype(np.float64)
        if counts is not None:
            chunk = np.repeat(chunk, counts[rows], axis=0)
        if not len(chunk):
            continue
        before, n = n, n + len(chunk)
        chunk_mean = chunk.mean(axis=0)
        shift = chunk_mean - mean
        centred = chunk - chunk_mean
        scatter += centred.T @ centred + np.outer(shift, shift) * (before * len(chunk) / n)
        mean += shift * (len(chunk) / n)
    if n < 2:
        raise DataError(f"a covariance of {n} image{'' if n else 's'} is none: give at least 2.")
    return Moments(mean, scatter / (n - 1))


def frechet_distance(first: Moments, second: Moments) -> float:
    """The squared Fréchet distance between the two Gaussians that have these moments (Heusel et al. 2017).

        d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))

    With C = F F^T, tr (C1 C2)^(1/2) is the nuclear norm of F1^T F2. That holds for singular covariances too, needs no
    square root of a matrix product, and never becomes complex. At least 0 after rounding.
    """
    factors = _factor(first.covariance), _factor(second.covariance)
    overlap = np.linalg.svd(factors[0].T @ factors[1], compute_uv=False).sum()
    spread = np.trace(first.covariance) + np.trace(second.covariance)
    distance = np.sum((first.mean - second.mean) ** 2) + spread - 2 * overlap
    return float(np.maximum(0.0, distance))  # NaN stays NaN


def _factor(covariance: Matrix) -> Matrix:
    """F (d,r) with F F^T = `covariance`, of its numerical rank r: the Cholesky factor with pivots."""
    lower, pivots, rank, _ = lapack.dpstrf(covariance, lower=1)
    factor: Matrix = np.empty((len(covariance), rank))
    factor[pivots - 1] = np.tril(lower)[:, :rank]
    return factor


def kernel_distance(
    fake: FeatureFile,
    real: FeatureFile,
    fake_counts: NDArray[np.int64] | None = None,
    real_counts: NDArray[np.int64] | None = None,
) -> float:
    """The squared maximum mean discrepancy under k(x,y) = (x.y/d + 1)^3 (Bińkowski et al. 2018).

    Its unbiased estimate, as the mean over SUBSETS random subsets of SUBSET_SIZE images or, where a set has fewer, of
    that many. The subsets are those of torch-fidelity. Where each would be both whole sets, there is one.

    Args:
        fake_counts, real_counts: how often each image counts (n,); once each if left out.
    """
    fake_rows, real_rows = _rows(fake, fake_counts), _rows(real, real_counts)
    size = min(SUBSET_SIZE, len(fake_rows), len(real_rows))
    random = np.random.RandomState(SEED)
    distances = []
    for _ in range(1 if size == len(fake_rows) == len(real_rows) else SUBSETS):
        x = fake[fake_rows[random.choice(len(fake_rows), size, replace=False)]]
        y = real[real_rows[random.choice(len(real_rows), size, replace=False)]]
        distances.append(_discrepancy(x.astype(np.float64), y.astype(np.float64)))
    return float(np.mean(distances))


def _rows(features: FeatureFile, counts: NDArray[np.int64] | None) -> NDArray[np.int64]:
    rows = np.arange(len(features))
    return rows if counts is None else np.repeat(rows, counts)


def _discrepancy(x: Matrix, y: Matrix) -> float:
    """The unbiased squared maximum mean discrepancy of features (m,d) and (m,d)."""
    m = len(x)
    within = sum(kernel.sum() - np.trace(kernel) for kernel in (_kernel(x, x), _kernel(y, y)))
    return float(within / (m * (m - 1)) - 2 * _kernel(x, y).mean())


def _kernel(x: Matrix, y: Matrix) -> Matrix:
    kernel: Matrix = x @ y.T  # (m,m), the largest array of an evaluation: changed in place
    kernel /= x.shape[1]
    kernel += 1
    kernel *= kernel * kernel
    return kernel


def inside_manifold(points: FeatureFile, manifold: FeatureFile, progress: Progress = silent) -> NDArray[np.bool_]:
    """Which of `points` (n,) lie inside the manifold of the other set (Kynkäänniemi et al. 2019).

    The manifold of a set is the union of balls around its features, each as wide as the distance to its third
    neighbour; the set must have more than NEIGHBOURS.
    """
    radii = _radii(manifold, progress)
    inside = torch.zeros(len(points), dtype=torch.bool)
    for rows in points.chunks():
        for balls in manifold.chunks():
            inside[rows] |= (_distances(points, rows, manifold, balls) <= radii[balls]).any(dim=1)
        progress("images in the manifold", rows.stop, len(points), "images")
    return inside.numpy()


def _radii(manifold: FeatureFile, progress: Progress) -> Tensor:
    """Distance (n,) of each image to its third neighbour."""
    radii = []
    for rows in manifold.chunks():
        nearest = torch.empty(rows.stop - rows.start, 0)
        for others in manifold.chunks():
            distances = _distances(manifold, rows, manifold, others)
            together = torch.cat((nearest, distances), dim=1)
            nearest = together.topk(min(NEIGHBOURS + 1, together.shape[1]), dim=1, largest=False).values
        radii.append(nearest.amax(dim=1))
        progress("balls of the manifold", rows.stop, len(manifold), "images")
    widths = torch.cat(radii)
    if not widths.isfinite().all():
        raise RatlipError("precision and recall: the features are too large to measure distances between them.")
    return widths


def _distances(first: FeatureFile, rows: slice, second: FeatureFile, columns: slice) -> Tensor:
    return torch.cdist(torch.from_numpy(first[rows]), torch.from_numpy(second[columns]))


def clip_scores(images: FeatureFile, captions: Captions, text: Tensor, released: bool = False) -> list[float]:
    """100 max(cos, 0) of each image and its caption, the mean over several.

    Args:
        images: image vectors (n,d).
        captions: the captions of all images.
        text: their text vectors (number of captions, d) by the same CLIP.
        released: score as the published code does: the plain cosine, not cut off at 0 and not times 100.
    """
    scores = []
    for vector, own in zip(_vectors(images), captions.of_image, strict=True):
        cosines = clip_similarity(vector[None], text[list(own)])
        scores.append((cosines if released else 100 * cosines.clamp(min=0)).mean().item())
    return scores


def ranks_first(images: FeatureFile, captions: Captions, text: Tensor) -> tuple[list[float], int]:
    """Whether the own caption of each image ranks first among `candidates`: 1 or 0, the mean over several.

    The arguments are those of `clip_scores`. Beside the scores (n,), the fewest candidates that there were come back.
    Raises DataError as `candidates` does.
    """
    scores, fewest = [], CANDIDATES
    for vector, own in zip(_vectors(images), captions.of_image, strict=True):
        first = []
        for number in own:
            among = candidates(captions, number)
            cosines = clip_similarity(vector[None], text[among])
            first.append(bool(cosines[-1] > cosines[:-1].max()))
            fewest = min(fewest, len(among))
        scores.append(float(np.mean(first)))
    return scores, fewest


def candidates(captions: Captions, number: int) -> NDArray[np.int64]:
    """The numbers of CANDIDATES captions: others, of other images and in other words, and last `number` itself.

    Which others compete is a random choice that depends on `number` alone; where there are too few, all of them do.
    Raises DataError where there is none.
    """
    scenes, wordings = captions.scenes, captions.wordings
    others = np.flatnonzero((scenes != scenes[number]) & (wordings != wordings[number]))
    if not len(others):
        raise DataError("R-precision needs images with different captions; all of these have the same one.")
    if len(others) >= CANDIDATES:
        others = np.random.default_rng(number).choice(others, CANDIDATES - 1, replace=False, shuffle=False)
    return np.append(others, number)


def _vectors(images: FeatureFile) -> Iterator[Tensor]:
    """The vectors (d,) of all images, a chunk in memory at a time."""
    for rows in images.chunks():
        yield from torch.from_numpy(images[rows])


class Counts(NamedTuple):
    """How often each image counts: once, or as often as a resample has it."""

    fake: NDArray[np.int64]  # (n_fake,)
    real: NDArray[np.int64]  # (n_real,)


def resamples(number: int, n_real: int, scenes: NDArray[np.int64], paired: bool) -> Iterator[Counts]:
    """Resample scenes with replacement; all fakes of a scene come and go together, because they are alike.

    A resample of fewer than two fakes, as of a split of few captions, has no covariance, and is made anew.

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
        while counts[scenes].sum() < min(2, len(scenes)):
            counts = _resample(random, n_scenes)
        yield Counts(counts[scenes], counts if paired else _resample(random, n_real))


def interval(
    value: float, replicates: Sequence[float], lowest: float = -math.inf, highest: float = math.inf
) -> Interval:
    """The middle 95 % of the replicates, moved so that their mean falls on `value`, and cut to the range of the metric.

    The move takes out the bias that having the same image twice puts into distances between sets.
    """
    low, high = np.quantile(replicates, (0.025, 0.975)) - np.mean(replicates)
    return max(value + float(low), lowest), min(value + float(high), highest)


def _resample(random: np.random.Generator, count: int) -> NDArray[np.int64]:
    return np.bincount(random.integers(max(count, 1), size=count), minlength=count)
