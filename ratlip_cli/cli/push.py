"""`ratlip push`: a model to the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.options import Half, Json, Quiet, check_file, check_model_name, complete_model


def push(
    model: Annotated[
        str, typer.Argument(metavar="RUN|FOLDER", help="The model to upload.", autocompletion=complete_model)
    ],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Where to; made where there is none.")],
    private: Annotated[bool, typer.Option("--private", help="Only you and whom you name may see it.")] = False,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="Upload to this branch; else main.")] = None,
    licence: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="Of the weights, such as cc-by-4.0; else the data's.")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What evaluate --out wrote; else scores.json in the run folder.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Prompt of the card's images, more than once if you like.")
    ] = None,
    half: Half = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the files and the card; upload nothing.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Upload a model with a card made from its run: data and licence, settings, scores, images, use, limits.

    You must be logged in: `hf auth login`. The model's name with its commit goes to stdout.

    [bold]Examples[/]

    ratlip push runs/birds-ratlip-1 me/birds --dry-run

    ratlip push runs/birds-ratlip-1 me/birds --private --license cc-by-4.0

    ratlip push runs/birds-ratlip-1 me/birds --scores scores.json --half
    """
    console.set_up(quiet)
    check_model_name(model)
    check_file(scores)
    from ratlip_cli.publish import Publication, publish

    prompts = [console.typed(one) for one in prompt or ()]
    request = Publication(model, repository, private, revision, licence, scores, prompts, half, dry_run)
    with console.bars() as progress:
        published = publish(request, progress)
    if json:
        console.result_json(asdict(published))
    elif dry_run:
        rows = [(name, f"{size:,}") for name, size in published.files.items()]
        console.result_table(f"Would go to {repository}", ("file", "bytes"), rows)
        console.result(f"\nREADME.md:\n\n{published.card}".rstrip())
    else:
        pull = f"ratlip pull {published.model} --fingerprint {published.fingerprint}"
        console.note(f"{published.url}\ndownload it with: {pull}")
        console.result(published.model)
