"""`ratlip report`: one HTML file of a run, a sweep or a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.options import Json, Quiet, check_file, check_model_name, check_there, complete_model


def report(
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN|SWEEP|MODEL",
            help="A run folder, a folder of runs, or a model; the newest run if left out.",
            show_default=False,
            autocompletion=complete_model,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The HTML file; replaced where it exists.")] = Path(
        "report.html"
    ),
    scores: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Also scores that evaluate --out wrote; repeat it for more."),
    ] = None,
    figures: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Also the figures in a folder that gradcam or latent-viz wrote, 16 at most; those of the model in "
            "gradcam and latent, here and in the run, are found without it.",
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show a run, a sweep or a model as one HTML file that needs no network, also while the run goes on.

    [bold]Examples[/]

    ratlip report runs/cub-ratlip-1

    ratlip report runs/ablation --out ablation.html

    ratlip report ratlip-demo --scores score.json
    """
    console.set_up(quiet)
    check_model_name(subject)
    for path in scores or ():
        check_file(path)
    for path in figures or ():
        check_there(path)
    from ratlip_cli.web.report import ReportRequest, newest_subject
    from ratlip_cli.web.report import report as write

    request = ReportRequest(newest_subject() if subject is None else subject, scores or (), figures or ())
    if subject is None:
        console.note(f"report of {request.subject}")
    with console.bars() as progress:
        page = write(request, out, progress)
    for line in page.warnings:
        console.note(f"warning: {line}")
    told = {"report": out, "of": page.kind, "subject": request.subject, "warnings": page.warnings}
    console.answer(json, told, out)
