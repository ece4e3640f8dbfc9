"""What an analysis leaves behind: figures, their numbers as JSON and their points as CSV, under one numbered name."""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from ratlip_cli.errors import RatlipError
from ratlip_cli.explain.figures import save_figure
from ratlip_cli.files import whole_file, write_text
from ratlip_cli.sampling import next_number, slug

FRAME_SECONDS = 0.15


class Result(ABC):
    """The outcome of an analysis: numbers, lines that say what they bear, and figures."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What it was about, for people and the names of files."""

    @property
    @abstractmethod
    def about(self) -> list[str]:
        """One line for each model: its name, its fingerprint and where it ran."""

    @property
    @abstractmethod
    def says(self) -> list[str]:
        """One line for each claim, with the numbers that it rests on."""

    @abstractmethod
    def record(self) -> dict[str, object]:
        """All numbers and lines, as the JSON file has them."""

    @abstractmethod
    def write(self, files: Record) -> None:
        """Write the figures and the points."""

    def save(self, folder: Path, svg: bool = False) -> list[Path]:
        """Write figures, points and numbers into `folder`; the result is the files, that of the numbers last.

        Args:
            folder: made where it does not exist; what it holds is kept.
            svg: whether figures are written as SVG besides PNG.
        """
        files = Record(folder, self.title, svg)
        self.write(files)
        files.numbers(self.record())
        return files.files

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.title!r}, {'; '.join(self.about)})"


class Record:
    """The files of one analysis: NNNN_TITLE.png, .json, _points.csv and so on. Nothing is replaced.

    Args:
        folder: made where it does not exist; numbers go on from what it holds.
        title: stands in the names.
        svg: whether figures are written as SVG besides.
    """

    def __init__(self, folder: Path, title: str, svg: bool = False) -> None:
        self.stem = f"{next_number(folder):04d}_{slug(title)}"
        self.folder = folder
        self.svg = svg
        self.files: list[Path] = []

    def figure(self, figure: Figure, suffix: str = "") -> None:
        """Write a figure as PNG, and as SVG where `svg` says so."""
        for kind in ("png", "svg") if self.svg else ("png",):
            with whole_file(self._next(suffix, kind)) as partial:
                save_figure(figure, partial, kind)

    def animation(self, frames: Sequence[Image.Image], suffix: str) -> None:
        """Write frames as a GIF that runs forth and back without end."""
        first, *others = (*frames, *frames[-2:0:-1])
        milliseconds = round(1000 * FRAME_SECONDS)
        with whole_file(self._next(suffix, "gif")) as partial:
            first.save(partial, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)

    def points(self, rows: Sequence[Mapping[str, object]], suffix: str) -> None:
        """Write rows of the same columns as CSV."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self._next(suffix, "csv"), text.getvalue())

    def numbers(self, summary: Mapping[str, object]) -> None:
        """Write the numbers, together with the names of all files, as JSON."""
        path = self._next("", "json")
        content = {**summary, "files": [str(file) for file in self.files]}
        write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def _next(self, suffix: str, kind: str) -> Path:
        path = self.folder / f"{self.stem}{suffix and '_'}{suffix}.{kind}"
        if path.exists():
            raise RatlipError(f"{path} exists: another ratlip writes into this folder. Choose another --out.")
        self.files.append(path)
        return path
