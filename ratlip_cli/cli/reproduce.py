"""`ratlip reproduce`: the paper's tables and figures, run again, and what comes of its claims."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.compare import FORMATS
from ratlip_cli.cli.options import Device, Quiet, choice
from ratlip_cli.cli.sweep import sweep
from ratlip_cli.errors import UsageError
from ratlip_cli.setting import RUNS, check_choice

WHAT = ("table1", "table2", "table3", "fig3", "fig5", "claims")
SCALES = ("demo", "paper")

BEGIN, END = "<!-- claims: written by `ratlip reproduce claims --into` -->", "<!-- end of claims -->"


def reproduce(
    what: Annotated[str, typer.Argument(metavar="|".join(WHAT), help="The table or figure; claims: what is known yet.")],
    scale: Annotated[
        str, choice(SCALES, "demo: rendered images, hours of a CPU; paper: CUB and faces, days of a GPU.", "scale")
    ] = "demo",
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Holds the sweep folders and the figures.")] = RUNS,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure a few steps of each row, print time and disk, begin none.")
    ] = False,
    jobs: Annotated[int | None, typer.Option(metavar="N", help="Runs at a time; see `ratlip sweep`.")] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Only a part of the runs; see `ratlip sweep`.")] = None,
    format: Annotated[str, choice(FORMATS, "How a table is written.", "format")] = "md",
    into: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With claims: write them into this page, between its marks.")
    ] = None,
    device: Device = "auto",
    data_dir: Annotated[
        str, typer.Option(metavar="FOLDER", help="Folder that holds prepared datasets.", envvar="RATLIP_DATA")
    ] = "data",
    quiet: Quiet = False,
) -> None:
    """Train, score and compare what a table or figure of the paper shows; what is done already is taken over.

    [bold]Examples[/]

    ratlip reproduce table3 --dry-run

    ratlip reproduce table3

    ratlip reproduce table1 --scale paper --device cuda

    ratlip reproduce claims
    """
    console.set_up(quiet)
    check_choice("table or figure", what, WHAT)
    if into is not None and what != "claims":
        raise UsageError("--into is for claims: a table goes to stdout.")
    from ratlip_cli.experiments.reproduce import FIGURES, NEEDED, ReproduceRequest, check_files

    request = ReproduceRequest(what, scale, out, device)
    check_files(request)
    for name in NEEDED[what]:
        sweep(
            file=request.file(name),
            out=request.folder(name),
            dry_run=dry_run,
            jobs=jobs,
            shard=shard,
            device=device,
            data_dir=data_dir,
            quiet=quiet,
        )
    if dry_run:
        return
    if what == "claims":
        _show_claims(request, into)
    elif what in FIGURES:
        _show_figures(request)
    else:
        _show_table(request, format)
