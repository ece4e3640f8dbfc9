"""How long `ratlip --help` takes, as a share of `python -c "import torch"` in the same run.

    python tests/benchmarks/start.py

Prints one JSON object; exits with 1 where the share is above the limit.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

LIMIT = 0.25
ROUNDS = 7


def seconds(*arguments: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> int:
    commands = {"help": ("-m", "ratlip_cli", "--help"), "torch": ("-c", "import torch")}
    for arguments in commands.values():  # once to warm the disk
        seconds(*arguments)
    rounds = [{name: seconds(*arguments) for name, arguments in commands.items()} for _ in range(ROUNDS)]
    share = statistics.median(one["help"] / one["torch"] for one in rounds)
    medians = {name: round(statistics.median(one[name] for one in rounds), 3) for name in commands}
    print(json.dumps({"seconds": medians, "share": round(share, 3), "limit": LIMIT}))
    return int(share > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
