"""How long OpenMP's threads look for the next piece of a layer before they sleep; decided before torch is imported.

libgomp, which PyTorch's Linux wheels carry, lets them look for milliseconds. Where another process computes, a thread
that looks keeps the core from the one that it waits for.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_BRIEFLY, _HARDLY = "1000", "100"
"""Rounds of looking: some microseconds, in which most gaps between two layers end; and less than most gaps last."""
_WATCHED_SECONDS = 0.2


def wait_briefly() -> None:
    """Let threads look briefly, unless the user's environment says how they wait."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _BRIEFLY)


def hardly_wait_where_busy() -> None:
    """For long work in small layers: where other processes compute now, let threads sleep at once.

    That is faster then and slower else. Changes what `wait_briefly` chose, and nothing that the user did.
    """
    if os.environ.get("GOMP_SPINCOUNT") == _BRIEFLY and _is_busy():
        os.environ["GOMP_SPINCOUNT"] = _HARDLY


def _is_busy() -> bool:
    """Whether other processes leave half a core less than our threads can use; False where the system does not tell."""
    try:
        idle, every = _core_ticks()
        time.sleep(_WATCHED_SECONDS)
        idle_after, every_after = _core_ticks()
    except (OSError, ValueError):
        return False
    asked, cores = os.environ.get("OMP_NUM_THREADS", ""), os.cpu_count() or 1
    threads = min(int(asked), cores) if asked.isdecimal() else cores
    return (idle_after - idle) * cores <= (threads - 0.5) * (every_after - every)


def _core_ticks() -> tuple[int, int]:
    """Ticks that Linux counted of all cores since it started: those without work, and all."""
    ticks = [int(field) for field in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)
