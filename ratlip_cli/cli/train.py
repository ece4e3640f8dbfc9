"""`ratlip train`: captioned images to a model."""

from __future__ import annotations

import os
import signal
from dataclasses import asdict
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.prepare import preparation_progress
from ratlip_cli.errors import Interrupted
from ratlip_cli.training.settings import TrainSettings, about, preset_names, resolve_settings

if TYPE_CHECKING:
    from ratlip_cli.training.session import DryRun, TrainingSession
    from ratlip_cli.training.trainer import StepRecord

DATA, MODEL, LENGTH, LEARNING, MACHINE, RUN, EVALUATION = (
    "Data",
    "Model",
    "How long",
    "How it learns",
    "Machine",
    "Run folder",
    "Evaluation",
)


def _setting(name: str, panel: str, metavar: str | None = None, envvar: str | None = None) -> Any:
    """The option of a setting: not given it is None, so that a settings file is not overwritten by a default."""
    default = getattr(TrainSettings(), name)
    return typer.Option(
        help=about(name) if default in (None, "", False) else f"{about(name)} Default: {default}.",
        show_default=False,
        rich_help_panel=panel,
        metavar=metavar,
        envvar=envvar,
    )


def train(
    context: typer.Context,
    dataset: Annotated[str | None, _setting("dataset", DATA, "NAME|FOLDER")] = None,
    data_dir: Annotated[str | None, _setting("data_dir", DATA, "FOLDER", envvar="RATLIP_DATA")] = None,
    variant: Annotated[str | None, _setting("variant", MODEL)] = None,
    clip: Annotated[str | None, _setting("clip", MODEL, "MODEL[:PRETRAINED]")] = None,
    image_size: Annotated[int | None, _setting("image_size", MODEL)] = None,
    hidden_size: Annotated[int | None, _setting("hidden_size", MODEL)] = None,
    noise_dim: Annotated[int | None, _setting("noise_dim", MODEL)] = None,
    generator_channels: Annotated[int | None, _setting("generator_channels", MODEL)] = None,
    discriminator_channels: Annotated[int | None, _setting("discriminator_channels", MODEL)] = None,
    pixel_stem: Annotated[bool | None, _setting("pixel_stem", MODEL)] = None,
    init_from: Annotated[str | None, _setting("init_from", MODEL, "MODEL")] = None,
    epochs: Annotated[int | None, _setting("epochs", LENGTH)] = None,
    steps: Annotated[int | None, _setting("steps", LENGTH)] = None,
    max_time: Annotated[str | None, _setting("max_time", LENGTH, "DURATION")] = None,
    batch_size: Annotated[int | None, _setting("batch_size", LEARNING)] = None,
    grad_accum: Annotated[int | None, _setting("grad_accum", LEARNING)] = None,
    lr_g: Annotated[float | None, _setting("lr_g", LEARNING)] = None,
    lr_d: Annotated[float | None, _setting("lr_d", LEARNING)] = None,
    beta1: Annotated[float | None, _setting("beta1", LEARNING)] = None,
    beta2: Annotated[float | None, _setting("beta2", LEARNING)] = None,
    clip_weight: Annotated[float | None, _setting("clip_weight", LEARNING)] = None,
    diversity_weight: Annotated[float | None, _setting("diversity_weight", LEARNING)] = None,
    penalty_weight: Annotated[float | None, _setting("penalty_weight", LEARNING)] = None,
    penalty_power: Annotated[float | None, _setting("penalty_power", LEARNING)] = None,
    ema: Annotated[float | None, _setting("ema", LEARNING)] = None,
    seed: Annotated[int | None, _setting("seed", LEARNING)] = None,
    device: Annotated[str | None, _setting("device", MACHINE)] = None,
    precision: Annotated[str | None, _setting("precision", MACHINE)] = None,
    compile: Annotated[bool | None, _setting("compile", MACHINE)] = None,
    recompute: Annotated[bool | None, _setting("recompute", MACHINE)] = None,
    workers: Annotated[int | None, _setting("workers", MACHINE)] = None,
    out: Annotated[str | None, _setting("out", RUN, "FOLDER")] = None,
    resume: Annotated[str | None, _setting("resume", RUN, "PATH|auto")] = None,
    sample_every: Annotated[int | None, _setting("sample_every", RUN, "STEPS")] = None,
    save_every: Annotated[int | None, _setting("save_every", RUN, "STEPS")] = None,
    keep: Annotated[int | None, _setting("keep", RUN)] = None,
    eval_every: Annotated[int | None, _setting("eval_every", EVALUATION, "STEPS")] = None,
    eval_captions: Annotated[int | None, _setting("eval_captions", EVALUATION)] = None,
    eval_features: Annotated[str | None, _setting("eval_features", EVALUATION)] = None,
    inception_weights: Annotated[str | None, _setting("inception_weights", EVALUATION, "FILE")] = None,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|PRESET", help=f"TOML file with any of these settings, or one of: {', '.join(preset_names())}."
        ),
    ] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the settings as TOML and stop.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Measure a few steps, print what the run would be and cost, begin no run."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notes, no progress.")] = False,
) -> None:
    """Train a model on captioned images. The run folder goes to stdout.

    What is typed wins over --config, and --config over the dataset's preset. Ctrl-C ends the step and saves.

    [bold]Examples[/]

    ratlip train --dataset oxford --device cuda

    ratlip train --dataset data/my-images --config small --dry-run

    ratlip train --resume auto --dataset cub --variant galip --max-time 8h
    """
    console.set_up(quiet)
    known = asdict(TrainSettings())
    typed = {name: value for name, value in context.params.items() if name in known and value is not None}
    settings = resolve_settings(typed, config)
    if print_config:
        console.result(settings.to_toml().rstrip())
        return

    from ratlip_cli.device import keep_freed_memory
    from ratlip_cli.training.session import dry_run as measure
    from ratlip_cli.training.session import open_session
    from ratlip_cli.weights.model_folder import fingerprint_of

    keep_freed_memory()
    if dry_run:
        with preparation_progress() as progress:
            found = measure(settings, progress)
        if json:
            console.result_json(asdict(found))
        else:
            _show_dry_run(found)
        return

    with preparation_progress() as progress:
        session = open_session(settings, console.note, progress)
    last = _run(session)
    if json:
        console.result_json(
            {
                "run": session.folder.path,
                "model": session.folder.model,
                "fingerprint": fingerprint_of(session.folder.model),
                "step": session.trainer.steps_done,
                "total_steps": session.total_steps,
                "finished": session.finished,
                "last": asdict(last) if last else None,
            }
        )
    else:
        console.result(session.folder.path)


def _run(session: TrainingSession) -> StepRecord | None:
    """Train, showing progress; return the last step's record. Raises Interrupted when a signal ended it early."""
    path, done, total = session.folder.path, session.trainer.steps_done, session.total_steps
    if session.finished:
        console.note(f"{path} is finished after {done} steps; to go on, resume it with a larger --steps or --epochs.")
    else:
        console.note(f"training in {path}, steps {done + 1} to {total}, on {session.trainer.device}")
    record, skipped = None, 0
    with _StopRequest() as stop, console.progress("train", total, done, unit="steps") as advance:
        for record in session.run(lambda: stop.signal_number is not None):
            skipped += record.skipped
            advance(1, **_figures(record, skipped), **session.scores)
    if not session.finished:
        stopped = f"stopped after step {session.trainer.steps_done} of {total}; everything is saved"
        message = f"{stopped}. Go on with: ratlip train --resume {path}"
        if stop.signal_number is not None:
            raise Interrupted(message, stop.signal_number)
        console.note(message)
    return record


def _figures(record: StepRecord, skipped: int) -> dict[str, object]:
    figures: dict[str, object] = {
        "D": record.loss_d,
        "G": record.loss_g,
        "CLIP": record.clip_similarity,
        "images/s": record.images_per_second,
    }
    return figures | ({"skipped": skipped} if skipped else {})


def _show_dry_run(found: DryRun) -> None:
    console.result_table(
        "This run would be",
        ("", "value"),
        [
            ("dataset", found.dataset),
            ("training images", f"{found.images:,}"),
            ("captions", f"{found.captions:,}"),
            ("device", found.device),
            ("precision", found.precision),
            ("generator, trained parameters", f"{found.generator_parameters:,}"),
            ("discriminator, trained parameters", f"{found.discriminator_parameters:,}"),
            ("CLIP, frozen parameters", f"{found.clip_parameters:,}"),
            ("peak memory", f"{found.memory_mib / 1024:.1f} GiB"),
            ("one checkpoint on disk", f"{found.checkpoint_mib / 1024:.2f} GiB"),
            ("steps", f"{found.steps:,}"),
            ("epochs", f"{found.epochs:,.1f}"),
            ("time per step", f"{found.seconds_per_step:.3g} s"),
            ("time to encode the captions, once", console.duration(found.seconds_for_text)),
            ("time in all", console.duration(found.seconds)),
        ],
    )


class _StopRequest:
    """Notes the first SIGINT or SIGTERM, so that the step can be ended and saved; the next one acts at once."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> _StopRequest:
        self._handlers = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        self.__exit__(None, None, None)
        os.write(2, b"\nending the step and saving; once more stops at once\n")  # print is not safe in a handler
