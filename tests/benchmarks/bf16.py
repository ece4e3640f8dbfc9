"""Sampling in bf16 against fp32 on a CPU: how many times as fast, and what it does to images and scores.

    python tests/benchmarks/bf16.py                       # everything: about three minutes on two cores
    python tests/benchmarks/bf16.py one eight             # these

`one`, `eight`: images of the full-size model, of random weights, which take as long as trained ones; both precisions
take turns in one process. The aim is 2 where the CPU has AMX. `bundled`: 16 images of the bundled model. `scores`: the
bundled model on the first test images of its own data, one caption each, in both precisions: 8-bit levels that differ,
every metric with its 95 % interval, and the interval of the difference, by bootstrap with the same resamples for both.
Prints one JSON object each; exits with 1 where an aim is missed or a score differs by more than its interval.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.data.layout import DatasetInfo, Record, stored_side
from ratlip_cli.data.sources import demo
from ratlip_cli.data.writer import write_dataset
from ratlip_cli.device import keep_freed_memory
from ratlip_cli.evaluation.extract import extract
from ratlip_cli.evaluation.inputs import model_inputs
from ratlip_cli.evaluation.metrics import wanted_metrics
from ratlip_cli.evaluation.networks import load_networks
from ratlip_cli.evaluation.request import METRICS, EvaluationRequest
from ratlip_cli.evaluation.statistics import Counts, interval, resamples
from ratlip_cli.fast import for_sampling
from ratlip_cli.fast.onednn import multiplies_bf16
from ratlip_cli.model.config import GeneratorConfig
from ratlip_cli.model.generator import Generator
from ratlip_cli.progress import silent
from ratlip_cli.sampling import noise_vectors
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.load import load_model
from ratlip_cli.weights.model_folder import Model

FULL_CLIP = "ViT-B-32-quickgelu:random"
COMPARISONS = {"one": 1, "eight": 8, "bundled": 16, "scores": 0}
PRECISIONS = ("fp32", "bf16")


def networks(comparison: str) -> tuple[torch.nn.Module, Any]:
    """Generator and CLIP."""
    if comparison == "bundled":
        model = load_model("ratlip-demo")
        return model.generator, model.clip
    torch.manual_seed(0)
    clip = load_clip(FULL_CLIP)
    return Generator(GeneratorConfig(), clip.geometry).eval().requires_grad_(False), clip


def speed(comparison: str, rounds: int) -> dict[str, Any]:
    generator, clip = networks(comparison)
    count = COMPARISONS[comparison]
    noise, text = (
        noise_vectors(0, range(count), generator.config.noise_dim),
        torch.randn(count, clip.geometry.embed_dim),
    )
    samplers = {precision: for_sampling(generator, clip, precision=precision) for precision in PRECISIONS}
    seconds: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for number in range(rounds + 1):
        for precision, sampler in samplers.items():
            started = time.perf_counter()
            sampler(noise, text)
            if number:  # the first time is not counted
                seconds[precision].append(time.perf_counter() - started)
    ratio = statistics.median(one / other for one, other in zip(*seconds.values(), strict=True))
    aim = 2 if torch.cpu._is_amx_tile_supported() and comparison != "bundled" else None
    return {
        "times_as_fast": round(ratio, 2),
        "aim": aim,
        "seconds": {precision: round(statistics.median(times), 4) for precision, times in seconds.items()},
        "reached": aim is None or ratio >= aim,
    }


def scores(images: int, replicates: int) -> dict[str, Any]:
    model = load_model("ratlip-demo")
    size = model.config.generator.image_size
    families = demo.DATASETS["demo"]
    records = []
    for number in range(images):
        family, index = families[number % len(families)], number // len(families)
        one = demo.rendered_image(family, "test", 0, index, stored_side(size))
        records.append(Record(f"{family}_{index:05d}", "test", one.captions, one.image))
    info = DatasetInfo(
        name="demo", source=demo.SOURCE, licence=demo.LICENCE, split_rule="the first test images", image_size=size
    )
    request = EvaluationRequest(metrics=METRICS, captions_per_image=1, device="cpu")
    values: dict[str, dict[str, list[float]]] = {}
    levels = []
    with tempfile.TemporaryDirectory() as scratch:
        write_dataset(Path(scratch) / "demo", records, info)
        split = CaptionedImages(Path(scratch) / "demo", "test", size)
        judges = load_networks(request, model.device, model)
        for precision in PRECISIONS:
            values[precision] = resampled(model.in_precision(precision), split, request, judges, replicates, levels)
    table = {}
    for name, (value, *rest) in values["fp32"].items():
        half, *half_rest = values["bf16"][name]
        low, high = interval(value, rest)
        differences = [other - one for one, other in zip(rest, half_rest, strict=True)]
        table[name] = {
            "fp32": value,
            "interval": (low, high),
            "bf16": half,
            "difference": half - value,
            "interval_of_the_difference": interval(half - value, differences),
            "kept": low <= half <= high,
        }
    off = (levels[0] - levels[1]).abs()
    return {
        "images": images,
        "levels": {
            "values_changed": float((off > 0).float().mean()),
            "by_more_than_one": float((off > 1).float().mean()),
            "by_more_than_four": float((off > 4).float().mean()),
            "mean": float(off.float().mean()),
            "most": int(off.max()),
        },
        "scores": table,
        "reached": all(row["kept"] for row in table.values()),
    }


def resampled(
    model: Model, split: CaptionedImages, request: EvaluationRequest, judges: Any, replicates: int, levels: list[Any]
) -> dict[str, list[float]]:
    """Of each metric its value, and then those of the resamples. Adds the images to `levels`."""
    inputs = model_inputs(model, split, request)
    levels.append(torch.cat(list(inputs.fake.batches(16))).int())
    once = Counts(np.ones(len(inputs.fake), dtype=np.int64), np.ones(inputs.n_real, dtype=np.int64))
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        features = extract(inputs, judges, None, Path(scratch), silent)
        for metric in wanted_metrics(request, judges, features, inputs.captions):
            measurement = metric.measure()
            counts = [once, *resamples(replicates, inputs.n_real, inputs.scenes, inputs.paired)]
            found[metric.name] = [measurement.value(one) for one in counts]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", nargs="*", metavar="COMPARISON", help=f"of {', '.join(COMPARISONS)}")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--resamples", type=int, default=100)
    options = parser.parse_args()
    if unknown := set(options.comparisons) - COMPARISONS.keys():
        parser.error(f"unknown comparison {', '.join(sorted(unknown))}")
    logging.getLogger("ratlip_cli").setLevel(logging.ERROR)
    keep_freed_memory()
    machine = {
        "bf16": multiplies_bf16(),
        "amx": torch.cpu._is_amx_tile_supported(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    reached = True
    for comparison in options.comparisons or COMPARISONS:
        result = (
            scores(options.images, options.resamples) if comparison == "scores" else speed(comparison, options.rounds)
        )
        print(json.dumps({"comparison": comparison, **machine, **result}), flush=True)
        reached = reached and result["reached"]
    return int(not reached)


if __name__ == "__main__":
    sys.exit(main())
