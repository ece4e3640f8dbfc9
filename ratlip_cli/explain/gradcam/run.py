"""Grad-CAM from a request to a result: figures, numbers, and lines that say what the numbers bear."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.data.prepare import resolve_dataset
from ratlip_cli.explain.gradcam.explanation import Explanation, explain_image
from ratlip_cli.explain.gradcam.faithfulness import KINDS
from ratlip_cli.explain.gradcam.figures import gradcam_figure, segments_figure
from ratlip_cli.explain.gradcam.gradcam import make_target, resolve_layer
from ratlip_cli.explain.gradcam.input_images import InputImage, from_dataset, from_file, generated
from ratlip_cli.explain.gradcam.segments import SegmentSummary, phrases_naming_segments, summarise
from ratlip_cli.explain.gradcam.words import Phrase, phrases_of
from ratlip_cli.explain.inputs import about, load_models, model_record
from ratlip_cli.explain.intervals import FEWEST, Mean, mean_interval
from ratlip_cli.explain.record import Result, Row
from ratlip_cli.explain.request import DATASET_IMAGES, IMAGES, GradCamRequest
from ratlip_cli.progress import Progress, silent
from ratlip_cli.weights.model_folder import Model

PREFERRED = {"insertion": "higher", "deletion": "lower"}
ORDERS = {"random": "random orders", "centre": "the order from the middle outwards"}


@dataclass(frozen=True, kw_only=True, repr=False)
class GradCamResult(Result):
    """Explained images, model by model."""

    explanations: list[Explanation]


def gradcam(request: GradCamRequest, progress: Progress = silent) -> GradCamResult:
    """Show where images hold what a text says (Grad-CAM), and measure whether the maps are right.

    Every model explains its own images where they are generated, and the same ones otherwise.

        >>> result = gradcam(GradCamRequest("a red bird", models="ratlip-demo", words="red"))
        >>> [one["layer"] for one in result.record()["models"]]
        [5]

    Raises UsageError for a layer that does not exist, and WeightsError, DataError or DeviceError where a model, an
    image or a device cannot be used.
    """
    models = load_models(request.models or (None,), request.device)
    targets = [make_target(request.target, model) for model in models]
    layers = [resolve_layer(target, request.layer) for target in targets]
    dataset = None
    if request.dataset is not None:
        size = max(model.config.generator.image_size for model in models)
        dataset = resolve_dataset(request.dataset, request.data_dir, size, progress, request.split)
    inputs = [_input_images(request, model, dataset) for model in models]
    total, done, groups = sum(map(len, inputs)), 0, []
    for model, target, layer, images in zip(models, targets, layers, inputs, strict=True):
        explanations = []
        for number, image in enumerate(images):
            progress("gradcam", done, total, "images")
            seed = (request.seed, number)  # orders of its own: images that shared them would all err to one side
            explanations.append(explain_image(model, target, layer, image, _phrases(request, image), seed))
            done += 1
        groups.append(explanations)
    progress("gradcam", done, total, "images")
    return _result(request, groups)


def _input_images(request: GradCamRequest, model: Model, dataset: Path | None) -> list[InputImage]:
    """The images to explain, at the size that the model generates."""
    size = model.config.generator.image_size
    if dataset is not None:
        return from_dataset(CaptionedImages(dataset, request.split, size), request.count or DATASET_IMAGES)
    if request.images or request.prompt is None:
        return [from_file(file, request.prompt, size) for file in request.images]
    return generated(model, request.prompt, request.count or IMAGES, request.seed)


def _phrases(request: GradCamRequest, image: InputImage) -> Sequence[Phrase]:
    """The words to make a map of: those requested, else those that name segments."""
    if request.every_word or request.words:
        return phrases_of(image.prompt, request.every_word, request.words)
    return phrases_naming_segments(image.prompt, image.masks)


def _result(request: GradCamRequest, groups: Sequence[list[Explanation]]) -> GradCamResult:
    """The result of at least one explanation of each model."""
    explanations = [one for group in groups for one in group]
    first = explanations[0]
    segments = [summarise(score for one in group for score in one.segment_scores) for group in groups]
    names = [group[0].model.name for group in groups]
    figures = {"": gradcam_figure(groups)}
    if len(explanations) > len(groups) and all(segments):
        figures["segments"] = segments_figure(list(zip(names, segments, strict=True)))
    return GradCamResult(
        title=f"{request.dataset} {request.split}" if request.dataset else request.prompt or first.input.prompt,
        models=[f"{about(one.model)}, target {one.target.name}{_layer(one)}" for one, *_ in groups],
        says=[line for group, summaries in zip(groups, segments, strict=True) for line in _says(group, summaries)],
        numbers={
            "command": "gradcam",
            "seed": request.seed,
            "dataset": request.dataset,
            "target": first.target.name,
            "unit": " or ".join(dict.fromkeys(one.target.unit for one in explanations)),
            "models": [_model_record(group, summaries) for group, summaries in zip(groups, segments, strict=True)],
            "images": [one.record() for one in explanations],
        },
        figures=figures,
        tables={"maps": list(_map_rows(explanations)), "curves": list(_curve_rows(explanations))},
        explanations=explanations,
    )


def _layer(one: Explanation) -> str:
    return "" if one.layer is None else f", layer {one.layer}"


def _model_record(group: Sequence[Explanation], segments: Sequence[SegmentSummary]) -> dict[str, object]:
    model = group[0].model
    return {
        **model_record(model),
        "grid": len(group[0].whole.cells),
        "layer": group[0].layer,
        "images": len(group),
        **{f"{kind}_minus_{order}": asdict(_difference(group, kind, order)) for order in ORDERS for kind in KINDS},
        "segments": {
            s.segment: {"n": s.n, "pointing": asdict(s.pointing), "energy": asdict(s.energy), "verdict": s.verdict}
            for s in segments
        },
    }


def _difference(group: Sequence[Explanation], kind: str, order: str) -> Mean:
    """The area under the map's curve minus that of another order, over the images."""
    areas = [area for one in group for area in one.faithfulness if area.kind == kind]
    return mean_interval([area.auc - float(getattr(area, order)) for area in areas])


def _says(group: Sequence[Explanation], segments: Sequence[SegmentSummary]) -> Iterator[str]:
    name, count = group[0].model.name, len(group)
    if count == 1:
        yield from _image_says(group[0])
        return
    if count < FEWEST:
        yield f"{name}: {count} images are too few to say; each has its numbers in the JSON"
        return
    for kind in KINDS:
        for order, what in ORDERS.items():
            difference = _difference(group, kind, order)
            better = difference.side == (1 if kind == "insertion" else -1)
            yield (
                f"{name}: {kind} area minus that of {what}: {difference}, {count} images: "
                f"{'better' if better else 'no better'}"
            )
    for one in segments:
        yield (
            f"{name}: {one.segment} ({one.n} images): pointing {one.pointing.map}, centre baseline "
            f"{one.pointing.centre:.3g}; energy {one.energy.map}, centre baseline {one.energy.centre:.3g}; chance "
            f"{one.energy.chance:.3g}: {one.verdict}"
        )


def _image_says(one: Explanation) -> Iterator[str]:
    name = one.model.name
    for area in one.faithfulness:
        yield (
            f"{name}: {area.kind} area {area.auc:.3f} ({PREFERRED[area.kind]} is better): better than "
            f"{area.better_than_random} of {area.random_orders} random orders ({area.random:.3f} ± "
            f"{area.random_sd:.3f}), {'better' if area.better_than_centre else 'no better'} than "
            f"{ORDERS['centre']} ({area.centre:.3f})"
        )
    for score in one.segment_scores:
        better = score.pointing > score.centre_pointing and score.energy > score.centre_energy
        yield (
            f"{name}: '{score.text}' in {score.segment}: pointing {score.pointing:.0f}, energy {score.energy:.2f}; "
            f"chance {score.chance:.2f}; centre baseline {score.centre_pointing:.0f} and "
            f"{score.centre_energy:.2f}: {'better' if better else 'no better'} than it on this image"
        )


def _map_rows(explanations: Sequence[Explanation]) -> Iterator[Row]:
    for one in explanations:
        image = {"model": one.model.name, "image": one.input.name}
        for place, each in enumerate(one.maps):
            text = each.text if place else "whole prompt"
            for (row, column), value in np.ndenumerate(each.cells):
                yield {**image, "map": text, "row": row, "column": column, "value": round(float(value), 6)}


def _curve_rows(explanations: Sequence[Explanation]) -> Iterator[Row]:
    for one in explanations:
        image = {"model": one.model.name, "image": one.input.name}
        for curve in one.curves:
            for share, score in zip(curve.shares.tolist(), curve.scores.tolist(), strict=True):
                order = {"kind": curve.kind, "order": curve.order}
                yield {**image, **order, "share": round(share, 6), "score": round(score, 6)}
