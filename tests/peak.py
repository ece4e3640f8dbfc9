"""The most memory that a process has had, for tests that read it in one of its own."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path


def peak() -> int:
    """MiB. Linux tells it of this program; what `resource` says there includes the program that started it."""
    if Path("/proc/self/status").is_file():
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
        if found:
            return int(found[1]) // 1024
    per_mib = 2**20 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // per_mib


def peak_of(code: str, *arguments: object) -> int:
    """What a program of its own prints last, which can import `peak` from here."""
    path = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return int(run.stdout.splitlines()[-1])
