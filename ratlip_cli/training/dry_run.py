"""What a run would be and cost, measured on a few steps that are thrown away."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from dataclasses import dataclass

import torch

from ratlip_cli.data.dataset import CaptionedImages, caption_notes, training_batches
from ratlip_cli.data.stream import StreamReader
from ratlip_cli.device import peak_memory_mib, resolve_device
from ratlip_cli.distributed import world
from ratlip_cli.progress import Progress, silent
from ratlip_cli.summary import count_parameters
from ratlip_cli.training.init_from import find_start, start_from
from ratlip_cli.training.run_paths import checkpoint_of, images_seen, step_of
from ratlip_cli.training.settings import TrainSettings, check_beginning
from ratlip_cli.training.start import found_by_settings, open_inputs, with_kept_files
from ratlip_cli.training.trainer import Trainer

MEASURED_STEPS = 3  # Steps that a dry run measures, after a first one to warm up; of rarer kinds of steps one.


@dataclass(frozen=True)
class DryRun:
    """What a run would be and cost, measured on a few steps that are thrown away."""

    dataset: str  # Folder of the dataset.
    images: int  # Training images.
    captions: int | None  # Their captions; None for a stream, of which they are encoded in each step.
    device: str  # Where it would train.
    precision: str  # In which arithmetic.
    generator_parameters: int  # Trained parameters of the generator.
    discriminator_parameters: int  # Trained parameters of the discriminator.
    clip_parameters: int  # Frozen parameters of the CLIP.
    steps: int  # Steps in all.
    steps_done: int  # Those that are done, where a run is gone on with.
    epochs: float | None  # The same in passes over the training images; None for a stream of unknown length.
    seconds_per_step: float  # Median of the steps measured; of several kinds of steps, the mean by their shares.
    seconds_for_text: float  # Once, to encode all captions, where that was not done before.
    seconds: float
    """Of all steps left, without samples, checkpoints, evaluations, and reading images that no worker reads."""
    memory_mib: float  # Peak memory in MiB, of the GPU where there is one.
    checkpoint_mib: float  # Size of one checkpoint in MiB.
    start: str | None = None  # What is taken of the model that it would start from, if any.
    notes: tuple[str, ...] = ()  # What the CLIP cannot read of the captions, and what settings do nothing.


def dry_run(settings: TrainSettings, progress: Progress = silent) -> DryRun:
    """Measure a few steps of the run that `settings` describe, and write nothing but what preparing the data takes.

    `progress` is called while a dataset is prepared that was not before. Raises what `open_session` would raise.
    """
    device = resolve_device(settings.device)
    told_first: list[str] = []
    settings = found_by_settings(settings, told_first.append, world())
    check_beginning(settings)
    settings, before = with_kept_files(settings), checkpoint_of(settings)
    start = find_start(settings) if settings.init_from and not settings.resume else None
    dataset, clip = open_inputs(settings, device, progress)
    if start is not None:
        start.check_clip(clip)
    rows, all_captions = None, list[str]()
    if isinstance(dataset, CaptionedImages):
        all_captions = dataset.captions if settings.reads_captions else []
        first = settings.family.rows(clip, ["a caption"])
        rows = torch.zeros(len(all_captions) + 1, *first.shape[1:], dtype=first.dtype)  # the last one for no caption
        batches = training_batches(dataset, settings.batch_size, 0, settings.workers)
    else:
        batches = StreamReader(dataset, settings.batch_size, settings.workers).batches()
    trainer = Trainer(settings, clip, rows, len(dataset), device, captions=all_captions)
    told = None if start is None else start_from(start, trainer)
    done = 0 if before is None else step_of(before)
    steps = settings.total_steps(len(dataset), done, 0 if before is None else images_seen(before, settings.batch_size))
    seconds_per_step, text_seconds = 0.0, []
    with contextlib.closing(batches):
        for number, (step, share) in enumerate(trainer.kinds_of_steps(steps).items()):
            step_seconds = []
            for batch in itertools.islice(batches, 1 + (1 if number else MEASURED_STEPS)):
                started = time.perf_counter()
                numbers = [] if isinstance(batch.captions, tuple) else batch.captions.tolist()
                captions = [number for number in numbers if number >= 0 and settings.reads_captions]
                if captions:
                    trainer.rows[captions] = settings.family.rows(clip, [all_captions[index] for index in captions])
                encoded = time.perf_counter()
                trainer.go_to(step)
                trainer.train_step(batch)
                step_seconds.append(time.perf_counter() - encoded)
                text_seconds.append((encoded - started) / max(1, len(captions)))
            seconds_per_step += share * statistics.median(step_seconds[1:])
    seconds_for_text = statistics.median(text_seconds[1:]) * len(all_captions)
    generator, discriminator = count_parameters(trainer.generator), count_parameters(trainer.discriminator)
    return DryRun(
        dataset=str(dataset.path) if isinstance(dataset, CaptionedImages) else dataset.source,
        images=len(dataset),
        captions=len(all_captions) if isinstance(dataset, CaptionedImages) else None,
        device=str(device),
        precision=trainer.precision,
        generator_parameters=generator,
        discriminator_parameters=discriminator,
        clip_parameters=count_parameters(clip),
        steps=steps,
        steps_done=done,
        epochs=steps * settings.batch_size / len(dataset) if len(dataset) else None,
        seconds_per_step=seconds_per_step,
        seconds_for_text=seconds_for_text,
        seconds=max(0, steps - done) * seconds_per_step + seconds_for_text,
        memory_mib=peak_memory_mib(device),
        checkpoint_mib=4 * (4 * generator + 3 * discriminator) / 2**20,
        start=told,
        notes=(*told_first, *settings.ignored, *caption_notes(clip, all_captions)),
    )
