"""The Typer app: one command a file, registered here. Turns every RatlipError into one line and its exit code."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated

import typer

import ratlip_cli
from ratlip_cli import processes
from ratlip_cli.cli import console, signals, streams
from ratlip_cli.cli.bench import bench
from ratlip_cli.cli.compare import compare
from ratlip_cli.cli.convert import convert
from ratlip_cli.cli.edit import edit
from ratlip_cli.cli.env import env
from ratlip_cli.cli.evaluate import evaluate
from ratlip_cli.cli.export import export
from ratlip_cli.cli.generate import generate
from ratlip_cli.cli.gradcam import gradcam
from ratlip_cli.cli.info import info
from ratlip_cli.cli.latent_viz import latent_viz
from ratlip_cli.cli.play import play
from ratlip_cli.cli.prepare import prepare
from ratlip_cli.cli.pull import pull
from ratlip_cli.cli.push import push
from ratlip_cli.cli.report import report
from ratlip_cli.cli.reproduce import reproduce
from ratlip_cli.cli.runs import runs
from ratlip_cli.cli.sweep import sweep
from ratlip_cli.cli.train import train
from ratlip_cli.errors import READER_KILLED, DistributedError, Interrupted, RatlipError, UsageError, is_of_readers

COMMANDS = (
    *(prepare, train, generate, edit, evaluate, gradcam, latent_viz),
    *(sweep, compare, reproduce, report, play, runs, info, bench, pull, push, convert, export, env),
)
"""In the order of the help."""


def _version(asked: bool) -> None:
    if asked:
        console.result(f"ratlip {ratlip_cli.__version__}")
        raise typer.Exit


SHARED = ("train", "generate", "evaluate")
"""Commands that several processes share out; the others are for one."""


def _ratlip(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    console.set_up()
    _check_paths()
    if processes.are_several() and context.invoked_subcommand not in SHARED:
        if processes.rank() > 0:
            raise typer.Exit
        console.note(f"{context.invoked_subcommand} works in one process: the others have nothing to do")
        processes.go_alone()


def _app_of(commands: Iterable[Callable[..., None]]) -> typer.Typer:
    app = typer.Typer(
        name="ratlip",
        help="Text-to-image GANs on frozen CLIP: train, generate, evaluate and explain RATLIP and GALIP models.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_ratlip)
    for command in commands:
        app.command()(command)
    return app


app = _app_of(COMMANDS)


def _app_that_is_asked() -> typer.Typer:
    """The app with the one command that is typed first, as Typer reads the options of all that an app has."""
    named = [command for command in COMMANDS if command.__name__.replace("_", "-") in sys.argv[1:2]]
    return _app_of(named) if named else app


PATHS = (
    *("--dataset", "--data-dir", "--images", "--reference", "--raw", "--image-root", "--image", "--like"),
    *("--resume", "--init-from", "--config", "--clip", "--score-clip", "--clip-score-clip"),
)
"""Options that are empty where a variable of a script is not set, and would mean the folder that one is in, or none."""


def _check_paths() -> None:
    """Raise UsageError for an option of PATHS that is empty."""
    for option, value in itertools.pairwise([*sys.argv, "-"]):
        name, _, joined = option.partition("=")
        if name in PATHS and not (joined if "=" in option else value):
            raise UsageError(f"{name} is empty: give a path, or leave it out.")


def main() -> None:
    """Run the command line. Exits with 0, 1, 2, 3 or 128 + signal; RATLIP_DEBUG=1 adds the traceback of an error."""
    streams.set_up()
    with signals.raising():
        try:
            with _only_first_prints():
                _app_that_is_asked()()
        except (RatlipError, Interrupted, OSError, MemoryError, RuntimeError) as error:
            told = error if isinstance(error, RatlipError | Interrupted) else _in_one_line(error)
            if told is None:
                raise
            if os.environ.get("RATLIP_DEBUG") == "1":
                traceback.print_exc()
            if processes.are_several():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends all where one has ended
            ended_by_others = processes.rank() > 0 and isinstance(told, Interrupted)  # torchrun ends all with one
            if not processes.are_several() or (not ended_by_others and processes.speaks()):
                console.error(str(told))
            if not isinstance(told, DistributedError):
                processes.end()
            processes.part()
            sys.exit(told.exit_code)
        finally:
            if lost := streams.lost_result():
                console.error(f"stdout: {lost}; the result that was to be shown there is not complete.")


@contextlib.contextmanager
def _only_first_prints() -> Iterator[None]:
    """Let what another one than the first of several processes prints go nowhere; why all end is told outside.

    A usage error of another one is told where the first has none. It waits for that: torchrun ends all with the first
    that ends, which is to be the one that speaks.
    """
    if processes.rank() == 0:
        yield
        return
    words = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(words):
            yield
    except SystemExit as end:
        if end.code:
            processes.wait_to_be_ended()
            sys.stderr.write(words.getvalue())
        raise


def _in_one_line(error: Exception) -> RatlipError | None:
    """What the machine refused, in words; None for anything else, which is our mistake and deserves its traceback."""
    if isinstance(error, OSError):
        return RatlipError(f"{error.filename or 'the system'}: {error.strerror or error}.")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return RatlipError(
            "the memory is full; use a smaller --batch-size or --image-size, fewer --workers or another --device."
        )
    if isinstance(error, NotImplementedError) and "MPS" in str(error):
        return RatlipError(
            "this PyTorch lacks an operation on mps; set PYTORCH_ENABLE_MPS_FALLBACK=1 or use --device cpu."
        )
    if is_of_readers(error):
        return RatlipError(READER_KILLED)
    if "can't allocate memory" in str(error):
        return RatlipError("the memory is full; use a smaller --batch-size or --image-size.")
    return None
