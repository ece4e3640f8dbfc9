"""Step "learn": the demo preset from nothing for the time that is left, and what its images show minute by minute."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from report import Context
from torch import Tensor

from ratlip_cli.data.dataset import CaptionedImages, text_vectors, training_batches
from ratlip_cli.data.parallel import processes
from ratlip_cli.data.prepare import PrepareRequest, prepare
from ratlip_cli.demo.attributes import FAMILIES, sample_attributes
from ratlip_cli.demo.captions import captions as captions_of
from ratlip_cli.grids import captioned_grid
from ratlip_cli.pixels import to_images
from ratlip_cli.sampling import noise_vectors
from ratlip_cli.training.settings import TrainSettings, read_settings
from ratlip_cli.training.trainer import Trainer
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.model_folder import create_model_folder, model_config, save_weights

IMAGES = 20_000
"""Of the data set; fewer where rendering them would take more than a fifth of the time."""
LEARNED = "learned"
"""Folder beside the report: a model folder with the newest weights, and samples.png."""
EVERY = 60.0
"""Seconds between two scores."""
TINY_SECONDS = 2.0
TARGET_STEPS, TARGET_MINUTES = 14_700, 10
LARGEST_FILE = 16 * 2**20
SHOWN = 8
"""Captions in the grid of samples, a row each; its columns are the times of scoring."""


def run(context: Context) -> None:
    """Render the data, then train, score and save until shortly before the step would be cut."""
    end = time.monotonic() + (TINY_SECONDS if context.tiny else context.left - max(6.0, 0.07 * context.left))
    workers = 1 if context.tiny else processes(None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demo"
        count = images_in(context, Path(folder), workers)
        prepare(PrepareRequest("demo", path.parent, path.name, count=count, workers=workers))
        sizes = {"generator_channels": 8, "discriminator_channels": 4, "batch_size": 6} if context.tiny else {}
        settings = TrainSettings.of(**{**read_settings("demo"), **sizes})
        dataset = CaptionedImages(path, "train", settings.image_size, settings.seed)
        clip = load_clip(settings.clip, context.device)
        trainer = Trainer(settings, clip, text_vectors(dataset, clip), len(dataset), context.device)
        context.note("setting", {"images": count, "precision": trainer.precision, "batch": settings.batch_size})
        learn(context, trainer, dataset, 0 if context.tiny else min(8, workers), end)


def images_in(context: Context, folder: Path, workers: int) -> int:
    """How many images can be rendered in a fifth of the time, from how long a few take."""
    if context.tiny:
        return 60
    began = time.monotonic()
    prepare(PrepareRequest("demo", folder, "tried", count=400, workers=workers))
    count = int(400 * 0.2 * context.left / (time.monotonic() - began))
    return max(400, min(IMAGES, count))


def learn(context: Context, trainer: Trainer, dataset: CaptionedImages, workers: int, end: float) -> None:
    """Train until `end`, which is of time.monotonic; score in the beginning, every minute, and in the end."""
    wanted = scored_captions(4 if context.tiny else 80)
    columns: list[Tensor] = []
    series: list[dict[str, Any]] = []
    batches = training_batches(dataset, trainer.settings.batch_size, 0, workers, context.on_gpu)
    trained, first_step, next_score = 0.0, 0.0, 0.0
    try:
        for batch in batches:
            began = time.monotonic()
            trainer.train_step(batch)
            trained += time.monotonic() - began
            if trainer.steps_done == 1:
                first_step = trained  # kernels are loaded and chosen in it
            is_over = trainer.steps_done > 1 and time.monotonic() >= end
            is_last = is_over or trainer.steps_done >= trainer.settings.total_steps(len(dataset))
            if is_last or trained >= next_score:
                next_score = trained + EVERY
                series.append(scored(trainer, wanted, columns) | {"seconds": trained, "step": trainer.steps_done})
                context.note("scores against time", series)
                save(context, trainer, wanted, columns)
            if is_last:
                break
    finally:
        if trainer.steps_done > 1 and series:
            summarise(context, (trained - first_step) / (trainer.steps_done - 1), series)
        batches.close()


def summarise(context: Context, seconds: float, series: list[dict[str, Any]]) -> None:
    """Seconds a step, how the scores moved, and the target."""
    context.note("seconds a step", seconds)
    context.row("steps scored, seconds a step", f"{series[-1]['step']}, {seconds:.4g}")
    context.row("attributes right, mean", f"{series[0]['mean']:.0%} -> {series[-1]['mean']:.0%}")
    context.target(
        "minutes of the demo preset's 14,700 steps", seconds * TARGET_STEPS / 60, TARGET_MINUTES, at_most=True
    )


def scored_captions(each: int) -> list[tuple[str, str]]:
    """Family and caption of `each` images of every family in the test split, without rendering them."""
    found = []
    for family in FAMILIES:
        for index in range(each):
            rng = random.Random(f"{family}/test/1/{index}")
            found.append((family, captions_of(family, sample_attributes(family, rng), rng)[0]))
    return found


@torch.no_grad()
def scored(trainer: Trainer, wanted: list[tuple[str, str]], columns: list[Tensor]) -> dict[str, Any]:
    """What share of the captions that state an attribute have images that show it; samples are added to `columns`."""
    from classifier import load_classifier
    from score import fits

    noise = noise_vectors(1, range(len(wanted)), trainer.settings.noise_dim).to(trainer.device)
    text = trainer.clip.encode_text([caption for _, caption in wanted])
    parts = zip(noise.split(64), text.split(64), strict=True)
    images = torch.cat([trainer.ema(*rows, trainer.clip).float().clamp(-1, 1).cpu() for rows in parts])
    columns.append(images[:: max(1, len(wanted) // SHOWN)][:SHOWN])
    right = fits(load_classifier(), images, wanted)
    return {"right": right, "mean": sum(right.values()) / len(right)}


def save(context: Context, trainer: Trainer, wanted: list[tuple[str, str]], columns: list[Tensor]) -> None:
    """Write the newest weights as a model folder, and the samples of all times so far; no file over 16 MiB."""
    folder = Path(context.shared["folder"]) / LEARNED
    folder.mkdir(parents=True, exist_ok=True)
    create_model_folder(folder, model_config(*trainer.settings.configs(), trainer.clip), trainer.clip)
    networks = (trainer.ema.state_dict(), trainer.discriminator.state_dict())
    largest = max(sum(tensor.nbytes for tensor in network.values()) for network in networks)
    save_weights(folder, *networks, {"step": str(trainer.steps_done)}, half=largest > LARGEST_FILE - 2**17)
    shown = wanted[:: max(1, len(wanted) // SHOWN)][:SHOWN]
    rows = [
        (caption, to_images(torch.stack([column[row] for column in columns]))) for row, (_, caption) in enumerate(shown)
    ]
    captioned_grid(rows).save(folder / "samples.png")
    for file in folder.rglob("*"):
        if file.is_file() and file.stat().st_size > LARGEST_FILE:
            file.unlink()
            context.note("left out", f"{file.name} is over 16 MiB")
