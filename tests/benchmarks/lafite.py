"""How long a training step of LAFITE takes, as a multiple of the published code's operations without its CUDA kernels.

    python tests/benchmarks/lafite.py                # the preset `demo`
    python tests/benchmarks/lafite.py --path-length  # with the path length every four steps, as published

Both trainers have the same networks and take turns, a cycle of `--steps` steps each, the other one first in every
second round; R1 is due once in a cycle. The ratio is the median of the rounds' own. Prints one JSON object; exits with
1 where ours takes more than 1.5 times as long.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from plain_lafite import plain_operations

from ratlip_cli.data.dataset import Batch
from ratlip_cli.device import keep_freed_memory
from ratlip_cli.environment import cpu_name
from ratlip_cli.training.settings import resolve_settings
from ratlip_cli.training.trainer import Trainer
from ratlip_cli.weights.clip_files import load_clip

MOST = 1.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4, help="steps of a cycle")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--path-length", action="store_true")
    args = parser.parse_args()
    keep_freed_memory()
    schedule = {"r1_every": args.steps, "path_length_every": 4 if args.path_length else 0}
    settings = resolve_settings({"dataset": "demo", "variant": "lafite", **schedule})
    clip, count, side = load_clip(settings.clip), settings.batch_size, settings.image_size
    rows = settings.family.rows(clip, [f"a {colour} bird" for colour in ("red", "blue", "black", "white")] * 4)[:count]
    batch = Batch(
        torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1, torch.arange(count)
    )
    trainers = {name: Trainer(settings, clip, rows, count, torch.device("cpu")) for name in ("plain", "ours")}
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(1 + args.rounds):  # the first is not counted
        for name in sorted(trainers, reverse=number % 2 == 0):
            trainer = trainers[name]
            started = time.perf_counter()
            with plain_operations() if name == "plain" else contextlib.nullcontext():
                for _ in range(args.steps):
                    trainer.train_step(batch)
            seconds[name].append((time.perf_counter() - started) / args.steps)
    ratio = statistics.median(
        ours / plain for ours, plain in zip(seconds["ours"][1:], seconds["plain"][1:], strict=True)
    )
    medians = {name: round(statistics.median(own[1:]), 3) for name, own in seconds.items()}
    report = {"ratio": round(ratio, 2), "most": MOST, "seconds_a_step": medians, "threads": torch.get_num_threads()}
    print(json.dumps({"cpu": cpu_name(), **report, "path_length": args.path_length, "batch_size": count}))
    return int(ratio > MOST)


if __name__ == "__main__":
    sys.exit(main())
