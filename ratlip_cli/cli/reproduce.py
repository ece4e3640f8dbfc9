"""`ratlip reproduce`: the paper's tables and figures, run again, and what comes of its claims."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.compare import FORMATS, show_table
from ratlip_cli.cli.options import DataDir, Device, Quiet, RetryBroken, check_file, choice, complete_choice
from ratlip_cli.cli.sweep import check_whole, complete, show_estimate
from ratlip_cli.errors import DataError, UsageError
from ratlip_cli.experiments.ledger import BROKEN
from ratlip_cli.experiments.reproduce import (
    FIGURES,
    NEEDED,
    SCALES,
    TABLES,
    ReproduceRequest,
    check_files,
    figures,
)
from ratlip_cli.experiments.sweep import BEGUN, MISSING, UNSCORED, SweepFolder, SweepRequest
from ratlip_cli.files import decoded, write_text
from ratlip_cli.setting import RUNS, check_choice

WHAT = tuple(NEEDED)

BEGIN, END = "<!-- claims: written by `ratlip reproduce claims --into` -->", "<!-- end of claims -->"


def reproduce(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="|".join(WHAT),
            help="The table or figure; claims: what is known yet.",
            autocompletion=complete_choice(WHAT),
        ),
    ],
    scale: Annotated[
        str, choice(SCALES, "demo: rendered images, hours of a CPU; paper: CUB and faces, days of a GPU.", "scale")
    ] = "demo",
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Holds the sweep folders and the figures.")] = RUNS,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure a few steps of each row, print time and disk, begin none.")
    ] = False,
    jobs: Annotated[int | None, typer.Option(metavar="N", help="Runs at a time; see `ratlip sweep`.")] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only a part of the runs; see `ratlip sweep`.")
    ] = None,
    retry_broken: RetryBroken = False,
    format: Annotated[str, choice(FORMATS, "How a table is written.", "format")] = "md",
    into: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With claims: write them into this page, between its marks.")
    ] = None,
    drop_measured: Annotated[
        bool, typer.Option("--drop-measured", help="With --into: even where the page has numbers that are not here.")
    ] = False,
    device: Device = "auto",
    data_dir: DataDir = "data",
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
    if drop_measured and into is None:
        raise UsageError("--drop-measured is for --into FILE.")
    if format != FORMATS[0] and what not in TABLES:
        raise UsageError(f"--format is for tables: {', '.join(TABLES)}.")
    of_runs = ("dry_run", "jobs", "shard", "retry_broken", "device", "data_dir")
    sources = {name: context.get_parameter_source(name) for name in of_runs}
    typed = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    given = [f"--{name.replace('_', '-')}" for name in typed]
    if what == "claims" and given:
        raise UsageError(
            f"{', '.join(given)}: claims are read from what is there already, and no run is made for them."
        )
    request = ReproduceRequest(what, scale, out, device)
    check_files(request)
    if what == "claims":
        _show_claims(request, into, drop_measured)
        return
    swept = []
    for name in NEEDED[what]:
        place, others = request.folder(name), request.others(name)
        folder = SweepFolder(
            SweepRequest(request.file(name), place, device, data_dir, jobs, shard, retry_broken, others)
        )
        if dry_run:
            show_estimate(folder, json=False)
            continue
        swept.append((folder, complete(folder)))
        if what not in FIGURES:
            _show_table(folder.path, format)
    if dry_run:
        return
    if what in FIGURES:
        _make_figures(request, [folder for folder, _ in swept])
    check_whole(*swept)
    console.note(f"what comes of the paper's claims: {request.command('claims')}")


def _make_figures(request: ReproduceRequest, folders: Sequence[SweepFolder]) -> None:
    """Measure and draw what all runs are there for; where some are not, say so."""
    states = [folder.state(run)[0] for folder in folders for run in folder.sweep.runs]
    if left := sum(state in (UNSCORED, BEGUN, MISSING) for state in states):
        console.note(
            f"{left} of {len(states)} runs are not done yet; the call that finds all of them done draws figures"
        )
        return
    try:
        with console.bars() as progress:
            files = figures(request, progress)
    except DataError as error:
        if BROKEN not in states:
            raise
        console.note(f"no figures, for runs are broken: {error}")
        return
    for file in files:
        console.result(file)


def _show_table(folder: Path, format: str) -> None:
    from ratlip_cli.experiments.compare import CompareRequest

    show_table(CompareRequest([folder]), format)


def _show_claims(request: ReproduceRequest, into: Path | None, drop_measured: bool) -> None:
    from ratlip_cli.experiments.claims import claims, markdown, measured_in, provenance

    found = claims(request.folders)
    told = [
        textwrap.fill(line, 130, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for line in provenance(request.folders).splitlines()
    ]
    text = "\n".join([markdown(found), *told, ""])
    if into is None:
        console.result(text.rstrip("\n"))
        return
    check_file(into)
    page = decoded(into.read_bytes(), str(into))
    before, begin, rest = page.partition(BEGIN)
    written, end, after = rest.partition(END)
    if not begin or not end:
        raise UsageError(f"{into} lacks the marks between which claims are written: {BEGIN} and {END}.")
    lost = [one.key for one in found if one.measured is None and one.key in measured_in(written)]
    if lost and not drop_measured:
        raise UsageError(
            f"{into} has numbers of {', '.join(lost)}, which are not measured in {request.out}: give the --out that "
            "holds their runs, or --drop-measured to write the page without them."
        )
    write_text(into, f"{before}{begin}\n\n{text}\n{end}{after}")
    console.result(into)
