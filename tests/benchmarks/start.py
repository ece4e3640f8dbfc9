"""How long the command line takes to start, in the same run as what it is compared with.

    python tests/benchmarks/start.py

`ratlip --help`, and the first image of a cold `ratlip generate` with the bundled model, as multiples of
`python -c "import torch"`. Prints one JSON object; exits with 1 where a limit
is passed.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = {"help": 7, "generate": 7}
LIMITS = {"help": 0.25, "generate": 1.4}


def seconds(*arguments: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        prompt_and_options = ("a red bird", "--model", "ratlip-demo", "--out", str(Path(folder, "images")))
        generating = ("-m", "ratlip_cli", "generate", *prompt_and_options)
        commands = {
            "help": (("-m", "ratlip_cli", "--help"), ("-c", "import torch")),
            "generate": (generating, ("-c", "import torch")),
        }
        result: dict[str, dict[str, float]] = {}
        for name, pair in commands.items():
            for command in pair:  # once to warm the disk
                seconds(*command)
            rounds = [[seconds(*command) for command in pair] for _ in range(ROUNDS[name])]
            result[name] = {
                "seconds": round(statistics.median(ours for ours, _ in rounds), 3),
                "compared_with": round(statistics.median(other for _, other in rounds), 3),
                "share": round(statistics.median(ours / other for ours, other in rounds), 3),
                "limit": LIMITS[name],
            }
    print(json.dumps(result))
    return int(any(one["share"] > one["limit"] for one in result.values()))


if __name__ == "__main__":
    sys.exit(main())
