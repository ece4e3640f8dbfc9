"""Training runs as their folders tell them, for an overview. Imports no torch: nothing of a model is loaded."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratlip_cli.errors import RatlipError, UsageError
from ratlip_cli.evaluation.request import OF_CLIP, OF_FEATURES
from ratlip_cli.files import locked
from ratlip_cli.training.run_paths import images_seen, is_unscored, list_checkpoints, step_of
from ratlip_cli.training.settings import TrainSettings, settings_of_run

SCORES = tuple(key for keys in (OF_FEATURES | OF_CLIP).values() for key in keys)
"""How the names of scores in metrics.jsonl begin."""

_ODD = (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError)
"""What a damaged record raises where it is read."""


@dataclass(frozen=True)
class RunSummary:
    """What a run folder says of its run."""

    run: Path  # The run folder.
    state: str  # "finished", "running", "interrupted" or "damaged".
    dataset: str = ""  # As it was named.
    variant: str = ""
    steps: int = 0  # Done and saved; of a run that goes on, done.
    total_steps: int | None = None  # None where it cannot be told.
    scores: dict[str, float] | None = None  # Of the last evaluation while it trained, by metric.
    problem: str = ""  # What is damaged.


def runs_in(folder: Path) -> list[RunSummary]:
    """The runs in `folder`, or that one run, the one that was written to last at the end.

    Raises RatlipError where it is no folder.
    """
    if not folder.is_dir():
        raise RatlipError(f"{folder} is no folder of runs; give the one that `ratlip train` wrote into.")
    found = [folder] if _is_run(folder) else [run for run in folder.iterdir() if _is_run(run)]
    return [_summary(run) for run in sorted(found, key=_last_written)]


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("config.toml", "metrics.jsonl"))


def _last_written(run: Path) -> tuple[float, str]:
    files = [path for path in (run / "metrics.jsonl", run / "config.toml") if path.exists()]
    return max(path.stat().st_mtime for path in files), run.name


def _summary(run: Path) -> RunSummary:
    try:
        settings = settings_of_run(run)
    except UsageError as error:
        return RunSummary(run, "damaged", problem=str(error))
    last, scores = _metrics(run / "metrics.jsonl")
    running = _is_open(run / ".lock")
    checkpoints = list_checkpoints(run / "checkpoints")
    saved, problem = _newest_step(checkpoints)
    total = settings.steps or _steps_of_epochs(run, settings, checkpoints, saved)
    steps = last if running else saved
    if running:
        state = "running"
    elif problem:
        state = "damaged"
    else:
        is_whole = total is not None and saved >= total and not is_unscored(run, settings, saved)
        state = "finished" if is_whole else "interrupted"
    return RunSummary(run, state, settings.dataset, settings.variant, steps, total, scores, problem)


def _steps_of_epochs(run: Path, settings: TrainSettings, checkpoints: list[Path], saved: int) -> int | None:
    try:
        images = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))["training"]["data"]["images"]
        seen = next((images_seen(path, settings.batch_size) for path in checkpoints if step_of(path) == saved), 0)
        return settings.total_steps(int(images), saved, seen)
    except _ODD:
        return None


def _is_open(lock: Path) -> bool:
    """Whether a process trains in the run."""
    if not lock.is_file():
        return False
    with contextlib.suppress(OSError), locked(lock) as free:
        return not free
    return False


def _newest_step(checkpoints: list[Path]) -> tuple[int, str]:
    """The step of the newest checkpoint that says so, 0 before the first; and what is wrong where none of them does."""
    problem = ""
    for path in checkpoints:
        try:
            return int(json.loads((path / "checkpoint.json").read_text(encoding="utf-8"))["step"]), ""
        except _ODD:
            problem = problem or f"{path} is no whole checkpoint"
    return 0, problem


def _metrics(path: Path) -> tuple[int, dict[str, float] | None]:
    """The last step in metrics.jsonl, and the last scores in it; what cannot be read is passed over."""
    step, scores = 0, None
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return step, scores
    for line in reversed(lines):
        if step and b'"evaluation"' not in line:
            continue
        with contextlib.suppress(*_ODD):
            record: dict[str, Any] = json.loads(line)
            step = step or int(record["step"])
            if "evaluation" in record:
                scores = {name: float(value) for name, value in record.items() if name.startswith(SCORES)}
                return step, {name: score for name, score in scores.items() if math.isfinite(score)}
    return step, scores
