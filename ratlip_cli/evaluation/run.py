"""The one call: images -> features -> statistics -> metrics, by the protocols `standard` and `released`.

`standard` compares every image of a split, centre crop, with one fake for every caption: FID and KID as torch-fidelity
computes them, the CLIP score with pixels prepared once. `released` prepares pixels as the published GALIP and RATLIP
code does, for comparison with printed tables only; its metrics are named so.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ratlip_cli
from ratlip_cli.data.dataset import caption_notes
from ratlip_cli.data.of_run import dataset_of_model, unlike_trained_on
from ratlip_cli.distributed import ANSWER_SECONDS, join, own_device, world
from ratlip_cli.errors import DataError, RatlipError, UsageError, keeping
from ratlip_cli.evaluation.extract import SOON, extract, help_extract, images_at_a_time
from ratlip_cli.evaluation.images import GeneratedImages
from ratlip_cli.evaluation.inputs import Inputs, folder_inputs, model_inputs, open_split
from ratlip_cli.evaluation.metrics import FEATURE_METRICS, RANGES, Metric, wanted_metrics
from ratlip_cli.evaluation.networks import Networks, load_networks
from ratlip_cli.evaluation.request import EvaluationRequest
from ratlip_cli.evaluation.statistics import NEIGHBOURS, Counts, Interval, candidates, interval, resamples
from ratlip_cli.files import scratch_folder
from ratlip_cli.json_files import read_json
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.progress import Progress, duration, silent
from ratlip_cli.setting import check_export, is_export
from ratlip_cli.weights.load import default_model, load_model, open_export
from ratlip_cli.weights.model_folder import Model

_log = logging.getLogger(__name__)

LEAST = 2
"""Images of either kind at least that a distance of features takes."""


@dataclass(frozen=True)
class Score:
    """One number and how it was made."""

    key: str
    """See `Metric`."""
    name: str
    """See `Metric`."""
    value: float
    interval: Interval | None
    """95 %, by bootstrap over the images."""
    features: str
    """The network."""
    n_real: int | None
    """Real images; None where the metric compares with none."""
    n_fake: int
    """Images that were scored."""
    seconds: float
    """What this metric took, without generating the images."""
    note: str | None
    """What makes the number less than it seems."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model or of a folder of images, with all that decided them."""

    source: Mapping[str, str]
    """What was scored against what: model, model_fingerprint, dataset, split; or images and reference."""
    device: str
    protocol: str
    """That of the request, and the limit where there is one."""
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
    """By name."""
    notes: tuple[str, ...] = ()
    """What makes all of them less than they seem."""
    bootstrap: int = 0
    """Resamples of which the intervals are; 0 for none."""
    limit: int | None = None
    """Images of the split that were scored, None for all: scores are compared with those of the same limit alone."""

    def __repr__(self) -> str:
        scores = ", ".join(f"{name}={score.value:.4f}" for name, score in self.metrics.items())
        return f"Evaluation({scores}, fingerprint={self.fingerprint!r})"

    def score(self, key: str) -> Score:
        """The score of that key, whichever network it is by. Raises KeyError where there is none."""
        return {score.key: score for score in self.metrics.values()}[key]

    def record(self) -> dict[str, Any]:
        """All of it for JSON: what was scored, by which version and device, and `scores_record`."""
        return {**self.source, "ratlip": ratlip_cli.__version__, "device": self.device, **self.scores_record()}

    def scores_record(self) -> dict[str, Any]:
        """The scores and how they were made, for JSON, but where images lie; networks are called as in the request."""
        record = asdict(self)
        for field in ("source", "device"):
            del record[field]
        for score in record["metrics"].values():
            del score["key"], score["name"]
        return record


def evaluate(request: EvaluationRequest, progress: Progress = silent) -> Evaluation:
    """Score a model, or images from anywhere.

        >>> request = EvaluationRequest(model="ratlip-demo", metrics=("fid",), captions_per_image=1)
        >>> evaluate(request).score("fid").value < 20  # doctest: +SKIP

    Args:
        progress: called while a dataset is prepared, images are read and generated, and scores are resampled.

    Of several processes, which torchrun started, each must call it, and gets the same scores.

    Raises:
        UsageError: unknown names. DataError: images or captions are missing, too few, damaged or of several sizes.
        WeightsError: a model or a network cannot be loaded. RatlipError: the model generates NaN.
        DistributedError: another one of several processes has ended or does not come.
    """
    if request.images is None and not isinstance(request.model, Model) and is_export(str(request.model or "")):
        check_export(request.device, request.precision)
    device = own_device(request.device)
    group = join(device, ANSWER_SECONDS)
    if request.images is not None:
        folder = request.images
        inputs = group.in_turn(lambda: folder_inputs(folder, request, progress))
        networks = group.in_turn(lambda: load_networks(request, device))
        inputs = _noted(inputs, [network.clip for network in networks.clips])
        _say_counts(inputs, networks)
        return score_inputs(inputs, request, networks, progress, resumable=True)
    model = group.in_turn(lambda: _model(request, device)).in_precision(request.precision)
    known = request.dataset or dataset_of_model(model.folder)
    dataset = known or str(model.config.training.get("dataset") or "")
    if not dataset:
        raise UsageError(f"{model.name} does not say what it was trained on; name a --dataset.")
    _log.info("model %s (%s) on %s, against %s", model.name, model.fingerprint, model.device, dataset)
    split = group.in_turn(lambda: open_split(dataset, request, model.config.generator.image_size, progress))
    networks = group.in_turn(lambda: load_networks(request, model.device, model))
    inputs = model_inputs(model, split, request)
    if not known and (other := unlike_trained_on(split.path, model.config.training)):
        inputs = replace(inputs, notes=(*inputs.notes, other))
    chosen = _chosen_by_scores(model.folder) if split.split == "test" else []
    if chosen and not (request.dataset and unlike_trained_on(split.path, model.config.training)):
        inputs = replace(inputs, notes=(*inputs.notes, *chosen))
    captions, scoring = inputs.captions, [network.clip for network in networks.clips]
    inputs = _noted(inputs, list(dict.fromkeys([model.text_encoder, *scoring])))
    _say_counts(inputs, networks)
    own = [model.clip] if isinstance(inputs.fake, GeneratedImages) and inputs.fake.of_vectors else []
    for clip in [*own, *scoring]:
        if captions is not None:  # they are kept: what comes after is told its time without them
            group.in_turn(partial(captions.vectors, clip, progress))
    return score_inputs(inputs, request, networks, progress, resumable=True)


def _chosen_by_scores(model: Path) -> list[str]:
    """A line where a model folder is the best one of a run, which scores on the test split chose."""
    try:
        metric = read_json(model / "evaluation.json")["metric"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [
        f"the model was chosen by {metric} on the test split of its run: scores on it are better than they would be on "
        "images that chose nothing, so compare runs by their last step"
    ]


def _model(request: EvaluationRequest, device: torch.device) -> Model:
    if isinstance(request.model, Model):
        return request.model
    spec = "" if request.model is None else str(request.model)
    if is_export(spec):
        return open_export(spec, request.device, request.precision)
    return load_model(spec or default_model(), device)


def _noted(inputs: Inputs, encoders: Sequence[Any]) -> Inputs:
    """Add what text encoders cannot read of the captions, and say all notes."""
    captions = inputs.captions
    texts = [] if captions is None else [captions.texts[number] for number in captions.encoded]
    lines = [
        line
        for encoder in encoders
        for line in (caption_notes(encoder, texts) if isinstance(encoder, FrozenCLIP) else _cut_by(encoder, texts))
    ]
    inputs = replace(inputs, notes=tuple(dict.fromkeys((*inputs.notes, *lines))))
    for note in inputs.notes:
        _log.warning("%s", note)
    return inputs


def _cut_by(encoder: Any, captions: Sequence[str]) -> list[str]:
    """Say how many captions a model's own text encoder cuts; words that it does not know it tells itself."""
    cut, read = len(encoder.overlong(captions)), encoder.context_length
    said = f"{cut:,} of {len(captions):,} captions are longer than the {read} words that the model's text encoder reads"
    return [f"{said}, and their ends are cut: shorten them"] if cut else []


def _say_counts(inputs: Inputs, networks: Networks) -> None:
    """Say how much there is to do, before the first of it tells how long it takes."""
    captions, real = inputs.captions, inputs.real if networks.features is not None else None
    counts = [f"{len(inputs.fake):,} {'images to generate' if isinstance(inputs.fake, GeneratedImages) else 'images'}"]
    counts += [] if real is None else [f"{len(real):,} real images"]
    counts += [] if captions is None else [f"{len(captions.encoded):,} captions"]
    _log.info("%s", ", ".join(counts))


def score_inputs(
    inputs: Inputs,
    request: EvaluationRequest,
    networks: Networks,
    progress: Progress = silent,
    resumable: bool = False,
) -> Evaluation:
    """Score images that are open already, by networks that are loaded already.

    Of several processes each must call it, with the same; each makes features, the first one scores, all get it.

    Args:
        networks: from `load_networks` for this request.
        resumable: see `extract`.

    Raises:
        DataError: an image cannot be read, there are too few, or captions or real images are missing.
        RatlipError: the model generates NaN, or a score is not finite. WeightsError: a network's features are not.
        UsageError: another process has other images, networks or versions.
    """
    started = time.perf_counter()
    check_inputs(inputs, request, networks)
    decisive, group = _fingerprint(inputs, request, networks), world()
    if group.size > 1:
        together = images_at_a_time(networks, request.batch_size)
        versions = {"ratlip": ratlip_cli.__version__, "torch": torch.__version__}
        group.agree({**versions, "scores' fingerprint": decisive, "images at a time": together})
    if not group.is_first:
        help_extract(inputs, networks, request.batch_size)
        group.wait(however_long=True)
        scored: Evaluation = group.gather(None)[0]
        return scored
    with scratch_folder() as scratch:
        features = extract(inputs, networks, request.batch_size, scratch, progress, resumable)
        with keeping(features.kept):
            scores = [
                _score(metric, inputs, request.bootstrap, features.seconds[metric.network.name], progress)
                for metric in wanted_metrics(request, networks, features, inputs.captions, progress)
            ]
        if features.journal is not None:
            features.journal.remove()
    limited = "" if inputs.limit is None else f", {inputs.limit} images of the split"
    evaluation = Evaluation(
        source=inputs.source,
        device=str(networks.device),
        protocol=request.protocol + limited,
        seed=request.seed,
        image_size=inputs.fake.size,
        captions_per_image=inputs.captions_per_image,
        networks={
            name: {"fingerprint": network.fingerprint, "resize": network.resize}
            for name, network in networks.by_name().items()
        },
        fingerprint=decisive,
        seconds=time.perf_counter() - started,
        metrics={score.name: score for score in scores},
        notes=inputs.notes,
        bootstrap=request.bootstrap,
        limit=inputs.limit,
    )
    group.wait(however_long=True)
    group.gather(evaluation)
    return evaluation


def check_inputs(inputs: Inputs, request: EvaluationRequest, networks: Networks) -> None:
    """Raise DataError where there is not enough to score, before anything is computed."""
    if networks.clips and inputs.captions is None:
        raise DataError("CLIP score and R-precision need captions, and not every image here has one: ask for --fid.")
    if inputs.captions is not None and "r_precision" in request.clip_keys:
        candidates(inputs.captions, inputs.captions.first[0])
    if networks.features is None:
        return
    if inputs.real is None:
        raise DataError("FID, KID, precision and recall compare with real images: give a --reference or --dataset.")
    check_counts(request, {"real": inputs.n_real, "generated": len(inputs.fake)})


def check_counts(request: EvaluationRequest, counts: Mapping[str, int]) -> None:
    """Raise DataError where so many images of a kind are too few to compare the features of."""
    needed = NEIGHBOURS + 1 if "precision" in request.feature_keys else LEAST
    for kind, count in counts.items():
        if request.feature_keys and count < needed:
            raise DataError(f"too few {kind} images: {count}; {', '.join(request.metrics)} take at least {needed}.")


def _score(metric: Metric, inputs: Inputs, bootstrap: int, extraction: float, progress: Progress) -> Score:
    """Measure one metric, and its interval where one is asked for; `extraction`: seconds that its features took."""
    started = time.perf_counter()
    measurement = metric.measure()
    measured = time.perf_counter()
    value = measurement.value(Counts(*(np.ones(n, dtype=np.int64) for n in (len(inputs.fake), inputs.n_real))))
    if (seconds := bootstrap * (time.perf_counter() - measured)) > SOON:
        _log.info("%s of %s resamples: about %s", metric.name, f"{bootstrap:,}", duration(seconds))
    replicates: list[float] = []
    for counts in resamples(bootstrap, inputs.n_real, inputs.scenes, inputs.paired):
        replicates.append(measurement.value(counts))
        progress(f"{metric.name} of resamples", len(replicates), bootstrap, "resamples")
    if not all(map(math.isfinite, (value, *replicates))):
        raise RatlipError(f"{metric.name} is not a number: the features by {metric.network.name} are out of range.")
    return Score(
        key=metric.key,
        name=metric.name,
        value=value,
        interval=interval(value, replicates, *RANGES.get(metric.key, ())) if replicates else None,
        features=metric.network.name,
        n_real=inputs.n_real if metric.key in FEATURE_METRICS else None,
        n_fake=len(inputs.fake),
        seconds=extraction + time.perf_counter() - started,
        note=measurement.note,
    )


def _fingerprint(inputs: Inputs, request: EvaluationRequest, networks: Networks) -> str:
    fake, real, captions = inputs.fake, inputs.real, inputs.captions
    decisive = {
        "protocol": request.protocol,
        "fakes": fake.fingerprint,
        "reals": real.fingerprint if real is not None and networks.features is not None else None,
        "captions": captions.fingerprint if captions is not None and networks.clips else None,
        "networks": [(network.fingerprint, network.resize) for network in networks.by_name().values()],
        "counts": (len(fake), inputs.n_real if networks.features is not None else 0),
        "image_size": fake.size,
        "seed": request.seed,
    }
    if captions is not None and "r_precision" in request.clip_keys:
        decisive["scenes"] = captions.scenes.tolist()  # against which captions each competes
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]
