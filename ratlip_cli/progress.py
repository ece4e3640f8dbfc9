"""How long work tells how far it is: one type for all of it, and nothing that prints."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, int, int | None, str], None]
"""Called with what is being done, units done so far, units in all (None where nobody knows), and what a unit is."""


def silent(what: str, done: int, total: int | None, unit: str) -> None:
    """A Progress that nobody watches."""
