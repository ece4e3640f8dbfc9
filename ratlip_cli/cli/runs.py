"""`ratlip runs`: a table of the training runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.options import Json, Quiet
from ratlip_cli.setting import RUNS
from ratlip_cli.training.runs import RunSummary, runs_in


def runs(
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="The folder with the run folders; runs if left out.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List training runs: what they train, how far they are, their last scores, and whether they go on.

    [bold]Examples[/]

    ratlip runs

    ratlip runs /mnt/experiments --json
    """
    console.set_up(quiet)
    place = folder or RUNS
    found = runs_in(place) if folder or place.exists() else []
    if json:
        console.result_json({"runs": [asdict(one) for one in found]})
        return
    if not found:
        console.note(f"no run in {place}; `ratlip train` begins one")
        return
    rows = [(one.run, one.dataset, one.variant, _steps(one), _scores(one), one.state) for one in found]
    console.result_table("", ("run", "dataset", "variant", "steps", "last scores", "state"), rows)
    for one in found:
        if one.problem:
            console.note(f"{one.run} is damaged: {one.problem}")
    if any(one.state == "interrupted" for one in found):
        console.note("an interrupted run goes on with: ratlip train --resume RUN")


def _steps(one: RunSummary) -> str:
    return f"{one.steps:,} of {'?' if one.total_steps is None else f'{one.total_steps:,}'}"


def _scores(one: RunSummary) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in (one.scores or {}).items()) or "-"
