"""Figures for a paper: matplotlib without a display, legible at the width of one or two columns.

Colours are those of Okabe and Ito, which colour-blind people can tell apart; real is green and generated is orange, as
in the paper's Fig. 5, and each has a marker of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.text import Text
from numpy.typing import NDArray

from ratlip_cli.fonts import fonts_for

GREEN, ORANGE, BLUE, GREY = "#009E73", "#E69F00", "#0072B2", "#6E6E6E"
OTHERS = (BLUE, "#CC79A7", "#000000", "#56B4E9", "#D55E00")
"""For captions; with MARKERS they are distinct without colours."""
MARKERS = ("s", "D", "v", "P", "X")

COLUMN, WIDTH = 3.5, 7.16
"""Inches: one column of a paper, and two."""
SMALL, FONT = 6.5, 7.5
"""Points."""
DPI = 200


def save_figure(figure: Figure, path: Path | BinaryIO, kind: str) -> None:
    """Write `figure` as `kind`, png or svg: the same bytes for the same figure."""
    _give_fonts(figure)
    with matplotlib.rc_context({"svg.hashsalt": "ratlip"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # letters that the font lacks become boxes
        figure.savefig(path, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else None)


def _give_fonts(figure: Figure) -> None:
    """Let every text that has letters beyond ASCII find them: in DejaVu Sans, else in a font of the system."""
    texts = [text for text in figure.findobj(Text) if not text.get_text().isascii()]
    files = fonts_for("".join(text.get_text() for text in texts), scalable=True) if texts else ()
    for file in files:
        fontManager.addfont(file)
    for text in texts:
        text.set_fontfamily([FontProperties(fname=file).get_name() for file in files])
        text.set_fontstyle("normal")  # the oblique DejaVu Sans has neither Arabic nor Hebrew


def as_text(words: str) -> str:
    """What a user wrote, so that matplotlib takes no dollar signs in it for mathematics."""
    return words.replace("$", r"\$")


def legend_below(figure: Figure | SubFigure, axes: Sequence[Axes], columns: int, title: str | None = None) -> None:
    """One legend under a figure, of what is labelled in `axes`."""
    entries = [entry for one in axes for entry in zip(*one.get_legend_handles_labels(), strict=True)]
    handles, labels = map(list, zip(*entries, strict=True))
    look: dict[str, Any] = {"fontsize": SMALL, "title_fontsize": SMALL, "frameon": False}
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, title=title, **look)


def plain_axes(axes: Axes) -> None:
    """Small ticks, two spines, the grid under the data."""
    axes.tick_params(labelsize=SMALL, length=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def show(axes: Axes, pixels: NDArray[np.uint8]) -> None:
    """An image (H,W,3), without ticks."""
    axes.imshow(pixels, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_linewidth(0.4)
