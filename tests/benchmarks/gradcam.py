"""How long `ratlip gradcam` of one image takes, as a multiple of `ratlip generate` of it, each a process of its own.

    python tests/benchmarks/gradcam.py [MODEL]

Prints one JSON object; exits with 1 where the multiple is above the limit.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time

from ratlip_cli.environment import cpu_name

LIMIT = 3.0
ROUNDS = 5
PROMPT = "a red bird with black wings"


def seconds(command: str, model: str, out: str) -> float:
    arguments = [command, PROMPT, "--model", model, "--device", "cpu", "--quiet", "--out", out]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "ratlip_cli", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> int:
    model = sys.argv[1] if len(sys.argv) > 1 else "ratlip-demo"
    with tempfile.TemporaryDirectory() as out:
        for command in ("generate", "gradcam"):  # once to warm the disk and matplotlib's list of fonts
            seconds(command, model, out)
        rounds = [{command: seconds(command, model, out) for command in ("generate", "gradcam")} for _ in range(ROUNDS)]
    multiple = statistics.median(one["gradcam"] / one["generate"] for one in rounds)
    medians = {name: round(statistics.median(one[name] for one in rounds), 2) for name in rounds[0]}
    told = {"cpu": cpu_name(), "model": model, "seconds": medians}
    print(json.dumps({**told, "multiple": round(multiple, 2), "limit": LIMIT}))
    return int(multiple > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
