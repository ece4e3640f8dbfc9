"""`ratlip generate`: prompts to images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ratlip_cli.cli import console, signals
from ratlip_cli.cli.options import (
    ADVANCED,
    Device,
    Json,
    Model,
    Precision,
    Quiet,
    check_model_name,
    check_out_folder,
    choice,
)
from ratlip_cli.generation import FORMATS, check_request, parse_indices

GRID_IMAGES = 256
"""At most so many images go into the grid."""


def generate(
    prompts: Annotated[list[str] | None, typer.Argument(help="Prompts, or - to read them from stdin.")] = None,
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="A text file with a prompt a line.")
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", help="Images of each prompt.")] = 1,
    seed: Annotated[int, typer.Option(help="Decides the noise vectors; prompts share them.")] = 0,
    indices: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Generate these images k of each prompt instead, such as 7,12-20."),
    ] = None,
    model: Model = None,
    out: Annotated[Path, typer.Option(help="Folder for the images; what it holds is kept.")] = Path("generated"),
    image_format: Annotated[str, choice(FORMATS, "What files to write.", "format", ["--format"])] = "png",
    grid: Annotated[bool, typer.Option(help="Also write one captioned image of all images.")] = True,
    truncation: Annotated[
        float, typer.Option(metavar="PSI", help="Scale the noise: below 1, less variety.", rich_help_panel=ADVANCED)
    ] = 1.0,
    best_of: Annotated[
        int,
        typer.Option(
            metavar="K",
            help="Generate K times as many; keep those that CLIP finds most like the prompt.",
            rich_help_panel=ADVANCED,
        ),
    ] = 1,
    batch_size: Annotated[
        int | None, typer.Option(help="Images at a time; left out, as suits the model.", rich_help_panel=ADVANCED)
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Generate images of prompts. Their paths go to stdout, one a line.

    [bold]Examples[/]

    ratlip generate "a red bird with black wings" -n 8

    ratlip generate "a red bird" --indices 7,12-20

    ratlip generate --prompts birds.txt --model runs/cub-ratlip-1 --seed 7 --out birds

    echo "a yellow flower" | ratlip generate - --best-of 4 --format webp
    """
    console.set_up(quiet)
    texts = console.read_prompts(prompts or [], prompts_file)
    chosen = None if indices is None else parse_indices(indices)
    check_request(texts, count, seed, truncation, best_of, batch_size, chosen)
    check_model_name(model)
    check_out_folder(out)

    from ratlip_cli import outputs, sampling
    from ratlip_cli.device import keep_freed_memory, resolve_device
    from ratlip_cli.weights.load import default_model, load_model

    keep_freed_memory()
    target = resolve_device(device)
    loaded = load_model(model or default_model(), target).in_precision(precision)
    console.note(f"model {loaded.name} ({loaded.fingerprint}) on {target} in {loaded.precision}")

    folder = outputs.ImageFolder(out, image_format)
    images: list[sampling.Sample] = []
    records = []
    total = len(texts) * (count if chosen is None else len(chosen))
    kept = f"Images that are finished are kept in {out}."
    with signals.keeping(kept), console.progress("generate", total) as advance:
        for image in sampling.generate(loaded, texts, count, seed, truncation, best_of, batch_size, chosen):
            path = folder.save(image)
            if not json:
                console.result(path)
            if grid and len(images) < GRID_IMAGES:
                images.append(image)
            records.append({"path": str(path), **image.record()})
            advance()
    grid_path = folder.save_grid(images) if grid else None
    if grid and len(records) > GRID_IMAGES:
        console.note(f"the grid shows the first {GRID_IMAGES} of {len(records)} images")
    if json:
        console.result_json(
            {
                "model": loaded.name,
                "fingerprint": loaded.fingerprint,
                "precision": loaded.precision,
                "images": records,
                "grid": grid_path,
            }
        )
    elif grid_path:
        console.result(grid_path)
