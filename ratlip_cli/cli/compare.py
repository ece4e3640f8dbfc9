"""`ratlip compare`: rows of runs side by side, with intervals, differences and a verdict in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.options import Device, Quiet, choice

if TYPE_CHECKING:
    from ratlip_cli.experiments.compare import CompareRequest

FORMATS = ("md", "latex", "csv", "json")


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN|SWEEP...", help="Run folders and sweep folders.")],
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A metric to show; several times for several. All if left out."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="ROW", help="The row that the others are compared with; the first if left out."),
    ] = None,
    format: Annotated[str, choice(FORMATS, "How the table is written.", "format")] = "md",
    include_changed: Annotated[
        bool, typer.Option("--include-changed", help="Count runs that were changed by hand since they were scored.")
    ] = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Compare runs over their seeds: mean, spread, 95 % interval, difference to the first row, and what that bears.

    Runs that differ in nothing but the seed are one row. A run that has no scores yet is scored as the first that has.

    [bold]Examples[/]

    ratlip compare runs/table3

    ratlip compare runs/ours-1 runs/ours-2 runs/theirs --format latex
    """
    console.set_up(quiet)
    from ratlip_cli.experiments.compare import CompareRequest

    show_table(CompareRequest(folders, tuple(metric or ()), baseline, include_changed, device), format)


def show_table(request: CompareRequest, format: str) -> None:
    """Compare, and print the table; its notes go to stderr where the format has no place for them."""
    from ratlip_cli.experiments.compare import compare_runs
    from ratlip_cli.experiments.tables import FORMATS as WRITERS

    with console.bars() as progress:
        table = compare_runs(request, progress)
    if format == "csv":
        for note in table.notes:
            console.note(note)
    text = WRITERS[format](table)
    if format == "json":
        console.result_json(json.loads(text))  # whatever the encoding of stdout
    else:
        console.result(text.rstrip("\n"))
