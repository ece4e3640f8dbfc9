"""How fast the playground answers a visitor, over HTTP and through its queue, with the bundled model.

    python tests/benchmarks/play.py

Seconds from the request to the answer for one image and for eight; beside them what
`generate` takes for the same images in the same run. Prints one JSON object; exits with 1 where an image takes 0.3 s.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from playground_client import Client

from ratlip_cli import load_model
from ratlip_cli.environment import cpu_name
from ratlip_cli.web.playground import served

ROUNDS = 9
LIMIT = 0.3  # seconds an image


def seconds(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> int:
    model = load_model("ratlip-demo")
    result: dict[str, float] = {}
    with served([model]) as address:
        client = Client(address)
        for count in (1, 8):

            def answered(count: int = count) -> None:
                if not client.done("one_prompt", "a red bird", 1, "ratlip-demo", count, 0, 1)["success"]:
                    raise RuntimeError("the playground did not answer")

            generated = seconds(lambda count=count: model.generate("a red bird", count))  # type: ignore[misc]
            result[f"{count}_answered"] = round(seconds(answered), 3)
            result[f"{count}_generated"] = round(generated, 3)
    result["an_image"] = max(result["1_answered"], result["8_answered"] / 8)
    print(json.dumps({"cpu": cpu_name(), **result}))
    return int(result["an_image"] >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
