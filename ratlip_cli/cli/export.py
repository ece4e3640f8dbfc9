"""`ratlip export`: a model as ONNX or as PyTorch export archives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ratlip_cli.cli import console


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, run folder, owner/name or ratlip-demo.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder to make.")] = Path("exported"),
    file_format: Annotated[str, typer.Option("--format", help="onnx or torch-export.")] = "onnx",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the folder.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notes, no progress.")] = False,
) -> None:
    """Write a folder that draws without ratlip: generator, text encoder, tokenizer and a short example.

    What is written is run once and compared with the model.

    [bold]Examples[/]

    ratlip export runs/birds-ratlip-1 --out birds-onnx

    ratlip export owner/name --format torch-export --out birds-torch
    """
    console.set_up(quiet)
    from ratlip_cli.weights.export import export_model
    from ratlip_cli.weights.load import load_model

    loaded = load_model(model)
    exported = export_model(loaded, out, file_format)
    console.note(
        f"model {loaded.name} ({loaded.fingerprint}): images differ by at most {exported.image_difference:.1e}, "
        f"text vectors by {exported.text_difference:.1e}"
    )
    if json:
        console.result_json(
            {
                "model": loaded.name,
                "fingerprint": loaded.fingerprint,
                "folder": out,
                "format": file_format,
                "image_difference": exported.image_difference,
                "text_difference": exported.text_difference,
            }
        )
    else:
        console.result(out)
