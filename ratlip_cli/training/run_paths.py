"""Where a run folder keeps what, and where its dataset is now. Imports no torch: the command line asks it first."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

from ratlip_cli.data.of_run import dataset_of_run
from ratlip_cli.file_kinds import tensor_metadata
from ratlip_cli.training.settings import TrainSettings, read_settings

EVALUATION = "evaluation"
"""What a record in metrics.jsonl that has scores calls the fingerprint of their evaluation."""


def checkpoint_name(step: int) -> str:
    """The folder's name of the checkpoint of this step."""
    return f"step_{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, the newest first; whether they are undamaged shows when they are read.

    Folders of other names, such as a copy that somebody made, are none of the run's.
    """
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted((path for path in found if step_of(path) >= 0 and path.is_dir()), key=step_of, reverse=True)


def kept_file(run: Path, name: str) -> Path:
    """Where a run keeps what it learns from by that setting, see `Family.files`."""
    return run / f"{name}.safetensors"


def step_of(checkpoint: Path) -> int:
    """The step that the name of a checkpoint says, -1 where it is no such name."""
    match = re.fullmatch(r"step_([0-9]{8,})", checkpoint.name)
    return int(match[1]) if match else -1


def step_saved(run: Path) -> int:
    """The step of a run's newest checkpoint, 0 where it has none."""
    return max(map(step_of, list_checkpoints(run / "checkpoints")), default=0)


def images_seen(checkpoint: Path, batch_size: int) -> int:
    """The images in all steps up to a checkpoint; those of one that does not say so had `batch_size` each."""
    try:
        return int(json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))["images_seen"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return step_of(checkpoint) * batch_size


def images_of_run(run: Path) -> int:
    """The number of training images that a run's model folder notes, 0 where it notes none."""
    try:
        return int(
            json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))["training"]["data"]["images"]
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0


def is_last(checkpoint: Path, settings: TrainSettings, images: int) -> bool:
    """Whether a checkpoint is the end of a run of these settings on so many images."""
    steps = step_of(checkpoint)
    return steps >= settings.total_steps(images, steps, images_seen(checkpoint, settings.batch_size))


def last_line(metrics: Path) -> bytes:
    """The last line of a metrics.jsonl, with its end; empty where there is none. Raises OSError."""
    return b"".join(metrics.read_bytes().splitlines(keepends=True)[-1:])


def is_unscored(run: Path, settings: TrainSettings, step: int) -> bool:
    """Whether the last step of a run of these settings was to be scored, and has no scores."""
    if not settings.eval_every or not step or step % settings.eval_every:
        return False
    try:
        last = json.loads(last_line(run / "metrics.jsonl"))
        return bool(last["step"] == step and EVALUATION not in last)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def steps_logged(run: Path) -> int:
    """The last step in a run's metrics.jsonl that can be read, 0 before the first."""
    with contextlib.suppress(OSError):
        for line in reversed((run / "metrics.jsonl").read_bytes().splitlines()):
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                return int(json.loads(line)["step"])
    return 0


def step_of_model(run: Path) -> int:
    """The step whose weights a run's model folder has, as its file says; 0 where there is none or it says nothing."""
    with contextlib.suppress(ValueError):
        return int(tensor_metadata(run / "model" / "generator.safetensors").get("step", 0))
    return 0


def checkpoint_of(settings: TrainSettings) -> Path | None:
    """The checkpoint that is gone on from where settings name a run or checkpoint; None for the beginning."""
    run, path = settings.resumed_run, Path(settings.resume)
    if run is None or run != path:
        return None if run is None else path
    return next(iter(list_checkpoints(run / "checkpoints")), None)


def kept_dataset(settings: TrainSettings) -> Path | None:
    """`dataset_of_run` of the run that is resumed by its path, where the settings name no other dataset than it has."""
    run = settings.resumed_run
    if run is None or read_settings(run / "config.toml", own=True).get("dataset") != settings.dataset:
        return None
    return dataset_of_run(run)
