"""How long OpenMP's threads look for the next piece of a layer before they sleep; decided before torch is imported.

libgomp, which PyTorch's Linux wheels carry, lets them look for milliseconds. Where another process computes, a thread
that looks keeps the core from the one that it waits for.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from ratlip_cli.threads import available_threads

_BRIEFLY, _HARDLY = "1000", "100"
"""Rounds of looking: some microseconds, in which most gaps between two layers end; and less than most gaps last."""
_OURS = "_RATLIP_SPINCOUNT"
"""What ratlip chose: by it this process and those that it starts tell that the number is not the user's."""
_WATCHED_SECONDS = 0.2
_TICKS = Path("/proc/stat")


def wait_briefly() -> None:
    """Let threads look briefly, unless the user's environment says how they wait."""
    if os.environ.keys().isdisjoint({"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}):
        _choose(_BRIEFLY)


def hardly_wait_where_busy() -> None:
    """For long work in small layers: where other processes compute now, let threads sleep at once.

    That is faster then and slower else. Changes what `wait_briefly` chose, and nothing that the user did.
    """
    chosen = os.environ.get("GOMP_SPINCOUNT")
    if chosen == _BRIEFLY and chosen == os.environ.get(_OURS) and _is_busy():
        _choose(_HARDLY)


def users_environment() -> dict[str, str]:
    """The environment without what `wait_briefly` and `hardly_wait_where_busy` put into it."""
    environment = dict(os.environ)
    chosen = environment.pop(_OURS, None)
    if environment.get("GOMP_SPINCOUNT") == chosen:
        environment.pop("GOMP_SPINCOUNT", None)
    return environment


def _choose(rounds: str) -> None:
    os.environ["GOMP_SPINCOUNT"] = os.environ[_OURS] = rounds


def _is_busy() -> bool:
    """Whether other processes leave half a core less than our threads can use; False where the system does not tell."""
    try:
        cores = os.sched_getaffinity(0)
        idle, every = _core_ticks(cores)
        time.sleep(_WATCHED_SECONDS)
        idle_after, every_after = _core_ticks(cores)
    except (AttributeError, OSError, ValueError):
        return False
    threads = min(available_threads(), len(cores))
    passed = every_after - every
    return passed > 0 and (idle_after - idle) * len(cores) <= (threads - 0.5) * passed


def _core_ticks(cores: set[int]) -> tuple[int, int]:
    """Ticks that Linux counted of these cores since it started: those without work, and all."""
    names, idle, every = {f"cpu{core}" for core in cores}, 0, 0
    for name, *fields in map(str.split, _TICKS.read_text(encoding="ascii").splitlines()):
        if name in names:
            ticks = [int(field) for field in fields[:8]]
            idle, every = idle + ticks[3] + ticks[4], every + sum(ticks)
    return idle, every
