"""What an analysis leaves behind: figures, their numbers as JSON and their points as CSV, under one numbered name."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from ratlip_cli.errors import RatlipError
from ratlip_cli.explain.figures import save_figure
from ratlip_cli.files import whole_file, write_text
from ratlip_cli.sampling import next_number, slug

FRAME_SECONDS = 0.15


class Record:
    """The files of one analysis: NNNN_TITLE.png, .json, _points.csv and so on. Nothing is replaced.

    Args:
        folder: made where it does not exist; numbers go on from what it holds.
        title: becomes a part of the names.
        svg: whether figures are written as SVG besides.
    """

    def __init__(self, folder: Path, title: str, svg: bool = False) -> None:
        self.stem = f"{next_number(folder):04d}_{slug(title)}"
        self.folder = folder
        self.svg = svg
        self.files: list[Path] = []

    def figure(self, figure: Figure, part: str = "") -> None:
        """Write a figure as PNG, and as SVG where asked for."""
        for kind in ("png", "svg") if self.svg else ("png",):
            with whole_file(self._next(part, kind)) as partial:
                save_figure(figure, partial, kind)

    def animation(self, frames: Sequence[Image.Image], part: str) -> None:
        """Write frames as a GIF that runs forth and back without end."""
        there_and_back = [*frames, *frames[-2:0:-1]]
        with whole_file(self._next(part, "gif")) as partial:
            there_and_back[0].save(
                partial,
                "GIF",
                save_all=True,
                append_images=there_and_back[1:],
                duration=round(1000 * FRAME_SECONDS),
                loop=0,
            )

    def points(self, rows: Sequence[Mapping[str, object]], part: str) -> None:
        """Write rows of the same columns as CSV."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self._next(part, "csv"), text.getvalue())

    def numbers(self, summary: Mapping[str, object]) -> dict[str, Any]:
        """Write the numbers, together with the names of all files, as JSON; the result is what was written."""
        path = self._next("", "json")
        content = {**summary, "files": [str(file) for file in self.files]}
        write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        return content

    def _next(self, part: str, kind: str) -> Path:
        path = self.folder / f"{self.stem}{part and '_'}{part}.{kind}"
        if path.exists():
            raise RatlipError(f"{path} exists: another ratlip writes into this folder. Choose another --out.")
        self.files.append(path)
        return path
