"""Checkpoints: everything a run needs to go on as if it had never stopped.

    checkpoints/step_00001000/
      generator.safetensors, ema.safetensors, discriminator.safetensors
      state.pt            optimisers and loss scale; read with weights_only
      checkpoint.json     steps and images seen, and what the checkpoint belongs to: architecture, CLIP, dataset, files

A checkpoint appears whole or not at all, and goes the same way: it is renamed before it is deleted.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ratlip_cli.errors import DataError, WeightsError
from ratlip_cli.files import PARTIAL, whole_folder, write_text
from ratlip_cli.json_files import is_of_kind, read_json
from ratlip_cli.setting import Value
from ratlip_cli.tensor_files import load_into, load_pickled, load_tensors, save_pickled, save_tensors
from ratlip_cli.training.run_paths import checkpoint_name, kept_file, list_checkpoints, step_of
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.training.trainer import Trainer
from ratlip_cli.weights.model_folder import GENERATOR_FILE, file_of

FORMAT = 1  # Version of the files above; a checkpoint of another one is refused.

NETWORKS = ("generator", "ema", "discriminator")


@dataclass(frozen=True)
class Identity:
    """What a checkpoint belongs to: it can be resumed only where all of it is the same."""

    architecture: dict[str, Value]  # See `TrainSettings.architecture`.
    clip: str  # Fingerprint of the frozen CLIP.
    dataset: str  # Fingerprint of the dataset.
    files: dict[str, str] | None = None  # Fingerprints of `Family.files`; None where an earlier version saved it.


class Checkpoint(NamedTuple):
    """A checkpoint in memory, read and found undamaged."""

    path: Path
    step: int
    images_seen: int | None  # None where an earlier version, which did not count them, saved it.
    identity: Identity
    networks: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save_checkpoint(
    folder: Path, trainer: Trainer, identity: Identity, keep: int, spared: int | None = None, keep_every: int = 0
) -> Path:
    """Write `folder`/step_N for the trainer's N steps, then remove all but the `keep` newest up to it.

    Args:
        spared: the step of a checkpoint that is kept besides.
        keep_every: those whose step is a multiple of it are kept besides; 0 for none.

    Raises RatlipError: the folder cannot be written or the disk is full; what was there before is still there.
    """
    step = trainer.steps_done
    target = folder / checkpoint_name(step)
    with whole_folder(target) as partial:
        for name in NETWORKS:
            save_tensors(partial / f"{name}.safetensors", getattr(trainer, name).state_dict(), {"step": str(step)})
        save_pickled(partial / "state.pt", trainer.state())
        counts = {"step": step, "images_seen": trainer.images_seen}
        saved = {"format": FORMAT, **counts, **asdict(identity), "torch": torch.__version__}
        write_text(partial / "checkpoint.json", json.dumps(saved, indent=2) + "\n")
        _remove(target)  # a damaged one of the same step
    not_newer = [(old, path) for path in list_checkpoints(folder) if (old := step_of(path)) <= step]
    for old, path in not_newer[keep:]:
        if old != spared and not (keep_every and old % keep_every == 0):
            _remove(path)
    return target


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint to the CPU.

    Raises WeightsError: a file is missing, cut short or foreign, or the checkpoint is of another format.
    """
    try:
        content = read_json(path / "checkpoint.json")
        version, step, seen = content["format"], content["step"], content.get("images_seen")
        identity = Identity(content["architecture"], content["clip"], content["dataset"], content.get("files"))
        if not all(is_of_kind(count, int) and count >= 0 for count in (step, 0 if seen is None else seen)):
            raise ValueError("its step or images_seen is not a whole number")
        if not is_of_kind(identity.architecture, dict[str, Value]):
            raise ValueError("its architecture is no object")
        if not is_of_kind(identity.files or {}, dict[str, str]):
            raise ValueError("its files are no object")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} is no whole checkpoint: its checkpoint.json cannot be read ({error}).") from error
    if version != FORMAT:
        raise WeightsError(f"{path} has checkpoint format {version!a:.20}; this version of ratlip reads {FORMAT}.")
    files = {name: path / f"{name}.safetensors" for name in NETWORKS} | {"ema": file_of(path, GENERATOR_FILE)}
    networks = {name: load_tensors(file) for name, file in files.items()}
    return Checkpoint(path, step, seen, identity, networks, load_pickled(path / "state.pt"))


def newest_checkpoint(paths: Iterable[Path]) -> tuple[Checkpoint | None, list[str]]:
    """The first of `paths` that is undamaged, and a line for each damaged one before it."""
    damaged: list[str] = []
    for path in paths:
        try:
            return read_checkpoint(path), damaged
        except WeightsError as error:
            damaged.append(f"checkpoint {path.name} is damaged and was passed over: {error}")
    return None, damaged


def resume(trainer: Trainer, checkpoint: Checkpoint, identity: Identity, before: TrainSettings) -> None:
    """Put the trainer into the state of `checkpoint`.

    Args:
        before: the settings that it was trained with; their batch size counts the images seen where it does not.

    Raises:
        WeightsError: the checkpoint has another architecture, CLIP or file of its objective; names what differs.
        DataError: the dataset is not the one that the checkpoint was trained on.
    """
    where, theirs = checkpoint.path, checkpoint.identity
    counted = checkpoint.images_seen
    images_seen = checkpoint.step * before.batch_size if counted is None else counted
    for name, value in identity.architecture.items():
        saved = theirs.architecture.get(name)
        if saved != value:
            option = f"--{name.replace('_', '-')} {saved}"
            raise WeightsError(
                f"{where} was trained with {name} = {saved}, not {value}: resume with {option}, or start a new run "
                "without --resume."
            )
    if theirs.clip != identity.clip:
        run = where.parents[1]
        copy = run / "model" / "clip"
        or_copy = f", or with its copy: --resume {run} --clip {copy}" if copy.is_dir() else ""
        raise WeightsError(
            f"{where} was trained on another CLIP, of fingerprint {theirs.clip}, not {identity.clip}: resume with the "
            f"--clip it was started with{or_copy}."
        )
    if theirs.dataset != identity.dataset:
        raise DataError(
            f"the dataset has changed since {where} was saved, or is another one: name the one it was trained on by "
            "--dataset, or start a new run without --resume."
        )
    ours = identity.files or {}
    saved_files = ours if theirs.files is None else theirs.files
    for name in sorted({*ours, *saved_files}):
        if ours.get(name) != saved_files.get(name):
            was = f"with the {name} of fingerprint {saved_files[name]}" if name in saved_files else f"without a {name}"
            copy = kept_file(where.parents[1], name)
            or_copy = f", or with its copy: --{name.replace('_', '-')} {copy}" if copy.is_file() else ""
            raise WeightsError(f"{where} was trained {was}: resume as it was started{or_copy}.")
    for name in NETWORKS:
        load_into(getattr(trainer, name), checkpoint.networks[name], where / f"{name}.safetensors")
    try:
        trainer.load_state(checkpoint.state, checkpoint.step, images_seen)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{where / 'state.pt'} does not fit the optimisers: {error}.") from error


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint so that a kill in the middle leaves no half of it under its name."""
    if checkpoint.exists():
        doomed = checkpoint.with_name(f".{checkpoint.name}.00000000{PARTIAL}")
        shutil.rmtree(doomed, ignore_errors=True)
        checkpoint.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)  # what is left goes when the run is opened again
