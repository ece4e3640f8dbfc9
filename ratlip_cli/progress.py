"""How long work tells how far it is: one type for all of it, and nothing that prints."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, int, int | None, str], None]
"""Called with what is being done, units done so far, units in all (None where nobody knows), and what a unit is."""


class Stopped(Exception):
    """A Progress raises it to stop the work that it is told of."""


def silent(what: str, done: int, total: int | None, unit: str) -> None:
    """A Progress that nobody watches."""


def duration(seconds: float) -> str:
    """Seconds as people say them: 45s, 12m 30s, 3h 05m."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes}m {seconds:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m"
