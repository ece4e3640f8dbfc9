"""The signals that ask to stop: SIGINT (Ctrl-C), SIGTERM, SIGHUP (the terminal was closed), and SIGUSR1 as SIGTERM."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

from ratlip_cli import processes
from ratlip_cli.errors import Interrupted
from ratlip_cli.errors import keeping as keeping

_SAYS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "the terminal was closed"}


def stopping() -> list[signal.Signals]:
    """The signals that ask to stop on this system; SIGHUP is not among them where `nohup` has it ignored."""
    known = [signal.Signals[name] for name in _SAYS if name in signal.Signals.__members__]
    return [one for one in known if one.name != "SIGHUP" or signal.getsignal(one) is not signal.SIG_IGN]


def ending() -> list[signal.Signals]:
    """Those of `stopping`, and SIGUSR1, by which SLURM tells that the time is nearly over, unless it is ignored."""
    user = [signal.Signals["SIGUSR1"]] if "SIGUSR1" in signal.Signals.__members__ else []
    return [*stopping(), *(one for one in user if signal.getsignal(one) is not signal.SIG_IGN)]


@contextlib.contextmanager
def handled(numbers: Iterable[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let `handler` have the signals `numbers`, whatever had them before."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Let the signals that ask to stop raise Interrupted, but for those that are ignored."""
    hook, sys.unraisablehook = sys.unraisablehook, _again
    try:
        with handled([one for one in ending() if signal.getsignal(one) is not signal.SIG_IGN], stop):
            yield
    finally:
        sys.unraisablehook = hook


def stop(number: int, frame: FrameType | None) -> None:
    """Raise Interrupted; while a module is imported, end the process.

    What imports a module may go on without it where that fails, and would take the interruption for the reason.
    """
    number = signal.SIGTERM if signal.Signals(number).name == "SIGUSR1" else number
    message = f"{_SAYS[signal.Signals(number).name]}."
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            if processes.rank() == 0:  # torchrun ends all where one has ended, whose own words say why
                say(f"error: {message}")
            os._exit(128 + number)
        frame = frame.f_back
    raise Interrupted(message, number)


def say(line: str) -> None:
    """Write a line to stderr from a signal handler, where print is not safe."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())


def _again(missed: Any) -> None:
    """Send the signal once more where Python had to drop its exception, as it does in destructors and callbacks."""
    if isinstance(missed.exc_value, Interrupted):
        try:
            threading.Timer(0.05, os.kill, (os.getpid(), missed.exc_value.exit_code - 128)).start()
        except Interrupted:  # on a busy machine it comes before start() is over, and would be dropped here again
            _again(missed)
    else:
        sys.__unraisablehook__(missed)
