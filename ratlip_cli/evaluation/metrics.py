"""Statistics to metrics: the table of metrics by their keys, each computed anew on every resample of the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ratlip_cli.evaluation.extract import Features
from ratlip_cli.evaluation.feature_file import FeatureFile
from ratlip_cli.evaluation.images import Captions
from ratlip_cli.evaluation.networks import ClipNetwork, FeatureNetwork, Networks
from ratlip_cli.evaluation.request import EvaluationRequest
from ratlip_cli.evaluation.statistics import (
    CANDIDATES,
    SUBSET_SIZE,
    Counts,
    clip_scores,
    frechet_distance,
    inside_manifold,
    kernel_distance,
    moments,
    ranks_first,
)
from ratlip_cli.progress import Progress, silent


@dataclass(frozen=True)
class Measurement:
    """A metric of one set of images."""

    value: Callable[[Counts], float]
    """Its value where images count so often."""
    note: str | None = None
    """What makes the number less than it seems."""
    each: Sequence[float] | NDArray[np.bool_] | None = None
    """The values of the generated images (n,), where the metric is their mean."""


@dataclass(frozen=True)
class Metric:
    """A metric that is wanted, not yet measured."""

    key: str
    """Names the metric in code: fid, kid, precision, recall, clip_score, r_precision; with `second_` before the last
    two by a second CLIP."""
    name: str
    """Names it in results, with the network that was used: `fid` by Inception alone, `fid_clip` by a CLIP."""
    network: FeatureNetwork
    measure: Callable[[], Measurement]


def fid(fake: FeatureFile, real: FeatureFile) -> Measurement:
    """The Fréchet distance (Heusel et al. 2017)."""
    fewest, needed = min(len(fake), len(real)), fake.dimensions + 1
    note = f"{fewest} images, fewer than the {needed} that a covariance of {fake.dimensions} features takes"
    return Measurement(
        lambda counts: frechet_distance(moments(fake, counts.fake), moments(real, counts.real)),
        note if fewest < needed else None,
    )


_SHARES = ("precision", "recall", "r_precision", "second_r_precision")
RANGES: dict[str, tuple[float, ...]] = {"fid": (0.0,), **dict.fromkeys(_SHARES, (0.0, 1.0))}
"""Keys of metrics -> the lowest and the highest value that they can have, of those whose intervals could leave them."""


def kid(fake: FeatureFile, real: FeatureFile) -> Measurement:
    """The kernel distance (Bińkowski et al. 2018)."""
    size = min(len(fake), len(real))
    note = f"subsets of {size} images instead of {SUBSET_SIZE}" if size < SUBSET_SIZE else None
    return Measurement(lambda counts: kernel_distance(fake, real, counts.fake, counts.real), note)


def precision(fake: FeatureFile, real: FeatureFile, progress: Progress = silent) -> Measurement:
    """The share of generated images inside the manifold of the real ones (Kynkäänniemi et al. 2019).

    An image that came twice would shrink the balls around it: the manifold of a resample stays that of all images.
    """
    inside = inside_manifold(fake, real, progress)
    return Measurement(lambda counts: _mean(inside, counts.fake))


def recall(fake: FeatureFile, real: FeatureFile, progress: Progress = silent) -> Measurement:
    """The share of real images inside the manifold of the generated ones; see `precision`."""
    inside = inside_manifold(real, fake, progress)
    return Measurement(lambda counts: _mean(inside, counts.real))


def clip_score(images: FeatureFile, captions: Captions, network: ClipNetwork) -> Measurement:
    """The CLIP score (Hessel et al. 2021), in [0,100]; in [-1,1] by the protocol `released`."""
    scores = clip_scores(images, captions, captions.vectors(network.clip), network.released)
    return Measurement(lambda counts: _mean(scores, counts.fake), each=scores)


def r_precision(images: FeatureFile, captions: Captions, network: ClipNetwork) -> Measurement:
    """How often an image's own caption ranks first among CANDIDATES, in [0,1]."""
    scores, fewest = ranks_first(images, captions, captions.vectors(network.clip))
    notes = [f"among {fewest} captions instead of {CANDIDATES}"] if fewest < CANDIDATES else []
    if alike := network.clip.alike(captions.texts):
        same = "have the text vector of one in other words, which it cannot tell apart"
        notes.append(f"{alike:,} of {len(captions.texts):,} captions {same}")
    return Measurement(lambda counts: _mean(scores, counts.fake), "; ".join(notes) or None, scores)


FEATURE_METRICS: Mapping[str, Callable[..., Measurement]] = {
    "fid": fid,
    "kid": kid,
    "precision": precision,
    "recall": recall,
}
"""By key: metrics of the features of generated and real images by one network."""

CLIP_METRICS = {"clip_score": clip_score, "r_precision": r_precision}
"""By key: metrics of generated images and their captions by one CLIP."""


def wanted_metrics(
    request: EvaluationRequest,
    networks: Networks,
    features: Features,
    captions: Captions | None,
    progress: Progress = silent,
) -> Iterator[Metric]:
    """The metrics of a request, by the networks that were loaded for it; `progress` is told of what takes long."""
    network, real = networks.features, features.real
    if network is not None and real is not None:
        for key in request.feature_keys:
            measure = partial(FEATURE_METRICS[key], features.fake[network.name], real)
            if key in ("precision", "recall"):
                measure = partial(measure, progress=progress)
            yield Metric(key, key + network.suffix, network, measure)
    if captions is None:
        return
    for key in request.clip_keys:
        name = f"{key}_released" if request.released else key
        for clip in networks.clips:
            first = clip is networks.clips[0]
            measure = partial(CLIP_METRICS[key], features.fake[clip.name], captions, clip)
            names = (key, name) if first else (f"second_{key}", f"{name}_{clip.spec}")
            yield Metric(*names, clip, measure)


def _mean(values: Sequence[float] | NDArray[np.bool_], counts: NDArray[np.int64]) -> float:
    return float(np.average(values, weights=counts))
