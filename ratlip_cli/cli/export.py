"""`ratlip export`: a model as ONNX, as OpenVINO's files or as PyTorch export archives."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.options import Json, Model, ModelNoun, Quiet, check_model_name, check_new, choice, noun
from ratlip_cli.errors import UsageError
from ratlip_cli.setting import EXPORT_ENDINGS


def export(
    model_name: ModelNoun = None,
    model: Model = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder to make.")] = Path("exported"),
    file_format: Annotated[str, choice(tuple(EXPORT_ENDINGS), "What files to write.", "format", ["--format"])] = "onnx",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a folder that generates images without ratlip: CLIP's encoders, generator, tokenizer and a short example.

    What is written is run once and compared with the model. `generate` and `evaluate` take it as --model too.

    [bold]Examples[/]

    ratlip export runs/birds-ratlip-1 --out birds-onnx

    ratlip generate "a red bird" --model birds-onnx

    ratlip export owner/name --format openvino --out birds-openvino
    """
    console.set_up(quiet)
    model = noun("model", model_name, model)
    if model is None:
        raise UsageError("name the MODEL to export: a model folder, a run folder, owner/name or ratlip-demo.")
    check_model_name(model)
    check_new(out)

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
