"""How fast a model generates and trains while another process takes a core, and small models beside onnxruntime.

    python tests/benchmarks/busy.py                        # all comparisons: about six minutes
    python tests/benchmarks/busy.py generate one --threads 2

- generate, one, demo-step: 64 images of the bundled model by `generate`, one image of the full-size model, a training
  step of the preset `demo`, each while a loop that this script starts and ends takes a core, against as many threads as
  there are cores left (at most --threads), with the loop stopped. At least 0.8 of their speed. All of them share
  --threads cores, however many the machine has, so that a core is short; two where it is one thread.
- generate-idle, one-idle, demo-step-idle: the same without the loop, against threads that wait as OpenMP's library lets
  them. At least 0.9 of their speed.
- small: 64 images of the bundled model as `generate` makes them, against its export in onnxruntime (needs the extra
  `onnx`), in batches of 16, with as many threads. At most 1.1 times the seconds.

Each contender works in a process of its own, set up as the command line does it, and they take turns. Prints one JSON
object a comparison, with the ratio of seconds (less is better), and exits with 1 where an aim is missed. Leave the
machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import speed

from ratlip_cli.environment import cpu_name

AIMS = {
    **dict.fromkeys(("generate", "one", "demo-step"), 1 / 0.8),
    **dict.fromkeys(("generate-idle", "one-idle", "demo-step-idle"), 1 / 0.9),
    "small": 1.1,
}
THREADS = (1, 2, 4)
COUNT, BATCH = 64, 16
PROMPT = "a red bird with black wings"


def of_bundled_model(what: str, exported: str) -> Callable[[], object]:
    """COUNT images of the bundled model: `generate` all that the command does but files, `ours` and `onnx` pixels."""
    import torch

    from ratlip_cli.sampling import generate, noise_vectors, sample
    from ratlip_cli.weights.export.export import export_model
    from ratlip_cli.weights.load import DEMO, load_model

    model = load_model(DEMO)
    if what == "generate":
        return lambda: list(generate(model, [PROMPT], COUNT))
    noise = noise_vectors(0, range(COUNT), model.config.generator.noise_dim)
    text = model.encode([PROMPT]).expand(COUNT, -1)
    if what == "ours":
        return lambda: sample(model, noise, text)
    import onnxruntime

    if not Path(exported).exists():
        export_model(model, Path(exported), "onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(Path(exported, "generator.onnx"), options)
    batches = [
        {"noise": z.numpy(), "text": t.numpy()}
        for z, t in zip(noise.split(BATCH), text.contiguous().split(BATCH), strict=True)
    ]
    return lambda: [session.run(["images"], batch) for batch in batches]


def work(what: str, waiting: str, exported: str) -> None:
    """Serve one contender: on every line of stdin do it once, and answer with the seconds."""
    if waiting == "ours":
        speed.wait_as_ratlip(what)
    from ratlip_cli.device import keep_freed_memory

    keep_freed_memory()
    do = speed.prepared(what, "ours") if what in speed.GOALS else of_bundled_model(what, exported)
    do()
    for _ in sys.stdin:
        started = time.perf_counter()
        do()
        print(time.perf_counter() - started, flush=True)


class Contender:
    """A process that does `what` when told to."""

    def __init__(self, what: str, threads: int, exported: str, waiting: str = "ours") -> None:
        kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--work", what, waiting, exported],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**kept, "OMP_NUM_THREADS": str(threads)},
        )
        self.seconds: list[float] = []
        self.once()
        self.seconds.clear()

    def once(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.seconds.append(float(self._process.stdout.readline()))

    def end(self) -> None:
        self._process.communicate()


def compare(name: str, threads: int, rounds: int, exported: str) -> bool:
    """Let both contenders take turns; print what came out, and say whether the aim is reached."""
    what = name.removesuffix("-idle")
    is_busy = name in ("generate", "one", "demo-step")
    every = os.sched_getaffinity(0)
    cores = sorted(every)[: max(2, threads) if is_busy else threads]
    os.sched_setaffinity(0, cores)  # and so those of all that is started here
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        loop.send_signal(signal.SIGSTOP)
        if is_busy:
            other = Contender(what, max(1, min(threads, len(cores) - 1)), exported)
            loop.send_signal(signal.SIGCONT)  # ours is told nothing of it, but begins while it runs
        else:
            other = Contender("onnx" if name == "small" else what, threads, exported, "as OpenMP's library")
        ours = Contender("ours" if name == "small" else what, threads, exported)
        for _ in range(rounds):
            loop.send_signal(signal.SIGSTOP)
            other.once()
            if is_busy:
                loop.send_signal(signal.SIGCONT)
            ours.once()
        ours.end()
        other.end()
    finally:
        loop.kill()
        loop.wait()
        os.sched_setaffinity(0, every)
    ratio = statistics.median(ours.seconds) / statistics.median(other.seconds)
    result = {
        "comparison": name,
        "cpu": cpu_name(),
        "cores": cores,
        "threads": threads,
        "seconds": round(statistics.median(ours.seconds), 3),
        "compared_with": round(statistics.median(other.seconds), 3),
        "ratio": round(ratio, 2),
        "aim": AIMS[name],
        "rounds": rounds,
        "reached": ratio <= AIMS[name],
    }
    print(json.dumps(result), flush=True)
    return ratio <= AIMS[name]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", nargs="*", metavar="COMPARISON", help=f"of {', '.join(AIMS)}; all if left out")
    parser.add_argument("--threads", type=int, nargs="*", default=THREADS, help="of ours; 1, 2 and 4 if left out")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", nargs=3, metavar=("WHAT", "WAITING", "EXPORTED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(*options.work)
        return 0
    if unknown := set(options.comparisons) - AIMS.keys():
        parser.error(f"unknown comparison {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as folder:
        exported = str(Path(folder, "exported"))
        reached = [
            compare(name, threads, options.rounds, exported)
            for name in options.comparisons or AIMS
            for threads in options.threads
        ]
    return int(not all(reached))


if __name__ == "__main__":
    sys.exit(main())
