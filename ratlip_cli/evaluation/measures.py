"""The metrics as functions of what the networks said; each can be measured again on a resample of the images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ratlip_cli.evaluation.bootstrap import Resample
from ratlip_cli.evaluation.clip_score import CANDIDATES, ClipScorer, RetrievalScorer
from ratlip_cli.evaluation.feature_file import FeatureFile
from ratlip_cli.evaluation.features import FeatureNetwork
from ratlip_cli.evaluation.frechet import frechet_distance, moments
from ratlip_cli.evaluation.kernel import SUBSET_SIZE, kernel_distance
from ratlip_cli.evaluation.manifold import inside_manifold


@dataclass(frozen=True)
class Measure:
    """One metric, ready to be computed."""

    name: str
    network: FeatureNetwork
    compute: Callable[[Resample | None], float]
    """The value over all images, or over a resample of them."""
    compares: bool = True
    """Whether it looks at real images."""
    note: str | None = None
    """What makes the number less than it seems."""


def feature_measures(
    metrics: Sequence[str], fake: FeatureFile, real: FeatureFile, network: FeatureNetwork
) -> Iterator[Measure]:
    """FID, KID, precision and recall, as far as `metrics` names them."""
    if "fid" in metrics:
        yield Measure(
            f"fid{network.suffix}", network, lambda drawn: _fid(fake, real, drawn), note=_singular(fake, real)
        )
    if "kid" in metrics:
        size = min(len(fake), len(real))
        note = f"subsets of {size} images instead of {SUBSET_SIZE}" if size < SUBSET_SIZE else None
        yield Measure(f"kid{network.suffix}", network, lambda drawn: _kid(fake, real, drawn), note=note)
    if "precision-recall" in metrics:
        # Drawing an image twice would shrink the balls around it: the manifolds stay those of all images.
        inside = functools.cache(inside_manifold)
        yield Measure(
            f"precision{network.suffix}", network, lambda drawn: _mean(inside(fake, real), drawn and drawn.fake)
        )
        yield Measure(f"recall{network.suffix}", network, lambda drawn: _mean(inside(real, fake), drawn and drawn.real))


def clip_score_measure(scorer: ClipScorer, name: str) -> Measure:
    """The CLIP score."""
    return Measure(name, scorer.network, lambda drawn: _mean(scorer.values, drawn and drawn.fake), compares=False)


def r_precision_measure(scorer: RetrievalScorer, name: str) -> Measure:
    """R-precision, in [0,1]."""
    few = scorer.candidates < CANDIDATES
    note = f"among {scorer.candidates} captions instead of {CANDIDATES}" if few else None
    return Measure(name, scorer.network, lambda drawn: _mean(scorer.values, drawn and drawn.fake), False, note)


def _fid(fake: FeatureFile, real: FeatureFile, drawn: Resample | None) -> float:
    if drawn is None:
        return frechet_distance(moments(fake), moments(real))
    return frechet_distance(moments(fake, drawn.fake), moments(real, drawn.real))


def _kid(fake: FeatureFile, real: FeatureFile, drawn: Resample | None) -> float:
    if drawn is None:
        return kernel_distance(fake, real)
    fake_rows, real_rows = (np.repeat(np.arange(len(counts)), counts) for counts in (drawn.fake, drawn.real))
    return kernel_distance(fake, real, fake_rows, real_rows)


def _mean(values: Sequence[float] | NDArray[np.bool_], counts: NDArray[np.int64] | None) -> float:
    return float(np.average(values, weights=counts))


def _singular(fake: FeatureFile, real: FeatureFile) -> str | None:
    fewest, needed = min(len(fake), len(real)), fake.dimensions + 1
    if fewest >= needed:
        return None
    return f"{fewest} images, fewer than the {needed} that a covariance of {fake.dimensions} features takes"
