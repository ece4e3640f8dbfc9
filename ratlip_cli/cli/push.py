"""`ratlip push`: a model to the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ratlip_cli.cli import console

if TYPE_CHECKING:
    from ratlip_cli.weights.card import Scores
    from ratlip_cli.weights.model_folder import Model

SCORES_FILE = "scores.json"
"""Where a run folder keeps what `ratlip evaluate --out` wrote."""

SAMPLES = 4
"""Images of each sentence on the card."""


def push(
    model: Annotated[str, typer.Argument(metavar="RUN|FOLDER", help="The model to upload.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Where to; made where there is none.")],
    private: Annotated[bool, typer.Option("--private", help="Only you and whom you name may see it.")] = False,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="Upload to this branch; else main.")] = None,
    licence: Annotated[
        str | None,
        typer.Option("--license", metavar="ID", help="Of the weights, such as cc-by-4.0; else the data's."),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=f"What evaluate --out wrote; else {SCORES_FILE} in the run folder."),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Sentence for the card's images, more than once if you like.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the weights as float16, in half the space.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the files and the card; upload nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notes, no progress.")] = False,
) -> None:
    """Upload a model with a card made from its run: data and licence, settings, scores, images, use, limits.

    You must be logged in: `hf auth login`. The model's name with its commit goes to stdout.

    [bold]Examples[/]

    ratlip push runs/birds-ratlip-1 me/birds --dry-run

    ratlip push runs/birds-ratlip-1 me/birds --private --license cc-by-4.0

    ratlip push runs/birds-ratlip-1 me/birds --scores scores.json --revision v2 --half
    """
    console.set_up(quiet)
    from ratlip_cli.weights.card import data_licence, may_be_shown, stage
    from ratlip_cli.weights.hub import check_repository
    from ratlip_cli.weights.hub import push as upload
    from ratlip_cli.weights.load import load_model
    from ratlip_cli.weights.model_folder import CARD_FILE, SAMPLES_FILE, files_of

    check_repository(repository)
    loaded = load_model(model)
    found = _scores(loaded, scores or Path(model) / SCORES_FILE, asked=scores is not None)
    prompts = prompt or [str(text) for text in loaded.config.training.get("prompts", [])]
    show = may_be_shown(data_licence(loaded.config))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if show and prompts:
            _draw_samples(loaded, prompts, folder / SAMPLES_FILE)
        files = files_of(loaded.folder) | files_of(folder)
        if not show:
            files.pop(SAMPLES_FILE, None)
        fingerprint = stage(loaded.folder, folder, repository, licence, found, half, shown=SAMPLES_FILE in files)
        files |= files_of(folder)
        sizes = {name: path.stat().st_size for name, path in files.items()}
        card = files[CARD_FILE].read_text(encoding="utf-8")
        pushed = None if dry_run else upload(files, repository, private, revision)
    if json:
        what = {"model": pushed and pushed.name, "url": pushed and pushed.url, "fingerprint": fingerprint}
        console.result_json({**what, "repository": repository, "dry_run": dry_run, "files": sizes, "card": card})
    elif pushed is None:
        console.result_table(
            f"Would go to {repository}", ("file", "bytes"), [(name, f"{size:,}") for name, size in sizes.items()]
        )
        console.result(f"\n{CARD_FILE}:\n\n{card}".rstrip())
    else:
        console.note(f"{pushed.url}\nfetch it with: ratlip pull {pushed.name} --fingerprint {fingerprint}")
        console.result(pushed.name)


def _scores(model: Model, path: Path, asked: bool) -> Scores | None:
    """The scores of this model; those of another one are an error where they were asked for, else left out."""
    from ratlip_cli.errors import WeightsError
    from ratlip_cli.weights.card import read_scores

    if not asked and not path.is_file():
        return None
    scores = read_scores(path)
    if scores.model_fingerprint == model.fingerprint:
        return scores
    message = f"the scores in {path} are of model {scores.model_fingerprint}, this one is {model.fingerprint}"
    if asked:
        raise WeightsError(f"{message}: score it again with `ratlip evaluate --out`.")
    console.note(f"{message}: they are left out")
    return None


def _draw_samples(model: Model, prompts: list[str], path: Path) -> None:
    from ratlip_cli.sampling import Sample, generate, save_grid

    images: list[Sample] = []
    with console.progress("draw", len(prompts) * SAMPLES) as advance:
        for image in generate(model, prompts, SAMPLES):
            images.append(image)
            advance()
    save_grid(path, images)
