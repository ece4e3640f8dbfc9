"""`ratlip train`: captioned images to a model."""

from __future__ import annotations

import shlex
import signal
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from ratlip_cli import processes
from ratlip_cli.cli import console, signals, waiting
from ratlip_cli.cli.devices import DevicesOfTraining, count, run_again_in
from ratlip_cli.cli.options import Json, Quiet, Typed, check_model_name, complete_choice, with_options
from ratlip_cli.errors import Interrupted
from ratlip_cli.training.run_paths import step_saved
from ratlip_cli.training.settings import all_settings, check_beginning, preset_names, resolve_settings

if TYPE_CHECKING:
    from ratlip_cli.training.dry_run import DryRun
    from ratlip_cli.training.session import TrainingSession
    from ratlip_cli.training.trainer import StepRecord

SHOWN = {"D": "loss_d", "G": "loss_g", "CLIP": "clip_similarity"}
"""Of what a step measured, what stands beside the bar."""


@with_options(all_settings().values(), noun_of="dataset")
def train(
    typed: Typed,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|PRESET",
            help=f"TOML file with any of these settings, or one of: {', '.join(preset_names())}.",
            autocompletion=complete_choice(preset_names()),
        ),
    ] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the settings as TOML and stop.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure a few steps, print what the run would be and cost, begin no run.")
    ] = False,
    devices: DevicesOfTraining = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a model on captioned images, or with LAFITE on images alone. The run folder goes to stdout.

    What is typed wins over --config, and --config over the dataset's preset. Ctrl-C ends the step and saves.

    [bold]Examples[/]

    ratlip train oxford --device cuda

    ratlip train data/my-images --config small --dry-run

    ratlip train cub --resume auto --variant galip --max-time 8h

    ratlip train my-images --variant lafite --language-free

    ratlip train cub --devices all
    """
    is_first = processes.begin()  # of several processes the first one speaks
    console.set_up(quiet or not is_first)
    check_model_name(str(typed["init_from"]) if typed.get("init_from") else None)
    settings = resolve_settings(typed, config)
    if print_config and json:
        console.result_json(settings.flat())
        return
    if print_config:
        console.result_toml(settings.to_toml().rstrip())
        return
    several = count(devices, settings.device)
    if dry_run or not processes.are_of_torchrun():  # which may start them again, to go on with the run that is there
        check_beginning(settings, several)
    if several > 1 and not dry_run:
        run_again_in(several)
        return
    if dry_run and not is_first:
        return
    waiting.hardly_wait_where_busy()

    from ratlip_cli.device import keep_freed_memory
    from ratlip_cli.training.dry_run import dry_run as measure
    from ratlip_cli.training.start import open_session
    from ratlip_cli.weights.model_folder import fingerprint_of

    keep_freed_memory()
    if dry_run:
        with console.bars() as progress:
            measured = measure(settings, progress)
        if json:
            console.result_json(asdict(measured))
        else:
            _show_dry_run(measured)
        return

    with ExitStack() as stack:
        with console.bars() as progress:
            session = open_session(settings, console.note, progress)
            stop = stack.enter_context(StopRequest())
        go_on = f"Go on with: ratlip train --resume {shlex.quote(str(session.folder.path))}"
        stack.enter_context(signals.keeping(go_on))
        last = _run(session, stop, go_on)
    session.trainer.world.leave()
    if not is_first:
        return
    told = {
        "run": session.folder.path,
        "model": session.folder.model,
        "fingerprint": fingerprint_of(session.folder.model),
        "step": session.trainer.steps_done,
        "total_steps": session.total_steps,
        "finished": session.finished,
        "last": last.line() if last else None,
    }
    console.answer(json, told, session.folder.path)


def _run(session: TrainingSession, stop: StopRequest, go_on: str) -> StepRecord | None:
    """Train, showing progress; return the last step's record. Raises Interrupted when a signal ended it early."""
    path, done, total = session.folder.path, session.trainer.steps_done, session.total_steps
    if session.finished:
        console.note(f"{path} is finished after {done} steps; to go on, resume it with a larger --steps or --epochs.")
    elif done < total:
        size = session.trainer.world.size
        of_several = f", in {size} processes" if size > 1 else ""
        console.note(f"training in {path}, steps {done + 1} to {total}, on {session.trainer.device}{of_several}")
    if session.unscored:
        console.note(f"step {done} is scored, which it was not")
    record, skipped = None, 0
    with signals.keeping(lambda: _saved(path)), console.progress("train", total, done, unit="steps") as advance:
        for record in session.run(lambda: stop.signal_number is not None):
            skipped += record.skipped
            advance(1, **_figures(record, skipped), **session.scores)
    if not session.finished:
        (number,) = session.trainer.world.largest(stop.signal_number or 0)  # only one of several may have had it
        if number:
            raise Interrupted(session.stopped, int(number))
        console.note(f"{session.stopped} {go_on}")
    return record


def _saved(run: Path) -> str:
    """What a second signal has left."""
    step = step_saved(run)
    return f"Step {step} is saved, and nothing after it." if step else "No step is saved yet."


def _figures(record: StepRecord, skipped: int) -> dict[str, object]:
    figures: dict[str, object] = {shown: record.logs[name] for shown, name in SHOWN.items() if name in record.logs}
    return {**figures, "images/s": record.images_per_second, **({"skipped": skipped} if skipped else {})}


def _show_dry_run(measured: DryRun) -> None:
    rows = [
        ("dataset", measured.dataset),
        ("training images", f"{measured.images:,}" if measured.images else "not known"),
        ("captions", "encoded in each step" if measured.captions is None else f"{measured.captions:,}"),
        ("device", measured.device),
        ("precision", measured.precision),
        ("generator, trained parameters", f"{measured.generator_parameters:,}"),
        ("discriminator, trained parameters", f"{measured.discriminator_parameters:,}"),
        ("CLIP, frozen parameters", f"{measured.clip_parameters:,}"),
        ("peak memory", f"{measured.memory_mib / 1024:.1f} GiB"),
        ("one checkpoint on disk", f"{measured.checkpoint_mib / 1024:.2f} GiB"),
        ("steps", f"{measured.steps:,}" + (f", {measured.steps_done:,} of them done" if measured.steps_done else "")),
        ("epochs", "not known" if measured.epochs is None else f"{measured.epochs:,.1f}"),
        ("time per step", f"{measured.seconds_per_step:.3g} s"),
        ("time to encode the captions, once", console.duration(measured.seconds_for_text)),
        (f"time of all steps{' left' if measured.steps_done else ''}", console.duration(measured.seconds)),
    ]
    for line in filter(None, (measured.start, *measured.notes)):
        console.note(line)
    console.result_table("This run would be", ("", "value"), rows)


class StopRequest:
    """Notes the first signal, so that the step can be ended and saved; the next one acts at once.

    Except SIGHUP: a terminal that is closed sends it to its programs, and so does the shell in it. SIGUSR1 counts as
    SIGTERM. One of several processes heeds the first alone: torchrun, which kills after 30 seconds, sends it again.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._handlers = ExitStack()

    def __enter__(self) -> StopRequest:
        self._handlers.enter_context(signals.handled(signals.ending(), self._note))
        return self

    def __exit__(self, *error: object) -> None:
        self._handlers.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.signal_number is None:
            self.signal_number = int(signal.SIGTERM) if name == "SIGUSR1" else number
            if not processes.are_several():  # else torchrun sends it to each
                signals.say("\nending the step and saving; once more stops at once")
        elif name not in ("SIGHUP", "SIGUSR1") and not processes.are_several():  # else torchrun passes on what all had
            signals.stop(number, frame)
