"""Running `ratlip` as people do, in this process or in one of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from ratlip_cli.cli.app import main


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str


def ratlip(*arguments: object) -> Answer:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with patch.object(sys, "argv", ["ratlip", *map(str, arguments)]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    return Answer(int(str(code)), out.getvalue(), err.getvalue())


def ratlip_stopped(signal_number: int, when: Callable[[], bool], *arguments: object) -> Answer:
    """Run the command line in this process, and send it a signal as soon as `when` says so."""

    def send() -> None:
        deadline = time.monotonic() + 600
        while not when() and not ended.is_set() and time.monotonic() < deadline:
            time.sleep(0.02)
        if not ended.is_set():  # else it would be sent to the tests themselves
            os.kill(os.getpid(), signal_number)

    ended = threading.Event()
    sender = threading.Thread(target=send)
    sender.start()
    try:
        return ratlip(*arguments)
    finally:
        ended.set()
        sender.join()


def ratlip_process(*arguments: object, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start the command line in a process of its own, which leads a process group as it does in a terminal."""
    command = [sys.executable, "-m", "ratlip_cli", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
