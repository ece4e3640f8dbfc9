"""`ratlip latent-viz`: where real and generated images lie, and what captions change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.gradcam import show
from ratlip_cli.cli.options import Device, Json, Quiet
from ratlip_cli.explain.request import LatentRequest


def latent_viz(
    model: Annotated[str | None, typer.Option(help="Model folder, run folder, owner/name or ratlip-demo.")] = None,
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A second model, beside it on the same axes.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME|FOLDER", help="Real images; the model's own dataset if left out.")
    ] = None,
    split: Annotated[str, typer.Option(help="The split of the dataset.")] = "test",
    count: Annotated[
        int | None, typer.Option(help="Captions of the dataset (200); with --caption, noise vectors under each (16).")
    ] = None,
    method: Annotated[str, typer.Option(help="pca, tsne or umap.")] = "pca",
    space: Annotated[str, typer.Option(help="clip: image vectors; discriminator: Mate-D's features.")] = "clip",
    caption: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Twice or more: the same noise vectors under each caption.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="TEXT", help="With --to: the interpolation between two captions.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TEXT", help="Where the interpolation ends.")] = None,
    steps: Annotated[int | None, typer.Option(help="Images of the interpolation (8).")] = None,
    same_noise: Annotated[
        bool, typer.Option("--same-noise", help="Keep the noise vector; else it goes from the first to the second.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides the noise vectors.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for figures and numbers; what it holds is kept.")] = Path("latent"),
    svg: Annotated[bool, typer.Option("--svg", help="Write figures as SVG besides PNG.")] = False,
    data_dir: Annotated[Path, typer.Option(envvar="RATLIP_DATA", help="Folder of prepared datasets.")] = Path("data"),
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show real and generated images as vectors, and the angle between them.

    [bold]Examples[/]

    ratlip latent-viz --model runs/baseline --against runs/ours --count 500

    ratlip latent-viz --caption "he is young, receding hairline" --caption "he is old, receding hairline"

    ratlip latent-viz --from "a red bird" --to "a blue bird" --steps 12
    """
    console.set_up(quiet)
    request = LatentRequest(
        model=model,
        against=against,
        dataset=dataset,
        split=split,
        count=count,
        method=method,
        space=space,
        captions=tuple(caption or ()),
        start=start,
        end=end,
        steps=steps,
        same_noise=same_noise,
        seed=seed,
        device=device,
        data_dir=data_dir,
    )
    from ratlip_cli.explain.latent.run import view

    with console.bars() as progress:
        result = view(request, progress)
    show(result, out, svg, json)
