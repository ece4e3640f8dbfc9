"""Figures for a paper: matplotlib without a display, legible at the width of one or two columns.

Colours are those of Okabe and Ito, which colour-blind people can tell apart; real is green and generated is orange, as
in the paper's Fig. 5, and each has a marker of its own.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

GREEN, ORANGE, BLUE, GREY = "#009E73", "#E69F00", "#0072B2", "#6E6E6E"
OTHERS = (BLUE, "#CC79A7", "#000000", "#56B4E9", "#D55E00")
"""For captions; with MARKERS they are distinct without colours."""
MARKERS = ("s", "D", "v", "P", "X")

COLUMN, WIDTH = 3.5, 7.16
"""Inches: one column of a paper, and two."""
SMALL, FONT = 6.5, 7.5
"""Points."""
DPI = 200


def save_figure(figure: Figure, path: Path, kind: str) -> None:
    """Write `figure` as `kind`, png or svg: the same bytes for the same figure."""
    with matplotlib.rc_context({"svg.hashsalt": "ratlip"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # letters that the font lacks become boxes
        figure.savefig(path, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else None)


def as_text(words: str) -> str:
    """What a user wrote, so that matplotlib takes no dollar signs in it for mathematics."""
    return words.replace("$", r"\$")


def plain_axes(axes: Axes) -> None:
    """Small ticks, two spines, the grid under the data."""
    axes.tick_params(labelsize=SMALL, length=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def hide_ticks(axes: Axes) -> None:
    """For images."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_linewidth(0.4)
