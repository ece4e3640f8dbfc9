"""What a Grad-CAM analysis says: its figures, its numbers, and the sentences that follow from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ratlip_cli.explain.explanation import Explanation
from ratlip_cli.explain.faithfulness import KINDS
from ratlip_cli.explain.gradcam_figures import gradcam_figure, segments_figure
from ratlip_cli.explain.intervals import mean_interval
from ratlip_cli.explain.record import Record
from ratlip_cli.explain.segments import FEWEST, SegmentSummary, summarise

PREFERRED = {"insertion": "higher", "deletion": "lower"}


def write_gradcam(
    explanations: Sequence[Explanation], record: Record, settings: Mapping[str, object]
) -> dict[str, Any]:
    """Write figures, CSV and JSON of at least one explanation; the result is the content of the JSON file.

    Args:
        settings: what was asked for, for the record.
    """
    groups = _by_model(explanations)
    parts = [
        (group[0].model.name, summarise(score for one in group for score in one.part_scores())) for group in groups
    ]
    record.figure(gradcam_figure(explanations))
    if any(len(group) > 1 for group in groups) and all(summary for _, summary in parts):
        record.figure(segments_figure(parts), "parts")
    record.points(list(_map_rows(explanations)), "maps")
    record.points(list(_curve_rows(explanations)), "curves")
    first = explanations[0]
    models = [_model_record(group, summary) for group, (_, summary) in zip(groups, parts, strict=True)]
    return record.numbers(
        {
            **settings,
            "target": first.target.name,
            "unit": first.target.unit,
            "models": models,
            "says": [line for group, (_, summary) in zip(groups, parts, strict=True) for line in _says(group, summary)],
            "images": [one.record() for one in explanations],
        }
    )


def _by_model(explanations: Sequence[Explanation]) -> list[list[Explanation]]:
    groups: dict[int, list[Explanation]] = {}
    for one in explanations:
        groups.setdefault(id(one.model), []).append(one)
    return list(groups.values())


def _model_record(group: Sequence[Explanation], parts: Sequence[SegmentSummary]) -> dict[str, object]:
    first = group[0]
    return {
        "model": first.model.name,
        "fingerprint": first.model.fingerprint,
        "clip": first.model.config.clip,
        "clip_fingerprint": first.model.clip.fingerprint,
        "grid": first.model.clip.geometry.grid,
        "layer": first.layer,
        "images": len(group),
        **{f"{kind}_minus_random": asdict(mean_interval(_differences(group, kind, "random"))) for kind in KINDS},
        **{f"{kind}_minus_centre": asdict(mean_interval(_differences(group, kind, "centre"))) for kind in KINDS},
        "parts": {
            part.part: {
                "n": part.n,
                "pointing": asdict(part.pointing),
                "energy": asdict(part.energy),
                "verdict": part.verdict,
            }
            for part in parts
        },
    }


def _differences(group: Sequence[Explanation], kind: str, order: str) -> list[float]:
    found = [next(area for area in one.faithfulness if area.kind == kind) for one in group]
    return [area.auc - float(getattr(area, order)) for area in found]


def _says(group: Sequence[Explanation], parts: Sequence[SegmentSummary]) -> Iterator[str]:
    """One line for each claim, with the numbers that it rests on."""
    name = group[0].model.name
    if len(group) == 1:
        for area in group[0].faithfulness:
            yield (
                f"{name}: {area.kind} area {area.auc:.3f} ({PREFERRED[area.kind]} is better): better than "
                f"{area.better_than_random} of {area.random_orders} random orders ({area.random:.3f} ± "
                f"{area.random_sd:.3f}), {'better' if area.better_than_centre else 'no better'} than the order "
                f"from the middle outwards ({area.centre:.3f})"
            )
        for score in group[0].part_scores():
            better = score.pointing > score.centre_pointing and score.energy > score.centre_energy
            yield (
                f"{name}: '{score.text}' in {score.part}: pointing {score.pointing:.0f}, energy {score.energy:.2f}; "
                f"chance {score.chance:.2f}; centre baseline {score.centre_pointing:.0f} and "
                f"{score.centre_energy:.2f}: {'better' if better else 'no better'} than it on this image"
            )
        return
    if len(group) < FEWEST:
        yield f"{name}: {len(group)} images are too few to say; each has its numbers in the JSON"
        return
    for kind in KINDS:
        for order, what in (("random", "random orders"), ("centre", "the order from the middle outwards")):
            difference = mean_interval(_differences(group, kind, order))
            better = difference.low > 0 if kind == "insertion" else difference.high < 0
            yield (
                f"{name}: {kind} area minus that of {what}: {difference}, {len(group)} images: "
                f"{'better' if better else 'no better'}"
            )
    for part in parts:
        yield (
            f"{name}: {part.part} ({part.n} images): pointing {part.pointing.map}, centre baseline "
            f"{part.pointing.centre:.3g}; energy {part.energy.map}, centre baseline {part.energy.centre:.3g}; chance "
            f"{part.energy.chance:.3g}: {part.verdict}"
        )


def _map_rows(explanations: Sequence[Explanation]) -> Iterator[dict[str, object]]:
    for one in explanations:
        for place, found in enumerate((one.sentence, *one.words)):
            for (row, column), value in np.ndenumerate(found.cells):
                yield {
                    "model": one.model.name,
                    "image": one.subject.name,
                    "map": "sentence" if place == 0 else found.text,
                    "row": row,
                    "column": column,
                    "value": round(float(value), 6),
                }


def _curve_rows(explanations: Sequence[Explanation]) -> Iterator[dict[str, object]]:
    for one in explanations:
        for curve in one.curves:
            for share, score in zip(curve.shares.tolist(), curve.scores.tolist(), strict=True):
                yield {
                    "model": one.model.name,
                    "image": one.subject.name,
                    "kind": curve.kind,
                    "order": curve.order,
                    "share": round(share, 6),
                    "score": round(score, 6),
                }
