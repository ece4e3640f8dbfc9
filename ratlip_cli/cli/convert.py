"""`ratlip convert`: files of published code to model folders, and back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.options import Half, Json, Quiet, check_model_name, check_new, check_there, choice
from ratlip_cli.errors import UsageError
from ratlip_cli.families import FAMILIES
from ratlip_cli.setting import DEFAULT_CLIP

VARIANTS = ("auto", "galip", *(name for name in FAMILIES if name.endswith("-released")))
"""Of published code."""


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|MODEL", help="A published checkpoint, text encoder or captions; with --to-released, a model."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="PATH",
            help="The model folder to make; of captions, vocabulary.json; with --to-released, the generator's file.",
        ),
    ],
    variant: Annotated[
        str, choice(VARIANTS, "Fail unless it is this one; auto: it is inferred from the tensors.", "variant")
    ] = "auto",
    clip: Annotated[
        str,
        typer.Option(
            metavar="MODEL[:PRETRAINED]",
            help="The CLIP that it was trained with, or a file of it; beside a text encoder, the CLIP that scores.",
        ),
    ] = DEFAULT_CLIP,
    text_encoder: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER", help="The DAMSM text encoder that a DF-GAN, RAT-GAN or AttnGAN was trained with."
        ),
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The text encoder's words: its captions.pickle, or a vocabulary.json."),
    ] = None,
    discriminator: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A netD.pth that goes with a netG.pth; AttnGAN's three by image size."),
    ] = None,
    ema: Annotated[bool, typer.Option(help="Take the EMA where the file holds one.")] = True,
    half: Half = False,
    to_released: Annotated[bool, typer.Option("--to-released", help="From a model to a published-style file.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a model folder from a checkpoint of the published GALIP, RATLIP, DF-GAN, RAT-GAN, AttnGAN or LAFITE code.

    Nothing in the file is executed.

    [bold]Examples[/]

    ratlip convert state_epoch_1080.pth --out models/birds

    ratlip convert net.pth --text-encoder t.pth --captions c.pickle --out models/a

    ratlip convert captions.pickle --out vocabulary.json

    ratlip convert models/birds --to-released --out state_epoch_1080.pth
    """
    console.set_up(quiet)
    check_new(out)
    if to_released:
        check_model_name(source)
        if variant != "auto" or text_encoder or captions or discriminator or half or not ema or clip != DEFAULT_CLIP:
            raise UsageError(
                "--to-released takes a model as it is: leave out --variant, --clip, --half, --no-ema, --captions ..."
            )
    else:
        for path in (Path(source), text_encoder, captions, *(discriminator or ())):
            check_there(path)

    from ratlip_cli.weights.load import load_model
    from ratlip_cli.weights.released.convert import Conversion, Converted, convert_released, write_released

    if to_released:
        model = load_model(source)
        beside = [file for file in write_released(model, out) if file != out]
        for file in beside:
            console.note(f"wrote {file}")
        made = Converted(out, model.config.generator.variant, model.fingerprint)
    else:
        request = Conversion(
            Path(source), out, variant, clip, ema, half, text_encoder, captions, tuple(discriminator or ())
        )
        made = convert_released(request)
    told = {name: value for name, value in asdict(made).items() if value is not None}
    console.note(", ".join(f"{name} {value}" for name, value in told.items() if name != "path"))
    console.answer(json, told, out)
