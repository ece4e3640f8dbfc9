"""The Fréchet distance between two sets of features (Heusel et al. 2017), the FID where Inception made them.

    d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))

With C = F F^T, tr (C1 C2)^(1/2) is the nuclear norm of F1^T F2. That holds for singular covariances too, needs no
square root of a matrix product, and never becomes complex.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from ratlip_cli.evaluation.feature_file import FeatureFile

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


class Moments(NamedTuple):
    """What the distance knows of a set of features."""

    mean: Vector  # (d,)
    covariance: Matrix  # (d,d), divided by n - 1.


def moments(features: FeatureFile, counts: NDArray[np.int64] | None = None) -> Moments:
    """Mean and covariance in float64, in one pass over pieces of the file.

    Args:
        counts: how often each image counts (n,); once each if left out.
    """
    seen = 0
    mean = np.zeros(features.dimensions)
    scatter = np.zeros((features.dimensions, features.dimensions))
    for rows in features.chunks():
        chunk = features[rows].astype(np.float64)
        if counts is not None:
            chunk = np.repeat(chunk, counts[rows], axis=0)
        if not len(chunk):
            continue
        before, seen = seen, seen + len(chunk)
        chunk_mean = chunk.mean(axis=0)
        shift = chunk_mean - mean
        centred = chunk - chunk_mean
        scatter += centred.T @ centred + np.outer(shift, shift) * (before * len(chunk) / seen)
        mean += shift * (len(chunk) / seen)
    return Moments(mean, scatter / (seen - 1))


def frechet_distance(first: Moments, second: Moments) -> float:
    """The squared Fréchet distance between the two Gaussians that have these moments, at least 0 after rounding."""
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
