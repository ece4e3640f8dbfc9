"""`ratlip evaluate`: scores of a model or of a folder of images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ratlip_cli import processes
from ratlip_cli.cli import console
from ratlip_cli.cli.devices import Devices, count, run_again_in
from ratlip_cli.cli.options import Json, Quiet, check_file, check_model_name, check_new, check_there, with_options
from ratlip_cli.data.request import check_dataset_name
from ratlip_cli.errors import ThresholdError, UsageError
from ratlip_cli.evaluation.request import DEFAULT_METRICS, EvaluationRequest
from ratlip_cli.setting import settings_of

if TYPE_CHECKING:
    from ratlip_cli.evaluation.run import Evaluation

METRICS, THRESHOLDS = "Metrics (none named: fid and clip-score)", "Thresholds"


@with_options(settings_of(EvaluationRequest).values(), noun_of="model")
def evaluate(
    typed: dict[str, Any],
    fid: Annotated[bool, typer.Option("--fid", help="Fréchet distance.", rich_help_panel=METRICS)] = False,
    kid: Annotated[bool, typer.Option("--kid", help="Kernel distance.", rich_help_panel=METRICS)] = False,
    precision_recall: Annotated[
        bool, typer.Option("--precision-recall", help="Fidelity and variety apart.", rich_help_panel=METRICS)
    ] = False,
    clip_score: Annotated[
        bool, typer.Option("--clip-score", help="How well images match their captions.", rich_help_panel=METRICS)
    ] = False,
    r_precision: Annotated[
        bool, typer.Option("--r-precision", help="How often a caption ranks first among 100.", rich_help_panel=METRICS)
    ] = False,
    max_fid: Annotated[
        float | None,
        typer.Option(metavar="X", help="Exit with 3 where the Fréchet distance is above.", rich_help_panel=THRESHOLDS),
    ] = None,
    min_clip_score: Annotated[
        float | None,
        typer.Option(metavar="Y", help="Exit with 3 where the CLIP score is below.", rich_help_panel=THRESHOLDS),
    ] = None,
    devices: Devices = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the result as JSON.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a model, or images from anywhere, and say how each number was made.

    [bold]Examples[/]

    ratlip evaluate --fid --clip-score

    ratlip evaluate runs/cub --max-fid 15 --min-clip-score 30 --json

    ratlip evaluate --images theirs --reference real --fid --precision-recall
    """
    is_first = processes.begin()  # of several processes the first one speaks
    console.set_up(quiet or not is_first)
    if (several := count(devices, str(typed.get("device") or "auto"))) > 1:
        run_again_in(several)
        return
    limits = {"--max-fid": max_fid, "--min-clip-score": min_clip_score}
    set_limits = {option: limit for option, limit in limits.items() if limit is not None}
    for option, limit in set_limits.items():
        if not math.isfinite(limit):
            raise UsageError(f"{option} is {limit}; it must be a number.")
    named = {
        "fid": fid or max_fid is not None,
        "kid": kid,
        "precision-recall": precision_recall,
        "clip-score": clip_score or min_clip_score is not None,
        "r-precision": r_precision,
    }
    metrics = tuple(metric for metric, wanted in named.items() if wanted)
    request = EvaluationRequest(metrics=metrics or DEFAULT_METRICS, **typed)
    check_model_name(typed.get("model"))
    check_there(request.images, " does not exist; give a folder of images")
    check_there(request.reference, " does not exist; give a folder of images")
    check_file(request.inception_weights)
    if out is not None:
        check_new(out)
    if request.dataset is not None:
        check_dataset_name(str(request.dataset), request.data_dir)

    from ratlip_cli.device import keep_freed_memory
    from ratlip_cli.distributed import world
    from ratlip_cli.evaluation import run
    from ratlip_cli.files import write_text

    keep_freed_memory()
    with console.bars() as progress:
        evaluation = run.evaluate(request, progress)
    world().leave()
    checks, missed = _checks(evaluation, set_limits)
    content = evaluation.record() | {"thresholds": checks}
    if json:
        console.result_json(content)
    else:
        _show(evaluation)
    if is_first and out is not None:  # last: what cannot be written is shown
        write_text(out, console.as_json(content) + "\n", new=True)
    if missed:
        raise ThresholdError("; ".join(missed))


def _checks(evaluation: Evaluation, limits: dict[str, float]) -> tuple[list[dict[str, object]], list[str]]:
    """Each threshold with the score that it was set for, and what missed one."""
    checks, missed = [], []
    for option, limit in limits.items():
        score = evaluation.score("fid" if option == "--max-fid" else "clip_score")
        met = score.value <= limit if option == "--max-fid" else score.value >= limit
        checks.append({"option": option, "limit": limit, "metric": score.name, "value": score.value, "met": met})
        if not met:
            side = "above" if score.value > limit else "below"
            shown = f"{score.value:.4f}" if float(f"{score.value:.4f}") != limit else repr(score.value)
            missed.append(f"{score.name} is {shown}, {side} the {limit:g} of {option}")
    return checks, missed


def _rounded(value: float) -> str:
    """With four decimals, or three digits where those would be fewer, as of a small KID."""
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.01 else f"{value:.3g}"


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
            _rounded(score.value),
            f"{_rounded(score.interval[0])} to {_rounded(score.interval[1])}" if score.interval else "-",
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
