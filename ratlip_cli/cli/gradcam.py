"""`ratlip gradcam`: where an image shows what a text says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.options import (
    Json,
    Quiet,
    Svg,
    check_file,
    check_model_name,
    check_no_file,
    complete_model,
    with_options,
)
from ratlip_cli.data.request import check_dataset_name
from ratlip_cli.explain.request import GradCamRequest
from ratlip_cli.files import check_out_folder
from ratlip_cli.setting import settings_of

if TYPE_CHECKING:
    from ratlip_cli.explain.record import Result


@with_options(settings_of(GradCamRequest).values())
def gradcam(
    typed: dict[str, Any],
    prompt: Annotated[str | None, typer.Argument(help="The text to explain.", show_default=False)] = None,
    count: Annotated[
        int | None, typer.Option("-n", "--count", help="Images to generate (1), or to take from --dataset (100).")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Explain this image instead; repeat it for more.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Model folder, run folder, owner/name or ratlip-demo; repeat it for a row each.",
            autocompletion=complete_model,
        ),
    ] = None,
    words: Annotated[bool, typer.Option("--words", help="Also a map for every word of the prompt.")] = False,
    word: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Also a map for this word or phrase; repeat it for more.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for figures and numbers; what it holds is kept.")] = Path("gradcam"),
    svg: Svg = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show where an image shows what a text says (Grad-CAM), and measure whether the map is right.

    [bold]Examples[/]

    ratlip gradcam "a red bird with black wings" --words

    ratlip gradcam "a red bird" --model runs/d4 --model runs/d64 -n 3

    ratlip gradcam --dataset demo --count 200
    """
    console.set_up(quiet)
    prompt, phrases = prompt and console.typed(prompt), [console.typed(phrase) for phrase in word or ()]
    check_no_file([prompt] if prompt else (), "an image by --image")
    request = GradCamRequest(prompt, model or (), image or (), count=count, every_word=words, words=phrases, **typed)
    check_out_folder(out)
    for file in request.images:
        check_file(file, ": the image does not exist")
    for name in model or ():
        check_model_name(name)
    if request.dataset is not None:
        check_dataset_name(request.dataset, request.data_dir)
    from ratlip_cli.explain.gradcam.run import gradcam as explain

    with console.bars() as progress:
        result = explain(request, progress)
    show(result, out, svg, json)


def show(result: Result, out: Path, svg: bool, json: bool) -> None:
    """Write an analysis into `out`, and show what it says and its files, or its numbers where `json` says so."""
    files = result.save(out, svg)
    for line in result.says:
        console.note(line)
    console.answer(json, {**result.record(), "files": files}, *files)
