"""Features to statistics: the distances between two sets of features that FID, KID, precision and recall are made of.

Each takes how often every image counts, so that it can be computed again on a bootstrap resample.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack
from torch import Tensor

from ratlip_cli.evaluation.feature_file import FeatureFile

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020
"""Of the kernel distance, as in torch-fidelity."""

NEIGHBOURS = 3
"""Of the manifold."""

Matrix = NDArray[np.float64]


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
    return max(0.0, float(np.sum((first.mean - second.mean) ** 2) + spread - 2 * overlap))


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
    that many. The subsets are those of torch-fidelity.

    Args:
        fake_counts, real_counts: how often each image counts (n,); once each if left out.
    """
    fake_rows, real_rows = _rows(fake, fake_counts), _rows(real, real_counts)
    size = min(SUBSET_SIZE, len(fake_rows), len(real_rows))
    random = np.random.RandomState(SEED)
    distances = []
    for _ in range(SUBSETS):
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


def inside_manifold(points: FeatureFile, manifold: FeatureFile) -> NDArray[np.bool_]:
    """Which of `points` (n,) lie inside the manifold of the other set (Kynkäänniemi et al. 2019).

    The manifold of a set is the union of balls around its features, each as wide as the distance to its third
    neighbour; the set must have more than NEIGHBOURS.
    """
    radii = _radii(manifold)
    inside = torch.zeros(len(points), dtype=torch.bool)
    for rows in points.chunks():
        for balls in manifold.chunks():
            inside[rows] |= (_distances(points, rows, manifold, balls) <= radii[balls]).any(dim=1)
    return inside.numpy()


def _radii(manifold: FeatureFile) -> Tensor:
    """Distance (n,) of each image to its third neighbour."""
    radii = []
    for rows in manifold.chunks():
        nearest = torch.empty(rows.stop - rows.start, 0)
        for others in manifold.chunks():
            distances = _distances(manifold, rows, manifold, others)
            together = torch.cat((nearest, distances), dim=1)
            nearest = together.topk(min(NEIGHBOURS + 1, together.shape[1]), dim=1, largest=False).values
        radii.append(nearest.amax(dim=1))
    return torch.cat(radii)


def _distances(first: FeatureFile, rows: slice, second: FeatureFile, columns: slice) -> Tensor:
    return torch.cdist(torch.from_numpy(first[rows]), torch.from_numpy(second[columns]))
