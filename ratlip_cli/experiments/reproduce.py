"""The paper's tables and figures by name, and which sweep files each needs. Imports no torch by itself."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ratlip_cli.errors import DataError, UsageError
from ratlip_cli.experiments.ledger import DONE, LEDGER_FILE, is_published, read_ledger
from ratlip_cli.experiments.sweep_file import read_sweep
from ratlip_cli.progress import Progress, silent
from ratlip_cli.setting import RUNS

if TYPE_CHECKING:
    from ratlip_cli.explain.record import Result
    from ratlip_cli.weights.model_folder import Model

PAPERS = Path(__file__).parent / "papers"
"""A sweep file for each of SWEEPS and SCALES."""

BASELINE, RAT, OURS = "GALIP", "RAT", "RAT+ATT"
"""Rows of table 3 and of the faces of Fig. 5."""

HIDDEN_SIZES = (4, 8, 16, 32, 64, 128)
CHOSEN, LARGEST = 64, 128
"""The hidden size that the paper takes, and the one that it finds no better."""

DEMO, PAPER = "demo", "paper"
SCALES = (DEMO, PAPER)

SWEEPS = ("table1", "table2", "table3", "faces")
TABLES = {"table1": ("table1",), "table2": ("table2",), "table3": ("table3",)}
FIGURES = {"fig3": ("table2",), "fig5": ("table3", "faces")}
NEEDED = {**TABLES, **FIGURES, "claims": ()}
"""What can be reproduced, and the sweeps that it needs."""

CLASSIFIER = Path("examples/demo/classifier.safetensors")
"""Of the repository, not of the package: the attribute classifier for rendered images."""

PROMPTS = {DEMO: "a red bird with black wings", PAPER: "this bird is red with black wings and has a very short beak"}
"""Of the figure of Grad-CAM."""

AGES = {
    DEMO: ("a young person with brown hair", "an old person with brown hair"),
    PAPER: ("he is young, receding hairline", "he is old, receding hairline"),
}
"""Of the figure of faces; the second pair is the paper's."""


@dataclass(frozen=True)
class Folders:
    """The sweep folders that the claims are read from; those that are not there are not measured yet."""

    table2: Path
    table3: Path
    faces: Path
    scale: str = DEMO
    out: Path = RUNS
    """Holds them, where `ratlip reproduce` made them."""

    def command(self, what: str) -> str:
        """What makes a table or a figure of this scale there; in RUNS where they are published without their runs."""
        scale = [] if self.scale == DEMO else ["--scale", self.scale]
        published = any(map(is_published, (self.table2, self.table3, self.faces)))
        out = [] if self.out == RUNS or published else ["--out", str(self.out)]
        return shlex.join(["ratlip", "reproduce", what, *scale, *out])


@dataclass(frozen=True)
class ReproduceRequest:
    """What to reproduce, at which scale, and where."""

    what: str
    scale: str = DEMO
    out: Path = RUNS
    """Holds a sweep folder for each sweep, and `fig3` and `fig5`."""
    device: str = "auto"

    def file(self, sweep: str) -> Path:
        """The sweep file."""
        return PAPERS / f"{sweep}.{self.scale}.toml"

    def folder(self, sweep: str) -> Path:
        """Where its runs are."""
        return self.out / f"{sweep}.{self.scale}"

    def others(self, sweep: str) -> list[Path]:
        """Folders of the other sweeps of this scale that are there: some of their runs are the same."""
        folders = [self.folder(other) for other in SWEEPS if other != sweep]
        return [folder for folder in folders if (folder / LEDGER_FILE).is_file()]

    @property
    def folders(self) -> Folders:
        """What the claims are read from."""
        table2, table3, faces = map(self.folder, ("table2", "table3", "faces"))
        return Folders(table2, table3, faces, self.scale, self.out)

    def command(self, what: str) -> str:
        """What reproduces something else beside it."""
        return self.folders.command(what)


def check_files(request: ReproduceRequest) -> None:
    """Raise UsageError where a sweep needs files of the repository that are not here."""
    for sweep in NEEDED[request.what]:
        protocol = read_sweep(request.file(sweep)).protocol
        for name in (protocol.attribute_classifier, protocol.clip_score_clip if request.scale == DEMO else None):
            if name is not None and not Path(name).exists():
                raise UsageError(f"{name} is not here; run this in a clone of ratlip's repository, which has it.")


def figures(request: ReproduceRequest, progress: Progress = silent) -> list[Path]:
    """Measure what a figure shows on every run, and draw it from those of the first seed. Returns the files.

    Raises DataError where runs or masks are not there, WeightsError where a model cannot be loaded.
    """
    from ratlip_cli.experiments.measures import ANGLES, GRADCAM, measure_runs, swap_of
    from ratlip_cli.explain.gradcam.run import gradcam
    from ratlip_cli.explain.latent.run import latent_view
    from ratlip_cli.explain.request import GradCamRequest, LatentRequest

    out, device = request.out / f"{request.what}.{request.scale}", request.device
    results: list[Result] = []
    if request.what == "fig3":
        folder = request.folder("table2")
        if request.scale == DEMO:
            measure_runs(folder, GRADCAM, device, progress)
        models = _first_runs(folder, [hidden(size) for size in HIDDEN_SIZES], device)
        shown = GradCamRequest(
            PROMPTS[request.scale],
            models=models,
            target="discriminator",
            layer=models[0].clip.geometry.feature_blocks[0],  # as in the measure
            count=3,
            device=device,
        )
        results.append(gradcam(shown, progress))
    else:
        measure_runs(request.folder("table3"), ANGLES, device, progress)
        baseline, ours = _first_runs(request.folder("table3"), (BASELINE, OURS), device)
        results.append(latent_view(LatentRequest(model=baseline, against=ours, device=device), progress))
        if request.scale == DEMO:
            measure_runs(request.folder("faces"), swap_of(CLASSIFIER), device, progress)
        baseline, ours = _first_runs(request.folder("faces"), (BASELINE, OURS), device)
        ages = AGES[request.scale]
        results.append(latent_view(LatentRequest(model=baseline, against=ours, captions=ages, device=device), progress))
    return [file for result in results for file in result.save(out)]


def _first_runs(folder: Path, rows: Sequence[str], device: str) -> list[Model]:
    """The model of each of the rows from the run of the lowest seed that is done, called as its row."""
    from ratlip_cli.device import resolve_device
    from ratlip_cli.weights.load import load_model

    done = sorted((entry for entry in read_ledger(folder) if entry.state == DONE), key=lambda entry: entry.seed)
    firsts = {row: next((entry.run for entry in done if entry.row == row), None) for row in rows}
    if missing := [row for row, run in firsts.items() if run is None]:
        raise DataError(f"{folder} has no finished run of {', '.join(missing)}; the same command goes on with them.")
    where = resolve_device(device)
    return [replace(load_model(str(folder / str(run)), where), name=row) for row, run in firsts.items()]


def hidden(size: int) -> str:
    """The row of table 2 with this hidden size."""
    return f"hide={size}"
