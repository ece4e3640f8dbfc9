"""`ratlip play`: a page in the browser on which models are tried."""

from __future__ import annotations

import logging
import time
from typing import Annotated

import typer

from ratlip_cli.cli import console, signals
from ratlip_cli.cli.options import ABOUT_MODEL, Device, Precision, Quiet, check_model_name, complete_model
from ratlip_cli.errors import RatlipError


def play(
    model: Annotated[
        list[str] | None,
        typer.Option(help=f"{ABOUT_MODEL} Repeat it to choose and compare.", autocompletion=complete_model),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Left out, the first free one from 7860.", show_default=False)
    ] = None,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines of your network in.")] = "127.0.0.1",
    share: Annotated[
        bool, typer.Option("--share", help="Also get a public address from gradio's servers, for a week.")
    ] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
) -> None:
    """Try models in the browser: prompts, seeds, interpolations, the same noise, Grad-CAM. Ctrl-C ends it.

    [bold]Examples[/]

    ratlip play

    ratlip play --model runs/cub-ratlip-1 --model runs/cub-galip-1 --port 8000
    """
    console.set_up(quiet)
    for name in model or ():
        check_model_name(name)
    try:
        from ratlip_cli.web import guard, playground
    except ModuleNotFoundError as error:
        if error.name not in ("gradio", "starlette"):
            raise
        raise RatlipError("the playground needs gradio: `pip install 'ratlip[play]'`.") from error
    guard.serves_this_machine_alone(host)  # a host that is none is told before models are loaded
    from ratlip_cli.device import keep_freed_memory, resolve_device
    from ratlip_cli.weights.load import default_model, load_model

    keep_freed_memory()
    target = resolve_device(device)
    models = []
    for name in dict.fromkeys(model or [default_model()]):
        models.append(load_model(name, target).in_precision(precision))
        console.note(f"model {models[-1].name} ({models[-1].fingerprint}) on {target} in {models[-1].precision}")
    logging.getLogger("ratlip_cli").setLevel(logging.ERROR)  # what of a prompt is not read is told on the page
    with signals.keeping("The playground has ended."), playground.served(models, host, port, share) as address:
        console.result(address)
        console.note("Ctrl-C ends the playground.")
        while True:
            time.sleep(3600)
