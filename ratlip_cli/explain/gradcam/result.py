"""The result of Grad-CAM: figures, numbers, and lines that say what the numbers bear."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from ratlip_cli.explain.gradcam.explanation import Explanation
from ratlip_cli.explain.gradcam.faithfulness import KINDS
from ratlip_cli.explain.gradcam.figures import gradcam_figure, segments_figure
from ratlip_cli.explain.gradcam.segments import FEWEST, SegmentSummary, summarise
from ratlip_cli.explain.inputs import about, model_record
from ratlip_cli.explain.intervals import Mean, mean_interval
from ratlip_cli.explain.record import Record, Result
from ratlip_cli.explain.request import GradCamRequest
from ratlip_cli.weights.model_folder import Model

PREFERRED = {"insertion": "higher", "deletion": "lower"}
ORDERS = {"random": "random orders", "centre": "the order from the middle outwards"}


@dataclass(frozen=True)
class Group:
    """At least one explained image of one model."""

    explanations: list[Explanation]

    @property
    def model(self) -> Model:
        """The model."""
        return self.explanations[0].model

    @cached_property
    def segments(self) -> list[SegmentSummary]:
        """Means over the images, for each segment that words name."""
        return summarise(score for one in self.explanations for score in one.segment_scores)

    def difference(self, kind: str, order: str) -> Mean:
        """The area under the map's curve minus that of another order; `kind` is of KINDS, `order` of ORDERS."""
        areas = [area for one in self.explanations for area in one.faithfulness if area.kind == kind]
        return mean_interval([area.auc - float(getattr(area, order)) for area in areas])

    def record(self) -> dict[str, object]:
        """The numbers over all images."""
        return {
            **model_record(self.model),
            "grid": self.model.clip.geometry.grid,
            "layer": self.explanations[0].layer,
            "images": len(self.explanations),
            **{f"{kind}_minus_{order}": asdict(self.difference(kind, order)) for order in ORDERS for kind in KINDS},
            "segments": {
                one.segment: {
                    "n": one.n,
                    "pointing": asdict(one.pointing),
                    "energy": asdict(one.energy),
                    "verdict": one.verdict,
                }
                for one in self.segments
            },
        }

    def says(self) -> Iterator[str]:
        """One line for each claim, with the numbers that it rests on."""
        count, name = len(self.explanations), self.model.name
        if count == 1:
            yield from _image_says(self.explanations[0])
            return
        if count < FEWEST:
            yield f"{name}: {count} images are too few to say; each has its numbers in the JSON"
            return
        for kind in KINDS:
            for order, what in ORDERS.items():
                difference = self.difference(kind, order)
                better = difference.low > 0 if kind == "insertion" else difference.high < 0
                yield (
                    f"{name}: {kind} area minus that of {what}: {difference}, {count} images: "
                    f"{'better' if better else 'no better'}"
                )
        for one in self.segments:
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


@dataclass(frozen=True, repr=False)
class GradCamResult(Result):
    """Images explained, model by model."""

    request: GradCamRequest
    groups: list[Group]

    @property
    def explanations(self) -> list[Explanation]:
        """Of all images of all models."""
        return [one for group in self.groups for one in group.explanations]

    @property
    def title(self) -> str:
        """The prompt, or the dataset and its split."""
        if self.request.dataset is not None:
            return f"{self.request.dataset} {self.request.split}"
        return self.request.prompt or self.explanations[0].input.prompt

    @property
    def about(self) -> list[str]:
        """One line for each model."""
        return [
            f"{about(group.model)}, target {self.request.target}, layer {group.explanations[0].layer}"
            for group in self.groups
        ]

    @property
    def says(self) -> list[str]:
        """One line for each claim, with the numbers that it rests on."""
        return [line for group in self.groups for line in group.says()]

    def record(self) -> dict[str, object]:
        """All numbers and lines, as the JSON file has them."""
        target = self.explanations[0].target
        return {
            "command": "gradcam",
            "seed": self.request.seed,
            "dataset": self.request.dataset,
            "target": target.name,
            "unit": target.unit,
            "models": [group.record() for group in self.groups],
            "says": self.says,
            "images": [one.record() for one in self.explanations],
        }

    def write(self, files: Record) -> None:
        """Write the figures, the maps and the curves."""
        files.figure(gradcam_figure([group.explanations for group in self.groups]))
        if any(len(group.explanations) > 1 for group in self.groups) and all(group.segments for group in self.groups):
            files.figure(segments_figure([(group.model.name, group.segments) for group in self.groups]), "segments")
        files.points(list(_map_rows(self.explanations)), "maps")
        files.points(list(_curve_rows(self.explanations)), "curves")


def _map_rows(explanations: list[Explanation]) -> Iterator[dict[str, object]]:
    for one in explanations:
        for place, each in enumerate(one.maps):
            for (row, column), value in np.ndenumerate(each.cells):
                yield {
                    "model": one.model.name,
                    "image": one.input.name,
                    "map": each.text if place else "whole prompt",
                    "row": row,
                    "column": column,
                    "value": round(float(value), 6),
                }


def _curve_rows(explanations: list[Explanation]) -> Iterator[dict[str, object]]:
    for one in explanations:
        for curve in one.curves:
            for share, score in zip(curve.shares.tolist(), curve.scores.tolist(), strict=True):
                yield {
                    "model": one.model.name,
                    "image": one.input.name,
                    "kind": curve.kind,
                    "order": curve.order,
                    "share": round(share, 6),
                    "score": round(score, 6),
                }
