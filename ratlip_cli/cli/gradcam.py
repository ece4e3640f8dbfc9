"""`ratlip gradcam`: where an image shows what a sentence says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.prepare import preparation_progress
from ratlip_cli.errors import UsageError

if TYPE_CHECKING:
    from ratlip_cli.explain.input_images import InputImage
    from ratlip_cli.weights.model_folder import Model

DATASET_COUNT = 100
"""Images of a dataset, if --count is left out."""


def gradcam(
    prompt: Annotated[str | None, typer.Argument(help="The sentence to look for.", show_default=False)] = None,
    count: Annotated[
        int | None, typer.Option("-n", "--count", help="Images to generate (1), or to take from --dataset (100).")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Explain this image instead; repeat it for more.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME|FOLDER", help="Explain images of a dataset; those with known parts are scored."),
    ] = None,
    split: Annotated[str, typer.Option(help="The split of --dataset.")] = "test",
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model folder, run folder, owner/name or ratlip-demo; repeat it for a row each."),
    ] = None,
    target: Annotated[
        str, typer.Option(help="clip: cosine of image and sentence; discriminator: the logit of Mate-D.")
    ] = "clip",
    layer: Annotated[
        int | None,
        typer.Option(metavar="L", help="The ViT block whose incoming patch tokens are read; the last if left out."),
    ] = None,
    words: Annotated[bool, typer.Option("--words", help="Also a map for every word of the prompt.")] = False,
    word: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Also a map for this word or phrase; repeat it for more.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides the noises and the random baselines.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for figures and numbers; what it holds is kept.")] = Path("gradcam"),
    svg: Annotated[bool, typer.Option("--svg", help="Write figures as SVG besides PNG.")] = False,
    data_dir: Annotated[Path, typer.Option(envvar="RATLIP_DATA", help="Folder of prepared datasets.")] = Path("data"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the paths.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notes, no progress.")] = False,
) -> None:
    """Show where an image holds what a sentence says (Grad-CAM), and measure whether the map is right.

    [bold]Examples[/]

    ratlip gradcam "a red bird with black wings" --words

    ratlip gradcam "a red bird" --model runs/d4 --model runs/d64 --model runs/d128 -n 3

    ratlip gradcam --dataset demo --count 200
    """
    console.set_up(quiet)
    from ratlip_cli.data.prepare import resolve_dataset
    from ratlip_cli.device import resolve_device
    from ratlip_cli.explain.explanation import Explanation, explain, phrases_of
    from ratlip_cli.explain.gradcam import make_target, resolve_layer
    from ratlip_cli.explain.gradcam_report import write_gradcam
    from ratlip_cli.explain.record import Record
    from ratlip_cli.explain.segments import phrases_naming_segments
    from ratlip_cli.sampling import check_seed
    from ratlip_cli.weights.load import default_model, load_model

    files = image or []
    _check_request(prompt, files, dataset, count, word or [])
    check_seed(seed)
    if prompt is not None:
        phrases_of(prompt, words, word or [])  # a misspelled word is told before a model is loaded
    where = resolve_device(device)
    specs = model or [default_model()]
    loaded = [load_model(spec, where) for spec in specs]
    targets = [make_target(target, one) for one in loaded]
    layers = [resolve_layer(one, layer) for one in targets]
    for one, at in zip(loaded, layers, strict=True):
        console.note(f"model {one.name} ({one.fingerprint}) on {where}, target {target}, layer {at}")
    prepared = None
    if dataset is not None:
        with preparation_progress() as progress:
            size = max(one.config.generator.image_size for one in loaded)
            prepared = resolve_dataset(dataset, data_dir, size, progress=progress)
    subjects = [_input_images(one, prompt, files, prepared, split, count, seed) for one in loaded]

    found: list[Explanation] = []
    with console.progress("gradcam", sum(map(len, subjects))) as advance:
        for one, aim, at, images in zip(loaded, targets, layers, subjects, strict=True):
            for subject in images:
                if words or word:
                    phrases = phrases_of(subject.prompt, words, word or [])
                else:
                    phrases = phrases_naming_segments(subject.prompt, subject.masks)
                found.append(explain(one, aim, at, subject, phrases, seed))
                advance()
    title = prompt or (f"{dataset} {split}" if dataset else found[0].subject.prompt)
    record = Record(out, title, svg)
    content = write_gradcam(found, record, {"command": "gradcam", "seed": seed, "dataset": dataset})
    for line in content["says"]:
        console.note(line)
    if json:
        console.result_json(content)
    else:
        for path in record.files:
            console.result(path)


def _check_request(
    prompt: str | None, files: list[Path], dataset: str | None, count: int | None, chosen: list[str]
) -> None:
    """Raise UsageError for options that do not go together."""
    if dataset is not None and (prompt is not None or files or chosen):
        raise UsageError("--dataset brings its own images and captions; leave out the prompt, --image and --word.")
    if files and count is not None:
        raise UsageError("-n is for generated images and for --dataset; leave it out with --image.")
    if prompt is None and dataset is None and not files:
        raise UsageError('there is no prompt; give a sentence, such as "a red bird", or --image or --dataset.')
    if prompt is not None and not prompt.strip():
        raise UsageError("the prompt is empty; give a sentence.")
    if count is not None and count < 1:
        raise UsageError(f"-n is {count}; it must be at least 1.")


def _input_images(
    model: Model,
    prompt: str | None,
    files: list[Path],
    dataset: Path | None,
    split: str,
    count: int | None,
    seed: int,
) -> list[InputImage]:
    """The images to explain, at the size that the model draws."""
    from ratlip_cli.data.dataset import CaptionedImages
    from ratlip_cli.explain.input_images import drawn, from_dataset, from_file

    size = model.config.generator.image_size
    if dataset is not None:
        return from_dataset(CaptionedImages(dataset, split, size), count or DATASET_COUNT)
    if files or prompt is None:
        return [from_file(file, prompt, size) for file in files]
    return drawn(model, prompt, count or 1, seed)
