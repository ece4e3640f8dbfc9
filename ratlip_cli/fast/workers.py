"""Work on several cores at once, a whole piece of it on each: no thread waits for another inside a layer."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def spread(work: Callable[..., Result], pieces: Iterable[tuple[Tensor, ...]]) -> list[Result]:
    """[work(*piece) for piece in pieces], without gradients, each piece by one thread, which takes the next when done.

    As many threads as PyTorch has in the caller's, whose autocast holds in them too. Layers are not cut among threads,
    so that a result does not depend on their number; and where another process takes a core, the piece that lay there
    is late, where otherwise every layer of every piece would be.
    """
    dtype, enabled = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

    def alone(piece: tuple[Tensor, ...]) -> Result:
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled):
            return work(*piece)

    threads = torch.get_num_threads()
    return list(map(alone, pieces) if threads == 1 else _pool(threads).map(alone, pieces))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads in each of which PyTorch, OpenMP and MKL count one thread."""
    ready = threading.Barrier(threads + 1)

    def begin() -> None:
        torch.get_num_threads()  # what is set before a thread is first asked does not last
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads, "ratlip", begin)
    for _ in range(threads):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(threads)  # what threads to come will count; each has set it to 1
    return pool
