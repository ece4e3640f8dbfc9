"""The processes of torch's DataLoader: they leave signals to their parent, and nobody waits for one that has gone."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader

from ratlip_cli.errors import READER_KILLED, DataError, is_of_readers

LEFT_TO_PARENT = [
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if name in signal.Signals.__members__
]


def leave_signals_to_parent(_worker: int) -> None:
    """What a DataLoader's process does first, see `started`."""
    for number in LEFT_TO_PARENT:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_PARENT)


def started(loader: DataLoader[Any]) -> Iterator[Any]:
    """The iterator of a loader whose processes are deaf to signals from their first moment on.

    Until `leave_signals_to_parent` runs in them, they would end by a signal that was meant for their parent too.
    """
    if sys.platform == "win32":
        return iter(loader)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_PARENT)  # whoever is started now inherits it
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def read_in_turn(loaders: Sequence[DataLoader[Any]], turn: Callable[[], int]) -> Generator[Any, None, None]:
    """Yield the next item of the loader whose turn it is, without end.

    The processes end when the generator is closed, when Python ends, or with an error. Raises DataError where one
    of them was killed, and what an item is where it is an exception, which a process cannot raise without a traceback
    in its text.
    """

    def items() -> Generator[Any, None, None]:
        others = set(multiprocessing.active_children())
        pins = any(loader.pin_memory for loader in loaders)
        if pins:
            let_pinning_end_in_silence()
        readers = [started(loader) for loader in loaders]
        processes = set(multiprocessing.active_children()) - others
        try:
            while True:
                item = next_of(readers[turn()])
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            with _deaf_to_children():
                if pins:  # a thread that reads what a process hands over would wait for ever for the rest
                    close_at_once(readers)
                for process in processes:  # before PyTorch waits for each in turn; it is deaf to what PyTorch sends
                    process.kill()
                for process in processes:
                    process.join()
                readers.clear()

    generator = items()
    atexit.register(_close, weakref.ref(generator))  # before multiprocessing, which waits for ever for the deaf
    return generator


def next_of(reader: Iterator[Any]) -> Any:
    try:
        return next(reader)
    except (ConnectionError, EOFError):  # of a batch that it was just handing over
        raise DataError(READER_KILLED) from None
    except RuntimeError as error:
        if not is_of_readers(error):
            raise
        raise DataError(READER_KILLED) from None


def close_at_once(readers: list[Iterator[Any]]) -> None:
    """Close readers side by side, as long as they may take: each ends its thread first, then waits for its process."""
    closing = [threading.Thread(target=[reader].clear, daemon=True) for reader in readers]
    readers.clear()
    with contextlib.suppress(RuntimeError):  # Python ends, and begins no thread
        for thread in closing:
            thread.start()
        deadline = time.monotonic() + _CLOSING_SECONDS
        for thread in closing:
            thread.join(max(0.0, deadline - time.monotonic()))


def let_pinning_end_in_silence() -> None:
    """Let the thread that pins memory print no traceback where a process was killed; `next` tells of it."""
    if threading.excepthook is not _without_pinning:
        _hooks.append(threading.excepthook)
        threading.excepthook = _without_pinning


def _without_pinning(told: Any) -> None:
    pins = told.thread is not None and "_pin_memory_loop" in told.thread.name
    if not (pins and issubclass(told.exc_type, ConnectionError | EOFError)):
        _hooks[-1](told)


_hooks: list[Callable[[Any], Any]] = []
_CLOSING_SECONDS = 1.0


@contextlib.contextmanager
def _deaf_to_children() -> Iterator[None]:
    """Where a process was killed, PyTorch's handler would complain of it again when the others end."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        if handler is not None:  # which a library in C has set, and Python cannot set again
            signal.signal(signal.SIGCHLD, handler)


def _close(generator: weakref.ref[Generator[Any, None, None]]) -> None:
    if (open_one := generator()) is not None:
        open_one.close()
