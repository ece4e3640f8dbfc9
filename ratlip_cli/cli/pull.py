"""`ratlip pull`: a model of the Hugging Face Hub, fetched ahead of time."""

from __future__ import annotations

from typing import Annotated

import typer

from ratlip_cli.cli import console


def pull(
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME[@REVISION]", help="The model; a branch, tag or commit.")],
    fingerprint: Annotated[
        str | None, typer.Option(metavar="HEX", help="Fail unless the model has this fingerprint.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the folder.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notes, no progress.")] = False,
) -> None:
    """Fetch a model and its CLIP from the Hugging Face Hub, load them once, and say where the model is.

    Afterwards it is there without internet too. Only JSON and safetensors are fetched.

    [bold]Examples[/]

    ratlip pull owner/name

    ratlip pull owner/name@v2 --fingerprint 3f9a0c51d2e84b76
    """
    console.set_up(quiet)
    from ratlip_cli.errors import UsageError, WeightsError
    from ratlip_cli.weights.hub import fetch, is_hub_name, pinned_name
    from ratlip_cli.weights.model_folder import load_folder

    if not is_hub_name(name):
        raise UsageError(f"'{name}' is not a name on the Hugging Face Hub: use owner/name or owner/name@revision.")
    folder = fetch(name)
    model = load_folder(folder, name=pinned_name(name, folder))
    if fingerprint is not None and fingerprint != model.fingerprint:
        raise WeightsError(
            f"{model.name} has fingerprint {model.fingerprint}, not {fingerprint}: it is another model; name the right "
            "revision."
        )
    console.note(f"model {model.name} ({model.fingerprint}) on CLIP {model.config.clip} ({model.clip.fingerprint})")
    if json:
        console.result_json(
            {
                "model": model.name,
                "folder": folder,
                "fingerprint": model.fingerprint,
                "clip": model.config.clip,
                "clip_fingerprint": model.clip.fingerprint,
            }
        )
    else:
        console.result(folder)
