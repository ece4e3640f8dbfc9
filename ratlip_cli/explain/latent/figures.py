"""The figures of the latent views (Fig. 5): planes and angles, captions under one noise, interpolations."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ratlip_cli.explain.figures import (
    BLUE,
    COLUMN,
    FONT,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    OTHERS,
    SMALL,
    WIDTH,
    as_text,
    legend_below,
    plain_axes,
    show,
)
from ratlip_cli.explain.intervals import mean_interval
from ratlip_cli.explain.latent.space import Projection
from ratlip_cli.explain.latent.views import CaptionView, Interpolation, PairView
from ratlip_cli.fonts import columns_of, wrap
from ratlip_cli.pixels import to_images

_AXES = {"tsne": "t-SNE", "umap": "UMAP"}
_SHOWN_NOISE = 2
_SHOWN_STEPS = 10
_FRAME_SIDE = 128
_BINS = 24
_ARROW: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1}  # as long as the distance
_ARROW |= {"width": 0.0022, "headwidth": 6, "headlength": 7}
_DOT: dict[str, Any] = {"linestyle": "none", "markersize": 3.2, "markeredgewidth": 0, "alpha": 0.75}


def pairs_figure(views: Sequence[PairView], planes: Sequence[NDArray[np.float64]], projection: Projection) -> Figure:
    """Real and generated images in one plane, and under it the angles between each pair: a column a model.

    Args:
        planes: for each view, the points (2,n,2) of its real and its generated images.
    """
    figure = Figure(figsize=(COLUMN if len(views) == 1 else WIDTH, 4.6), layout="constrained")
    grid = figure.subplots(2, len(views), squeeze=False, height_ratios=(3, 1.25))
    centre, half = _square(planes)
    edges = np.histogram_bin_edges(np.concatenate([np.append(v.angles, v.mismatched) for v in views]), _BINS)
    highest = max(np.histogram(values, edges)[0].max() for v in views for values in (v.angles, v.mismatched))
    for column, (view, plane) in enumerate(zip(views, planes, strict=True)):
        _draw_pairs(grid[0, column], plane)
        _finish_plane(grid[0, column], projection, centre, half)
        grid[0, column].set_title(as_text(view.model.name), fontsize=FONT)
        _draw_angles(grid[1, column], view, edges, 1.08 * float(highest))
    legend_below(figure, list(grid[:, 0]), columns=2 if len(views) == 1 else 6)
    return figure


def captions_figure(
    views: Sequence[CaptionView],
    planes: Sequence[NDArray[np.float64]],
    background: Sequence[NDArray[np.float64]],
    projection: Projection,
) -> Figure:
    """The same noise vectors under each caption, side by side, and their vectors in a plane: a column a model.

    Args:
        planes: for each view, the points (noise vectors, captions, 2) of its images.
        background: for each view, the points (2,n,2) of real and generated images of a dataset; empty without one.
    """
    shown, count = min(planes[0].shape[0], _SHOWN_NOISE), planes[0].shape[1]
    wide = COLUMN if len(views) == 1 and count <= 3 else WIDTH
    side = min(1.5, wide / len(views) / count - 0.1)
    lines = max(len(_under(caption, side)) for caption in views[0].captions)
    images_height = shown * (side + 0.05) + 0.13 * lines + 0.25
    figure = Figure(figsize=(wide, images_height + 3.6), layout="constrained")
    columns = figure.subfigures(1, len(views), squeeze=False)[0]
    centre, half = _square([*planes, *background])
    for place, (view, plane) in enumerate(zip(views, planes, strict=True)):
        upper, lower = columns[place].subfigures(2, 1, squeeze=False, height_ratios=(images_height, 3.0))[:, 0]
        grid = upper.subplots(shown, count, squeeze=False)
        for noise in range(shown):
            for number, image in enumerate(to_images(view.images[noise])):
                show(grid[noise, number], np.asarray(image))
            grid[noise, 0].set_ylabel(f"noise {noise}", fontsize=SMALL)
        for number, caption in enumerate(view.captions):
            grid[-1, number].set_xlabel("\n".join(_under(caption, side)), fontsize=SMALL, style="italic")
        if len(views) > 1:
            upper.suptitle(as_text(view.model.name), fontsize=FONT)
        axes = lower.subplots()
        if background:
            _draw_pairs(axes, background[place], faint=True)
        _draw_captions(axes, view, plane)
        _finish_plane(axes, projection, centre, half)
    legend_below(figure, [axes], 1 if wide == COLUMN else 2, title="large: mean of a caption; line: one noise")
    return figure


def interpolation_figure(interpolations: Sequence[Interpolation], start: str, end: str) -> Figure:
    """Strips of images from one caption to the other, a row a model, and how like each caption they are."""
    steps, start, end = len(interpolations[0].images), _quoted(start), _quoted(end)
    shown = np.unique(np.linspace(0, steps - 1, min(steps, _SHOWN_STEPS)).round().astype(int))
    side = (WIDTH - 0.5) / len(shown)
    strip = side + 0.32
    figure = Figure(figsize=(WIDTH, len(interpolations) * strip + 2.2), layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(len(interpolations) * strip, 2.2))[:, 0]
    grid = upper.subplots(len(interpolations), len(shown), squeeze=False)
    for row, one in zip(grid, interpolations, strict=True):
        for axes, step, image in zip(row, shown, to_images(one.images[shown]), strict=True):
            show(axes, np.asarray(image))
            axes.set_title(f"{step / (steps - 1):.2f}", fontsize=SMALL, pad=2)
        if len(interpolations) > 1:
            row[0].set_ylabel(textwrap.shorten(as_text(one.model.name), 24, placeholder="..."), fontsize=SMALL)
    upper.supxlabel(f"from {start} to {end}", fontsize=FONT, style="italic")
    charts = lower.subplots(1, len(interpolations), sharey=True, squeeze=False)[0]
    shares = np.linspace(0, 1, steps)
    for axes, one in zip(charts, interpolations, strict=True):
        axes.plot(shares, one.to_start, color=BLUE, marker="s", markersize=3, linewidth=1, label=start)
        axes.plot(shares, one.to_end, color=ORANGE, marker="^", markersize=3, linewidth=1, label=end)
        axes.set_xlabel("share of the second caption", fontsize=FONT)
        axes.set_title(as_text(one.model.name), fontsize=FONT)
        plain_axes(axes)
    charts[0].set_ylabel("CLIP similarity", fontsize=FONT)
    legend_below(lower, [charts[0]], columns=2)
    return figure


def interpolation_frames(interpolations: Sequence[Interpolation]) -> list[Image.Image]:
    """A frame for each step, the models side by side; small images are enlarged."""
    frames = []
    for images in zip(*(to_images(one.images) for one in interpolations), strict=True):
        scale = max(1, _FRAME_SIDE // images[0].width)
        sides = [image.width * scale for image in images]
        frame = Image.new("RGB", (sum(sides) + 4 * (len(sides) - 1), max(sides)), "white")
        for place, image in enumerate(images):
            larger = image.resize((sides[place], sides[place]), Image.Resampling.NEAREST)
            frame.paste(larger, (sum(sides[:place]) + 4 * place, 0))
        frames.append(frame)
    return frames


def _draw_pairs(axes: Axes, plane: NDArray[np.float64], faint: bool = False) -> None:
    real, fake = plane
    if not faint:
        axes.quiver(*real.T, *(fake - real).T, color=GREY, alpha=0.5, zorder=1, **_ARROW)
    dot = _DOT | ({"alpha": 0.4} if faint else {})
    axes.plot(*real.T, color=GREEN, marker="o", label="real", zorder=2, **dot)
    axes.plot(*fake.T, color=ORANGE, marker="^", label="generated", zorder=2, **dot)
    if not faint:
        start, end = real.mean(axis=0), fake.mean(axis=0)
        axes.annotate(
            "", end, start, arrowprops={"arrowstyle": "-|>", "color": "black", "lw": 1.4, "shrinkA": 0, "shrinkB": 0}
        )
        for point, colour, marker in ((start, GREEN, "o"), (end, ORANGE, "^")):
            axes.plot(*point, color=colour, marker=marker, markersize=7, markeredgecolor="black", zorder=5)
        axes.plot([], [], color="black", marker=">", markersize=4, linewidth=1.4, label="mean to mean")


def _draw_captions(axes: Axes, view: CaptionView, plane: NDArray[np.float64]) -> None:
    for points in plane:
        axes.plot(*points.T, color=GREY, linewidth=0.5, alpha=0.6, zorder=2)
    for number, caption in enumerate(view.captions):
        style: dict[str, Any] = {"color": OTHERS[number % len(OTHERS)], "marker": MARKERS[number % len(MARKERS)]}
        axes.plot(*plane[:, number].T, linestyle="none", markersize=3.5, label=_quoted(caption), zorder=3, **style)
        axes.plot(*plane[:, number].mean(axis=0), markersize=7.5, markeredgecolor="white", zorder=4, **style)


def _draw_angles(axes: Axes, view: PairView, edges: NDArray[np.float64], highest: float) -> None:
    axes.hist(view.angles, edges.tolist(), color=ORANGE, label="to its own generated")
    axes.hist(
        view.mismatched, edges.tolist(), histtype="step", color="black", linewidth=0.8, label="to another's generated"
    )
    mean = mean_interval(view.angles)
    if mean.low is not None and mean.high is not None:
        axes.axvspan(mean.low, mean.high, color=GREY, alpha=0.5, linewidth=0, label="mean, 95 % interval")
    axes.axvline(mean.mean, color="black", linewidth=1.2)
    margin = (edges[1] - edges[0]) / 2  # for the outline of the outermost bars
    axes.set_xlim(edges[0] - margin, edges[-1] + margin)
    axes.set_ylim(0, highest)
    axes.set_title(f"mean {mean.mean:.1f}°{mean.interval('.1f')}, {mean.n} pairs", fontsize=SMALL)
    axes.set_xlabel("angle (degrees)", fontsize=FONT)
    axes.set_ylabel("pairs", fontsize=FONT)
    plain_axes(axes)


def _finish_plane(axes: Axes, projection: Projection, centre: NDArray[np.float64], half: float) -> None:
    """Name the axes, and scale both the same, so that lengths and directions in the plane are what they seem."""
    for number, axis in enumerate((axes.xaxis, axes.yaxis)):
        label = f"{_AXES.get(projection.method, 'component')} {number + 1}"
        if projection.explained is not None:
            label += f" ({100 * projection.explained[number]:.0f} % of the variance)"
        axis.set_label_text(label, fontsize=FONT)
    axes.set_xlim(centre[0] - half, centre[0] + half)
    axes.set_ylim(centre[1] - half, centre[1] + half)
    axes.set_aspect("equal")
    plain_axes(axes)


def _square(planes: Sequence[NDArray[np.float64]]) -> tuple[NDArray[np.float64], float]:
    """Middle and half side of the square that holds all points (...,2)."""
    points = np.concatenate([plane.reshape(-1, 2) for plane in planes])
    low, high = points.min(axis=0), points.max(axis=0)
    return (low + high) / 2, 0.54 * float((high - low).max()) or 1.0


def _quoted(caption: str) -> str:
    return f"“{as_text(textwrap.shorten(caption, 60, placeholder=' ...'))}”"


def _under(caption: str, side: float) -> list[str]:
    """A caption in lines that fit under an image of `side` inches."""
    return wrap(as_text(caption), max(8, round(side / (0.5 * SMALL / 72))), 4, columns_of)
