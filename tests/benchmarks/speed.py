"""How many times as fast, and with how much of the memory, the accelerated modules do what the plain model does.

    python tests/benchmarks/speed.py                      # all comparisons: about fifteen minutes on two free cores
    python tests/benchmarks/speed.py one eight demo-step  # these

Same weights and threads in one run. Each contender works in a process of its own, where nothing else has touched its
memory; ours is set up as the command line does it. They take turns, so that a machine with other work slows down both.
Seconds are of the clock; `cpu_seconds` are of the processor, for a machine that is not free. Prints one JSON object a
comparison; exits with 1 where a ratio is missed. The full-size model has random weights, which take as long as trained
ones.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ratlip_cli.environment import cpu_name

HERE = Path(__file__).parent
CONTENDERS = ("plain", "ours")


@dataclass(frozen=True)
class Goal:
    """What a comparison must reach."""

    faster: float
    memory: float | None = None
    """At most this share of the plain peak, of what is held beside the loaded model."""


GOALS = {
    "one": Goal(1.6),
    "eight": Goal(3.0, 0.5),
    "full-step": Goal(1.8, 0.6),
    "full-step-recompute": Goal(1.8, 0.6),
    "demo-step": Goal(1.5),
    "captions": Goal(2.0),
}
FULL_CLIP = "ViT-B-32-quickgelu:random"


def sampling(count: int, contender: str) -> Callable[[], object]:
    """Generate `count` images with the full-size model."""
    import torch

    from ratlip_cli.fast import Swap, for_sampling
    from ratlip_cli.model.config import GeneratorConfig
    from ratlip_cli.model.generator import Generator
    from ratlip_cli.sampling import noise_vectors
    from ratlip_cli.weights.clip_files import load_clip

    torch.manual_seed(0)
    swaps: frozenset[Swap] | None = None if contender == "ours" else frozenset()
    clip, config = load_clip(FULL_CLIP, swaps=swaps), GeneratorConfig()
    generator = Generator(config, clip.geometry).eval().requires_grad_(False)
    noise, text = noise_vectors(0, range(count), config.noise_dim), torch.randn(count, clip.geometry.embed_dim)
    if contender == "ours":
        sampler = functools.cache(lambda: for_sampling(generator, clip))  # made with the first image, not when loaded
        return lambda: sampler()(noise, text)

    def plain() -> object:
        with torch.no_grad():
            return generator(noise, text, clip)

    return plain


def training(preset: str, contender: str) -> Callable[[], object]:
    """One training step: of the full-size model on four images (`-recompute`: with that), or of the demo's preset."""
    import torch

    from ratlip_cli.data.dataset import Batch
    from ratlip_cli.fast import SWAPS
    from ratlip_cli.training.settings import TrainSettings, resolve_settings
    from ratlip_cli.training.trainer import Trainer
    from ratlip_cli.weights.clip_files import load_clip

    full = TrainSettings.of(clip=FULL_CLIP, batch_size=4, recompute=preset == "full-recompute" and contender == "ours")
    settings = resolve_settings({"dataset": "demo"}) if preset == "demo" else full
    if contender == "plain":
        SWAPS["cpu"] = frozenset()
    clip = load_clip(settings.clip)
    count, size = settings.batch_size, settings.image_size
    colours = ("red", "black", "white", "blue", "green", "yellow")
    captions = [f"a {colours[i % 6]} bird with {colours[i // 6]} wings and a short beak" for i in range(count)]
    trainer = Trainer(settings, clip, clip.encode_text(captions), count, torch.device("cpu"))
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return lambda: trainer.train_step(Batch(images, torch.arange(count)))


def encoding(contender: str) -> Callable[[], object]:
    """The text vectors of ViT-B/32 of the captions of sixteen rendered birds."""
    from random import Random

    from ratlip_cli.demo.attributes import sample_attributes
    from ratlip_cli.demo.captions import captions
    from ratlip_cli.weights.clip_files import load_clip

    clip, rng = load_clip(FULL_CLIP, swaps=None if contender == "ours" else frozenset()), Random(0)
    texts = [text for _ in range(16) for text in captions("bird", sample_attributes("bird", rng), rng)]
    return lambda: clip.encode_text(texts)


def prepared(comparison: str, contender: str) -> Callable[[], object]:
    if comparison == "captions":
        return encoding(contender)
    if comparison in ("one", "eight"):
        return sampling({"one": 1, "eight": 8}[comparison], contender)
    return training(comparison.replace("-step", ""), contender)


def resident_mib(line: str) -> float:
    """VmRSS, what the process holds, or VmHWM, the most it has held."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(line + ":")[1].split()[0]) / 1024


def wait_as_ratlip(comparison: str) -> None:
    """Let OpenMP's threads wait as `ratlip generate` or `ratlip train` lets them; before torch is imported."""
    from ratlip_cli.cli.waiting import hardly_wait_where_busy, wait_briefly

    wait_briefly()
    if "-step" in comparison:
        hardly_wait_where_busy()


def work(comparison: str, contender: str) -> None:
    """Serve one contender: say when it is prepared; on every line of stdin do it once, and answer with the figures."""
    if contender == "ours":
        wait_as_ratlip(comparison)
    import torch

    sys.path.insert(0, str(HERE.parent))
    from ratlip_cli.device import keep_freed_memory

    if contender == "ours":
        keep_freed_memory()
    do = prepared(comparison, contender)
    loaded = resident_mib("VmRSS")
    do()  # the first time is not counted, but its memory is
    print("prepared", flush=True)
    for _ in sys.stdin:
        started, before = time.perf_counter(), time.process_time()
        do()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - before
        held = {"peak_mib": resident_mib("VmHWM"), "loaded_mib": loaded, "threads": torch.get_num_threads()}
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, **held}), flush=True)


def compare(comparison: str, rounds: int) -> bool:
    """Let both contenders take turns; print what came out, and say whether the goal is reached."""
    command = [sys.executable, __file__, "--work", comparison]
    processes = {}
    for name in CONTENDERS:
        process = subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()  # so that the next one finds the machine idle when it starts
        processes[name] = process
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name, process in processes.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            measured[name].append(json.loads(process.stdout.readline()))
    for process in processes.values():
        process.communicate()

    def ratio(figure: str) -> float:
        pairs = zip(measured["plain"], measured["ours"], strict=True)
        return statistics.median(plain[figure] / ours[figure] for plain, ours in pairs)

    plain, ours = (measured[name][-1] for name in CONTENDERS)
    beside = {name: measured[name][-1]["peak_mib"] - measured[name][-1]["loaded_mib"] for name in CONTENDERS}
    goal = GOALS[comparison]
    reached = ratio("seconds") >= goal.faster and (
        goal.memory is None or beside["ours"] <= goal.memory * beside["plain"]
    )
    result = {
        "comparison": comparison,
        "cpu": cpu_name(),
        "times_as_fast": round(ratio("seconds"), 2),
        "times_as_fast_cpu": round(ratio("cpu_seconds"), 2),
        "goal": goal.faster,
        "seconds": {name: round(statistics.median(one["seconds"] for one in measured[name]), 3) for name in CONTENDERS},
        "cpu_seconds": {
            name: round(statistics.median(one["cpu_seconds"] for one in measured[name]), 3) for name in CONTENDERS
        },
        "peak_mib": {"plain": round(plain["peak_mib"]), "ours": round(ours["peak_mib"])},
        "share_of_peak": round(ours["peak_mib"] / plain["peak_mib"], 2),
        "beside_the_model_mib": {name: round(held) for name, held in beside.items()},
        "share_beside_the_model": round(beside["ours"] / beside["plain"], 2),
        "memory_goal": goal.memory,
        "threads": ours["threads"],
        "rounds": rounds,
        "reached": reached,
    }
    print(json.dumps(result), flush=True)
    return reached


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", nargs="*", metavar="COMPARISON", help=f"of {', '.join(GOALS)}; all if left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", nargs=2, metavar=("COMPARISON", "CONTENDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(*options.work)
        return 0
    if unknown := set(options.comparisons) - GOALS.keys():
        parser.error(f"unknown comparison {', '.join(sorted(unknown))}")
    reached = [compare(name, options.rounds) for name in options.comparisons or GOALS]
    return int(not all(reached))


if __name__ == "__main__":
    sys.exit(main())
