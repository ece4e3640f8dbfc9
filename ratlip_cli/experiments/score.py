"""The scores of one run by the protocol of its sweep, with the values of every image."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

import ratlip_cli
from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.data.of_run import dataset_of_model, unlike_trained_on
from ratlip_cli.demo.attribute_classifier import SIDE, Classifier, load_classifier
from ratlip_cli.demo.attributes import FAMILIES
from ratlip_cli.demo.said import holds, said
from ratlip_cli.device import resolve_device
from ratlip_cli.environment import commit, machine
from ratlip_cli.errors import DataError, RatlipError, WeightsError
from ratlip_cli.evaluation.extract import Features, all_of_features, extract
from ratlip_cli.evaluation.feature_file import FeatureFile
from ratlip_cli.evaluation.images import Captions
from ratlip_cli.evaluation.inputs import Inputs, by_captions, check_limit, model_inputs, open_split
from ratlip_cli.evaluation.metrics import Measurement, wanted_metrics
from ratlip_cli.evaluation.networks import Networks, load_networks
from ratlip_cli.evaluation.request import EvaluationRequest
from ratlip_cli.evaluation.run import check_counts, check_inputs
from ratlip_cli.evaluation.statistics import Counts
from ratlip_cli.experiments.ledger import (
    BROKEN_FILE,
    DONE,
    FEATURES,
    GENERATOR_FILE,
    REAL_FEATURES_FILE,
    SCENES,
    SCORES_FILE,
    VALUES_FILE,
    Entry,
    digest_of,
    write_entry,
)
from ratlip_cli.experiments.protocol import Protocol
from ratlip_cli.file_kinds import tensor_metadata
from ratlip_cli.files import scratch_folder, sha256_of
from ratlip_cli.json_files import read_json
from ratlip_cli.pixels import from_uint8
from ratlip_cli.progress import Progress, silent
from ratlip_cli.tensor_files import fingerprint, save_tensors
from ratlip_cli.training.run_folder import ENVIRONMENT_FILE
from ratlip_cli.training.run_paths import checkpoint_name, images_seen, step_of_model, step_saved
from ratlip_cli.training.settings import TrainSettings, settings_of_run
from ratlip_cli.training.start import features_of
from ratlip_cli.weights.load import load_model

KEYS = {
    "fid": "fid",
    "kid": "kid",
    "precision": "precision",
    "recall": "recall",
    "clip_score": "clip-score",
    "second_clip_score": "clip-score-2",
    "r_precision": "r-precision",
    "second_r_precision": "r-precision-2",
}
"""Keys of evaluation's metrics -> those of the ledger."""

ATTRIBUTE_ACCURACY = "attribute-accuracy"

Values = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Place:
    """Where a run stands in its sweep, or a plain run by itself."""

    run: Path  # The run folder.
    row: str
    real_features: Path  # The file with the features of the real images, which is written where it is missing.

    @classmethod
    def of_plain(cls, run: Path) -> Place:
        """That of a run of no sweep: the row is called as its folder, and the features lie in it."""
        return cls(run, run.resolve().name, run / REAL_FEATURES_FILE)


class AttributeNetwork:
    """The attribute classifier as a network among those that see the generated images.

    Args:
        path: its weights, see `examples/demo/classifier.py`.
    """

    suffix = "_attributes"
    resize = f"antialiased bicubic to {SIDE}"

    def __init__(self, path: Path, device: torch.device) -> None:
        self.classifier: Classifier = load_classifier(path).to(device)
        self.name = "attribute classifier"
        self.fingerprint = fingerprint(self.classifier.state_dict())
        self.dimensions = self.classifier.family.in_features
        self._device = device

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Features (B,128), float32, of images (B,3,H,W) uint8 on any device."""
        pixels = from_uint8(images.to(self._device))
        if pixels.shape[-2:] != (SIDE, SIDE):
            pixels = F.interpolate(pixels, size=(SIDE, SIDE), mode="bicubic", antialias=True)
        return self.classifier.features(pixels).float().cpu()


def check_scoring(protocol: Protocol, settings: TrainSettings, data_dir: Path, progress: Progress = silent) -> None:
    """Raise what `score_run` would raise for want of data or networks, so that it is told before a run is trained.

    The dataset is prepared where it is missing.
    """
    request = protocol.request(Path(), data_dir, "cpu")
    request = replace(request, features=request.features or features_of(settings))
    split = open_split(settings.dataset, request, settings.image_size, progress)
    check_limit(split, request.limit)
    check_counts(request, {"real": request.limit or len(split)})
    if request.clip_keys and not by_captions(split, settings.family):
        raise DataError(
            f"CLIP score and R-precision need captions, and not every image of {split.path} has one: leave them out of "
            "metrics."
        )
    if protocol.attribute_classifier is not None:
        load_classifier(Path(protocol.attribute_classifier))
        _families(split)
        if not by_captions(split, settings.family):
            raise _no_captions(split)
    if request.clip_keys or (request.feature_keys and request.features == "clip"):
        request = replace(request, clip=request.clip or settings.clip)
    load_networks(request, torch.device("cpu"))


def score_run(
    run: Path, protocol: Protocol, device: str = "auto", place: Place | None = None, progress: Progress = silent
) -> Entry:
    """Score the model of a run, and write `scores.safetensors` and `scores.json` into its folder.

    Version, commit and machine of the entry are those that trained the run; those that score it now are beside them.

    Args:
        place: left out, that of a run of no sweep.

    Raises:
        UsageError: `run` is no run folder. DataError: its dataset is not there or lacks what the protocol asks for.
        WeightsError: a model or network cannot be loaded. RatlipError: a score is not a number, or a file cannot be
        written.
    """
    started = time.perf_counter()
    place = place or Place.of_plain(run)
    settings = settings_of_run(run)
    steps = _steps_done(run)
    weights = sha256_of(run / GENERATOR_FILE) if (run / GENERATOR_FILE).is_file() else ""  # the run may go on meanwhile
    request = protocol.request(run, Path(settings.data_dir), device)
    model = load_model(str(run), resolve_device(device))
    training = model.config.training
    known = dataset_of_model(model.folder)
    split = open_split(known or str(training["dataset"]), request, model.config.generator.image_size, progress)
    if known is None and (other := unlike_trained_on(split.path, training)):
        raise DataError(f"{run} cannot be scored: {other.partition(';')[0]}. Put the dataset of the run there.")
    networks = load_networks(request, model.device, model, settings.clip)
    attributes = None
    if protocol.attribute_classifier is not None:
        attributes = AttributeNetwork(Path(protocol.attribute_classifier), model.device)
        networks = Networks(networks.features, networks.clips, networks.device, (attributes,))
    inputs = model_inputs(model, split, request)
    check_inputs(inputs, request, networks)
    with scratch_folder() as scratch:
        features = extract(inputs, networks, None, scratch, progress, resumable=True)
        scores, values = _measured(inputs, request, networks, features)
        if attributes is not None:
            each = _attribute_accuracy(attributes, features.fake[attributes.name], split, inputs.captions)
            scores[ATTRIBUTE_ACCURACY], values[ATTRIBUTE_ACCURACY] = float(each.mean()), each
        if networks.features is not None and features.real is not None and inputs.real is not None:
            values[FEATURES] = _read(features.fake[networks.features.name])
            decisive = all_of_features(inputs.real, networks.features)
            if tensor_metadata(place.real_features).get("decisive") != decisive:  # else another run has written them
                _save(place.real_features, {FEATURES: _read(features.real)}, {"decisive": decisive})
        values[SCENES] = inputs.scenes
        (run / SCORES_FILE).unlink(missing_ok=True)  # whose values these are not: a kill before the end leaves none
        _save(run / VALUES_FILE, values)
        if features.journal is not None:
            features.journal.remove()
    flat, trained = settings.flat(), trained_by(run)
    entry = Entry(
        row=place.row,
        seed=settings.seed,
        run=run.resolve().name,
        state=DONE,
        reason=None,
        settings=flat,
        settings_digest=digest_of(flat),
        version=trained["version"] or "",
        commit=trained["commit"],
        clip={"name": settings.clip, "fingerprint": model.clip.fingerprint},
        data={"name": settings.dataset, "fingerprint": str(training.get("dataset_fingerprint", ""))},
        model_fingerprint=model.fingerprint,
        machine=trained["machine"] or "",
        scored_by={"version": ratlip_cli.__version__, "commit": commit(), "machine": machine(model.device)},
        steps=steps,
        images_shown=images_seen(run / "checkpoints" / checkpoint_name(steps), settings.batch_size),
        seconds=round(_seconds_of_steps(run, settings) + time.perf_counter() - started, 1),
        protocol=_recorded(protocol, networks, inputs, split, settings),
        scores=scores,
        files={GENERATOR_FILE: weights, VALUES_FILE: sha256_of(run / VALUES_FILE)},
    )
    (run / BROKEN_FILE).unlink(missing_ok=True)
    write_entry(run, entry)
    return entry


def _measured(
    inputs: Inputs, request: EvaluationRequest, networks: Networks, features: Features
) -> tuple[dict[str, float], Values]:
    """The scores by metric, and the values of every image of those that are a mean."""
    scores: dict[str, float] = {}
    values: Values = {}
    once = Counts(*(np.ones(n, dtype=np.int64) for n in (len(inputs.fake), inputs.n_real)))
    for metric in wanted_metrics(request, networks, features, inputs.captions):
        measurement: Measurement = metric.measure()
        value, name = measurement.value(once), KEYS[metric.key]
        if not np.isfinite(value):
            raise RatlipError(f"{metric.name} is not a number: the features by {metric.network.name} are out of range.")
        scores[name] = value
        if measurement.each is not None:
            values[name] = np.asarray(measurement.each, dtype=np.float32)
    return scores, values


def _attribute_accuracy(
    network: AttributeNetwork, features: FeatureFile, split: CaptionedImages, captions: Captions | None
) -> NDArray[np.float32]:
    """For each image (n,), which share of the attributes that its caption states the classifier finds in it."""
    families = _families(split)
    if captions is None:
        raise _no_captions(split)
    texts = [captions.texts[number] for number in captions.first]
    owners = [families[scene] for scene in captions.scenes[captions.first]]
    device = network.classifier.family.weight.device
    vectors = torch.from_numpy(_read(features)).to(device)
    answers = {family: network.classifier.answers_of(vectors, family) for family in sorted(set(owners))}
    shares = []
    for place, (family, text) in enumerate(zip(owners, texts, strict=True)):
        stated = said(family, text)
        right = [holds(answers[family][name][place], value) for name, value in stated.items()]
        shares.append(np.mean(right) if right else 1.0)  # nothing stated, nothing missed
    return np.asarray(shares, dtype=np.float32)


def _no_captions(split: CaptionedImages) -> DataError:
    return DataError(f"{split.path} has no captions: leave out attribute_classifier.")


def _families(split: CaptionedImages) -> list[str]:
    """What each image of a split is rendered as. Raises DataError where ratlip has not rendered it."""
    families = [str(entry.extra.get("class")) for entry in split.entries]
    if not set(families) <= set(FAMILIES):
        raise DataError(f"{split.path} is not rendered by ratlip: leave out attribute_classifier.")
    return families


def trained_by(run: Path) -> dict[str, str | None]:
    """Version, commit and machine that trained a run last, as its `environment.json` says; None where it does not."""
    try:
        content = read_json(run / ENVIRONMENT_FILE)
        told = {"version": content["ratlip"], "commit": content.get("commit"), "machine": content.get("machine")}
        if told["machine"] is None:  # by an earlier version of ratlip
            names = ", ".join(str(device["name"]) for device in content["devices"])
            threads, packages = content["threads"], content["packages"]
            used = f"{threads['cores']} cores, {threads['torch']} of them used"
            told["machine"] = f"{names}, {used}, PyTorch {packages['torch']}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {"version": None, "commit": None, "machine": None}
    return {name: None if value is None else str(value) for name, value in told.items()}


def _recorded(
    protocol: Protocol, networks: Networks, inputs: Inputs, split: CaptionedImages, settings: TrainSettings
) -> dict[str, Any]:
    """The protocol with what it came to: equal in runs whose scores can be compared, but for the model's EMA."""
    averaged = settings.ema > 0 or "ema" in settings.family.unused  # which has an EMA of its own
    return {
        **json.loads(json.dumps(asdict(protocol))),
        "networks": {
            name: {"fingerprint": network.fingerprint, "resize": network.resize}
            for name, network in networks.by_name().items()
        },
        "images": len(inputs.fake),
        "real_images": inputs.n_real,
        "image_size": split.image_size,
        "data_fingerprint": split.fingerprint,
        "captions_fingerprint": None if inputs.captions is None else inputs.captions.fingerprint,
        "model": "EMA of the last checkpoint" if averaged else "the last checkpoint, without EMA",
    }


def _steps_done(run: Path) -> int:
    """The steps of the model that is scored: by its file, or by the newest checkpoint where that does not say it."""
    steps = step_of_model(run) or step_saved(run)
    if not steps:
        raise WeightsError(f"{run} has no checkpoint: it is not trained yet, so there is nothing to score.")
    return steps


def _seconds_of_steps(run: Path, settings: TrainSettings) -> float:
    """The wall-clock of all steps, by metrics.jsonl."""
    seconds = 0.0
    with suppress(OSError):
        for line in (run / "metrics.jsonl").read_bytes().splitlines():
            with suppress(ValueError, KeyError, TypeError, ZeroDivisionError):
                seconds += settings.batch_size / json.loads(line)["images_per_second"]
    return seconds


def _read(features: FeatureFile) -> NDArray[np.float32]:
    return features[slice(0, len(features))]


def _save(path: Path, arrays: Values, metadata: dict[str, str] | None = None) -> None:
    save_tensors(path, {name: torch.from_numpy(values) for name, values in arrays.items()}, metadata)
