"""How many threads the CPU's libraries take. Imports no torch."""

from __future__ import annotations

import os

MOST_THREADS = 1024
"""Threads or processes that can be asked for: more than the cores of one machine."""


def available_threads() -> int:
    """OMP_NUM_THREADS where it says a number, else as many as there are cores for this process."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # the rest is of threads inside threads
    if asked.isdecimal() and int(asked):
        return int(asked)
    return usable_cores()


def usable_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
