"""The standard streams, so that none that is closed, full or gone can end the work or change its exit code."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from pathlib import Path
from typing import Any

_READER_GONE = (errno.EPIPE, errno.ECONNRESET, errno.EINVAL)
"""How a pipe or socket says that nobody reads any more, EINVAL on Windows."""


class Patient(io.RawIOBase):
    """The lowest layer of an output stream: what it does not take is dropped, so that no layer above ever fails."""

    def __init__(self, stream: io.TextIOWrapper, raw: io.RawIOBase) -> None:
        super().__init__()
        self._stream = stream  # closes `raw` when it goes
        self._raw = raw
        self.failure: OSError | None = None
        """The first reason for which something was dropped."""

    def writable(self) -> bool:
        """True."""
        return True

    def fileno(self) -> int:
        """The number of the file below."""
        return int(self._raw.fileno())

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return bool(self._raw.isatty())

    def write(self, data: Any) -> int:
        """Write as much of `data` as goes at once; returns how much that was, all of it where nothing can be."""
        try:
            while (written := self._raw.write(data)) is None:  # another program made it non-blocking, and it is full
                select.select((), (self._raw,), ())
            return int(written)
        except OSError as error:
            self.failure = self.failure or error
            return len(data)


def set_up() -> None:
    """Put streams that cannot fail in the place of standard streams that are missing or may fail."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _take(number)
            setattr(sys, name, Path(os.devnull).open("r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
    sys.stdout, sys.stderr = _patient(sys.stdout), _patient(sys.stderr)


def lost_result() -> str | None:
    """Why something of the result did not arrive at stdout; None where nothing is missing or nobody reads it."""
    failure = getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "failure", None)
    return None if failure is None or failure.errno in _READER_GONE else str(failure.strerror)


def _patient(stream: Any) -> Any:
    if not isinstance(stream, io.TextIOWrapper):  # a notebook's, a test's
        return stream
    raw = getattr(stream.buffer, "raw", stream.buffer)  # without buffer under `python -u`
    if not isinstance(raw, io.RawIOBase) or isinstance(raw, Patient):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(Patient(stream, raw)),
        stream.encoding,
        errors="backslashreplace",  # letters that a terminal does not have are no reason to stop
        line_buffering=True,
        write_through=stream.write_through,
    )


def _take(number: int) -> None:
    """Open the file of that number as the null device, where it is closed: else the next file opened would get it."""
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
        os.set_inheritable(null, True)
