"""Latent views from a request to a result."""

from __future__ import annotations

import numpy as np

from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.data.prepare import resolve_dataset
from ratlip_cli.errors import UsageError
from ratlip_cli.explain.inputs import load_models
from ratlip_cli.explain.latent.projection import project
from ratlip_cli.explain.latent.result import LatentResult, captions_result, interpolation_result, pairs_result
from ratlip_cli.explain.latent.space import Space, make_space
from ratlip_cli.explain.latent.views import Pairs, caption_view, interpolate, pair_view, real_images
from ratlip_cli.explain.request import NOISE_VECTORS, PAIRS, STEPS, LatentRequest, check_points
from ratlip_cli.progress import Progress, silent
from ratlip_cli.weights.model_folder import Model


def view(request: LatentRequest, progress: Progress = silent) -> LatentResult:
    """Show images as vectors: an interpolation where the request has one, else captions, else pairs of a dataset.

    Raises UsageError where a dataset is missing or too small, and WeightsError, DataError or DeviceError where a
    model, a dataset or a device cannot be used.
    """
    models = load_models([request.model, request.against][: 1 if request.against is None else 2], request.device)
    space, seed = make_space(request.space, models[0]), request.seed
    if request.start is not None and request.end is not None:
        ends, noise, steps = (request.start, request.end), (0, 0 if request.same_noise else 1), request.steps or STEPS
        interpolations = [interpolate(one, space, ends, steps, noise, seed, progress) for one in models]
        return interpolation_result(request, space, interpolations, ends)
    if not request.captions:
        pairs = _pairs(request, space, models, request.count or PAIRS, progress)
        return pairs_result(request, space, pairs, project(pairs.vectors, request.method, seed))
    background = None if request.dataset is None else _pairs(request, space, models, PAIRS, progress)
    count = request.count or NOISE_VECTORS
    views = [caption_view(space, one, request.captions, count, seed, progress) for one in models]
    vectors = np.concatenate([one.vectors.reshape(-1, one.vectors.shape[-1]) for one in views])
    if background is not None:
        vectors = np.concatenate((background.vectors, vectors))
    return captions_result(request, space, views, background, project(vectors, request.method, seed))


def _pairs(request: LatentRequest, space: Space, models: list[Model], count: int, progress: Progress) -> Pairs:
    """Pairs of the split, prepared first where that is needed, at the size that the first model generates."""
    source = request.dataset or str(models[0].config.training.get("dataset", ""))
    if not source:
        raise UsageError(f"{models[0].name} does not say what it was trained on; name a --dataset.")
    size = models[0].config.generator.image_size
    dataset = CaptionedImages(resolve_dataset(source, request.data_dir, size, progress), request.split, size)
    check_points(min(count, len(dataset)))
    real = real_images(space, dataset, count, progress)
    return Pairs(real, [pair_view(space, one, real, request.seed, progress) for one in models])
