"""`ratlip latent-viz`: where real and generated images lie, and what captions change."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.prepare import preparation_progress
from ratlip_cli.errors import UsageError

if TYPE_CHECKING:
    from ratlip_cli.data.dataset import CaptionedImages
    from ratlip_cli.weights.model_folder import Model

PAIRS, NOISES, STEPS = 200, 16, 8
"""What is shown if --count and --steps are left out: pairs of a dataset, noises under captions, steps of a way."""


def latent_viz(
    model: Annotated[str | None, typer.Option(help="Model folder, run folder, owner/name or ratlip-demo.")] = None,
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A second model, beside it on the same axes.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME|FOLDER", help="Real images; the model's own dataset if left out.")
    ] = None,
    split: Annotated[str, typer.Option(help="The split of the dataset.")] = "test",
    count: Annotated[
        int | None, typer.Option(help="Captions of the dataset (200); with --caption, noises under each (16).")
    ] = None,
    method: Annotated[str, typer.Option(help="pca, tsne or umap.")] = "pca",
    space: Annotated[str, typer.Option(help="clip: image vectors; discriminator: Mate-D's features.")] = "clip",
    caption: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Twice or more: the same noises under each caption.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="TEXT", help="With --to: the way between two captions.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TEXT", help="Where the way ends.")] = None,
    steps: Annotated[int | None, typer.Option(help="Images on the way (8).")] = None,
    same_noise: Annotated[
        bool,
        typer.Option("--same-noise", help="Keep the noise on the way; else it goes from the first to the second."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides the noises.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for figures and numbers; what it holds is kept.")] = Path("latent"),
    svg: Annotated[bool, typer.Option("--svg", help="Write figures as SVG besides PNG.")] = False,
    data_dir: Annotated[Path, typer.Option(envvar="RATLIP_DATA", help="Folder of prepared datasets.")] = Path("data"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the paths.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notes, no progress.")] = False,
) -> None:
    """Show real and generated images as vectors, and the angle between them.

    [bold]Examples[/]

    ratlip latent-viz --model runs/baseline --against runs/ours --count 500

    ratlip latent-viz --caption "he is young, receding hairline" --caption "he is old, receding hairline"

    ratlip latent-viz --from "a red bird" --to "a blue bird" --steps 12
    """
    console.set_up(quiet)
    from ratlip_cli.device import resolve_device
    from ratlip_cli.explain import latent, latent_report
    from ratlip_cli.explain.latent_views import caption_view, pair_view, real_images
    from ratlip_cli.explain.record import Record
    from ratlip_cli.sampling import check_seed
    from ratlip_cli.weights.load import default_model, load_model

    captions = caption or []
    _check_request(captions, start, end, steps, count, dataset, same_noise)
    check_seed(seed)
    latent.check_method(method)
    if captions:
        latent.check_points((count or NOISES) * len(captions))
    where = resolve_device(device)
    models = [load_model(spec, where) for spec in (model or default_model(), against) if spec is not None]
    for one in models:
        console.note(f"model {one.name} ({one.fingerprint}) on {where}")
    seen = latent.make_space(space, models[0])
    settings: dict[str, Any] = {"command": "latent-viz", "seed": seed}

    if start is not None and end is not None:
        number, noises = steps or STEPS, (0, 0) if same_noise else (0, 1)
        with console.progress("latent-viz", number * len(models)) as advance:
            interpolations = [
                latent.interpolate(one, seen, (start, end), number, noises, seed, advance) for one in models
            ]
        record = Record(out, f"{start} to {end}", svg)
        settings |= {"view": "way", "from": start, "to": end, "steps": number, "noises": noises}
        content = latent_report.write_interpolation(interpolations, (start, end), seen, record, settings)
    else:
        real, pairs = None, []
        if dataset is not None or not captions:
            images = _images(dataset, models, split, data_dir)
            number = min(PAIRS if captions else count or PAIRS, len(images))
            latent.check_points(number)
            with console.progress("latent-viz", number * (1 + len(models))) as advance:
                real = real_images(seen, images, number, advance)
                pairs = [pair_view(seen, one, real, seed, advance) for one in models]
            settings |= {"dataset": str(images.path), "split": split, "pairs": number}
        if captions or real is None:
            noises_each = count or NOISES
            with console.progress("latent-viz", noises_each * len(captions) * len(models)) as advance:
                views = [caption_view(seen, one, captions, noises_each, seed, advance) for one in models]
            record = Record(out, " against ".join(captions), svg)
            settings |= {"view": "captions", "captions": captions, "noises": noises_each}
            content = latent_report.write_captions(views, seen, method, record, settings, real, pairs)
        else:
            record = Record(out, f"{Path(settings['dataset']).name} {split}", svg)
            content = latent_report.write_pairs(real, pairs, seen, method, record, settings | {"view": "pairs"})
    for line in content["says"]:
        console.note(line)
    if json:
        console.result_json(content)
    else:
        for path in record.files:
            console.result(path)


def _check_request(
    captions: list[str],
    start: str | None,
    end: str | None,
    steps: int | None,
    count: int | None,
    dataset: str | None,
    same_noise: bool,
) -> None:
    """Raise UsageError for options that do not go together."""
    if (start is None) != (end is None):
        raise UsageError("a way needs both --from and --to.")
    if start is not None and (captions or dataset is not None or count is not None):
        raise UsageError("--from and --to show a way; leave out --caption, --dataset and --count.")
    if start is None and (steps is not None or same_noise):
        raise UsageError("--steps and --same-noise belong to a way: give --from and --to.")
    if len(captions) == 1:
        raise UsageError("one --caption has nothing to be compared with; give two or more.")
    if any(not text.strip() for text in (*captions, *(side for side in (start, end) if side is not None))):
        raise UsageError("a caption is empty; give a sentence.")
    if steps is not None and steps < 2:
        raise UsageError(f"--steps is {steps}; a way has at least 2.")
    if count is not None and count < 1:
        raise UsageError(f"--count is {count}; it must be at least 1.")


def _images(dataset: str | None, models: list[Model], split: str, data_dir: Path) -> CaptionedImages:
    """The split, prepared first where that is needed, at the size that the first model draws."""
    from ratlip_cli.data.dataset import CaptionedImages
    from ratlip_cli.data.prepare import resolve_dataset

    source = dataset or str(models[0].config.training.get("dataset", ""))
    if not source:
        raise UsageError(f"{models[0].name} does not say what it was trained on; name a --dataset.")
    size = models[0].config.generator.image_size
    with preparation_progress() as progress:
        return CaptionedImages(resolve_dataset(source, data_dir, size, progress=progress), split, size)
