"""How the scripts of the demo end where something can be put right: with one line on stderr, as `ratlip` does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from ratlip_cli.errors import RatlipError


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`; RatlipError ends it with its exit code, a file that is missing or in the way with 1."""
    try:
        main()
    except (RatlipError, OSError) as error:
        told = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
        print(f"{Path(sys.argv[0]).name}: {told}", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, RatlipError) else 1)
