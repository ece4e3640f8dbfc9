"""From images and captions to scores, by the protocols `standard` and `released`.

`standard` compares every image of a split, centre crop, with one fake for every caption: FID and KID as
torch-fidelity computes them, the CLIP score with pixels prepared once. `released` prepares pixels as the published
GALIP and RATLIP code does, for comparison with printed tables only; its metrics are named so.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.errors import DataError
from ratlip_cli.evaluation.bootstrap import Interval, interval, resamples
from ratlip_cli.evaluation.clip_score import ClipScorer, RetrievalScorer
from ratlip_cli.evaluation.feature_file import FeatureFile, FeatureWriter
from ratlip_cli.evaluation.features import ClipNetwork, FeatureNetwork
from ratlip_cli.evaluation.images import Captions, GeneratedImages, Images, SplitImages
from ratlip_cli.evaluation.manifold import NEIGHBOURS
from ratlip_cli.evaluation.measures import Measure, clip_score_measure, feature_measures, r_precision_measure
from ratlip_cli.evaluation.networks import Networks
from ratlip_cli.evaluation.request import Request
from ratlip_cli.files import whole_file
from ratlip_cli.weights.model_folder import Model

Progress: TypeAlias = Callable[[str, int, int, str], None]
"""Called with what is being done, how many units of it are done, how many there are, and what a unit is."""

_Consumer: TypeAlias = tuple[FeatureNetwork, Callable[[Tensor], None]]
"""A network, and what wants its features (B,d) of the next images."""


@dataclass(frozen=True)
class Score:
    """One number and how it was made."""

    value: float
    interval: Interval | None
    """95 %, by bootstrap over the images."""
    features: str
    """The network."""
    n_real: int | None
    """Real images; None where the metric looks at none."""
    n_fake: int
    """Images that were scored."""
    seconds: float
    """What this metric took, without drawing the images."""
    note: str | None
    """What makes the number less than it seems."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model or of a folder of images, with all that decided them."""

    protocol: str
    seed: int
    image_size: tuple[int, int]
    """Height and width."""
    captions_per_image: int
    networks: Mapping[str, Mapping[str, str]]
    """By name: the fingerprint of their weights, and how images are resized for them."""
    fingerprint: str
    """16 hex digits over all that decides the scores: images, captions, networks, resizing, counts, seed."""
    seconds: float
    """All of it."""
    metrics: Mapping[str, Score]
    """By name, which says what was used: `fid` by Inception alone, `fid_clip` by a CLIP."""


@dataclass(frozen=True)
class _Subject:
    """What is scored."""

    fakes: Images
    image_size: tuple[int, int]
    reals: Images | None
    captions: Captions | None
    paired: bool
    """Whether the captions' scene k is the real image k."""

    @property
    def n_real(self) -> int:
        """Real images."""
        return 0 if self.reals is None else len(self.reals)

    @property
    def scenes(self) -> NDArray[np.int64]:
        """For each fake, its scene."""
        return np.arange(len(self.fakes)) if self.captions is None else self.captions.scenes[self.captions.first]


def evaluate_model(
    model: Model, dataset: CaptionedImages, request: Request, networks: Networks, progress: Progress | None = None
) -> Evaluation:
    """Score a model on a split: one fake for every caption, against every image.

    Args:
        dataset: the split at the model's image size.
        networks: from `load_networks` for this request.
        progress: called while images are read, drawn and resampled.

    Raises:
        DataError: an image cannot be read, or there are too few. RatlipError: the model draws NaN.
    """
    captions = Captions.of_split(dataset, request.captions_per_image)
    fakes = GeneratedImages(model, captions, request.seed, request.batch_size)
    size = (dataset.image_size, dataset.image_size)
    return _evaluate(_Subject(fakes, size, SplitImages(dataset), captions, True), request, networks, progress)


def evaluate_images(
    images: Images,
    image_size: tuple[int, int],
    reference: Images | None,
    captions: Captions | None,
    request: Request,
    networks: Networks,
    progress: Progress | None = None,
) -> Evaluation:
    """Score images from anywhere, against real images and against their captions.

    Args:
        images, image_size, captions: from `open_folder`.
        reference: real images of the same size, for FID, KID, precision and recall.
        networks: from `load_networks` for this request.
        progress: called while images are read and resampled.

    Raises:
        DataError: an image cannot be read or has another size, there are too few, or captions or a reference are
            missing.
    """
    return _evaluate(_Subject(images, image_size, reference, captions, False), request, networks, progress)


def _evaluate(subject: _Subject, request: Request, networks: Networks, progress: Progress | None) -> Evaluation:
    started = time.perf_counter()
    _check(subject, request, networks)
    with tempfile.TemporaryDirectory(prefix="ratlip-") as scratch:
        work = _Work(subject, request, networks, Path(scratch), progress or (lambda what, done, total, unit: None))
        metrics = {measure.name: work.score(measure) for measure in list(work.measures())}
    named = networks.by_name()
    return Evaluation(
        protocol=request.protocol,
        seed=request.seed,
        image_size=subject.image_size,
        captions_per_image=request.captions_per_image,
        networks={
            name: {"fingerprint": network.fingerprint, "resize": network.resize} for name, network in named.items()
        },
        fingerprint=_fingerprint(subject, request, networks),
        seconds=time.perf_counter() - started,
        metrics=metrics,
    )


def _fingerprint(subject: _Subject, request: Request, networks: Networks) -> str:
    fakes, reals, captions = subject.fakes, subject.reals, subject.captions
    decisive = {
        "protocol": request.protocol,
        "fakes": fakes.fingerprint,
        "reals": reals.fingerprint if reals is not None and networks.features is not None else None,
        "captions": captions.fingerprint if captions is not None and networks.clips else None,
        "networks": [(network.fingerprint, network.resize) for network in networks.by_name().values()],
        "counts": (len(fakes), subject.n_real),
        "image_size": subject.image_size,
        "seed": request.seed,
    }
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]


def _check(subject: _Subject, request: Request, networks: Networks) -> None:
    """Raise DataError where what is there is not enough for what is asked."""
    if networks.clips and subject.captions is None:
        raise DataError("CLIP score and R-precision need captions, and these images have none: ask for others.")
    if networks.features is None:
        return
    if subject.reals is None:
        raise DataError("FID, KID, precision and recall compare with real images: give a --reference or --dataset.")
    needed = NEIGHBOURS + 1 if "precision-recall" in request.metrics else 2
    for count, which in ((subject.n_real, "real"), (len(subject.fakes), "generated")):
        if count < needed:
            raise DataError(f"too few {which} images: {count}; {', '.join(request.metrics)} take at least {needed}.")


class _Work:
    """One evaluation while it runs: what the networks see goes to files and scorers, and becomes measures."""

    def __init__(
        self, subject: _Subject, request: Request, networks: Networks, scratch: Path, progress: Progress
    ) -> None:
        self._subject = subject
        self._request = request
        self._networks = networks
        self._scratch = scratch
        self._progress = progress
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def measures(self) -> Iterator[Measure]:
        """Let the networks look at all images once, and yield every metric that was asked for."""
        metrics, networks, captions = self._request.metrics, self._networks, self._subject.captions
        scorers: list[ClipScorer] = []
        rankers: list[RetrievalScorer] = []
        if captions is not None and "clip-score" in metrics:
            released = self._request.protocol == "released"
            scorers = [ClipScorer(network, captions, released) for network in networks.clips]
        if captions is not None and "r-precision" in metrics:
            rankers = [RetrievalScorer(network, captions) for network in networks.clips]
        consumers: list[_Consumer] = [
            *((scorer.network, scorer.add) for scorer in scorers),
            *((ranker.network, ranker.add) for ranker in rankers),
        ]
        if networks.features is not None and self._subject.reals is not None:
            real = self._real_features(self._subject.reals, networks.features)
            path = self._scratch / "fake.npy"
            self._write_features(path, self._subject.fakes, networks.features, "generated images", consumers)
            yield from feature_measures(metrics, FeatureFile(path), real, networks.features)
        else:
            self._look(self._subject.fakes, "generated images", consumers)
        for scorer in scorers:
            yield clip_score_measure(scorer, self._clip_metric("clip_score", scorer.network))
        for ranker in rankers:
            yield r_precision_measure(ranker, self._clip_metric("r_precision", ranker.network))

    def score(self, measure: Measure) -> Score:
        """Compute one metric, and its interval where one is asked for."""
        started = time.perf_counter()
        subject, draws = self._subject, self._request.bootstrap
        value = measure.compute(None)
        replicates: list[float] = []
        for drawn in resamples(draws, subject.n_real, subject.scenes, subject.paired):
            replicates.append(measure.compute(drawn))
            self._progress(f"{measure.name} of resamples", len(replicates), draws, "resamples")
        return Score(
            value=value,
            interval=interval(value, replicates) if replicates else None,
            features=measure.network.name,
            n_real=subject.n_real if measure.compares else None,
            n_fake=len(subject.fakes),
            seconds=self._seconds[measure.network.name] + time.perf_counter() - started,
            note=measure.note,
        )

    def _real_features(self, reals: Images, network: FeatureNetwork) -> FeatureFile:
        """Features of the real images: kept beside them under the fingerprint of all that decides them."""
        name = hashlib.sha256(f"{reals.fingerprint} {network.fingerprint} {network.resize}".encode()).hexdigest()[:16]
        cache = reals.cache if reals.cache is not None and os.access(reals.cache.parent, os.W_OK) else self._scratch
        path = cache / f"{name}.npy"
        with contextlib.suppress(OSError, ValueError):
            kept = FeatureFile(path)
            if (len(kept), kept.dimensions) == (len(reals), network.dimensions):
                return kept
        with whole_file(path) as partial:
            self._write_features(partial, reals, network, "real images", [])
        return FeatureFile(path)

    def _write_features(
        self, path: Path, images: Images, network: FeatureNetwork, what: str, consumers: Sequence[_Consumer]
    ) -> None:
        with FeatureWriter(path, len(images), network.dimensions) as writer:
            self._look(images, what, [(network, writer.append), *consumers])

    def _look(self, images: Images, what: str, consumers: Sequence[_Consumer]) -> None:
        """Give every image to the networks, each network once, and their features to who wants them."""
        batch_size = self._request.batch_size or (16 if self._networks.device.type == "cpu" else 64)
        done = 0
        self._progress(what, done, len(images), "images")
        for levels in images.batches(batch_size):
            features: dict[str, Tensor] = {}
            for network, consume in consumers:
                if network.name not in features:
                    started = time.perf_counter()
                    features[network.name] = network(levels)
                    self._seconds[network.name] += time.perf_counter() - started
                consume(features[network.name])
            done += len(levels)
            self._progress(what, done, len(images), "images")

    def _clip_metric(self, metric: str, network: ClipNetwork) -> str:
        """The first CLIP's metrics have the plain name."""
        released = "_released" if self._request.protocol == "released" else ""
        second = f"_{network.spec}" if network is not self._networks.clips[0] else ""
        return f"{metric}{released}{second}"
