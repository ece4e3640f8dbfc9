"""Latent views from a request to a result: figures, numbers, and lines that say what the numbers bear."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.data.of_run import dataset_of_model, unlike_trained_on
from ratlip_cli.data.prepare import resolve_dataset
from ratlip_cli.errors import UsageError
from ratlip_cli.explain.inputs import about, load_models, model_record
from ratlip_cli.explain.intervals import mean_interval
from ratlip_cli.explain.latent.figures import captions_figure, interpolation_figure, interpolation_frames, pairs_figure
from ratlip_cli.explain.latent.space import Projection, Space, angles, check_sizes, make_space, project
from ratlip_cli.explain.latent.views import (
    CaptionView,
    Interpolation,
    Pairs,
    PairView,
    caption_view,
    interpolate,
    pair_view,
    real_images,
)
from ratlip_cli.explain.record import Result, Row
from ratlip_cli.explain.request import NOISE_VECTORS, PAIRS, STEPS, LatentRequest, check_points
from ratlip_cli.progress import Progress, silent
from ratlip_cli.weights.model_folder import Model

logger = logging.getLogger(__name__)

Points = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, repr=False)
class LatentResult(Result):
    """One view of each model."""

    views: Sequence[PairView | CaptionView | Interpolation]


def latent_view(request: LatentRequest, progress: Progress = silent) -> LatentResult:
    """Show images as vectors: an interpolation where the request has one, else captions, else pairs of a dataset.

        >>> result = latent_view(LatentRequest(model="ratlip-demo", start="a red bird", end="a blue bird", steps=3))
        >>> result.record()["view"], len(result.tables["points"])
        ('interpolation', 3)

    Raises UsageError where a dataset is missing or too small, and WeightsError, DataError or DeviceError where a
    model, a dataset or a device cannot be used.
    """
    models = load_models([request.model, request.against][: 1 if request.against is None else 2], request.device)
    space = make_space(request.space, models[0])
    check_sizes(space, models)
    if request.start is not None and request.end is not None:
        return _interpolations(request, (request.start, request.end), space, models, progress)
    if request.captions:
        return _captions(request, space, models, progress)
    return _pairs_only(request, space, _pairs(request, space, models, request.count or PAIRS, progress))


def _pairs(request: LatentRequest, space: Space, models: list[Model], count: int, progress: Progress) -> Pairs:
    """Pairs of the split, prepared first where that is needed, at the size that the first model generates."""
    trained_on = models[0].config.training.get("dataset") or ""
    known = request.dataset or dataset_of_model(models[0].folder)
    source = str(known or trained_on)
    if not source:
        raise UsageError(f"{models[0].name} does not say what it was trained on; name a --dataset.")
    size = models[0].config.generator.image_size
    folder = resolve_dataset(source, request.data_dir, size, progress, request.split)
    dataset = CaptionedImages(folder, request.split, size)
    if not known and (other := unlike_trained_on(folder, models[0].config.training)):
        logger.warning("%s", other)
    check_points(min(count, len(dataset)))
    real = real_images(space, dataset, count, progress)
    return Pairs(real, [pair_view(space, one, real, request.seed, progress) for one in models])


def _pairs_only(request: LatentRequest, space: Space, pairs: Pairs) -> LatentResult:
    """Real and generated images in a plane that is fitted on all of them."""
    views, projection = pairs.views, project(pairs.vectors, request.method, request.seed)
    says = [_pair_says(view) for view in views]
    difference = None
    if len(views) > 1:
        difference = mean_interval(views[1].angles - views[0].angles)
        verdict = difference.verdict("smaller", "no different", "larger")
        first, second = (view.model.name for view in views)
        says.append(f"angle of {second} minus that of {first}: {difference} degrees: {verdict}")
        if space.name == "discriminator":
            says.append(f"both are measured in the space of {space.model.name}'s discriminator")
        elif len({view.model.clip.computes for view in views}) > 1:
            says.append(f"the models have different CLIPs: both are measured in the space of {space.model.name}'s")
    planes = _pair_planes(pairs, projection.points)
    return LatentResult(
        title=f"{pairs.real.dataset.name} {request.split}",
        models=[about(view.model) for view in views],
        says=says,
        numbers={
            **_head(request, space, "pairs"),
            **_pairs_record(request, pairs),
            **_projection_record(projection),
            "models": [_pair_record(view) for view in views],
            "difference": asdict(difference) if difference else None,
        },
        figures={"": pairs_figure(views, planes, projection)},
        tables={"points": list(_pair_rows(pairs, planes))},
        views=views,
    )


def _captions(request: LatentRequest, space: Space, models: list[Model], progress: Progress) -> LatentResult:
    """Captions under the same noise vectors; with a dataset, its real and generated images in the background."""
    pairs = None if request.dataset is None else _pairs(request, space, models, PAIRS, progress)
    count = request.count or NOISE_VECTORS
    views = [caption_view(space, one, request.captions, count, request.seed, progress) for one in models]
    vectors = [one.vectors.reshape(-1, one.vectors.shape[-1]) for one in views]
    vectors = [pairs.vectors, *vectors] if pairs else vectors
    projection = project(np.concatenate(vectors), request.method, request.seed)
    background = _pair_planes(pairs, projection.points) if pairs else []
    points = projection.points[len(pairs.vectors) if pairs else 0 :]
    planes = list(points.reshape(len(views), *views[0].vectors.shape[:2], 2))
    rows = list(_caption_rows(views, planes))
    return LatentResult(
        title=" against ".join(request.captions),
        models=[about(view.model) for view in views],
        says=[line for view in views for line in _captions_say(view)],
        numbers={
            **_head(request, space, "captions"),
            **(_pairs_record(request, pairs) if pairs else {}),
            "captions": request.captions,
            "noise_vectors": len(views[0].vectors),
            **_projection_record(projection),
            "models": [_caption_record(view) for view in views],
        },
        figures={"": captions_figure(views, planes, background, projection)},
        tables={"points": [*rows, *_pair_rows(pairs, background)] if pairs else rows},
        views=views,
    )


def _interpolations(
    request: LatentRequest, ends: tuple[str, str], space: Space, models: list[Model], progress: Progress
) -> LatentResult:
    """Interpolations between two captions, of each model."""
    noise, steps, (start, end) = (0, 0 if request.same_noise else 1), request.steps or STEPS, ends
    views = [interpolate(one, space, ends, steps, noise, request.seed, progress) for one in models]
    return LatentResult(
        title=f"{start} to {end}",
        models=[about(view.model) for view in views],
        says=[_interpolation_says(view) for view in views],
        numbers={
            **_head(request, space, "interpolation"),
            **{"from": start, "to": end, "steps": len(views[0].images), "noise_vectors": views[0].noise},
            "models": [_interpolation_record(view) for view in views],
        },
        figures={"": interpolation_figure(views, start, end)},
        tables={"points": [row for view in views for row in _interpolation_rows(view)]},
        animations={"interpolation": interpolation_frames(views)},
        views=views,
    )


def _head(request: LatentRequest, space: Space, view: str) -> dict[str, object]:
    return {"command": "latent-viz", "seed": request.seed, "view": view, "space": space.record()}


def _pairs_record(request: LatentRequest, pairs: Pairs) -> dict[str, Any]:
    return {"dataset": str(pairs.real.dataset), "split": request.split, "pairs": len(pairs.real.files)}


def _projection_record(projection: Projection) -> dict[str, Any]:
    return {"method": projection.method, "explained_variance": projection.explained}


def _pair_planes(pairs: Pairs, points: Points) -> list[Points]:
    """For each model, the points (2,n,2) of the real and of its own generated images."""
    real, *generated = points[: len(pairs.vectors)].reshape(1 + len(pairs.views), -1, 2)
    return [np.stack((real, plane)) for plane in generated]


def _pair_record(view: PairView) -> dict[str, Any]:
    low, median, high = np.quantile(view.angles, (0.05, 0.5, 0.95)).tolist()
    return {
        **model_record(view.model),
        "angle": asdict(mean_interval(view.angles)),
        "angle_median": median,
        "angle_5_to_95_percent": [low, high],
        "angle_to_another_captions": asdict(mean_interval(view.mismatched)),
        "angle_gained_by_the_caption": asdict(mean_interval(view.mismatched - view.angles)),
        "angle_between_means": view.mean_angle,
    }


def _pair_says(view: PairView) -> str:
    no_closer = "no closer to its own"
    verdict = mean_interval(view.mismatched - view.angles).verdict(no_closer, no_closer, "closer to its own")
    return (
        f"{view.model.name}: angle between real and generated {mean_interval(view.angles)} degrees "
        f"({len(view.angles)} pairs), to another caption's image {mean_interval(view.mismatched)}: "
        f"{verdict}; between the means {view.mean_angle:.3g}"
    )


def _pair_rows(pairs: Pairs, planes: Sequence[Points]) -> Iterator[Row]:
    for k, (file, caption) in enumerate(zip(pairs.real.files, pairs.real.captions, strict=True)):
        yield _row("real", "", k, caption, planes[0][0, k], file=file)
    for view, plane in zip(pairs.views, planes, strict=True):
        for k, caption in enumerate(pairs.real.captions):
            angle = round(float(view.angles[k]), 4)
            yield _row("generated", view.model.name, k, caption, plane[1, k], angle=angle)


def _caption_rows(views: Sequence[CaptionView], planes: Sequence[Points]) -> Iterator[Row]:
    for view, plane in zip(views, planes, strict=True):
        for noise, number in np.ndindex(*plane.shape[:2]):
            yield _row("caption", view.model.name, noise, view.captions[number], plane[noise, number])


def _row(
    group: str, model: str, number: int, caption: str, point: Points, file: str = "", angle: float | str = ""
) -> Row:
    """A point as a line of CSV; `number` is that of the pair and of the noise vector."""
    x, y = (round(float(value), 6) for value in point)
    image = {"group": group, "model": model, "number": number, "caption": caption, "file": file}
    return {**image, "x": x, "y": y, "angle": angle}


def _caption_record(view: CaptionView) -> dict[str, Any]:
    return {
        **model_record(view.model),
        "captions": view.captions,
        "noise_vectors": len(view.vectors),
        "swaps": [
            {"from": s.start, "to": s.end, "angle": asdict(mean_interval(s.angles)), "angle_of_texts": s.text_angle}
            for s in view.swaps
        ],
        "angle_between_noise_vectors": asdict(mean_interval(view.noise_angles)) if len(view.vectors) > 1 else None,
    }


def _captions_say(view: CaptionView) -> Iterator[str]:
    name = view.model.name
    for swap in view.swaps:
        angle = mean_interval(swap.angles)
        yield (
            f"{name}: from '{swap.start}' to '{swap.end}' images turn by {angle} degrees "
            f"({angle.n} noise vectors), text vectors by {swap.text_angle:.3g}"
        )
    if len(view.vectors) > 1:
        angle = mean_interval(view.noise_angles)
        yield f"{name}: from noise vector to noise vector under one caption images turn by {angle} degrees"


def _interpolation_rows(view: Interpolation) -> Iterator[Row]:
    turned = [0.0, *view.step_angles.tolist()]
    for step, share in enumerate(np.linspace(0, 1, len(view.images)).tolist()):
        yield {
            "model": view.model.name,
            "step": step,
            "share": round(share, 6),
            "similarity_to_start": round(float(view.to_start[step]), 6),
            "similarity_to_end": round(float(view.to_end[step]), 6),
            "angle_from_last": round(turned[step], 4),
        }


def _interpolation_record(view: Interpolation) -> dict[str, Any]:
    steps = view.step_angles
    return {
        **model_record(view.model),
        "angle_between_ends": float(angles(view.vectors[:1], view.vectors[-1:])[0]),
        "sum_of_angles": float(steps.sum()),
        "largest_step": float(steps.max()),
        "mean_step": float(steps.mean()),
        "similarity_to_start": [float(view.to_start[0]), float(view.to_start[-1])],
        "similarity_to_end": [float(view.to_end[0]), float(view.to_end[-1])],
    }


def _interpolation_says(view: Interpolation) -> str:
    steps = view.step_angles
    return (
        f"{view.model.name}: similarity to the first caption goes from {view.to_start[0]:.3f} to "
        f"{view.to_start[-1]:.3f}, to the second from {view.to_end[0]:.3f} to {view.to_end[-1]:.3f}; the largest of "
        f"{len(steps)} steps turns by {steps.max():.1f} degrees, the mean by {steps.mean():.1f}"
    )
