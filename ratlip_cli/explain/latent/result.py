"""The results of latent views: figures, numbers, and lines that say what the numbers bear."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ratlip_cli.explain.inputs import about, model_record
from ratlip_cli.explain.intervals import Mean, mean_interval
from ratlip_cli.explain.latent.figures import captions_figure, interpolation_figure, interpolation_frames, pairs_figure
from ratlip_cli.explain.latent.projection import Projection
from ratlip_cli.explain.latent.space import Space, angles
from ratlip_cli.explain.latent.views import CaptionView, Interpolation, Pairs, PairView
from ratlip_cli.explain.record import Record, Result
from ratlip_cli.explain.request import LatentRequest

Points = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class LatentResult(Result):
    """One view of each model."""

    request: LatentRequest
    space: Space
    views: Sequence[PairView | CaptionView | Interpolation]

    @property
    def about(self) -> list[str]:
        """One line for each model."""
        return [about(view.model) for view in self.views]

    def _record(self, view: str, **numbers: object) -> dict[str, object]:
        head = {"command": "latent-viz", "seed": self.request.seed, "view": view}
        return {**head, **numbers, "space": self.space.record(), "says": self.says}


@dataclass(frozen=True, repr=False)
class PairsResult(LatentResult):
    """Real and generated images of a dataset's captions."""

    views: Sequence[PairView]
    pairs: Pairs
    projection: Projection

    @property
    def title(self) -> str:
        """The dataset and its split."""
        return f"{self.pairs.real.dataset.name} {self.request.split}"

    @property
    def difference(self) -> Mean | None:
        """The second model's angle minus the first's, pair by pair; None for one model."""
        return mean_interval(self.views[1].angles - self.views[0].angles) if len(self.views) > 1 else None

    @property
    def says(self) -> list[str]:
        """One line for each claim, with the numbers that it rests on."""
        lines = [_pair_says(view) for view in self.views]
        if self.difference is not None:
            verdict = "smaller" if self.difference.high < 0 else "larger" if self.difference.low > 0 else "no different"
            first, second = (view.model.name for view in self.views)
            lines.append(f"angle of {second} minus that of {first}: {self.difference} degrees: {verdict}")
        if self.space.name == "discriminator" and len(self.views) > 1:
            lines.append(f"both are measured in the space of {self.space.model.name}'s discriminator")
        elif len({view.model.clip.fingerprint for view in self.views}) > 1:
            lines.append(
                f"the models have different CLIPs: both are measured in the space of {self.space.model.name}'s"
            )
        return lines

    def record(self) -> dict[str, object]:
        """All numbers and lines, as the JSON file has them."""
        return self._record(
            "pairs",
            **_dataset_record(self.pairs, self.request),
            **_projection_record(self.projection),
            models=[_pair_record(view) for view in self.views],
            difference=self.difference and asdict(self.difference),
        )

    def write(self, files: Record) -> None:
        """Write the figure and the points."""
        planes = _pair_planes(self.pairs, self.projection.points)
        files.figure(pairs_figure(self.views, planes, self.projection))
        files.points(list(_pair_rows(self.pairs, planes)), "points")


@dataclass(frozen=True, repr=False)
class CaptionsResult(LatentResult):
    """Captions under the same noise vectors."""

    views: Sequence[CaptionView]
    pairs: Pairs | None
    """Real and generated images of a dataset, shown in the background; the plane is fitted on them too."""
    projection: Projection

    @property
    def title(self) -> str:
        """The captions."""
        return " against ".join(self.request.captions)

    @property
    def says(self) -> list[str]:
        """One line for each claim, with the numbers that it rests on."""
        return [line for view in self.views for line in _captions_say(view)]

    def record(self) -> dict[str, object]:
        """All numbers and lines, as the JSON file has them."""
        return self._record(
            "captions",
            **(_dataset_record(self.pairs, self.request) if self.pairs else {}),
            captions=self.request.captions,
            noises=len(self.views[0].vectors),
            **_projection_record(self.projection),
            models=[_caption_record(view) for view in self.views],
        )

    def write(self, files: Record) -> None:
        """Write the figure and the points."""
        background = _pair_planes(self.pairs, self.projection.points) if self.pairs else []
        points = self.projection.points[len(self.pairs.vectors) if self.pairs else 0 :]
        planes = list(points.reshape(len(self.views), *self.views[0].vectors.shape[:2], 2))
        files.figure(captions_figure(self.views, planes, background, self.projection))
        rows = list(_caption_rows(self.views, planes))
        files.points(rows + list(_pair_rows(self.pairs, background) if self.pairs else ()), "points")


@dataclass(frozen=True, repr=False)
class InterpolationResult(LatentResult):
    """Images from one caption to another."""

    views: Sequence[Interpolation]

    @property
    def title(self) -> str:
        """The two captions."""
        return f"{self.request.start} to {self.request.end}"

    @property
    def says(self) -> list[str]:
        """One line for each claim, with the numbers that it rests on."""
        return [_interpolation_says(view) for view in self.views]

    def record(self) -> dict[str, object]:
        """All numbers and lines, as the JSON file has them."""
        return self._record(
            "interpolation",
            **{"from": self.request.start, "to": self.request.end},
            steps=len(self.views[0].images),
            noises=self.request.noise_ends,
            models=[_interpolation_record(view) for view in self.views],
        )

    def write(self, files: Record) -> None:
        """Write the strips, the animation and the points."""
        files.figure(interpolation_figure(self.views, self.request.start or "", self.request.end or ""))
        files.animation(interpolation_frames(self.views), "interpolation")
        files.points([row for view in self.views for row in _interpolation_rows(view)], "points")


def _dataset_record(pairs: Pairs, request: LatentRequest) -> dict[str, Any]:
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
    gained = mean_interval(view.mismatched - view.angles)
    return (
        f"{view.model.name}: angle between real and generated {mean_interval(view.angles)} degrees "
        f"({len(view.angles)} pairs), to another caption's image {mean_interval(view.mismatched)}: "
        f"{'closer to its own' if gained.low > 0 else 'no closer to its own'}; between the means {view.mean_angle:.3g}"
    )


def _pair_rows(pairs: Pairs, planes: Sequence[Points]) -> Iterator[dict[str, object]]:
    for k, (file, caption) in enumerate(zip(pairs.real.files, pairs.real.captions, strict=True)):
        yield _row("real", "", k, caption, planes[0][0, k], file=file)
    for view, plane in zip(pairs.views, planes, strict=True):
        for k, caption in enumerate(pairs.real.captions):
            angle = round(float(view.angles[k]), 4)
            yield _row("generated", view.model.name, k, caption, plane[1, k], angle=angle)


def _caption_rows(views: Sequence[CaptionView], planes: Sequence[Points]) -> Iterator[dict[str, object]]:
    for view, plane in zip(views, planes, strict=True):
        for noise, number in np.ndindex(*plane.shape[:2]):
            yield _row("caption", view.model.name, noise, view.captions[number], plane[noise, number])


def _row(
    group: str, model: str, number: int, caption: str, point: Points, file: str = "", angle: float | str = ""
) -> dict[str, object]:
    """A point as a line of CSV; `number` is that of the pair and of the noise vector."""
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


def _caption_record(view: CaptionView) -> dict[str, Any]:
    return {
        **model_record(view.model),
        "captions": view.captions,
        "noises": len(view.vectors),
        "swaps": [
            {
                "from": swap.start,
                "to": swap.end,
                "angle": asdict(mean_interval(swap.angles)),
                "angle_of_texts": swap.text_angle,
            }
            for swap in view.swaps
        ],
        "angle_between_noises": asdict(mean_interval(view.noise_angles)) if len(view.vectors) > 1 else None,
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


def _interpolation_rows(view: Interpolation) -> Iterator[dict[str, object]]:
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
