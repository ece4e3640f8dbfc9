"""`ratlip evaluate`: scores of a model or of a folder of images."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ratlip_cli.cli import console
from ratlip_cli.errors import ThresholdError, UsageError
from ratlip_cli.evaluation.request import DEFAULT_METRICS, EvaluationRequest

if TYPE_CHECKING:
    from ratlip_cli.evaluation.run import Evaluation

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
        int, typer.Option(metavar="N", help="Resamples for 95 % intervals; 0 for none.", rich_help_panel=HOW)
    ] = 0,
    seed: Annotated[int, typer.Option(help="Decides the noise vectors.", rich_help_panel=HOW)] = 0,
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
    for option, limit in (("--max-fid", max_fid), ("--min-clip-score", min_clip_score)):
        if limit is not None and not math.isfinite(limit):
            raise UsageError(f"{option} is {limit}; it must be a number.")
    named = {
        "fid": fid or max_fid is not None,
        "kid": kid,
        "precision-recall": precision_recall,
        "clip-score": clip_score or min_clip_score is not None,
        "r-precision": r_precision,
    }
    request = EvaluationRequest(
        model=model,
        images=images,
        reference=reference,
        dataset=dataset,
        split=split,
        data_dir=data_dir,
        metrics=tuple(metric for metric, wanted in named.items() if wanted) or DEFAULT_METRICS,
        protocol=protocol,
        features=features,
        clip=clip,
        second_clip=clip_score_clip,
        inception_weights=inception_weights,
        captions_per_image=captions_per_image,
        bootstrap=bootstrap,
        seed=seed,
        batch_size=batch_size,
        device=device,
    )
    if out is not None and out.exists():
        raise UsageError(f"{out} exists; choose another --out.")

    from ratlip_cli.device import keep_freed_memory
    from ratlip_cli.evaluation import run
    from ratlip_cli.files import write_text

    keep_freed_memory()
    with console.bars() as progress:
        evaluation = run.evaluate(request, progress)
    checks = _checks(evaluation, max_fid, min_clip_score)
    content = evaluation.record() | {"thresholds": [asdict(check) for check in checks]}
    if out is not None:
        write_text(out, console.as_json(content) + "\n")
    if json:
        console.result_json(content)
    else:
        _show(evaluation)
    missed = [check.line() for check in checks if not check.met]
    if missed:
        raise ThresholdError("; ".join(missed))


@dataclass(frozen=True)
class _Check:
    """A threshold and the score that it was set for."""

    option: str
    limit: float
    metric: str
    value: float
    met: bool

    def line(self) -> str:
        """What missed it."""
        side = "above" if self.value > self.limit else "below"
        return f"{self.metric} is {self.value:.4f}, {side} the {self.limit:g} of {self.option}"


def _checks(evaluation: Evaluation, max_fid: float | None, min_clip_score: float | None) -> list[_Check]:
    checks = []
    if max_fid is not None:
        score = evaluation.score("fid")
        checks.append(_Check("--max-fid", max_fid, score.name, score.value, score.value <= max_fid))
    if min_clip_score is not None:
        score = evaluation.score("clip_score")
        checks.append(
            _Check("--min-clip-score", min_clip_score, score.name, score.value, score.value >= min_clip_score)
        )
    return checks


def _show(evaluation: Evaluation) -> None:
    shown = {
        **evaluation.source,
        "protocol": evaluation.protocol,
        "image size": "{1} x {0}".format(*evaluation.image_size),
        "captions per image": evaluation.captions_per_image,
        "seed": evaluation.seed,
        "fingerprint": evaluation.fingerprint,
    }
    for key, value in shown.items():
        console.result(f"{key.replace('_', ' ')}: {value}")
    rows = [
        (
            name,
            f"{score.value:.4f}",
            f"{score.interval[0]:.4f} to {score.interval[1]:.4f}" if score.interval else "-",
            score.features,
            evaluation.networks[score.features]["resize"],
            "-" if score.n_real is None else f"{score.n_real:,}",
            f"{score.n_fake:,}",
            f"{score.seconds:.1f}",
            score.note or "",
        )
        for name, score in evaluation.metrics.items()
    ]
    columns = ("metric", "value", "95 % interval", "network", "resize", "real", "fake", "seconds", "note")
    console.result_table("", columns, rows)
