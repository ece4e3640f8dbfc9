"""`ratlip edit`: an image changed by words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ratlip_cli.cli import console, signals
from ratlip_cli.cli.options import Device, Json, Model, Quiet, check_file, check_model_name
from ratlip_cli.editing.request import STEPS, STRENGTHS, EditRequest
from ratlip_cli.errors import UsageError
from ratlip_cli.files import check_out_folder
from ratlip_cli.setting import is_export


def edit(
    image: Annotated[Path, typer.Argument(help="The image; its square middle is taken.", show_default=False)],
    start: Annotated[str, typer.Option("--from", metavar="TEXT", help="What it shows, such as 'a red bird'.")],
    end: Annotated[str, typer.Option("--to", metavar="TEXT", help="What it shall show, such as 'a blue bird'.")],
    strength: Annotated[
        list[float] | None,
        typer.Option(
            metavar="S",
            help="How far to go: 1 is the difference of the captions; repeat it for more. "
            f"{', '.join(f'{one:g}' for one in STRENGTHS)} if left out.",
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(help="Steps of the search for what generates the image; a strength takes a third as many.")
    ] = STEPS,
    model: Model = None,
    out: Annotated[Path, typer.Option(help="Folder for the images; what it holds is kept.")] = Path("edited"),
    seed: Annotated[int, typer.Option(help="Decides the noise vectors from which the search starts.")] = 0,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Change an image by words (experimental): find what generates it, then move from one caption to the other.

    Only what the model can generate comes out: the reconstruction, the strip's second image, shows how near that is.

    [bold]Examples[/]

    ratlip edit photo.png --from "a red bird" --to "a blue bird"

    ratlip edit me.png --from "a person" --to "a person with a hat" --steps 500
    """
    console.set_up(quiet)
    request = EditRequest(
        image, console.typed(start), console.typed(end), strength or STRENGTHS, steps, model, seed, device
    )
    check_file(image, ": the image does not exist")
    check_model_name(model)
    check_out_folder(out)
    if model is not None and is_export(model):
        raise UsageError(f"{model} is an exported model, which has no gradients: edit by the model it was made from.")
    from ratlip_cli.editing.edit import edit as edited
    from ratlip_cli.editing.edit import with_model

    with signals.keeping("Nothing was written."):
        request = with_model(request)
        with console.progress("edit", request.steps_in_all, unit="steps") as advance:
            result = edited(request, lambda loss: advance(loss=loss))
        files = result.save(out)
    console.note(result.says)
    console.answer(json, {**result.record(), "files": files}, *files)
