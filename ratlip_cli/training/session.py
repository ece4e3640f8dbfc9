"""A training run from its settings to its last step: what is read, what is written when, and how it goes on."""

from __future__ import annotations

import contextlib
import itertools
import math
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ratlip_cli.data.dataset import CaptionedImages, text_vectors, training_batches
from ratlip_cli.data.layout import read_split
from ratlip_cli.data.prepare import Progress, resolve_dataset
from ratlip_cli.device import peak_memory_mib, resolve_device
from ratlip_cli.errors import DataError, TrainingError, UsageError, WeightsError
from ratlip_cli.evaluation.run import Evaluation
from ratlip_cli.files import whole_file
from ratlip_cli.model.clip import BUNDLED, load_clip
from ratlip_cli.pixels import to_images
from ratlip_cli.sampling import noise_vectors
from ratlip_cli.tensor_files import load_into, load_tensors
from ratlip_cli.training.checkpoint import (
    Checkpoint,
    Identity,
    list_checkpoints,
    newest_checkpoint,
    read_checkpoint,
    resume,
    save_checkpoint,
)
from ratlip_cli.training.run_folder import RUNS, RunFolder, already_there
from ratlip_cli.training.settings import TrainSettings, parse_duration, run_of, settings_of_run
from ratlip_cli.training.trainer import StepRecord, Trainer
from ratlip_cli.training.validation import Validation, deciding_score, read_best, write_best
from ratlip_cli.weights.card import may_be_shown, write_card
from ratlip_cli.weights.load import find_model
from ratlip_cli.weights.model_folder import (
    DISCRIMINATOR_FILE,
    GENERATOR_FILE,
    SAMPLES_FILE,
    Model,
    create_model_folder,
    model_config,
    model_fingerprint,
    read_model_config,
    save_weights,
)

PATIENCE = 10
"""Number of steps in a row that may be not finite before training stops."""

MEASURED_STEPS = 3
"""Steps that a dry run measures, after a first one to warm up."""

SAMPLE_ROWS, SAMPLE_COLUMNS = 4, 4
"""Prompts and images of each in a grid of samples."""

RECORDED = (
    *("epochs", "steps", "batch_size", "lr_g", "lr_d", "beta1", "beta2"),
    *("clip_weight", "diversity_weight", "penalty_weight", "penalty_power", "ema", "seed", "precision"),
)
"""The settings that a model's config.json gives."""


class TrainingSession:
    """One run: opened with `open_session`, and advanced by iterating over `run`.

    Attributes:
        settings: the settings, resolved.
        dataset: the training split.
        trainer: networks and optimisers.
        folder: the run folder.
        validation: what scores the model now and then, if anything does.
        scores: what it last said, by metric.
        total_steps: the step at which the run is finished.
    """

    def __init__(
        self,
        settings: TrainSettings,
        dataset: CaptionedImages,
        trainer: Trainer,
        identity: Identity,
        folder: RunFolder,
        saved_step: int,
        validation: Validation | None = None,
    ) -> None:
        self.settings = settings
        self.dataset = dataset
        self.trainer = trainer
        self.folder = folder
        self.validation = validation
        self.scores: dict[str, float] = {}
        self.total_steps = settings.total_steps(len(dataset))
        self._identity = identity
        self._saved_step = saved_step
        self._prompts = _sample_prompts(dataset)
        self._prompt_vectors = trainer.clip.encode_text(self._prompts)

    @property
    def finished(self) -> bool:
        """Whether the last step is done."""
        return self.trainer.steps_done >= self.total_steps

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[StepRecord]:
        """Train until the last step, `max_time`, or `should_stop`, asked before every step; yield a record a step.

        The last step is always saved, also where the run ends with one of these errors.

        Raises:
            TrainingError: ten steps in a row were not finite, or the GPU's memory is full.
            DataError: an image cannot be read.
            RatlipError: the run folder cannot be written; the last checkpoint is still there.
        """
        limit = parse_duration(self.settings.max_time) if self.settings.max_time else math.inf
        deadline = time.monotonic() + limit

        def is_over() -> bool:
            return should_stop() or time.monotonic() >= deadline

        start = self.trainer.steps_done
        pin_memory = self.trainer.device.type == "cuda"
        batches = training_batches(self.dataset, self.settings.batch_size, start, self.settings.workers, pin_memory)
        try:
            while not self.finished and not is_over():
                record = self.trainer.train_step(next(batches))
                evaluation = self._evaluate(is_over) if self._due(self.settings.eval_every) else None
                self.folder.log(record, evaluation)
                if evaluation is not None:
                    self._keep_if_best(evaluation)
                if self._due(self.settings.sample_every):
                    self._draw_samples()
                if self._due(self.settings.save_every):
                    self.save()
                yield record
                if self.trainer.not_finite_in_a_row == PATIENCE:
                    raise TrainingError(self._diverged())
            self.save()
        except (DataError, TrainingError):
            self.save()
            raise
        finally:
            batches.close()
            self.folder.close()

    def save(self) -> None:
        """Write a checkpoint and the model folder's weights, unless this step is saved already."""
        if self.trainer.steps_done != self._saved_step:
            best = read_best(self.folder.best)
            spared = None if best is None else best.step
            save_checkpoint(self.folder.checkpoints, self.trainer, self._identity, self.settings.keep, spared)
            self.write_model()
            self._saved_step = self.trainer.steps_done

    def write_model(self) -> None:
        """Put the newest average into the model folder."""
        self._write_model(self.folder.model)

    def _write_model(self, folder: Path) -> None:
        save_weights(
            folder,
            self.trainer.ema.state_dict(),
            self.trainer.discriminator.state_dict(),
            metadata={"step": str(self.trainer.steps_done)},
        )
        write_card(folder)

    def _evaluate(self, is_over: Callable[[], bool]) -> Evaluation | None:
        if self.validation is None:
            return None
        self.write_model()
        evaluation = self.validation.evaluate(self.folder.model, is_over)
        if evaluation is not None:
            self.scores = {name: score.value for name, score in evaluation.metrics.items()}
        return evaluation

    def _keep_if_best(self, evaluation: Evaluation) -> None:
        """Keep checkpoint and model of this step where no evaluation before was as good."""
        best = read_best(self.folder.best)
        if best is not None and best.value <= deciding_score(evaluation)[1]:
            return
        create_model_folder(self.folder.best, read_model_config(self.folder.model), self.trainer.clip)
        self._write_model(self.folder.best)
        write_best(self.folder.best, self.trainer.steps_done, evaluation)
        self.save()

    def _due(self, every: int) -> bool:
        return every > 0 and self.trainer.steps_done % every == 0

    @torch.no_grad()
    def _draw_samples(self) -> None:
        noise = noise_vectors(self.settings.seed, range(SAMPLE_COLUMNS), self.settings.noise_dim)
        rows = []
        for prompt, vector in zip(self._prompts, self._prompt_vectors, strict=True):
            text = vector.expand(SAMPLE_COLUMNS, -1)
            images = self.trainer.ema(noise.to(self.trainer.device), text, self.trainer.clip)
            rows.append((prompt, to_images(images)))
        config = read_model_config(self.folder.model)
        fingerprint = model_fingerprint(self.trainer.ema.state_dict(), config)
        samples = self.folder.save_samples(rows, self.trainer.steps_done, fingerprint)
        if may_be_shown(self.dataset.info.licence):
            with whole_file(self.folder.model / SAMPLES_FILE) as partial:
                shutil.copyfile(samples, partial)

    def _diverged(self) -> str:
        last = self.trainer.steps_done
        return (
            f"steps {last - PATIENCE + 1} to {last} were not finite and none of them was applied; the weights from "
            f"before are saved in {self.folder.checkpoints}. Try a lower --lr-d and --lr-g, a larger --batch-size, "
            "or --precision fp32."
        )


@dataclass(frozen=True)
class DryRun:
    """What a run would be and cost, measured on a few steps that are thrown away."""

    dataset: str
    """Folder of the dataset."""
    images: int
    """Training images."""
    captions: int
    """Their captions."""
    device: str
    """Where it would train."""
    precision: str
    """In which arithmetic."""
    generator_parameters: int
    """Trained parameters of the generator."""
    discriminator_parameters: int
    """Trained parameters of the discriminator."""
    clip_parameters: int
    """Frozen parameters of the CLIP."""
    steps: int
    """Steps in all."""
    epochs: float
    """The same in passes over the training images."""
    seconds_per_step: float
    """Median of the steps measured."""
    seconds_for_text: float
    """Once, to encode all captions, where that was not done before."""
    seconds: float
    """In all, without samples and checkpoints."""
    memory_mib: float
    """Peak memory in MiB, of the GPU where there is one."""
    checkpoint_mib: float
    """Size of one checkpoint in MiB."""


def dry_run(settings: TrainSettings, progress: Progress | None = None) -> DryRun:
    """Measure a few steps of the run that `settings` describe, and write nothing but what preparing the data takes.

    Args:
        settings: what decides the run.
        progress: called while a dataset is prepared that was not before.

    Raises:
        RatlipError: what `open_session` would raise.
    """
    device = resolve_device(settings.device)
    _check_out(settings)
    clip = load_clip(settings.clip, device)
    dataset = _open_dataset(settings, progress)
    text = torch.zeros(len(dataset.captions), clip.geometry.embed_dim)
    trainer = Trainer(settings, clip, text, len(dataset), device)
    batches = training_batches(dataset, settings.batch_size, 0, settings.workers)
    step_seconds, text_seconds = [], []
    with contextlib.closing(batches):
        for batch in itertools.islice(batches, 1 + MEASURED_STEPS):
            started = time.perf_counter()
            captions = batch.captions.tolist()
            trainer.text[batch.captions] = clip.encode_text([dataset.captions[index] for index in captions])
            encoded = time.perf_counter()
            trainer.train_step(batch)
            step_seconds.append(time.perf_counter() - encoded)
            text_seconds.append((encoded - started) / len(captions))
    seconds_per_step = statistics.median(step_seconds[1:])
    seconds_for_text = statistics.median(text_seconds[1:]) * len(dataset.captions)
    steps = settings.total_steps(len(dataset))
    generator, discriminator = _size(trainer.generator), _size(trainer.discriminator)
    return DryRun(
        dataset=str(dataset.path),
        images=len(dataset),
        captions=len(dataset.captions),
        device=str(device),
        precision=trainer.precision,
        generator_parameters=generator,
        discriminator_parameters=discriminator,
        clip_parameters=_size(clip),
        steps=steps,
        epochs=steps * settings.batch_size / len(dataset),
        seconds_per_step=seconds_per_step,
        seconds_for_text=seconds_for_text,
        seconds=steps * seconds_per_step + seconds_for_text,
        memory_mib=peak_memory_mib(device),
        checkpoint_mib=4 * (4 * generator + 3 * discriminator) / 2**20,
    )


def open_session(
    settings: TrainSettings, tell: Callable[[str], None] = lambda line: None, progress: Progress | None = None
) -> TrainingSession:
    """Read the data, load the CLIP, build the networks or resume them, and open the run folder.

    Args:
        settings: what decides the run.
        tell: called with lines about what was found, such as a damaged checkpoint that was passed over.
        progress: called while a dataset is prepared that was not before.

    Raises:
        UsageError: `settings.out` exists, or a newer checkpoint than the one to resume does.
        DataError: no such dataset, or it has changed since the checkpoint.
        WeightsError: a CLIP or checkpoint is missing, damaged or does not fit.
        DeviceError: the device is not there.
    """
    device = resolve_device(settings.device)
    _check_out(settings)
    clip = load_clip(settings.clip, device)
    dataset = _open_dataset(settings, progress)
    run, checkpoint = _where_to_start(settings, settings.total_steps(len(dataset)), tell)
    if run is None and settings.out and Path(settings.out).exists():
        raise already_there(Path(settings.out))
    tell(f"{len(dataset):,} images; their {len(dataset.captions):,} captions are encoded once and kept")
    trainer = Trainer(settings, clip, text_vectors(dataset, clip), len(dataset), device)
    identity = Identity.of(settings, clip.fingerprint, dataset.fingerprint)
    if checkpoint is not None:
        resume(trainer, checkpoint, identity)
        tell(f"going on from {checkpoint.path}")
    elif settings.init_from:
        _start_from(settings.init_from, trainer)
        tell(f"starting from model {settings.init_from}")
    config = model_config(
        settings.generator_config(),
        settings.discriminator_config(),
        clip,
        training=_record(settings, dataset),
        features=_features(settings),
    )
    validation = None
    if settings.eval_every:
        model = Model("the run", Path(), config, trainer.ema, clip, fingerprint="")
        validation = Validation(settings, dataset, model)
    folder = RunFolder(run) if run is not None else RunFolder.create(settings)
    folder.open(settings, trainer.steps_done)
    branches_off = run is None and checkpoint is not None
    saved_step = 0 if branches_off else trainer.steps_done
    session = TrainingSession(settings, dataset, trainer, identity, folder, saved_step, validation)
    create_model_folder(folder.model, config, clip)
    session.write_model()
    session.save()
    return session


def _start_from(spec: str, trainer: Trainer) -> None:
    """Put the weights of a model into the networks; without a discriminator, that one starts anew."""
    folder = find_model(spec)
    theirs, ours = read_model_config(folder).clip_fingerprint, trainer.clip.fingerprint
    if theirs != ours:
        raise WeightsError(f"{spec} was trained with another CLIP ({theirs}) than --clip names ({ours}).")
    weights = load_tensors(folder / GENERATOR_FILE)
    for network in (trainer.generator, trainer.ema):
        load_into(network, weights, folder / GENERATOR_FILE)
    if (folder / DISCRIMINATOR_FILE).is_file():
        path = folder / DISCRIMINATOR_FILE
        load_into(trainer.discriminator, load_tensors(path), path)


def _record(settings: TrainSettings, dataset: CaptionedImages) -> dict[str, Any]:
    """What config.json says of the training, for records and for the model card."""
    info = dataset.info
    return {
        "dataset": settings.dataset,
        "dataset_fingerprint": dataset.fingerprint,
        "data": {
            "name": info.name,
            "source": info.source,
            "licence": info.licence,
            "images": len(dataset),
            "captions": len(dataset.captions),
        },
        "prompts": _sample_prompts(dataset),
        "settings": {name: getattr(settings, name) for name in RECORDED},
    }


def _features(settings: TrainSettings) -> str:
    """What scores the model's images: `inception` or `clip`."""
    if settings.eval_features != "auto":
        return settings.eval_features
    return "clip" if settings.clip in BUNDLED else "inception"


def _check_out(settings: TrainSettings) -> None:
    """Raise UsageError for an `out` that exists, before anything costly is done."""
    if settings.out and not settings.resume and Path(settings.out).exists():
        raise already_there(Path(settings.out))


def _open_dataset(settings: TrainSettings, progress: Progress | None) -> CaptionedImages:
    """The training split; a dataset that is not prepared yet is prepared first."""
    if not settings.dataset:
        raise UsageError("give the --dataset to train on: a name or a folder.")
    folder = resolve_dataset(settings.dataset, Path(settings.data_dir), settings.image_size, progress=progress)
    return CaptionedImages(folder, "train", settings.image_size, settings.seed)


def _where_to_start(
    settings: TrainSettings, total_steps: int, tell: Callable[[str], None]
) -> tuple[Path | None, Checkpoint | None]:
    """The run folder to go on in, None for a new one; and the checkpoint to go on from, None for the beginning."""
    if not settings.resume:
        return None, None
    path = Path(settings.resume)
    if settings.resume == "auto":
        run = _newest_unfinished(settings, total_steps)
        if run is None:
            tell("no unfinished run of these settings: a new one begins")
            return None, None
    else:
        run = run_of(path)
    found = list_checkpoints(run / "checkpoints")
    if settings.resume != "auto" and path != run:
        checkpoint: Checkpoint | None = read_checkpoint(path)
        if found and found[0].name > path.name and not settings.out:
            raise UsageError(
                f"{path} is not the newest checkpoint of its run, {found[0].name} is; give an --out for a new run "
                "that goes on from it."
            )
    else:
        checkpoint, damaged = newest_checkpoint(found)
        for line in damaged:
            tell(line)
        if checkpoint is None and found:
            raise WeightsError(f"no checkpoint in {run} can be read; start a new run without --resume.")
    elsewhere = settings.out and settings.resume != "auto" and Path(settings.out).resolve() != run.resolve()
    return None if elsewhere else run, checkpoint


def _newest_unfinished(settings: TrainSettings, total_steps: int) -> Path | None:
    """The run of the same settings that was written to last and whose last step is not saved."""
    candidates = [Path(settings.out)] if settings.out else list(RUNS.glob("*"))
    unfinished = []
    for run in candidates:
        try:
            same = settings_of_run(run).same_run(settings)
        except UsageError:  # no run folder, or one of another version
            continue
        newest = list_checkpoints(run / "checkpoints")[:1]
        finished = bool(newest) and newest[0].name >= f"step_{total_steps:08d}"
        if same and (settings.out or not finished):  # a run asked for by name is found to be finished, not begun anew
            unfinished.append(run)
    return max(unfinished, key=lambda run: (run / "config.toml").stat().st_mtime, default=None)


def _sample_prompts(dataset: CaptionedImages) -> list[str]:
    """The first captions of images spread over the test split, or over the training split where there is no other."""
    path = dataset.path
    entries = read_split(path, "test" if (path / "test").is_dir() else "train")
    spread = np.linspace(0, len(entries) - 1, min(SAMPLE_ROWS, len(entries))).round().astype(int)
    return [entries[index].captions[0] for index in spread]


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
