"""The kernel distance between two sets of features (Bińkowski et al. 2018), the KID where Inception made them.

The unbiased estimate of the squared maximum mean discrepancy under k(x,y) = (x.y/d + 1)^3, as its mean over random
subsets. Numbers and draws of the subsets are those of torch-fidelity.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ratlip_cli.evaluation.feature_file import FeatureFile

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020


def kernel_distance(
    fake: FeatureFile,
    real: FeatureFile,
    fake_rows: NDArray[np.int64] | None = None,
    real_rows: NDArray[np.int64] | None = None,
) -> float:
    """The kernel distance, over subsets of SUBSET_SIZE or, where a set has fewer images, of that many.

    Args:
        fake_rows, real_rows: the images to take, each as often as it is named; all of them if left out.
    """
    fake_rows = np.arange(len(fake)) if fake_rows is None else fake_rows
    real_rows = np.arange(len(real)) if real_rows is None else real_rows
    size = min(SUBSET_SIZE, len(fake_rows), len(real_rows))
    random = np.random.RandomState(SEED)
    distances = []
    for _ in range(SUBSETS):
        x = fake[fake_rows[random.choice(len(fake_rows), size, replace=False)]]
        y = real[real_rows[random.choice(len(real_rows), size, replace=False)]]
        distances.append(_discrepancy(x.astype(np.float64), y.astype(np.float64)))
    return float(np.mean(distances))


def _discrepancy(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The unbiased squared maximum mean discrepancy of features (m,d) and (m,d)."""
    m = len(x)
    within = sum(kernel.sum() - np.trace(kernel) for kernel in (_kernel(x, x), _kernel(y, y)))
    return float(within / (m * (m - 1)) - 2 * _kernel(x, y).mean())


def _kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    kernel: NDArray[np.float64] = x @ y.T  # (m,m), the largest array of an evaluation: changed in place
    kernel /= x.shape[1]
    kernel += 1
    kernel *= kernel * kernel
    return kernel
