"""`ratlip export`: a model as ONNX or as PyTorch export archives."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.options import Json, Quiet


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, run folder, owner/name or ratlip-demo.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder to make.")] = Path("exported"),
    file_format: Annotated[str, typer.Option("--format", help="onnx or torch-export.")] = "onnx",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a folder that generates images without ratlip: generator, text encoder, tokenizer and a short example.

    What is written is run once and compared with the model.

    [bold]Examples[/]

    ratlip export runs/birds-ratlip-1 --out birds-onnx

    ratlip export owner/name --format torch-export --out birds-torch
    """
    console.set_up(quiet)
    from ratlip_cli.weights.export.export import export_model
    from ratlip_cli.weights.load import load_model

    loaded = load_model(model)
    exported = export_model(loaded, out, file_format)
    console.note(
        f"model {loaded.name} ({loaded.fingerprint}): images differ by at most {exported.image_difference:.1e}, "
        f"text vectors by {exported.text_difference:.1e}"
    )
    told = {"model": loaded.name, "fingerprint": loaded.fingerprint, "folder": out, "format": file_format}
    console.answer(json, {**told, **asdict(exported)}, out)
