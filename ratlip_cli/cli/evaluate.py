"""`ratlip evaluate`: scores of a model or of a folder of images."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import ratlip_cli
from ratlip_cli.cli import console
from ratlip_cli.cli.prepare import preparation_progress
from ratlip_cli.errors import ThresholdError, UsageError
from ratlip_cli.evaluation.request import DEFAULT_METRICS, Request

if TYPE_CHECKING:
    import torch

    from ratlip_cli.evaluation.networks import Networks
    from ratlip_cli.evaluation.protocol import Evaluation
    from ratlip_cli.weights.model_folder import Model

METRICS, SCORED, HOW, THRESHOLDS = "Metrics (none named: fid and clip-score)", "What is scored", "How", "Thresholds"


def evaluate(
    fid: Annotated[bool, typer.Option("--fid", help="Fréchet distance.", rich_help_panel=METRICS)] = False,
    kid: Annotated[bool, typer.Option("--kid", help="Kernel distance.", rich_help_panel=METRICS)] = False,
    precision_recall: Annotated[
        bool, typer.Option("--precision-recall", help="Fidelity and variety apart.", rich_help_panel=METRICS)
    ] = False,
    clip_score: Annotated[
        bool, typer.Option("--clip-score", help="How well images match their captions.", rich_help_panel=METRICS)
    ] = False,
    r_precision: Annotated[
        bool,
        typer.Option("--r-precision", help="How often a caption ranks first among 100.", rich_help_panel=METRICS),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model folder, run folder, owner/name on the Hugging Face Hub, or ratlip-demo.",
            rich_help_panel=SCORED,
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FOLDER", help="Real images; the model's own dataset if left out.", rich_help_panel=SCORED
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the dataset.", rich_help_panel=SCORED)] = "test",
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Score these images instead of a model's.", rich_help_panel=SCORED),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With --images: real images, instead of --dataset.", rich_help_panel=SCORED),
    ] = None,
    data_dir: Annotated[
        Path, typer.Option(envvar="RATLIP_DATA", help="Folder of prepared datasets.", rich_help_panel=SCORED)
    ] = Path("data"),
    protocol: Annotated[
        str,
        typer.Option(help="standard, or released: as the published code, for its tables only.", rich_help_panel=HOW),
    ] = "standard",
    features: Annotated[
        str | None,
        typer.Option(
            help="inception, or clip: the model's own; if left out, what the model names.", rich_help_panel=HOW
        ),
    ] = None,
    inception_weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Inception's weights, for a machine without internet.", rich_help_panel=HOW),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL[:PRETRAINED]",
            help="CLIP to score by; a model's own ViT-B/32, or OpenAI's, if left out.",
            rich_help_panel=HOW,
        ),
    ] = None,
    clip_score_clip: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL:PRETRAINED",
            help="A second CLIP for the CLIP metrics, which training never saw.",
            rich_help_panel=HOW,
        ),
    ] = None,
    captions_per_image: Annotated[int, typer.Option(help="Captions of each image.", rich_help_panel=HOW)] = 10,
    bootstrap: Annotated[
        int, typer.Option(metavar="N", help="Draws for 95 % intervals; 0 for none.", rich_help_panel=HOW)
    ] = 0,
    seed: Annotated[int, typer.Option(help="Decides the noises.", rich_help_panel=HOW)] = 0,
    batch_size: Annotated[
        int | None, typer.Option(help="Images at a time; changes no score.", rich_help_panel=HOW)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=HOW)] = "auto",
    max_fid: Annotated[
        float | None,
        typer.Option(metavar="X", help="Exit with 3 where the Fréchet distance is above.", rich_help_panel=THRESHOLDS),
    ] = None,
    min_clip_score: Annotated[
        float | None,
        typer.Option(metavar="Y", help="Exit with 3 where the CLIP score is below.", rich_help_panel=THRESHOLDS),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the result as JSON.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notes, no progress.")] = False,
) -> None:
    """Score a model, or images from anywhere, and say how each number was made.

    [bold]Examples[/]

    ratlip evaluate --fid --clip-score

    ratlip evaluate --model runs/cub-ratlip-1 --dataset cub --max-fid 15 --min-clip-score 30 --json

    ratlip evaluate --images their-images --reference real-images --fid --kid --precision-recall
    """
    console.set_up(quiet)
    from ratlip_cli.device import keep_freed_memory, resolve_device
    from ratlip_cli.files import write_text

    limits = _limits(max_fid, min_clip_score)
    named = {
        "fid": fid or max_fid is not None,
        "kid": kid,
        "precision-recall": precision_recall,
        "clip-score": clip_score or min_clip_score is not None,
        "r-precision": r_precision,
    }
    metrics = tuple(metric for metric, wanted in named.items() if wanted) or DEFAULT_METRICS
    request = Request(metrics, protocol, captions_per_image, bootstrap, seed, batch_size)
    if images is None and reference is not None:
        raise UsageError("--reference goes with --images; a model is compared with a --dataset.")
    if images is not None and (model is not None or (reference is not None and dataset is not None)):
        raise UsageError("--images takes no --model, and either --reference or --dataset.")
    if out is not None and out.exists():
        raise UsageError(f"{out} exists; choose another --out.")
    keep_freed_memory()
    where = resolve_device(device)
    options = _NetworkOptions(features, clip, clip_score_clip, inception_weights)
    if images is None:
        what, evaluation = _of_model(model, dataset, split, data_dir, request, options, where)
    else:
        what, evaluation = _of_images(images, reference, dataset, split, data_dir, request, options, where)
    checks = [limit.check(evaluation) for limit in limits]
    content = {
        **what,
        "ratlip": ratlip_cli.__version__,
        "device": str(where),
        **asdict(evaluation),
        "thresholds": [asdict(check) for check in checks],
    }
    if out is not None:
        write_text(out, console.as_json(content) + "\n")
    if json:
        console.result_json(content)
    else:
        _show(what, evaluation)
    missed = [check.line() for check in checks if not check.met]
    if missed:
        raise ThresholdError("; ".join(missed))


@dataclass(frozen=True)
class _NetworkOptions:
    """Which networks were asked for."""

    features: str | None
    clip: str | None
    second_clip: str | None
    inception_weights: Path | None

    def load(self, request: Request, device: torch.device, model: Model | None = None) -> Networks:
        """The networks; a model names its features itself where none were asked for."""
        from ratlip_cli.evaluation.networks import load_networks

        features = self.features or (model.config.features if model is not None else "inception")
        return load_networks(request, device, features, model, self.clip, self.second_clip, self.inception_weights)


@dataclass(frozen=True)
class _Check:
    """A threshold and the value that it was set for."""

    option: str
    limit: float
    metric: str
    value: float
    met: bool

    def line(self) -> str:
        """What missed it."""
        side = "above" if self.value > self.limit else "below"
        return f"{self.metric} is {self.value:.4f}, {side} the {self.limit:g} of {self.option}"


@dataclass(frozen=True)
class _Limit:
    """A threshold that the caller set."""

    option: str
    limit: float
    metric: str
    """How the names of the metrics begin that it is for; the first counts."""

    def check(self, evaluation: Evaluation) -> _Check:
        """Compare it with the score."""
        name = next(name for name in evaluation.metrics if name.startswith(self.metric))
        value = evaluation.metrics[name].value
        met = value <= self.limit if self.metric == "fid" else value >= self.limit
        return _Check(self.option, self.limit, name, value, met)


def _limits(max_fid: float | None, min_clip_score: float | None) -> list[_Limit]:
    given = (("--max-fid", max_fid, "fid"), ("--min-clip-score", min_clip_score, "clip_score"))
    limits = [_Limit(option, limit, metric) for option, limit, metric in given if limit is not None]
    for limit in limits:
        if not math.isfinite(limit.limit):
            raise UsageError(f"{limit.option} is {limit.limit}; it must be a number.")
    return limits


def _of_model(
    spec: str | None,
    dataset: str | None,
    split: str,
    data_dir: Path,
    request: Request,
    options: _NetworkOptions,
    device: torch.device,
) -> tuple[dict[str, Any], Evaluation]:
    from ratlip_cli.data.dataset import CaptionedImages
    from ratlip_cli.data.prepare import resolve_dataset
    from ratlip_cli.evaluation.protocol import evaluate_model
    from ratlip_cli.weights.load import default_model, load_model

    name = spec or default_model()
    model = load_model(name, device)
    source = dataset or str(model.config.training.get("dataset", ""))
    if not source:
        raise UsageError(f"{name} does not say what it was trained on; name a --dataset.")
    console.note(f"model {name} ({model.fingerprint}) on {device}, against {source}")
    image_size = model.config.generator.image_size
    with preparation_progress() as progress:
        folder = resolve_dataset(source, data_dir, image_size, progress=progress)
    images = CaptionedImages(folder, split, image_size)
    networks = options.load(request, device, model)
    with console.bars() as progress:
        evaluation = evaluate_model(model, images, request, networks, progress)
    what = {"model": model.name, "model_fingerprint": model.fingerprint, "dataset": str(folder), "split": split}
    return what, evaluation


def _of_images(
    images: Path,
    reference: Path | None,
    dataset: str | None,
    split: str,
    data_dir: Path,
    request: Request,
    options: _NetworkOptions,
    device: torch.device,
) -> tuple[dict[str, Any], Evaluation]:
    from ratlip_cli.data.dataset import CaptionedImages
    from ratlip_cli.data.prepare import resolve_dataset
    from ratlip_cli.errors import DataError
    from ratlip_cli.evaluation.images import Images, SplitImages, open_folder
    from ratlip_cli.evaluation.protocol import evaluate_images
    from ratlip_cli.evaluation.request import OF_CLIP

    samples, size, captions = open_folder(images, split, request.wants(OF_CLIP), request.captions_per_image)
    width_height = f"{size[1]} x {size[0]}"
    real: Images | None = None
    compared: dict[str, str] = {}
    if reference is not None:
        compared = {"reference": str(reference)}
        real, real_size, _ = open_folder(reference, split, False, request.captions_per_image)
        if real_size != size:
            raise DataError(
                f"the samples of {images} have {width_height} pixels, those of {reference} {real_size[1]} x "
                f"{real_size[0]}: bring them to one size."
            )
    elif dataset is not None:
        if size[0] != size[1]:
            raise DataError(f"the samples of {images} have {width_height} pixels, those of a dataset are square.")
        with preparation_progress() as progress:
            folder = resolve_dataset(dataset, data_dir, size[0], progress=progress)
        real = SplitImages(CaptionedImages(folder, split, size[0]))
        compared = {"dataset": str(folder), "split": split}
    networks = options.load(request, device)
    with console.bars() as progress:
        evaluation = evaluate_images(samples, size, real, captions, request, networks, progress)
    return {"images": str(images), **compared}, evaluation


def _show(what: dict[str, Any], evaluation: Evaluation) -> None:
    rows = []
    for name, score in evaluation.metrics.items():
        interval = f"{score.interval[0]:.4f} to {score.interval[1]:.4f}" if score.interval else "-"
        rows.append(
            (
                name,
                f"{score.value:.4f}",
                interval,
                score.features,
                evaluation.networks[score.features]["resize"],
                "-" if score.n_real is None else f"{score.n_real:,}",
                f"{score.n_fake:,}",
                f"{score.seconds:.1f}",
                score.note or "",
            )
        )
    told = {
        **what,
        "protocol": evaluation.protocol,
        "image size": "{1} x {0}".format(*evaluation.image_size),
        "captions per image": evaluation.captions_per_image,
        "seed": evaluation.seed,
        "fingerprint": evaluation.fingerprint,
    }
    for key, value in told.items():
        console.result(f"{key.replace('_', ' ')}: {value}")
    console.result_table(
        "",
        ("metric", "value", "95 % interval", "network", "resize", "real", "fake", "seconds", "note"),
        rows,
    )
