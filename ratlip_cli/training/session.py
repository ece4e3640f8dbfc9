"""A training run while it goes on: what is written when, and how it ends. `start.py` opens one."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ratlip_cli.data.dataset import Batch, CaptionedImages, training_batches
from ratlip_cli.data.layout import read_split
from ratlip_cli.data.stream import NAMED, StreamedImages, StreamReader, counted
from ratlip_cli.device import peak_memory_mib
from ratlip_cli.errors import DataError, Interrupted, RatlipError, TrainingError, one_line
from ratlip_cli.evaluation.run import Evaluation
from ratlip_cli.files import whole_file, whole_folder
from ratlip_cli.model.losses import clip_similarity
from ratlip_cli.pixels import to_images
from ratlip_cli.sampling import noise_vectors
from ratlip_cli.training.checkpoint import Identity, save_checkpoint
from ratlip_cli.training.run_folder import RunFolder
from ratlip_cli.training.settings import TrainSettings, parse_duration
from ratlip_cli.training.trainer import StepRecord, Trainer
from ratlip_cli.training.validation import Validation, deciding_score, read_best, write_best
from ratlip_cli.training.variety import Watch, variety
from ratlip_cli.weights.card import may_be_shown, write_card
from ratlip_cli.weights.model_folder import (
    CLIP_FOLDER,
    SAMPLES_FILE,
    create_model_folder,
    model_fingerprint,
    read_model_config,
    save_weights,
)

_log = logging.getLogger(__name__)

PATIENCE = 10  # Number of steps in a row that may be not finite before training stops.

REAL_SIMILARITY, REAL_IMAGES = "clip_similarity_real", 64
"""What the CLIP similarity of real images is called in metrics.jsonl, at every sampling, and of how many it is."""

FAILED_IMAGES, FAILED_SHARDS = "failed_images", "failed_shards"
"""What the numbers of images and shards of a stream that were passed over are called in metrics.jsonl."""

SAMPLE_ROWS, SAMPLE_COLUMNS = 4, 4  # Prompts, and images of each, in a grid of samples.


@dataclass
class TrainingSession:
    """One run: opened with `start.open_session`, and advanced by iterating over `run`."""

    settings: TrainSettings
    dataset: CaptionedImages | StreamedImages  # The training split.
    trainer: Trainer
    identity: Identity  # What its checkpoints belong to.
    folder: RunFolder
    saved_step: int  # The step of the last checkpoint written, 0 before the first.
    validation: Validation | None = None  # What scores the model now and then, if anything does.
    scores: dict[str, float] = field(default_factory=dict)  # What it last said, by metric.
    unscored: bool = False  # Whether the last step done was to be scored, and has no scores.

    def __post_init__(self) -> None:
        self._tried_to_save = -1
        self._unlogged: StepRecord | None = None
        self._memory = 0.0  # The most that a process had before this step.
        self._saved_every = (self.settings.save_every, self.settings.keep_every)
        self._reader: StreamReader | None = None
        self._position: dict[str, Any] = {}
        self._shared_at = -1  # The step after which all told where they are in a stream.
        self.total_steps = self.settings.total_steps(
            len(self.dataset), self.trainer.steps_done, self.trainer.images_seen
        )
        self._watch = Watch.of_run(self.folder.metrics)
        family, clip = self.settings.family, self.trainer.clip
        self._prompts = sample_prompts(self.dataset) if self.settings.reads_captions else []
        self._beside = list[Image.Image]()
        if self._prompts:
            self._conditions = family.encode(clip, self._prompts)
        else:
            self._prompts, images = _sample_images(self.dataset)
            self._conditions = family.of_images(clip, images.to(self.trainer.device))
            self._beside = to_images(images)

    @property
    def finished(self) -> bool:
        """Whether the last step is done, and scored where it was to be."""
        return self.trainer.steps_done >= self.total_steps and not self.unscored

    @property
    def stopped(self) -> str:
        """How a run ended that was stopped before its last step, in a sentence."""
        done, total = self.trainer.steps_done, self.total_steps
        if not done:
            return f"stopped before step 1 of {total}, so there is nothing to save."
        before = ", before it was scored" if self.unscored else ""
        return f"stopped after step {done} of {total}{before}; everything is saved."

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[StepRecord]:
        """Train until the last step, `max_time`, or `should_stop`, asked before every step; yield a record a step.

        The last whole step is always saved, whatever ends the run: one of these errors, any other, or a caller that
        asks for no more records. Only Interrupted, which asks to stop at once, is obeyed without saving.

        Raises:
            TrainingError: ten steps in a row were not finite, or the GPU's memory is full.
            DataError: an image cannot be read, or too many of a stream.
            RatlipError: the run folder cannot be written; the last checkpoint is still there.
        """
        limit = parse_duration(self.settings.max_time) if self.settings.max_time else math.inf
        deadline = time.monotonic() + limit

        def is_over() -> bool:
            return should_stop() or time.monotonic() >= deadline

        def is_over_for_all() -> bool:
            over, self._memory = world.largest(is_over(), peak_memory_mib(self.trainer.device))
            return bool(over)

        settings, world = self.settings, self.trainer.world
        if world.is_first and self.trainer.steps_done < self.total_steps:
            self.folder.note_environment(self.trainer.device)
        batches = self._batches()
        try:
            if self.unscored:
                self._make_up_scores(should_stop)
            while self.trainer.steps_done < self.total_steps and not is_over_for_all():
                record = self.trainer.train_step(next(batches))
                self._note_position()
                record = self._with_passed_over(replace(record, memory_mib=max(record.memory_mib, self._memory)))
                if any(map(self._due, self._saved_every)):
                    self._share_position()
                self._unlogged = record
                evaluation = self._evaluate(is_over) if self._due(settings.eval_every) else None
                if world.is_first:
                    record = self._written(record, evaluation)
                if any(self._due(every) for every in (settings.eval_every, settings.sample_every, *self._saved_every)):
                    world.wait()
                yield record
                if self.trainer.not_finite_in_a_row >= PATIENCE:
                    self._share_position()
                    raise TrainingError(self._diverged())
            self._share_position()
            self._tell_passed_over()
            self.save()
            world.wait()
        except BaseException as reason:
            if not isinstance(reason, Interrupted):
                self._save_in_spite_of(reason)
            raise
        finally:
            batches.close()
            self.folder.close()

    def _written(self, record: StepRecord, evaluation: Evaluation | None) -> StepRecord:
        """Write what is due after a step; the record with what was measured on the way."""
        if self._due(self.settings.sample_every):
            record = self._sampled(record)
        self._unlogged = None
        self.folder.log(record, evaluation)
        if evaluation is not None:
            self._keep_if_best(evaluation)
        if any(map(self._due, self._saved_every)):
            self.save()
        return record

    def _make_up_scores(self, should_stop: Callable[[], bool]) -> None:
        """Score the step that the run goes on from. `max_time` does not end it once more.

        An error is a warning; of several processes, which would wait for the one that has it, the end.
        """
        try:
            evaluation = self._evaluate(should_stop)
        except RatlipError as error:
            if self.trainer.world.size > 1:
                raise
            _log.warning("step %d could not be scored: %s", self.trainer.steps_done, one_line(error))
            evaluation, self.unscored = None, False
        if evaluation is not None and self.trainer.world.is_first:
            self.folder.add_scores(self.trainer.steps_done, evaluation)
            self._keep_if_best(evaluation)
        self.trainer.world.wait()

    def _batches(self) -> Generator[Batch, None, None]:
        """This process's rows of the batches that come next."""
        settings, trainer = self.settings, self.trainer
        pin_memory, world = trainer.device.type == "cuda", trainer.world
        rows = world.rows(settings.batch_size, *settings.shares)
        if isinstance(self.dataset, CaptionedImages):
            start = trainer.images_seen
            return training_batches(self.dataset, settings.batch_size, start, settings.workers, pin_memory, rows)
        self._reader = StreamReader(
            self.dataset, len(rows), settings.workers, world.rank, world.size, trainer.stream, pin_memory
        )
        self._note_position()
        return self._reader.batches()

    def _note_position(self) -> None:
        """Remember where a stream is: after the last whole step."""
        if self._reader is not None:
            self._position = self._reader.position()

    def _share_position(self) -> None:
        """Let the trainer know, for the next checkpoint, where all processes are in a stream; each must come here.

        The first one, which alone is heard, then names what others passed over.
        """
        if self._reader is not None:
            told = self.trainer.world.gather((self._position, self._reader.named))
            self.trainer.stream = [position for position, _ in told]
            self._shared_at = self.trainer.steps_done
            for _, named in told if self.trainer.world.is_first else ():
                self._reader.name(named)

    def _with_passed_over(self, record: StepRecord) -> StepRecord:
        """The record of a step with what all processes have passed over of a stream in the whole run."""
        if self._reader is None:
            return record
        counts = self._reader.counts
        images, shards = map(int, self.trainer.world.total(counts.failed, counts.failed_shards))
        return replace(record, logs={**record.logs, FAILED_IMAGES: images, FAILED_SHARDS: shards})

    def _tell_passed_over(self) -> None:
        """Say, where the run ends, what was passed over of a stream in all of it."""
        if self._reader is None or not self.trainer.world.is_first:
            return
        met = counted(self.trainer.stream)
        if passed_over := met.failed + met.failed_shards:
            more = f"; {passed_over - NAMED:,} of them after the first {NAMED}" if passed_over > NAMED else ""
            _log.warning(
                "passed over in all: %s of %s images and %s of %s shards that were read%s",
                *(f"{count:,}" for count in (met.failed, met.images, met.failed_shards, met.shards)),
                more,
            )

    def save(self) -> None:
        """Write a checkpoint and the model folder's weights, unless this step is saved already.

        Of several processes the first one does.
        """
        if self.trainer.world.is_first and self.trainer.steps_done != self.saved_step:
            self._tried_to_save = self.trainer.steps_done
            best = read_best(self.folder.best)
            spared = None if best is None else best.step
            keep, forever = self.settings.keep, self.settings.keep_every
            save_checkpoint(self.folder.checkpoints, self.trainer, self.identity, keep, spared, forever)
            self.write_model()
            self.saved_step = self.trainer.steps_done

    def _save_in_spite_of(self, reason: BaseException) -> None:
        """Save the last whole step where the run ends for `reason`, which no further error is to hide."""
        if not self.trainer.world.is_first:
            return
        if not self.trainer.between_steps:
            _log.warning("the last step ended half-way: what is saved is step %d", self.saved_step)
        elif self._reader is not None and self.trainer.world.size > 1 and self._shared_at != self.trainer.steps_done:
            _log.warning("where the others were in the stream is not known: what is saved is step %d", self.saved_step)
        elif self._tried_to_save != self.trainer.steps_done:  # else `reason` is that it cannot be saved
            try:
                if self._unlogged is not None:
                    self.folder.log(self._unlogged)
                if self.trainer.world.size == 1:
                    self._share_position()
                self.save()
            except Exception as error:
                _log.warning("step %d could not be saved: %s", self.trainer.steps_done, one_line(error))

    def write_model(self, folder: Path | None = None) -> None:
        """Put the newest EMA into a model folder; left out, the run's."""
        folder, step = folder or self.folder.model, str(self.trainer.steps_done)
        ema, discriminator = self.trainer.ema.state_dict(), self.trainer.discriminator.state_dict()
        save_weights(folder, ema, discriminator, metadata={"step": step})
        write_card(folder)

    def _evaluate(self, is_over: Callable[[], bool]) -> Evaluation | None:
        if self.validation is None:
            return None
        if self.trainer.world.is_first:
            self.write_model()
        self.trainer.world.wait()
        evaluation = self.validation.evaluate(self.folder.model, is_over)
        self.unscored = evaluation is None
        if evaluation is not None:
            self.scores = {name: score.value for name, score in evaluation.metrics.items()}
        return evaluation

    def _keep_if_best(self, evaluation: Evaluation) -> None:
        """Keep checkpoint and model of this step where no evaluation before, by the same metric, was as good."""
        best, (metric, value) = read_best(self.folder.best), deciding_score(evaluation)
        if best is not None and best.metric == metric and best.value <= value:
            return
        with whole_folder(self.folder.best, replaces=True) as partial:
            if (clip := self.folder.model / CLIP_FOLDER).is_dir():
                shutil.copytree(clip, partial / CLIP_FOLDER, copy_function=_linked)
            create_model_folder(partial, read_model_config(self.folder.model), self.trainer.clip)
            self.write_model(partial)
            write_best(partial, self.trainer.steps_done, evaluation)
        self.save()

    def _due(self, every: int) -> bool:
        return every > 0 and self.trainer.steps_done % every == 0

    def _sampled(self, record: StepRecord) -> StepRecord:
        """Write samples, and add to what was measured how unlike they are, and how like real images are."""
        figures = variety(self._write_samples())
        for line in self._watch.fallen(record.step, figures):
            _log.warning("%s", line)
        real = {REAL_SIMILARITY: self._real} if "clip_similarity" in record.logs and self._real is not None else {}
        return replace(record, logs={**record.logs, **figures, **real})

    @cached_property
    def _real(self) -> float | None:
        """Mean CLIP similarity of held-out images, centre crops, and their captions; None where none are at hand."""
        if not isinstance(self.dataset, CaptionedImages) or not self.settings.reads_captions:
            return None
        held = CaptionedImages(self.dataset.path, _split_to_sample(self.dataset), self.dataset.image_size)
        shown = [number for number, entry in enumerate(held.entries) if entry.captions][:REAL_IMAGES]
        if not shown:
            return None
        clip = self.trainer.clip
        try:
            images = torch.stack([held.centre_crop(number) for number in shown]).to(self.trainer.device)
        except DataError as error:  # training does not need them
            _log.warning("real images are not measured: %s", error)
            return None
        with torch.no_grad():
            text = clip.encode_text([held.entries[number].captions[0] for number in shown])
            return clip_similarity(clip.encode_image(images), text).mean().item()

    @torch.no_grad()
    def _write_samples(self) -> Tensor:
        """Write a grid of samples; their CLIP image vectors (prompts, SAMPLE_COLUMNS, d)."""
        noise = noise_vectors(self.settings.seed, range(SAMPLE_COLUMNS), self.settings.noise_dim)
        rows, vectors = [], []
        for number, (prompt, condition) in enumerate(zip(self._prompts, self._conditions, strict=True)):
            text = condition.expand(SAMPLE_COLUMNS, *condition.shape)
            images = self.trainer.ema(noise.to(self.trainer.device), text, self.trainer.clip)
            rows.append((prompt, [*self._beside[number : number + 1], *to_images(images)]))
            vectors.append(self.trainer.clip.encode_image(images.clamp(-1, 1)))
        config = read_model_config(self.folder.model)
        fingerprint = model_fingerprint(self.trainer.ema.state_dict(), config)
        samples = self.folder.save_samples(rows, self.trainer.steps_done, fingerprint)
        if may_be_shown(self.dataset.info.licence) and not self._beside:  # the user's own images stay here
            with whole_file(self.folder.model / SAMPLES_FILE) as partial:
                shutil.copyfile(samples, partial)
        return torch.stack(vectors)

    def _diverged(self) -> str:
        last, count = self.trainer.steps_done, self.trainer.not_finite_in_a_row
        return (
            f"steps {last - count + 1} to {last} were not finite and none of them was applied; the weights from "
            f"before are saved in {self.folder.checkpoints}. Try a lower --lr-d and --lr-g, a larger --batch-size, "
            "or --precision fp32."
        )


def sample_prompts(dataset: CaptionedImages | StreamedImages) -> list[str]:
    """The first captions of images spread over the test split, or over the training split where there is no other.

    Images without captions are passed over. Of a stream, the captions that come first in it.
    """
    if isinstance(dataset, StreamedImages):
        return dataset.first_captions(SAMPLE_ROWS)
    entries = [entry for entry in read_split(dataset.path, _split_to_sample(dataset)) if entry.captions]
    return [entries[index].captions[0] for index in _spread(len(entries))]


def _sample_images(dataset: CaptionedImages | StreamedImages) -> tuple[list[str], Tensor]:
    """In place of prompts, images (n,3,S,S) of the same split, and what stands over each and what is made of it."""
    if isinstance(dataset, StreamedImages):
        shown = dataset.first_images(SAMPLE_ROWS)
    else:
        held = CaptionedImages(dataset.path, _split_to_sample(dataset), dataset.image_size)
        shown = [(held.entries[number].file.name, held.centre_crop(number)) for number in _spread(len(held))]
    told = [f"{name}, then images of its CLIP vector" for name, _ in shown]
    return told, torch.stack([image for _, image in shown])


def _linked(source: str, target: str) -> None:
    """Let a file that is never changed have a second name, or copy it where the disk knows no second names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _split_to_sample(dataset: CaptionedImages) -> str:
    return "test" if (dataset.path / "test").is_dir() else "train"


def _spread(count: int) -> list[int]:
    """Up to SAMPLE_ROWS of `count` numbers, evenly spread."""
    spread: list[int] = np.linspace(0, count - 1, min(SAMPLE_ROWS, count)).round().astype(int).tolist()
    return spread
