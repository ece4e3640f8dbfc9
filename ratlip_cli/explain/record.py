"""What an analysis leaves behind: figures, their numbers as JSON and their points as CSV, under one numbered name."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from ratlip_cli.explain.figures import save_figure
from ratlip_cli.files import whole_file, write_text
from ratlip_cli.outputs import next_number, slug

FRAME_MILLISECONDS = 150

Row = dict[str, object]
"""A line of a CSV file, by the names of its columns."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Result:
    """The outcome of an analysis. Figures, tables and animations go by the ends of their files' names."""

    title: str
    """What it is about, for people and the names of files."""
    models: list[str]
    """One line for each model: its name, its fingerprint, where it ran."""
    says: list[str]
    """One line for each claim, with the numbers that it rests on."""
    numbers: Mapping[str, object]
    figures: Mapping[str, Figure]
    tables: Mapping[str, Sequence[Row]]
    animations: Mapping[str, Sequence[Image.Image]] = field(default_factory=dict)
    """Frames, which run forth and back without end."""

    def _repr_png_(self) -> bytes:
        shown = io.BytesIO()
        save_figure(next(iter(self.figures.values())), shown, "png")
        return shown.getvalue()

    def record(self) -> dict[str, object]:
        """The numbers and what they say, as the JSON file has them."""
        return {**self.numbers, "says": self.says}

    def save(self, folder: str | Path, svg: bool = False) -> list[Path]:
        """Write NNNN_TITLE.png, .json, _points.csv and so on; the result is the files, the JSON file last.

        Args:
            folder: made where it does not exist; numbers go on from what it holds, and nothing is replaced.
            svg: whether figures are written as SVG besides PNG.
        """
        folder = Path(folder)
        stem = f"{next_number(folder):04d}_{slug(self.title)}"
        files: list[Path] = []

        def new(end: str, kind: str) -> Path:
            files.append(folder / f"{stem}{end and '_'}{end}.{kind}")
            return files[-1]

        for end, figure in self.figures.items():
            for kind in ("png", "svg") if svg else ("png",):
                with whole_file(new(end, kind), new=True) as partial:
                    save_figure(figure, partial, kind)
        for end, frames in self.animations.items():
            first, *others = (*frames, *frames[-2:0:-1])
            with whole_file(new(end, "gif"), new=True) as partial:
                first.save(partial, "GIF", save_all=True, append_images=others, duration=FRAME_MILLISECONDS, loop=0)
        for end, rows in self.tables.items():
            text = io.StringIO()
            writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            write_text(new(end, "csv"), text.getvalue(), new=True)
        path = new("", "json")
        content = {**self.record(), "files": [str(file) for file in files]}
        write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", new=True)
        return files

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.title!r}, {'; '.join(self.models)})"
