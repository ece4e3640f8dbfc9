"""Grad-CAM from a request to a result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.data.prepare import resolve_dataset
from ratlip_cli.explain.gradcam.explanation import explain_image
from ratlip_cli.explain.gradcam.gradcam import make_target, resolve_layer
from ratlip_cli.explain.gradcam.input_images import InputImage, from_dataset, from_file, generated
from ratlip_cli.explain.gradcam.result import GradCamResult, gradcam_result
from ratlip_cli.explain.gradcam.segments import phrases_naming_segments
from ratlip_cli.explain.gradcam.words import Phrase, phrases_of
from ratlip_cli.explain.inputs import load_models
from ratlip_cli.explain.request import DATASET_IMAGES, IMAGES, GradCamRequest
from ratlip_cli.progress import Progress, silent
from ratlip_cli.weights.model_folder import Model


def explain(request: GradCamRequest, progress: Progress = silent) -> GradCamResult:
    """Show where images hold what a text says (Grad-CAM), and measure whether the maps are right.

    Every model explains its own images where they are generated, and the same ones otherwise.

    Raises UsageError for a layer that does not exist, and WeightsError, DataError or DeviceError where a model, an
    image or a device cannot be used.
    """
    models = load_models(request.models or (None,), request.device)
    targets = [make_target(request.target, model) for model in models]
    layers = [resolve_layer(target, request.layer) for target in targets]
    dataset = None
    if request.dataset is not None:
        size = max(model.config.generator.image_size for model in models)
        dataset = resolve_dataset(request.dataset, request.data_dir, size, progress)
    inputs = [_input_images(request, model, dataset) for model in models]
    total, done, groups = sum(map(len, inputs)), 0, []
    for model, target, layer, images in zip(models, targets, layers, inputs, strict=True):
        explanations = []
        for image in images:
            progress("gradcam", done, total, "images")
            explanations.append(explain_image(model, target, layer, image, _phrases(request, image), request.seed))
            done += 1
        groups.append(explanations)
    progress("gradcam", done, total, "images")
    return gradcam_result(request, groups)


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
