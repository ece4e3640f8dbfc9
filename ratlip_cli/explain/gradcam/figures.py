"""The figures of Grad-CAM (Fig. 3): maps over images, and segments beside their baselines."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ratlip_cli.explain.figures import BLUE, FONT, GREY, ORANGE, SMALL, WIDTH, as_text, legend_below, plain_axes, show
from ratlip_cli.explain.gradcam.explanation import Explanation, Map
from ratlip_cli.explain.gradcam.segments import Measured, SegmentSummary
from ratlip_cli.explain.intervals import FEWEST
from ratlip_cli.fonts import wrapped
from ratlip_cli.pixels import to_images

MOST_ROWS = 6
"""A Grad-CAM figure shows so many rows; the numbers of all images are in its JSON."""

_COLUMNS = 7
_GAP, _LINE = 0.06, 0.125
_HEAT = matplotlib.colormaps["inferno"]


class _Cell(NamedTuple):
    title: str
    pixels: NDArray[np.uint8]  # (S,S,3)
    note: str
    outline: NDArray[np.bool_] | None = None  # A mask (S,S) whose border is shown.


class _Row(NamedTuple):
    label: str
    cells: list[_Cell]
    caption: str


def gradcam_figure(models: Sequence[Sequence[Explanation]]) -> Figure:
    """Images and their maps, the prompt under them: a row a model, or with words a row a model and image."""
    every_row = _rows(models)
    rows = every_row[:MOST_ROWS]
    columns = max(len(row.cells) for row in rows)
    left = 0.22 if any(row.label for row in rows) else _GAP
    right = 0.62
    side = min(1.5 if len(rows) <= 3 else 1.1, (WIDTH - left - right) / columns - _GAP)
    width = left + columns * (side + _GAP) + right
    letters = round(width / (0.5 * FONT / 72))
    captions = [wrapped(as_text(row.caption), letters, 2) for row in rows]
    heights = [side + (3 + max(cell.note.count("\n") for cell in row.cells)) * _LINE for row in rows]
    below = [_LINE * (caption.count("\n") + 1) + 0.08 if caption else 0.04 for caption in captions]
    height = sum(heights) + sum(below)
    figure = Figure(figsize=(width, height))
    top = height
    for row, caption, row_height, under in zip(rows, captions, heights, below, strict=True):
        bottom = top - 1.4 * _LINE - side
        for column, cell in enumerate(row.cells):
            place = (left + column * (side + _GAP), bottom, side, side)
            _draw_cell(figure.add_axes(_share(place, width, height)), cell, side)
        if row.label:
            middle = (bottom + side / 2) / height
            label = textwrap.shorten(as_text(row.label), 30, placeholder="...")
            figure.text(0.5 * left / width, middle, label, fontsize=FONT, rotation=90, ha="center", va="center")
        figure.text(left / width, (top - row_height) / height, caption, fontsize=FONT, va="top", style="italic")
        top -= row_height + under
    if len(every_row) > len(rows):
        note = f"the first {len(rows)} of {len(every_row)} rows; the JSON has the numbers of all"
        figure.text(1 - _GAP / width, 0.02 / height, note, fontsize=SMALL, ha="right")
    bar = figure.add_axes(_share((width - right + 0.02, height - 1.4 * _LINE - side, 0.08, side), width, height))
    figure.colorbar(ScalarMappable(cmap=_HEAT), cax=bar, ticks=[0, 0.5, 1])
    bar.tick_params(labelsize=SMALL, length=2)
    bar.set_ylabel("share of map's max.", fontsize=SMALL)
    return figure


def _rows(models: Sequence[Sequence[Explanation]]) -> list[_Row]:
    """What stands beside one another; long rows go on in the next."""
    rows: list[_Row] = []
    for explanations in models:
        label = explanations[0].model.name if len(models) > 1 else ""
        if any(one.words for group in models for one in group):
            for one in explanations:
                cells = [_image_cell(one), *(_map_cell(one, each) for each in one.maps)]
                rows += _wrapped(label, cells, one.input.prompt)
        else:
            cells = [cell for one in explanations for cell in (_image_cell(one), _map_cell(one, one.whole))]
            prompts = list(dict.fromkeys(one.input.prompt for one in explanations))
            rows += _wrapped(label, cells, " / ".join(prompts))
    return [
        row if place + 1 == len(rows) or rows[place + 1].caption != row.caption else _Row(row.label, row.cells, "")
        for place, row in enumerate(rows)
    ]


def _wrapped(label: str, cells: list[_Cell], caption: str) -> list[_Row]:
    columns = _COLUMNS if len(cells) <= _COLUMNS else _COLUMNS // 2 * 2  # an image and its map stay in one row
    chunks = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return [_Row(label, chunk, caption) for chunk in chunks]


def _image_cell(one: Explanation) -> _Cell:
    (image,) = to_images(one.input.image[None])
    return _Cell(Path(one.input.name).stem, np.asarray(image), f"{one.target.short_unit} {one.whole.score:.2f}")


def _map_cell(one: Explanation, shown: Map) -> _Cell:
    (image,) = to_images(one.input.image[None])
    is_whole = shown is one.whole
    notes = [] if is_whole else [f"change {shown.score:+.3f}"]
    outline = None
    if not shown.cells.any():
        notes.append("zero everywhere")
    elif is_whole:
        notes.append(f"above half: {100 * shown.share_above_half:.0f} %")
    elif shown.segment:
        notes.append(f"{100 * shown.segment.energy:.0f} % in {shown.segment.segment}")
        outline = one.input.masks[shown.segment.segment]
    title = "whole prompt" if is_whole else f"“{shown.text}”"
    return _Cell(title, heated(image, shown.pixels), "\n".join(notes), outline)


def heated(image: Image.Image, pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image in grey under the colours of a map (S,S) in [0,1], the denser the higher: (S,S,3)."""
    grey = np.asarray(image.convert("L").convert("RGB"), dtype=np.float32) / 255
    colours = _HEAT(pixels)[..., :3]
    cover = 0.25 + 0.6 * pixels[..., None]
    mixed: NDArray[np.uint8] = np.round(255 * ((1 - cover) * grey + cover * colours)).astype(np.uint8)
    return mixed


def _draw_cell(axes: Axes, cell: _Cell, side: float) -> None:
    show(axes, cell.pixels)
    if cell.outline is not None:
        axes.contour(cell.outline, levels=[0.5], colors="white", linewidths=0.8)
    letters = max(6, round(side / (0.52 * FONT / 72)))
    title = cell.title if len(cell.title) <= letters else f"{cell.title[: letters - 1]}…"
    axes.set_title(as_text(title), fontsize=FONT, pad=2)
    axes.set_xlabel(cell.note, fontsize=SMALL, labelpad=2)


def _share(place: tuple[float, float, float, float], width: float, height: float) -> tuple[float, float, float, float]:
    """Inches from the lower left as shares of the figure."""
    left, bottom, wide, high = place
    return (left / width, bottom / height, wide / width, high / height)


def segments_figure(summaries: Sequence[tuple[str, Sequence[SegmentSummary]]]) -> Figure:
    """Pointing game and energy inside of each segment, beside chance and the centre baseline: a row of axes a model."""
    tallest = max(len(segments) for _, segments in summaries)
    figure = Figure(figsize=(WIDTH, len(summaries) * (0.5 + 0.19 * tallest) + 0.35), layout="constrained")
    grid = figure.subplots(len(summaries), 2, sharey="row", squeeze=False)
    for axes, (model, segments) in zip(grid, summaries, strict=True):
        _draw_measure(
            axes[0], segments, [one.pointing for one in segments], "pointing game: maximum inside the segment"
        )
        _draw_measure(axes[1], segments, [one.energy for one in segments], "share of the map inside the segment")
        if len(summaries) > 1:
            axes[0].set_ylabel(as_text(model), fontsize=FONT)
    legend_below(figure, [grid[0, 0]], columns=4)
    return figure


def _draw_measure(axes: Axes, segments: Sequence[SegmentSummary], measured: Sequence[Measured], title: str) -> None:
    places = np.arange(len(segments))[::-1]
    style: dict[str, Any] = {"linestyle": "none", "zorder": 3}
    axes.plot([m.chance for m in measured], places, marker="|", markersize=9, color=GREY, label="chance", **style)
    axes.plot(
        [m.centre for m in measured], places, marker="D", markersize=4, color=BLUE, label="centre baseline", **style
    )
    is_better = [values.better_than_centre for values in measured]
    no_better = f"map, no better, or fewer than {FEWEST} images"
    for better, label in ((True, "map, better than centre"), (False, no_better)):
        chosen = [k for k, value in enumerate(is_better) if value is better]
        maps = [measured[k].map for k in chosen]
        axes.errorbar(
            [m.mean for m in maps],
            places[chosen],
            xerr=[0.0 if m.high is None else m.high - m.mean for m in maps],
            fmt="o",
            markersize=5,
            color=ORANGE,
            ecolor=ORANGE,
            markerfacecolor=ORANGE if better else "white",
            elinewidth=1.2,
            zorder=4,
            label=label,
        )
    axes.set_yticks(places, [f"{one.segment} ({one.n})" for one in segments], fontsize=SMALL)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.6, len(segments) - 0.4)
    axes.set_xlabel(title, fontsize=FONT)
    plain_axes(axes)
    axes.grid(axis="x", linewidth=0.3)
