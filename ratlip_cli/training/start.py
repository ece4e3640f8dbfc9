"""How a run begins or goes on: from settings to an open session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ratlip_cli.data.dataset import CaptionedImages, cut_captions, text_vectors
from ratlip_cli.data.prepare import resolve_dataset
from ratlip_cli.device import resolve_device
from ratlip_cli.errors import UsageError, WeightsError
from ratlip_cli.family import Family
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.progress import Progress, silent
from ratlip_cli.tensor_files import load_into, load_tensors
from ratlip_cli.training.checkpoint import (
    Checkpoint,
    Identity,
    list_checkpoints,
    newest_checkpoint,
    read_checkpoint,
    resume,
)
from ratlip_cli.training.run_folder import RUNS, RunFolder, already_there
from ratlip_cli.training.session import TrainingSession, sample_prompts
from ratlip_cli.training.settings import TrainSettings, run_of, settings_of_run
from ratlip_cli.training.trainer import Trainer
from ratlip_cli.training.validation import Validation
from ratlip_cli.weights.clip_files import BUNDLED, load_clip
from ratlip_cli.weights.load import find_model
from ratlip_cli.weights.model_folder import (
    DISCRIMINATOR_FILE,
    GENERATOR_FILE,
    Model,
    create_model_folder,
    model_config,
    read_model_config,
)

ENCODED_AT_ONCE = 256  # Captions whose conditions are computed at once.


def open_session(
    settings: TrainSettings, tell: Callable[[str], None] = lambda line: None, progress: Progress = silent
) -> TrainingSession:
    """Read the data, load the CLIP, build the networks or resume them, and open the run folder.

    Args:
        tell: called with lines about what was found, such as a damaged checkpoint that was passed over.
        progress: called while a dataset is prepared that was not before.

    Raises:
        UsageError: `settings.out` exists, or a newer checkpoint than the one to resume does.
        DataError: no such dataset, or it has changed since the checkpoint.
        WeightsError: a CLIP or checkpoint is missing, damaged or does not fit.
        DeviceError: the device is not there.
    """
    device = resolve_device(settings.device)
    check_out(settings)
    clip = load_clip(settings.clip, device)
    dataset = open_dataset(settings, progress)
    run, checkpoint = _where_to_start(settings, settings.total_steps(len(dataset)), tell)
    if run is None and settings.out and Path(settings.out).exists():
        raise already_there(Path(settings.out))
    tell(f"{len(dataset):,} images; their {len(dataset.captions):,} captions are encoded once and kept")
    if (cut := cut_captions(clip, dataset.captions)) is not None:
        tell(cut)
    trainer = Trainer(settings, clip, _conditions(settings, dataset, clip), len(dataset), device)
    identity = Identity(settings.architecture, clip.fingerprint, dataset.fingerprint)
    if checkpoint is not None:
        resume(trainer, checkpoint, identity)
        tell(f"going on from {checkpoint.path}")
    elif settings.init_from:
        _start_from(settings.init_from, trainer)
        tell(f"starting from model {settings.init_from}")
    config = model_config(*settings.configs(), clip, training=_record(settings, dataset), features=_features(settings))
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


def _conditions(settings: TrainSettings, dataset: CaptionedImages, clip: FrozenCLIP) -> Tensor:
    """The generator's condition (captions,...) for every caption; text vectors are kept beside the data."""
    family = settings.family
    if type(family).encode is Family.encode:
        return text_vectors(dataset, clip)
    starts = range(0, len(dataset.captions), ENCODED_AT_ONCE)
    batches = (dataset.captions[start : start + ENCODED_AT_ONCE] for start in starts)
    return torch.cat([family.encode(clip, captions).cpu() for captions in batches])


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
        "prompts": sample_prompts(dataset),
        "settings": settings.recorded,
    }


def _features(settings: TrainSettings) -> str:
    """What scores the model's images: `inception` or `clip`."""
    if settings.eval_features != "auto":
        return settings.eval_features
    return "clip" if settings.clip in BUNDLED else "inception"


def check_out(settings: TrainSettings) -> None:
    """Raise UsageError for an `out` that exists, before anything costly is done."""
    if settings.out and not settings.resume and Path(settings.out).exists():
        raise already_there(Path(settings.out))


def open_dataset(settings: TrainSettings, progress: Progress) -> CaptionedImages:
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
    checkpoints = list_checkpoints(run / "checkpoints")
    if settings.resume != "auto" and path != run:
        checkpoint: Checkpoint | None = read_checkpoint(path)
        if checkpoints and checkpoints[0].name > path.name and not settings.out:
            raise UsageError(
                f"{path} is not the newest checkpoint of its run, {checkpoints[0].name} is; give an --out for a new "
                "run that goes on from it."
            )
    else:
        checkpoint, damaged = newest_checkpoint(checkpoints)
        for line in damaged:
            tell(line)
        if checkpoint is None and checkpoints:
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
