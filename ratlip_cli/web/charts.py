"""Curves as Vega-Lite charts, see https://vega.github.io/vega-lite/docs/."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

POINTS = 300
"""Points of a curve; where it has more steps, a point is the mean of as many steps."""

POINTS_IN_ALL = 3000
"""Points of a chart that shows the curves of many runs."""

ROWS = 9
"""Rows of a chart's table of values, at most."""

COLOURS = ("#1a80c4", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56a0d3", "#7f6bc4", "#8c8c8c")
"""After Okabe and Ito: told apart by the colour-blind, and readable on white and on black."""

DASHES = ([1, 0], [6, 3], [2, 3], [10, 3, 2, 3])


@dataclass(frozen=True)
class Curve:
    """Values by step, in the order of the steps."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell names its row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: bool = False  # Whether the rows' names stand out.


@dataclass(frozen=True)
class Chart:
    """Curves over one axis of steps."""

    title: str
    about: str  # A sentence on what to look for; may be empty.
    spec: dict[str, Any] = field(repr=False)
    table: Table  # A few of the values: "step" and the curves' names, and what they were.


def chart(title: str, about: str, curves: Sequence[Curve], runs: bool = False) -> Chart:
    """Curves with values on hovering, over bands from the least to the largest value that a point stands for.

    Args:
        runs: whether each curve is another run's; these have no bands.
    """
    first, last = min(curve.steps[0] for curve in curves), max(curve.steps[-1] for curve in curves)
    distinct = len({step for curve in curves for step in curve.steps})
    points = max(1, min(POINTS, POINTS_IN_ALL // len(curves))) if runs else POINTS
    width = max(1, -(-(last - first + 1) // points)) if distinct > points else 0
    sparse = [curve for curve in curves if len(curve.steps) <= points]
    own = {(step - first) // width: step for curve in sparse for step in curve.steps} if width else {}
    long = [
        row for number, curve in enumerate(curves) for row in _points(f"c{number}", curve, first, width, points, own)
    ]
    names = [curve.name for curve in curves]
    table = Table(["step", *names], _values(long, len(curves)))
    return Chart(title, about, _spec(title, names, long, bands=not runs and width > 1), table)


def _values(points: Sequence[dict[str, Any]], count: int) -> list[list[str]]:
    """About ROWS steps, and what each of `count` curves is there or nearby.

    They are steps of the curve with the fewest points of those that go nearly all the way, so that it has its values in
    the table too; and the last one of each curve that would have no value in it.
    """
    curves = [[(row["x"], row["y"]) for row in points if row["c"] == f"c{number}"] for number in range(count)]
    steps = sorted({step for curve in curves for step, _ in curve})
    far = [curve for curve in curves if curve[-1][0] - curve[0][0] >= max(1, 0.8 * (steps[-1] - steps[0]))]
    if far:
        steps = [step for step, _ in min(far, key=len)]
    shown = {steps[place] for place in np.unique(np.linspace(0, len(steps) - 1, ROWS).round().astype(int))}
    shown |= {curve[-1][0] for curve in curves if not any(_near(curve, step) for step in shown)}
    return [[f"{step:,}", *(_near(curve, step) for curve in curves)] for step in sorted(shown)]


def _near(curve: Sequence[tuple[int, float]], step: int) -> str:
    """The value at the point nearest to a step; empty where that is more than half its way to the next point."""
    near, value = min(curve, key=lambda point: abs(point[0] - step))
    gap = max((after - before for (before, _), (after, _) in itertools.pairwise(curve)), default=0)
    return f"{value:.4g}" if abs(near - step) <= gap / 2 else ""


def _points(key: str, curve: Curve, first: int, width: int, most: int, own: Mapping[int, int]) -> list[dict[str, Any]]:
    """One row a point: key c, step x, value y, and the least lo and largest hi of the values that it stands for.

    A curve of no more than `most` values is as it is. Of another, a point is the mean over `width` steps, at the mean
    of those that it has, or at the step `own` of a curve as it is that lies among them: both are told on one hovering.
    """
    if not width or len(curve.steps) <= most:
        bands = [{"lo": _short(y), "hi": _short(y)} if width else {} for y in curve.values]
        points = zip(curve.steps, curve.values, bands, strict=True)
        return [{"c": key, "x": step, "y": _short(y), **band} for step, y, band in points]
    steps, values = np.asarray(curve.steps), np.asarray(curve.values, dtype=np.float64)
    bins, starts = np.unique((steps - first) // width, return_index=True)
    counts = np.diff([*starts, len(steps)])
    mean_steps = np.rint(np.add.reduceat(steps, starts) / counts)
    at = [own.get(number, step) for number, step in zip(bins.tolist(), mean_steps, strict=True)]
    means = np.add.reduceat(values, starts) / counts
    least, largest = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    return [
        {"c": key, "x": int(x), "y": _short(y), "lo": _short(lo), "hi": _short(hi)}
        for x, y, lo, hi in zip(at, means, least, largest, strict=True)
    ]


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _spec(title: str, names: Sequence[str], rows: Sequence[dict[str, Any]], bands: bool) -> dict[str, Any]:
    keys = [f"c{number}" for number in range(len(names))]
    told = dict(zip(keys, names, strict=True))
    colour = {
        "field": "c",
        "type": "nominal",
        "scale": {"domain": keys, "range": [COLOURS[number % len(COLOURS)] for number in range(len(keys))]},
        "legend": {"labelExpr": f"({json.dumps(told)})[datum.value]"} if len(names) > 1 else None,
    }
    dashes = [DASHES[number // len(COLOURS) % len(DASHES)] for number in range(len(keys))]
    dash = {**colour, "scale": {"domain": keys, "range": dashes}}
    x = {"field": "x", "type": "quantitative", "title": "step", "axis": {"format": "~s", "tickCount": 5}}
    y = {"field": "y", "type": "quantitative", "title": None, "scale": {"zero": False}}
    band = {
        "mark": {"type": "area", "opacity": 0.15, "tooltip": None},
        "encoding": {"x": x, "y": {**y, "field": "lo"}, "y2": {"field": "hi"}, "color": colour},
    }
    line = {
        "mark": {"type": "line", "strokeWidth": 1.8, "point": len(rows) <= 30 * len(names)},
        "encoding": {"x": x, "y": y, "color": colour, "strokeDash": dash},
    }
    hover = {
        "transform": [{"pivot": "c", "value": "y", "groupby": ["x"]}],
        "mark": {"type": "rule", "strokeWidth": 1.5, "color": "#888"},
        "params": [
            {
                "name": "hover",
                "select": {
                    "type": "point",
                    "fields": ["x"],
                    "nearest": True,
                    "on": "pointerover",
                    "clear": "pointerout",
                },
            }
        ],
        "encoding": {
            "x": x,
            "opacity": {"condition": {"param": "hover", "empty": False, "value": 1}, "value": 0},
            "tooltip": [
                {"field": "x", "type": "quantitative", "title": "step", "format": ",d"},
                *(
                    {"field": key, "type": "quantitative", "title": name, "format": ".4~g"}
                    for key, name in told.items()
                ),
            ],
        },
    }
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",  # a name; nothing asks for it
        "description": f"{title}: {', '.join(names)} by step",
        "width": "container",
        "height": 220,
        "data": {"values": list(rows)},
        "layer": [*([band] if bands else []), line, hover],
    }
