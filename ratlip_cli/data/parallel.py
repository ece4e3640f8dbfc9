"""Work spread over processes, its results in order and its memory bounded."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import TypeVar

from ratlip_cli.errors import DataError
from ratlip_cli.setting import check_count
from ratlip_cli.threads import MOST_THREADS, usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

IN_FLIGHT = 4
"""Items per worker that are taken from the input before their results are asked for."""

PATIENCE = 5
"""Seconds that workers have to end what they are at, once nobody waits for it."""


def processes(asked: int | None) -> int:
    """The number of processes asked for; None is one per usable core. Raises UsageError for one out of range."""
    check_count("--workers", asked, least=0, most=MOST_THREADS)
    if asked is not None:
        return asked
    return usable_cores()


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Generator[tuple[Item, Result], None, None]:
    """Yield (item, function(item)) for each of `items`, in their order.

    With fewer than two `workers` everything runs in this process. Otherwise `function`, its items and its results are
    pickled, and the workers import the main module: a script that comes here does so under ``if __name__ ==
    "__main__"``. At most IN_FLIGHT * workers items are held at a time. An exception of `function` is raised here.
    Workers leave Ctrl-C and SIGHUP to this process and end with it, even when it is killed, or PATIENCE seconds after
    an error; so an item may be begun and never done. Close the generator where
    an error or Ctrl-C may leave it before its end. Raises DataError when a worker dies.
    """
    if workers < 2:
        for item in items:
            yield item, function(item)
        return
    _start_helpers()
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(workers, mp_context=_context(), initializer=_start_worker)
    # Workers are started where no signal is met: one that is stopped half way through its start writes a traceback.
    undisturbed = ThreadPoolExecutor(1)
    window: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            window.append((item, undisturbed.submit(pool.submit, function, item).result()))
            if len(window) == IN_FLIGHT * workers:
                done, future = window.popleft()
                yield done, future.result()
        while window:
            done, future = window.popleft()
            yield done, future.result()
    except BrokenProcessPool:
        raise DataError(
            "a worker process was killed (out of memory?). What is done is kept: run again with fewer --workers."
        ) from None
    finally:
        undisturbed.shutdown()
        own = [child for child in multiprocessing.active_children() if child not in others]
        patience = threading.Timer(PATIENCE, _end, [own])
        patience.start()
        pool.shutdown(cancel_futures=True)
        patience.cancel()


def _end(workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        worker.terminate()


def _context() -> BaseContext:
    """Processes that begin afresh: one that is forked from several threads may wait for a lock for ever."""
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")


def _start_helpers() -> None:
    """Start the processes that multiprocessing needs besides, so that they leave SIGHUP to this one, as the rest."""
    if sys.platform == "win32":
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # whoever is started now inherits it
    try:
        resource_tracker.ensure_running()
        if "forkserver" in multiprocessing.get_all_start_methods():
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # So the pool ends its workers, when one of them has died.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
