"""Imported first by conftest.py: what a machine or CI system sets, and tests must not see."""

from __future__ import annotations

import os

for _name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE"):  # Typer reads them when it is imported
    os.environ.pop(_name, None)
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"  # the servers of the tests are on this machine
