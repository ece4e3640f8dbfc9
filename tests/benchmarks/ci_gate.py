"""How long the line of a CI job takes with the bundled model, cold and again.

    python tests/benchmarks/ci_gate.py [--bytecode]

`ratlip evaluate --fid --clip-score` twice, in an empty working directory, with empty caches, offline as far as
libraries can be told so. With `--bytecode` Python finds what it compiled before, as after an install by pip; without,
nothing, as after one by uv. Prints one JSON object; exits with 1 where the first takes longer than the limit or the
numbers differ.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ratlip_cli.environment import cpu_name

LIMIT = 60.0
"""Seconds, cold, on two idle cores."""

COMMAND = (sys.executable, "-m", "ratlip_cli", "evaluate", "--fid", "--clip-score", "--json")


def scored(folder: Path, environment: dict[str, str]) -> tuple[float, dict[str, float]]:
    """Seconds and scores of the command."""
    started = time.perf_counter()
    ran = subprocess.run(COMMAND, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE)
    seconds = time.perf_counter() - started
    return seconds, {name: score["value"] for name, score in json.loads(ran.stdout)["metrics"].items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytecode", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ignored = ("RATLIP_DATA", "PYTHONDONTWRITEBYTECODE", "HF_HUB_CACHE")
        environment = {key: value for key, value in os.environ.items() if key not in ignored}
        environment |= {"HF_HUB_OFFLINE": "1"}
        environment |= {one: str(folder / one) for one in ("XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME", "HOME")}
        if not options.bytecode:
            environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
        work = folder / "work"
        work.mkdir()
        (cold, first), (warm, second) = scored(work, environment), scored(work, environment)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    times = {"cold": round(cold, 1), "again": round(warm, 1), "limit": LIMIT}
    told = {"cpu": cpu_name(), "bytecode": options.bytecode, "cores": cores, "seconds": times}
    print(json.dumps({**told, "scores": [first, second]}))
    return int(cold > LIMIT or first != second)


if __name__ == "__main__":
    sys.exit(main())
