"""What the latent views say: their figures, their numbers, and the sentences that follow from them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ratlip_cli.explain.intervals import Mean, mean_interval
from ratlip_cli.explain.latent import Interpolation, Projection, Space, angles, project, unit
from ratlip_cli.explain.latent_figures import captions_figure, interpolation_figure, interpolation_frames, pairs_figure
from ratlip_cli.explain.latent_views import CaptionView, PairView, RealImages
from ratlip_cli.explain.record import Record

Points = NDArray[np.float64]


def write_pairs(
    real: RealImages,
    views: Sequence[PairView],
    space: Space,
    method: str,
    record: Record,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Write figure, CSV and JSON of real and generated images of one or two models; the result is the JSON's content.

    Raises UsageError for fewer than three points, and RatlipError where the method is not installed.
    """
    projection = project(np.concatenate([real.vectors, *(view.vectors for view in views)]), method, settings["seed"])
    planes = _pair_planes(projection.points, len(real.files), len(views))
    record.figure(pairs_figure(views, planes, projection, method))
    record.points(list(_pair_rows(real, views, planes)), "points")
    return record.numbers(
        {
            **settings,
            **_plane_record(projection, method, space),
            "models": [_pair_record(view) for view in views],
            "difference": asdict(_difference(views)) if len(views) > 1 else None,
            "says": list(_pairs_say(views, space)),
        }
    )


def write_captions(
    views: Sequence[CaptionView],
    space: Space,
    method: str,
    record: Record,
    settings: Mapping[str, Any],
    real: RealImages | None = None,
    pairs: Sequence[PairView] = (),
) -> dict[str, Any]:
    """Write figure, CSV and JSON of captions under the same noises; the result is the JSON's content.

    Args:
        real, pairs: real and generated images of a dataset to stand behind them in the plane, and to fit it on.

    Raises UsageError for fewer than three points, and RatlipError where the method is not installed.
    """
    dim = views[0].vectors.shape[-1]
    of_captions = [view.vectors.reshape(-1, dim) for view in views]
    of_pairs = [] if real is None else [real.vectors, *(pair.vectors for pair in pairs)]
    projection = project(np.concatenate([*of_pairs, *of_captions]), method, settings["seed"])
    count = 0 if real is None else len(real.files)
    behind = _pair_planes(projection.points, count, len(pairs))
    start = count * (1 + len(pairs)) if real is not None else 0
    shape = (*views[0].vectors.shape[:2], 2)
    planes = [points.reshape(shape) for points in np.split(projection.points[start:], len(views))]
    record.figure(captions_figure(views, planes, behind, projection, method))
    rows = list(_caption_rows(views, planes))
    if real is not None:
        rows += _pair_rows(real, pairs, behind)
    record.points(rows, "points")
    return record.numbers(
        {
            **settings,
            **_plane_record(projection, method, space),
            "models": [_caption_record(view, space) for view in views],
            "says": [line for view in views for line in _captions_say(view, space)],
        }
    )


def write_interpolation(
    interpolations: Sequence[Interpolation],
    captions: tuple[str, str],
    space: Space,
    record: Record,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Write strip, animation, CSV and JSON of the way between two captions; the result is the JSON's content."""
    record.figure(interpolation_figure(interpolations, captions))
    record.animation(interpolation_frames(interpolations), "way")
    record.points([row for one in interpolations for row in _way_rows(one)], "points")
    return record.numbers(
        {
            **settings,
            "space": space.describe(),
            "models": [_way_record(one) for one in interpolations],
            "says": [_way_says(one) for one in interpolations],
        }
    )


def _pair_planes(points: Points, count: int, models: int) -> list[Points]:
    """For each model, the points (2,count,2) of the real and of its own generated images."""
    blocks = points[: count * (1 + models)].reshape(1 + models if count else 0, count, 2)
    return [np.stack((blocks[0], generated)) for generated in blocks[1:]]


def _plane_record(projection: Projection, method: str, space: Space) -> dict[str, Any]:
    return {"method": method, "explained_variance": projection.explained, "space": space.describe()}


def _model_record(view: PairView | CaptionView | Interpolation) -> dict[str, Any]:
    return {
        "model": view.model.name,
        "fingerprint": view.model.fingerprint,
        "clip": view.model.config.clip,
        "clip_fingerprint": view.model.clip.fingerprint,
    }


def _pair_record(view: PairView) -> dict[str, Any]:
    low, median, high = np.quantile(view.angles, (0.05, 0.5, 0.95)).tolist()
    return {
        **_model_record(view),
        "angle": asdict(mean_interval(view.angles)),
        "angle_median": median,
        "angle_5_to_95_percent": [low, high],
        "angle_to_another_captions": asdict(mean_interval(view.mismatched)),
        "angle_gained_by_the_caption": asdict(mean_interval(view.mismatched - view.angles)),
        "angle_between_means": view.mean_angle,
    }


def _difference(views: Sequence[PairView]) -> Mean:
    """The second model's angle minus the first's, pair by pair."""
    return mean_interval(views[1].angles - views[0].angles)


def _pairs_say(views: Sequence[PairView], space: Space) -> Iterator[str]:
    for view in views:
        gained = mean_interval(view.mismatched - view.angles)
        yield (
            f"{view.model.name}: angle between real and generated {mean_interval(view.angles)} degrees "
            f"({len(view.angles)} pairs), to another caption's image {mean_interval(view.mismatched)}: "
            f"{'closer to its own' if gained.low > 0 else 'no closer to its own'}; between the means "
            f"{view.mean_angle:.3g}"
        )
    if len(views) > 1:
        difference = _difference(views)
        verdict = "smaller" if difference.high < 0 else "larger" if difference.low > 0 else "no different"
        first, second = (view.model.name for view in views)
        yield f"angle of {second} minus that of {first}: {difference} degrees: {verdict}"
    yield from _space_says([view.model.clip.fingerprint for view in views], space)


def _space_says(fingerprints: Sequence[str], space: Space) -> Iterator[str]:
    if space.name == "discriminator" and len(fingerprints) > 1:
        yield f"both are measured in the space of {space.model.name}'s discriminator"
    elif len(set(fingerprints)) > 1:
        yield f"the models have different CLIPs: both are measured in the space of {space.model.name}'s"


def _pair_rows(real: RealImages, views: Sequence[PairView], planes: Sequence[Points]) -> Iterator[dict[str, object]]:
    for k, (file, caption) in enumerate(zip(real.files, real.captions, strict=True)):
        yield _row("real", "", k, caption, planes[0][0, k], file=file)
    for view, plane in zip(views, planes, strict=True):
        for k, caption in enumerate(real.captions):
            angle = round(float(view.angles[k]), 4)
            yield _row("generated", view.model.name, k, caption, plane[1, k], angle=angle)


def _caption_rows(views: Sequence[CaptionView], planes: Sequence[Points]) -> Iterator[dict[str, object]]:
    for view, plane in zip(views, planes, strict=True):
        for noise, number in np.ndindex(*plane.shape[:2]):
            yield _row("caption", view.model.name, noise, view.captions[number], plane[noise, number])


def _row(
    group: str, model: str, number: int, caption: str, point: Points, file: str = "", angle: float | str = ""
) -> dict[str, object]:
    """A point as a line of CSV; `number` is that of the pair and of the noise."""
    x, y = (round(float(value), 6) for value in point)
    return {
        "group": group,
        "model": model,
        "number": number,
        "caption": caption,
        "file": file,
        "x": x,
        "y": y,
        "angle": angle,
    }


def _caption_record(view: CaptionView, space: Space) -> dict[str, Any]:
    noises = len(view.vectors)
    return {
        **_model_record(view),
        "captions": view.captions,
        "noises": noises,
        "swaps": [
            {
                "from": view.captions[a],
                "to": view.captions[b],
                "angle": asdict(mean_interval(angles(view.vectors[:, a], view.vectors[:, b]))),
                "angle_of_sentences": _sentence_angle(space, view.captions[a], view.captions[b]),
            }
            for a, b in itertools.combinations(range(len(view.captions)), 2)
        ],
        "angle_between_noises": asdict(_noise_angle(view)) if noises > 1 else None,
    }


def _sentence_angle(space: Space, first: str, second: str) -> float:
    one, other = unit(space.clip.encode_text([first, second]).cpu().double().numpy())
    return float(angles(one[None], other[None])[0])


def _noise_angle(view: CaptionView) -> Mean:
    """Between images of one caption under neighbouring noises: what changes without a change of words."""
    return mean_interval(angles(view.vectors[:-1], view.vectors[1:]).ravel())


def _captions_say(view: CaptionView, space: Space) -> Iterator[str]:
    for a, b in itertools.combinations(range(len(view.captions)), 2):
        angle = mean_interval(angles(view.vectors[:, a], view.vectors[:, b]))
        yield (
            f"{view.model.name}: from '{view.captions[a]}' to '{view.captions[b]}' images turn by {angle} degrees "
            f"({angle.n} noises), sentences by {_sentence_angle(space, view.captions[a], view.captions[b]):.3g}"
        )
    if len(view.vectors) > 1:
        yield f"{view.model.name}: from noise to noise under one caption images turn by {_noise_angle(view)} degrees"


def _way_steps(one: Interpolation) -> Points:
    """Degrees between each image and the next (K-1,)."""
    return angles(one.vectors[:-1], one.vectors[1:])


def _way_rows(one: Interpolation) -> Iterator[dict[str, object]]:
    turned = [0.0, *_way_steps(one).tolist()]
    for step, share in enumerate(np.linspace(0, 1, len(one.images)).tolist()):
        yield {
            "model": one.model.name,
            "step": step,
            "share": round(share, 6),
            "similarity_to_start": round(float(one.to_start[step]), 6),
            "similarity_to_end": round(float(one.to_end[step]), 6),
            "angle_from_last": round(turned[step], 4),
        }


def _way_record(one: Interpolation) -> dict[str, Any]:
    steps = _way_steps(one)
    return {
        **_model_record(one),
        "angle_between_ends": float(angles(one.vectors[:1], one.vectors[-1:])[0]),
        "sum_of_angles": float(steps.sum()),
        "largest_step": float(steps.max()),
        "mean_step": float(steps.mean()),
        "similarity_to_start": [float(one.to_start[0]), float(one.to_start[-1])],
        "similarity_to_end": [float(one.to_end[0]), float(one.to_end[-1])],
    }


def _way_says(one: Interpolation) -> str:
    steps = _way_steps(one)
    return (
        f"{one.model.name}: similarity to the first caption goes from {one.to_start[0]:.3f} to {one.to_start[-1]:.3f}, "
        f"to the second from {one.to_end[0]:.3f} to {one.to_end[-1]:.3f}; the largest of {len(steps)} steps turns by "
        f"{steps.max():.1f} degrees, the mean by {steps.mean():.1f}"
    )
