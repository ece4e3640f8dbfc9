"""Precision and recall of generated images (Kynkäänniemi et al. 2019).

The manifold of a set is the union of balls around its features, each as wide as the distance to its third neighbour.
Precision is the share of generated images inside the manifold of the real ones, recall that of real images inside
the manifold of the generated ones.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ratlip_cli.evaluation.feature_file import FeatureFile

NEIGHBOURS = 3


def inside_manifold(points: FeatureFile, manifold: FeatureFile) -> NDArray[np.bool_]:
    """Which of `points` (n,) lie inside the manifold of the other set, which must have more than NEIGHBOURS."""
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
