"""What drawing costs as the work grows: seconds and memory against batch, image size and number of images.

    python tests/benchmarks/growth.py                       # prints JSON, writes examples/growth.png
    python tests/benchmarks/growth.py --channels 64 --plot full-size.png

A generator of random weights on the bundled CLIP, on one thread. Seconds are of the processor, so that other work on
the machine disturbs little; memory is the peak beside the loaded model, on Linux.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ratlip_cli.device import keep_freed_memory
from ratlip_cli.environment import cpu_name
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.config import DiscriminatorConfig, GeneratorConfig
from ratlip_cli.model.generator import Generator
from ratlip_cli.sampling import noise_vectors, sample
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.model_folder import Model, model_config

SIZES, BATCHES, COUNTS = (32, 64, 128, 256, 512), (1, 2, 4, 8, 16, 32), (1, 4, 16, 64)
SIZE = 128
"""Image size where the batch or the number of images grows."""
ROUNDS = 3


def status_mib(name: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(name + ":")[1].split()[0]) / 1024


def measured(clip: FrozenCLIP, channels: int, size: int, count: int, batch: int | None) -> dict[str, float]:
    """Best of ROUNDS for `count` images, and the peak memory of all rounds beside what is there at the start.

    In a process of its own, which has kept no memory from another measurement.
    """
    config = GeneratorConfig(image_size=size, base_channels=channels)
    torch.manual_seed(0)
    generator = Generator(config, clip.geometry).eval().requires_grad_(False)
    model = Model("growth", Path(), model_config(config, DiscriminatorConfig(), clip), generator, clip, "none")
    noise = noise_vectors(0, range(count), config.noise_dim)
    text = torch.randn(count, clip.geometry.embed_dim)
    _ = model.sampler
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    held = status_mib("VmRSS")
    seconds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        sample(model, noise, text, batch)
        seconds.append(time.process_time() - started)
    return {"seconds": round(min(seconds), 4), "mib": round(max(0.0, status_mib("VmHWM") - held), 1)}


def plot(series: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    """Both axes logarithmic: what grows in proportion is parallel to the dotted line, through the last point."""
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    rows = figure.subplots(2, len(series), sharex="col")
    for quantity, label, colour, row in (
        ("seconds", "seconds", "tab:blue", rows[0]),
        ("mib", "MiB", "tab:orange", rows[1]),
    ):
        for axes, (name, points) in zip(row, series.items(), strict=True):
            x, y = list(points), [point[quantity] for point in points.values()]
            what = name.partition(",")[0]
            power, measure = (2, "pixels") if what == "image size" else (1, what)
            proportional = [y[-1] * (at / x[-1]) ** power for at in x]
            axes.plot(x, y, "o-", color=colour)
            axes.plot(x, proportional, ":", color="grey", label=f"in proportion to {measure}")
            axes.set(xscale="log", yscale="log", xticks=x, xticklabels=x)
            axes.set_ylim(min(y) / 2, max(y) * 2)
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.grid(alpha=0.3)
            axes.legend(loc="upper left", fontsize="small")
            if row is rows[1]:
                axes.set_xlabel(name)
        row[0].set_ylabel(label)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=16, help="nf, behind the last block; 64 is full size")
    parser.add_argument("--plot", type=Path, default=Path("examples/growth.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    clip = load_clip("ratlip-demo")
    channels = options.channels
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:

        def run(size: int, count: int, batch: int | None) -> dict[str, float]:
            return pool.apply(measured, (clip, channels, size, count, batch))

        series = {
            "image size, one image": {size: run(size, 1, None) for size in SIZES},
            f"batch, {SIZE} pixels": {batch: run(SIZE, batch, batch) for batch in BATCHES},
            f"images, {SIZE} pixels": {count: run(SIZE, count, None) for count in COUNTS},
        }
    plot(series, options.plot)
    print(json.dumps({"cpu": cpu_name(), "channels": channels, **series}))


if __name__ == "__main__":
    main()
