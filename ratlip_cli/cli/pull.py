"""`ratlip pull`: a model of the Hugging Face Hub, downloaded ahead of time."""

from __future__ import annotations

from typing import Annotated

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.options import Json, Quiet


def pull(
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME[@REVISION]", help="The model; a branch, tag or commit.")],
    fingerprint: Annotated[
        str | None, typer.Option(metavar="HEX", help="Fail unless the model has this fingerprint.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Download a model and its CLIP from the Hugging Face Hub, load them once, and say where the model is.

    Afterwards it is there without internet too. Only JSON and safetensors are downloaded.

    [bold]Examples[/]

    ratlip pull owner/name

    ratlip pull owner/name@v2 --fingerprint 3f9a0c51d2e84b76
    """
    console.set_up(quiet)
    from ratlip_cli.weights.load import pull_model

    model = pull_model(name, fingerprint)
    console.note(f"model {model.name} ({model.fingerprint}) on CLIP {model.config.clip} ({model.clip.fingerprint})")
    told = {"model": model.name, "folder": model.folder, "fingerprint": model.fingerprint}
    of_clip = {"clip": model.config.clip, "clip_fingerprint": model.clip.fingerprint}
    console.answer(json, told | of_clip, model.folder)
