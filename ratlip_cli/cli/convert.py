"""`ratlip convert`: checkpoints of the published code to model folders, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.options import Json, Quiet, check_model_name, check_new, check_there, choice

VARIANTS = ("galip", "ratlip-released")
"""Of the published code."""


def convert(
    source: Annotated[
        str, typer.Argument(metavar="FILE.pth|MODEL", help="A published checkpoint; with --to-released, a model.")
    ],
    out: Annotated[Path, typer.Option(metavar="PATH", help="The model folder to make; with --to-released, the file.")],
    variant: Annotated[
        str | None,
        choice(VARIANTS, "Fail unless it is this one; left out, it is inferred from the tensors.", "variant"),
    ] = None,
    clip: Annotated[
        str, typer.Option(metavar="MODEL[:PRETRAINED]", help="The CLIP that it was trained with, or a file of it.")
    ] = "ViT-B-32-quickgelu:openai",
    ema: Annotated[bool, typer.Option(help="Take the EMA where the file holds one.")] = True,
    half: Annotated[bool, typer.Option("--half", help="Store the weights as float16, in half the space.")] = False,
    to_released: Annotated[bool, typer.Option("--to-released", help="From a model to a published-style file.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a model folder from a checkpoint of the published GALIP or RATLIP code. Nothing in the file is executed.

    [bold]Examples[/]

    ratlip convert state_epoch_1080.pth --out models/birds

    ratlip convert pre_cc12m.pth --out models/cc12m --clip ViT-B-32-quickgelu:ViT-B-32.safetensors

    ratlip convert models/birds --to-released --out state_epoch_1080.pth
    """
    console.set_up(quiet)
    check_new(out)
    if to_released:
        check_model_name(source)
    else:
        check_there(Path(source))

    from ratlip_cli.weights.load import load_model
    from ratlip_cli.weights.model_folder import fingerprint_of
    from ratlip_cli.weights.released.convert import convert_released
    from ratlip_cli.weights.released.ratlip import write_released

    if to_released:
        model = load_model(source)
        write_released(model, out)
        config, fingerprint = model.config, model.fingerprint
    else:
        config = convert_released(Path(source), out, variant, clip, ema, half)
        fingerprint = fingerprint_of(out)
    console.note(f"variant {config.generator.variant}, fingerprint {fingerprint}")
    console.answer(json, {"path": out, "variant": config.generator.variant, "fingerprint": fingerprint}, out)
