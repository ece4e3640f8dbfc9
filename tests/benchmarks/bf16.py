"""Sampling in bf16 against fp32 on a CPU: how many times as fast, and what it does to images and scores.

    python tests/benchmarks/bf16.py                       # everything: about three minutes on two cores
    python tests/benchmarks/bf16.py one eight             # these
    python tests/benchmarks/bf16.py scores --model runs/birds --images 1000

`one`, `eight`: images of the full-size model, of random weights, which take as long as trained ones; both precisions
take turns in one process. The aim is 2 where the CPU has AMX. `bundled`: 16 images of the bundled model. `scores`: the
bundled model on the first test images of its own data, or any --model on test images of its dataset (or --dataset), one
caption each, in both precisions: 8-bit levels that differ, every metric with its 95 % interval, and the interval of the
difference, by bootstrap with the same resamples for both. `auto` is to take bf16 only for models that keep them.
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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.data.layout import DatasetInfo, Record, stored_side
from ratlip_cli.data.of_run import dataset_of_model
from ratlip_cli.data.sources import demo
from ratlip_cli.data.writer import write_dataset
from ratlip_cli.device import keep_freed_memory
from ratlip_cli.environment import cpu_name
from ratlip_cli.evaluation.extract import extract
from ratlip_cli.evaluation.inputs import model_inputs, open_split
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
from ratlip_cli.weights.load import DEMO, load_model
from ratlip_cli.weights.model_folder import Model

FULL_CLIP = "ViT-B-32-quickgelu:random"
COMPARISONS = {"one": 1, "eight": 8, "bundled": 16, "scores": 0}
PRECISIONS = ("fp32", "bf16")


def networks(comparison: str) -> tuple[torch.nn.Module, Any]:
    """Generator and CLIP."""
    if comparison == "bundled":
        model = load_model(DEMO)
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


def rendered_split(scratch: Path, images: int, size: int) -> CaptionedImages:
    """The first test images of the bundled model's data."""
    families = demo.DATASETS["demo"]
    records = []
    for number in range(images):
        family, index = families[number % len(families)], number // len(families)
        one = demo.rendered_image(family, "test", 0, index, stored_side(size))
        records.append(Record(f"{family}_{index:05d}", "test", one.captions, one.image))
    info = DatasetInfo(
        name="demo", source=demo.SOURCE, licence=demo.LICENCE, split_rule="the first test images", image_size=size
    )
    write_dataset(scratch / "demo", records, info)
    return CaptionedImages(scratch / "demo", "test", size)


def scores(options: argparse.Namespace) -> dict[str, Any]:
    model = load_model(options.model)
    size = model.config.generator.image_size
    request = EvaluationRequest(
        metrics=METRICS, captions_per_image=1, device="cpu", inception_weights=options.inception_weights
    )
    values: dict[str, dict[str, list[float]]] = {}
    levels = []
    with tempfile.TemporaryDirectory() as scratch:
        trained_on = dataset_of_model(model.folder) or str(model.config.training.get("dataset") or "")
        if options.model == DEMO and not options.dataset:
            split = rendered_split(Path(scratch), options.images, size)
        else:
            split = open_split(options.dataset or trained_on, request, size, silent)
        request = replace(request, limit=min(options.images, len(split)))
        judges = load_networks(request, model.device, model)
        for precision in PRECISIONS:
            values[precision] = resampled(
                model.in_precision(precision), split, request, judges, options.resamples, levels
            )
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
        "model": model.name,
        "fingerprint": model.fingerprint,
        "images": request.limit,
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
    of_scores = parser.add_argument_group("scores")
    of_scores.add_argument("--model", default=DEMO, help="run folder, model folder, or owner/name on the Hub")
    of_scores.add_argument("--dataset", help="name or folder; the model's own if left out")
    of_scores.add_argument("--inception-weights", type=Path, help="for a machine without internet")
    of_scores.add_argument("--images", type=int, default=300, help="of the test split")
    of_scores.add_argument("--resamples", type=int, default=100)
    options = parser.parse_args()
    if unknown := set(options.comparisons) - COMPARISONS.keys():
        parser.error(f"unknown comparison {', '.join(sorted(unknown))}")
    logging.getLogger("ratlip_cli").setLevel(logging.ERROR)
    keep_freed_memory()
    machine = {
        "cpu": cpu_name(),
        "bf16": multiplies_bf16(),
        "amx": torch.cpu._is_amx_tile_supported(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    reached = True
    for comparison in options.comparisons or COMPARISONS:
        result = scores(options) if comparison == "scores" else speed(comparison, options.rounds)
        print(json.dumps({"comparison": comparison, **machine, **result}), flush=True)
        reached = reached and result["reached"]
    return int(not reached)


if __name__ == "__main__":
    sys.exit(main())
