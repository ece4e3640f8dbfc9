"""`ratlip gradcam`: where an image shows what a text says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.options import Device, Json, Quiet
from ratlip_cli.explain.request import GradCamRequest

if TYPE_CHECKING:
    from ratlip_cli.explain.record import Result


def gradcam(
    prompt: Annotated[str | None, typer.Argument(help="The text to explain.", show_default=False)] = None,
    count: Annotated[
        int | None, typer.Option("-n", "--count", help="Images to generate (1), or to take from --dataset (100).")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Explain this image instead; repeat it for more.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME|FOLDER", help="Explain images of a dataset; those with known segments are scored."),
    ] = None,
    split: Annotated[str, typer.Option(help="The split of --dataset.")] = "test",
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model folder, run folder, owner/name or ratlip-demo; repeat it for a row each."),
    ] = None,
    target: Annotated[
        str, typer.Option(help="clip: cosine of image and text; discriminator: the logit of Mate-D.")
    ] = "clip",
    layer: Annotated[
        int | None,
        typer.Option(metavar="L", help="The ViT block whose incoming patch tokens are read; the last if left out."),
    ] = None,
    words: Annotated[bool, typer.Option("--words", help="Also a map for every word of the prompt.")] = False,
    word: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Also a map for this word or phrase; repeat it for more.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides the noise vectors and the random baselines.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for figures and numbers; what it holds is kept.")] = Path("gradcam"),
    svg: Annotated[bool, typer.Option("--svg", help="Write figures as SVG besides PNG.")] = False,
    data_dir: Annotated[Path, typer.Option(envvar="RATLIP_DATA", help="Folder of prepared datasets.")] = Path("data"),
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show where an image shows what a text says (Grad-CAM), and measure whether the map is right.

    [bold]Examples[/]

    ratlip gradcam "a red bird with black wings" --words

    ratlip gradcam "a red bird" --model runs/d4 --model runs/d64 --model runs/d128 -n 3

    ratlip gradcam --dataset demo --count 200
    """
    console.set_up(quiet)
    request = GradCamRequest(
        prompt=prompt,
        models=tuple(model or ()),
        images=tuple(image or ()),
        dataset=dataset,
        split=split,
        count=count,
        target=target,
        layer=layer,
        every_word=words,
        words=tuple(word or ()),
        seed=seed,
        device=device,
        data_dir=data_dir,
    )
    from ratlip_cli.explain.gradcam.run import explain

    with console.bars() as progress:
        result = explain(request, progress)
    show(result, out, svg, json)


def show(result: Result, out: Path, svg: bool, json: bool) -> None:
    """Write an analysis into `out`, and show what it says and its files, or its numbers where `json` says so."""
    files = result.save(out, svg)
    for line in result.says:
        console.note(line)
    if json:
        console.result_json({**result.record(), "files": files})
    else:
        for path in files:
            console.result(path)
