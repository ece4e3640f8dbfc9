"""What is read of one's own images, for the tests of its sources."""

from __future__ import annotations

from pathlib import Path

from ratlip_cli.data.layout import Problem, Record
from ratlip_cli.data.sources.own_images import Options, records


def read(path: Path, **options: object) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Return the captions of what can be used, by origin, and the reasons of what cannot."""
    found = list(records(path, Options(**options)))
    good = {item.origin: item.captions for item in found if isinstance(item, Record)}
    bad = {item.name: item.reason for item in found if isinstance(item, Problem)}
    assert len(good) + len(bad) == len(found)
    return good, bad
