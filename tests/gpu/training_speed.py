"""Step "train": seconds and memory of a full-size training step, hours of the paper's runs, the loader beside it."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from harness import (
    NONE,
    batch_of,
    chosen_swaps,
    compile_networks,
    seconds_of,
    shared_trainer,
    swapped,
    synchronise,
    tf32,
    with_peak,
)
from report import Context

from ratlip_cli.data.dataset import CaptionedImages, training_batches
from ratlip_cli.data.parallel import processes
from ratlip_cli.data.prepare import OFFICIAL, PrepareRequest, prepare
from ratlip_cli.fast.recompute import recompute
from ratlip_cli.training.settings import TrainSettings, read_settings
from ratlip_cli.training.trainer import Trainer

BATCHES = (32, 16, 64)
PAPER_BATCH = 32
CARDS = (24, 80)
"""GiB of memory for which the largest batch is sought."""
USABLE = 0.94
"""The share of a card's memory that tensors can fill: the rest is CUDA's own and gaps."""


def run(context: Context) -> None:
    """Eager first, then what is derived from it, and at the end what has to be compiled for minutes."""
    trainer = shared_trainer(context)
    for batch in [2] if context.tiny else BATCHES:
        for name, precision, way in (
            ("bf16, eager", "bf16", "eager"),
            ("plain fp32, TF32 off", "fp32", "plain"),
            ("fp32, eager", "fp32", "eager"),
            ("bf16, recompute", "bf16", "recompute"),
        ):
            step(context, trainer, name, precision, way, batch)
    paper_runs(context)
    largest_batches(context, trainer)
    loader(context, trainer)
    first = 2 if context.tiny else PAPER_BATCH
    for batch, precision in ((first, "bf16"), *(() if context.tiny else ((first, "fp32"), (16, "bf16"), (64, "bf16")))):
        step(context, trainer, f"{precision}, compiled", precision, "compiled", batch)
        if (batch, precision) == (first, "bf16"):
            paper_runs(context)
    step(context, trainer, "fp32, recompute", "fp32", "recompute", first)


def step(context: Context, trainer: Trainer, name: str, precision: str, way: str, count: int) -> None:
    """One training step of `count` images: seconds, images a second, and memory."""
    device = context.device
    trainer.precision = precision
    try:
        with mode(context, trainer, way), tf32(False) if way == "plain" else contextlib.nullcontext():
            batch = batch_of(trainer, count)
            began = time.perf_counter()
            first, peak = with_peak(device, lambda: trainer.train_step(batch))
            start = time.perf_counter() - began
            seconds, spread = seconds_of(lambda: trainer.train_step(batch), device, 0.0 if context.tiny else 0.6)
    except Exception as error:
        context.attempt(f"batch {count}, {name}", error)
        return
    found = {
        "seconds": seconds,
        "spread": spread,
        "images/s": count / seconds,
        "gib": peak,
        "first step seconds": start,
    }
    context.note(f"batch {count}, {name}", found | {"loss_d": first.logs["loss_d"], "loss_g": first.logs["loss_g"]})
    memory = "" if peak is None else f", {peak:.1f} GiB"
    context.row(f"batch {count}, {name}", f"{seconds:.4g} s, {count / seconds:.4g} images/s{memory}")


@contextlib.contextmanager
def mode(context: Context, trainer: Trainer, way: str) -> Iterator[None]:
    """Let the trainer work in one way for a while: plain, eager (with the swaps that pay), recompute, compiled."""
    objective: Any = trainer.objective
    blocks: Any = trainer.generator.get_submodule("blocks")
    with swapped(trainer, chosen_swaps(context) if way in ("eager", "recompute") else NONE):
        if way == "compiled":
            compile_networks(trainer, context.tiny)
        before = [block.__class__ for block in blocks]
        if way == "recompute":
            recompute(blocks)
        try:
            yield
        finally:
            for block, own_class in zip(blocks, before, strict=True):
                block.__class__ = own_class
            objective.generator, objective.discriminator = trainer.generator, trainer.discriminator


def paper_runs(context: Context) -> None:
    """Hours of the presets' runs by the seconds of each mode at their batch, and the target of a step."""
    batch = 2 if context.tiny else PAPER_BATCH
    prefix = f"batch {batch}, "
    steps = {
        name: TrainSettings.of(**read_settings(name)).total_steps(OFFICIAL[name].counts["train"]) for name in OFFICIAL
    }
    hours = {
        mode.removeprefix(prefix): {name: count * entry["seconds"] / 3600 for name, count in steps.items()}
        for mode, entry in context.figures.items()
        if mode.startswith(prefix) and "seconds" in entry
    }
    context.note("hours", {"steps": steps, "by mode": hours})
    plain = context.figures.get(f"{prefix}plain fp32, TF32 off", {}).get("seconds")
    halves = [name for name in hours if name.startswith("bf16")]
    if halves:
        best = min(halves, key=lambda name: context.figures[prefix + name]["seconds"])
        own = context.figures[prefix + best]["seconds"]
        context.target("full-size step at batch 32 in bf16, times plain float32", plain / own if plain else None, 2.5)
        said = "not at this size" if context.tiny else ", ".join(f"{one} {h:.3g} h" for one, h in hours[best].items())
        context.row(f"the paper's runs, {best}", said)


def largest_batches(context: Context, trainer: Trainer) -> None:
    """The largest batch on cards of two sizes: from the slope of the memory, and tried where this card is as large."""
    if not context.on_gpu:
        context.note("largest batch", "not on this device")
        return
    device = context.device
    total = torch.cuda.get_device_properties(device).total_memory / 2**30
    for name, precision, way in (
        ("bf16, eager", "bf16", "eager"),
        ("bf16, recompute", "bf16", "recompute"),
        ("fp32, eager", "fp32", "eager"),
    ):
        entries = {batch: context.figures.get(f"batch {batch}, {name}", {}).get("gib") for batch in BATCHES}
        held = {batch: gib for batch, gib in entries.items() if gib}
        if len(held) < 2:
            continue
        low, high = min(held), max(held)
        slope = (held[high] - held[low]) / (high - low)
        found: dict[str, Any] = {"GiB an image": slope, "GiB beside": held[low] - slope * low}
        for card in CARDS:
            batch = int((USABLE * card - found["GiB beside"]) / slope)
            tried = (
                fits(context, trainer, precision, way, batch, card)
                if card <= total + 2 and precision == "bf16"
                else None
            )
            found[f"{card} GiB"] = {"batch": batch, "tried": tried}
        context.note(f"largest batch, {name}", found)
        said = ", ".join(f"{card} GiB: {found[f'{card} GiB']['batch']}" for card in CARDS)
        context.row(f"largest batch, {name}", said)


def fits(context: Context, trainer: Trainer, precision: str, way: str, batch: int, card: int) -> str:
    """Try one step of `batch` images in at most what a card of `card` GiB has for tensors."""
    total = torch.cuda.get_device_properties(context.device).total_memory / 2**30
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 0.97 * card / total), context.device)
    trainer.precision = precision
    try:
        with mode(context, trainer, way):
            trainer.train_step(batch_of(trainer, batch))
            synchronise(context.device)
    except Exception as error:
        return f"does not fit: {type(error).__name__}"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, context.device)
    return "fits"


def loader(context: Context, trainer: Trainer) -> None:
    """How long a batch of images of the paper's size takes to read, and whether the device waits for it."""
    count = 2 if context.tiny else PAPER_BATCH
    step_seconds = context.figures.get(f"batch {count}, bf16, eager", {}).get("seconds")
    trainer.precision = "bf16"
    size = trainer.settings.image_size
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demo-birds"
        count_of_images, workers_of_prepare = (40, 1) if context.tiny else (320, None)
        prepare(
            PrepareRequest(
                "demo-birds", path.parent, image_size=size, count=count_of_images, workers=workers_of_prepare
            )
        )
        dataset = CaptionedImages(path, "train", size)
        for workers in (0,) if context.tiny else (2, min(8, processes(None))):
            found: dict[str, float | None] = {"step alone": step_seconds}
            found["reading alone"] = by_stream(context, dataset, count, workers, None)
            with mode(context, trainer, "eager"):
                found["step and reading"] = both = by_stream(context, dataset, count, workers, trainer)
            found["share of the time that the device waits"] = 1 - step_seconds / both if step_seconds else None
            context.note(f"loader, {workers} workers", found)
            waits = found["share of the time that the device waits"]
            context.row(f"loader, {workers} workers: the device waits", f"{waits:.0%}" if waits is not None else "-")


def by_stream(context: Context, dataset: CaptionedImages, count: int, workers: int, trainer: Trainer | None) -> float:
    """Seconds a batch from the training stream, read only or trained on."""
    batches = training_batches(dataset, count, 0, workers, pin_memory=context.on_gpu)
    rounds = 2 if context.tiny else 24
    try:
        for number, batch in zip(range(rounds + 1), batches, strict=False):
            if number == 0:  # the workers have started
                began = time.perf_counter()
            if trainer is not None:
                trainer.train_step(batch._replace(captions=batch.captions % len(trainer.rows)))
        synchronise(context.device)
        return (time.perf_counter() - began) / rounds
    finally:
        batches.close()
