"""`ratlip latent-viz`: where real and generated images lie, and what captions change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.gradcam import show
from ratlip_cli.cli.options import Json, Quiet, Svg, check_model_name, with_options
from ratlip_cli.data.request import check_dataset_name
from ratlip_cli.explain.request import LatentRequest
from ratlip_cli.files import check_out_folder
from ratlip_cli.setting import settings_of


@with_options(settings_of(LatentRequest).values(), noun_of="model")
def latent_viz(
    typed: dict[str, Any],
    caption: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Twice or more: the same noise vectors under each caption.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="TEXT", help="With --to: the interpolation between two captions.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TEXT", help="Where the interpolation ends.")] = None,
    same_noise: Annotated[
        bool, typer.Option("--same-noise", help="Keep the noise vector; else it goes from the first to the second.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for figures and numbers; what it holds is kept.")] = Path("latent"),
    svg: Svg = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show real and generated images as vectors, and the angle between them.

    [bold]Examples[/]

    ratlip latent-viz runs/baseline --against runs/ours --count 500

    ratlip latent-viz --caption "a young person" --caption "an old person"

    ratlip latent-viz --from "a red bird" --to "a blue bird" --steps 12
    """
    console.set_up(quiet)
    captions = [console.typed(one) for one in caption or ()]
    start, end = start and console.typed(start), end and console.typed(end)
    request = LatentRequest(captions=captions, start=start, end=end, same_noise=same_noise, **typed)
    check_out_folder(out)
    for name in (typed.get("model"), typed.get("against")):
        check_model_name(name)
    if request.dataset is not None:
        check_dataset_name(request.dataset, request.data_dir)
    from ratlip_cli.explain.latent.run import latent_view

    with console.bars() as progress:
        result = latent_view(request, progress)
    show(result, out, svg, json)
