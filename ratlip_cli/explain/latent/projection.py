"""Vectors in a plane: principal components, t-SNE and UMAP."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ratlip_cli.explain.request import check_method, check_points


@dataclass(frozen=True)
class Projection:
    """Points of a plane."""

    method: str
    """Of METHODS."""
    points: NDArray[np.float64]
    """(n,2)"""
    explained: tuple[float, float] | None
    """Shares of the variance that the two axes show; None for a method that does not say."""


def project(vectors: NDArray[np.float64], method: str, seed: int = 0) -> Projection:
    """Vectors (n,d) in a plane that is fitted on all of them, by one of METHODS; n is at least 3.

    Raises like `check_method` and `check_points`.
    """
    check_method(method)
    check_points(len(vectors))
    if method == "pca":
        return _pca(vectors)
    if method == "tsne":
        from sklearn.manifold import TSNE  # takes a second to import

        tsne = TSNE(perplexity=min(30.0, (len(vectors) - 1) / 3), init="pca", random_state=seed % 2**32)
        return Projection(method, tsne.fit_transform(vectors.astype(np.float32)).astype(np.float64), None)
    from umap import UMAP

    umap = UMAP(n_neighbors=min(15, len(vectors) - 1), init="random", random_state=seed % 2**32, n_jobs=1)
    return Projection(method, np.asarray(umap.fit_transform(vectors), dtype=np.float64), None)


def _pca(vectors: NDArray[np.float64]) -> Projection:
    """Principal components, the larger variance first, each turned so that its largest loading is positive."""
    centred = vectors - vectors.mean(axis=0)
    _, singular, components = np.linalg.svd(centred, full_matrices=False)
    axes = components[:2]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    points = np.zeros((len(vectors), 2))
    points[:, : len(axes)] = centred @ axes.T
    shares = singular**2 / max(float((singular**2).sum()), np.finfo(np.float64).tiny)
    first, second = (*shares[:2].tolist(), 0.0)[:2]
    return Projection("pca", points, (first, second))
