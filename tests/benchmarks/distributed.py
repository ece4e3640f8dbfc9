"""What two processes cost: a step on two, against one process with half the batch; and how many bytes they exchange.

    python tests/benchmarks/distributed.py                  # the full-size model, four images: about a minute
    python tests/benchmarks/distributed.py --batch-size 8   # twice the arithmetic for as many bytes
    python tests/benchmarks/distributed.py --size demo --steps 10

Each process has one thread and computes half of the batch, over gloo. Ideally they take as long as one process that
has half of the batch alone and the other core idle: the aim is 0.85 of that speed at full size. `ratio_cpu` is that of
processor seconds, in which waiting and other work on the machine do not count, and `ratio_apart` that of two processes
that exchange nothing: what two cores at work take from each other (clock, cache, memory), which no exchange could
better. `reduction` is the share of a step that a process is in an exchange, waiting for the other one counted. Bytes
are what a process gives into all-reduces in a step; a ring sends 2 (N - 1) / N times as many. Prints one JSON object,
and exits with 1 where the aim is missed. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ratlip_cli.environment import cpu_name

FULL_CLIP = "ViT-B-32-quickgelu:random"
AIM = 0.85
PROCESSES = 2


def work(size: str, batch_size: int, steps: int) -> None:
    """Train as one of the processes, or alone; the first one prints what it measured."""
    import torch

    from ratlip_cli.data.dataset import Batch
    from ratlip_cli.device import keep_freed_memory
    from ratlip_cli.distributed import join
    from ratlip_cli.training.settings import TrainSettings, resolve_settings
    from ratlip_cli.training.trainer import Trainer
    from ratlip_cli.weights.clip_files import load_clip

    keep_freed_memory()
    torch.set_num_threads(1)
    device = torch.device("cpu")
    group = join(device, 120)
    chosen = {"dataset": "demo"} if size == "demo" else {"clip": FULL_CLIP}
    settings = (resolve_settings(chosen) if size == "demo" else TrainSettings.of(**chosen)).replaced(
        batch_size=batch_size
    )
    clip = load_clip(settings.clip)
    captions = [f"a red bird with {number} wings" for number in range(batch_size)]
    trainer = Trainer(settings, clip, settings.family.rows(clip, captions), batch_size, device)
    images = torch.rand(batch_size, 3, *[settings.image_size] * 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows = group.rows(batch_size)
    batch = Batch(images[rows], torch.tensor(rows))
    exchanged = Exchanged(trainer)
    seconds, cpu_seconds = [], []
    for step in range(steps + 1):
        if step == 1:  # the first one is not counted
            exchanged.begin()
        started, before = time.perf_counter(), time.process_time()
        trainer.train_step(batch)
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - before)
    if group.is_first:
        counted = seconds[1:]
        told: dict[str, Any] = {
            "seconds": statistics.median(counted),
            "cpu_seconds": statistics.median(cpu_seconds[1:]),
        }
        told["reduction"] = exchanged.seconds / sum(counted)
        counts = {"exchanges": exchanged.calls, "bytes": exchanged.bytes}
        for figure, by_what in counts.items():
            told[figure] = {what: count // steps for what, count in by_what.items()}
        print(json.dumps(told))
    group.leave()


class Exchanged:
    """Counts the seconds and bytes of all-reduces, by what they are of."""

    def __init__(self, trainer: Any) -> None:
        self.begin()
        group: Any = trainer.world
        if group.size == 1:
            return
        self._trainer, self._what = trainer, "BatchNorm, logs"
        self._sum, self._mean = group.sum_, group.mean_
        group.sum_, group.mean_ = self.sum_, self.mean_

    def begin(self) -> None:
        """Count from now on."""
        self.seconds, self.bytes, self.calls = 0.0, Counter[str](), Counter[str]()

    def mean_(self, tensors: Iterable[Any]) -> None:
        """Of gradients, of which network they are."""
        listed = list(tensors)
        for name in ("generator", "discriminator"):
            gradients = {id(weight.grad) for weight in getattr(self._trainer, name).parameters()}
            if listed and id(listed[0]) in gradients:
                self._what = f"gradients of the {name}"
        self._mean(listed)
        self._what = "BatchNorm, logs"

    def sum_(self, tensor: Any) -> None:
        started = time.perf_counter()
        self._sum(tensor)
        self.seconds += time.perf_counter() - started
        self.calls[self._what] += 1
        self.bytes[self._what] += tensor.numel() * tensor.element_size()


def measured(size: str, batch_size: int, steps: int, processes: int) -> dict[str, Any]:
    """What `work` prints on so many processes."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(torchrun if processes > 1 else []), __file__, "--size", size, "--steps", str(steps)]
    told = subprocess.run(
        [*command, "--work", str(batch_size)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ).stdout
    found: dict[str, Any] = json.loads(told)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("full", "demo"), default="full")
    parser.add_argument("--batch-size", type=int, default=4, help="of both processes together")
    parser.add_argument("--steps", type=int, default=3, help="that are measured on each side")
    parser.add_argument("--work", type=int, metavar="BATCH", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.size, options.work, options.steps)
        return 0
    half = options.batch_size // PROCESSES
    before = measured(options.size, half, options.steps, 1)
    together = measured(options.size, options.batch_size, options.steps, PROCESSES)
    after = measured(options.size, half, options.steps, 1)
    with ThreadPoolExecutor(PROCESSES) as pool:
        apart = [*pool.map(lambda _: measured(options.size, half, options.steps, 1), range(PROCESSES))]
    both = (before, after)
    ratio, ratio_cpu = (
        statistics.mean(one[figure] for one in both) / together[figure] for figure in ("seconds", "cpu_seconds")
    )
    ratio_apart = statistics.mean(one["seconds"] for one in both) / statistics.mean(one["seconds"] for one in apart)
    print(
        json.dumps(
            {
                "cpu": cpu_name(),
                "size": options.size,
                "batch_size": options.batch_size,
                "seconds": round(together["seconds"], 3),
                "seconds_alone": [round(one["seconds"], 3) for one in both],
                "ratio": round(ratio, 3),
                "ratio_cpu": round(ratio_cpu, 3),
                "ratio_apart": round(ratio_apart, 3),
                "aim": AIM,
                "reduction": round(together["reduction"], 3),
                "exchanges": together["exchanges"],
                "bytes": together["bytes"],
                "reached": ratio >= AIM,
            }
        )
    )
    return int(ratio < AIM)


if __name__ == "__main__":
    sys.exit(main())
