"""The run folder: everything that one training run writes.

runs/oxford-ratlip-1/
  config.toml         the resolved settings, `ratlip train --config` repeats the run with them; and of which torchrun
  environment.json    versions, machine and commit that trained last, see environment.py
  data.json           where its prepared dataset was, see data/of_run.py
  pseudo_mapper.safetensors  and the like: what its objective learns from besides, see `Family.files`
  metrics.jsonl       one StepRecord a line, with the scores where the step was evaluated
  tensorboard/        the same for TensorBoard, with the sample grids; wandb/ where --log says so, see trackers.py
  samples/            step_*.png: the same prompts and the same noise every time
  checkpoints/        step_*/: see checkpoint.py
  model/              a model folder with the newest EMA of the generator, always complete
  best/               where --eval-every is set: see validation.py
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from PIL import Image

from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.data.layout import LONGEST_NAME, read_dataset
from ratlip_cli.data.request import is_stream, stream_name
from ratlip_cli.data.writer import in_use
from ratlip_cli.environment import of_run
from ratlip_cli.errors import DataError, RatlipError, TrainingError
from ratlip_cli.evaluation.run import Evaluation
from ratlip_cli.files import locked, remove_partials, whole_file, write_text, writing
from ratlip_cli.grids import captioned_grid
from ratlip_cli.outputs import png_text
from ratlip_cli.setting import RUNS
from ratlip_cli.training.run_paths import EVALUATION, last_line
from ratlip_cli.training.settings import TrainSettings, already_there
from ratlip_cli.training.trackers import EVERY, Trackers
from ratlip_cli.training.trainer import StepRecord

ENVIRONMENT_FILE = "environment.json"


class RunFolder:
    """The files of one run. `open` it before anything is logged; `close` it in the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        self.model = path / "model"
        self.best = path / "best"
        self._lock = contextlib.ExitStack()
        self._log: IO[str] | None = None
        self._trackers: Trackers | None = None
        self._unsent: dict[str, Any] = {}  # The newest of each figure that trackers have not got.

    @classmethod
    def create(cls, settings: TrainSettings) -> RunFolder:
        """Make the folder that `settings.out` names, or the next free runs/DATASET-VARIANT-N.

        Raises:
            UsageError: `settings.out` exists already. RatlipError: it cannot be made.
        """
        with writing(Path(settings.out or RUNS)):
            if not settings.out:
                RUNS.mkdir(exist_ok=True)
                return cls(_made_next(settings))
            path = Path(settings.out)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.mkdir()
            except FileExistsError:
                raise already_there(path) from None
            return cls(path)

    def open(
        self,
        settings: TrainSettings,
        steps_done: int,
        launch: str = "",
        is_over: bool = False,
        unscored: bool = False,
    ) -> None:
        """Open for appending after step `steps_done`; what a kill left half-written or ahead of it is dropped.

        Args:
            launch: `processes.launch`: processes that it starts again find the run by it.
            is_over: no step remains: the settings stay those of the steps done.
            unscored: where no step remains, whether scores are to be logged yet.

        Raises TrainingError where another process has it open.
        """
        with writing(self.path):
            alone = self._lock.enter_context(locked(self.path / ".lock"))
        if not alone:
            raise TrainingError(f"another ratlip trains in {self.path}; wait for it, or choose another --out.")
        for folder in (self.path, self.checkpoints, self.samples, self.model, self.best):
            remove_partials(folder)
        for folder in (self.model, self.best):  # safetensors' own, which earlier versions of ratlip had beside the file
            for path in folder.glob(".tmp??????"):
                path.unlink(missing_ok=True)
        with writing(self.path):
            truncate_metrics(self.metrics, steps_done)
        if is_over and not unscored:
            return
        if not is_over:
            write_text(self.config, settings.to_toml() + _note_of(launch))
        with writing(self.path):
            self._log = self.metrics.open("a", encoding="utf-8", buffering=1)
            self._trackers = Trackers(self.path, settings, steps_done)

    def keep_dataset(self, dataset: CaptionedImages) -> None:
        """Keep a dataset from being prepared again, from other images, while this run is open.

        Raises DataError where that has just been done.
        """
        self._lock.enter_context(in_use(dataset.path))
        if read_dataset(dataset.path) != dataset.info:
            raise DataError(f"{dataset.path} has just been prepared again, from other images: start once more.")

    def note_environment(self, device: torch.device) -> None:
        """Note which versions, machine and commit train from now on."""
        write_text(self.path / ENVIRONMENT_FILE, json.dumps(of_run(device), indent=2) + "\n")

    def log(self, record: StepRecord, evaluation: Evaluation | None = None) -> None:
        """Append one record to metrics.jsonl, and now and then to the trackers; scores always to both."""
        if self._log is None or self._trackers is None:
            raise RatlipError(f"{self.path} is not open.")
        scores = _scores(evaluation) if evaluation else {}
        with writing(self.path):
            self._log.write(json.dumps(record.line() | scores) + "\n")
        self._unsent |= {name: value for name, value in record.line().items() if value is not None}
        told = dict(scores)
        if record.step % EVERY == 0:
            told, self._unsent = self._unsent | scores, {}
        if told:
            self._trackers.log(record.step, _curves(told))

    def add_scores(self, step: int, evaluation: Evaluation) -> None:
        """Add the scores of the last step that was logged to its record, and to the trackers."""
        if self._log is None or self._trackers is None:
            raise RatlipError(f"{self.path} is not open.")
        last, scores = last_line(self.metrics), _scores(evaluation)
        with writing(self.path):
            os.truncate(self.metrics, self.metrics.stat().st_size - len(last))
            self._log.write(json.dumps(json.loads(last) | scores) + "\n")
        self._trackers.log(step, _curves(scores), what="scores")

    def save_samples(self, rows: Sequence[tuple[str, Sequence[Image.Image]]], step: int, fingerprint: str) -> Path:
        """Write samples/step_N.png: a grid with a row for each prompt; its metadata names the model."""
        target = self.samples / f"step_{step:08d}.png"
        grid = captioned_grid(rows)
        with whole_file(target) as partial:
            grid.save(partial, "PNG", pnginfo=png_text({"step": step, "fingerprint": fingerprint}))
        if self._trackers is not None:
            self._trackers.image(step, "samples", grid)
        return target

    def close(self) -> None:
        """Flush and close what is open. Curves that no longer fit on a full disk are in metrics.jsonl too."""
        with contextlib.suppress(OSError):
            if self._log is not None:
                self._log.close()
        if self._trackers is not None:
            self._trackers.close()
        self._lock.close()


def _scores(evaluation: Evaluation) -> dict[str, Any]:
    """What a record has of an evaluation."""
    return {name: score.value for name, score in evaluation.metrics.items()} | {EVALUATION: evaluation.fingerprint}


def _curves(values: Mapping[str, Any]) -> dict[str, Any]:
    """What trackers get of a record."""
    return {name: value for name, value in values.items() if name not in ("step", EVALUATION)}


def is_of_launch(run: Path, launch: str) -> bool:
    """Whether processes of this launch trained last in a run folder."""
    with contextlib.suppress(OSError, ValueError):
        return (run / "config.toml").read_text(encoding="utf-8").endswith(_note_of(launch))
    return False


def _note_of(launch: str) -> str:
    return f"\n# by torchrun {launch!r}\n" if launch else ""


def truncate_metrics(path: Path, steps_done: int) -> None:
    """Cut metrics.jsonl after the record of step `steps_done`, and a last line that a kill left half-written."""
    if not path.exists():
        return
    whole = 0
    with path.open("rb") as file:
        for line in file:
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] > steps_done:
                    break
            except (ValueError, KeyError, TypeError):
                break
            whole += len(line)
    os.truncate(path, whole)


def _dataset_name(dataset: str) -> str:
    return stream_name(dataset) if is_stream(dataset) else Path(dataset).resolve().name


def _made_next(settings: TrainSettings) -> Path:
    """Make runs/DATASET-VARIANT-N, N being one more than the largest there is, or the next that can be made."""
    name = os.fsencode(_dataset_name(settings.dataset))[:LONGEST_NAME].decode(errors="ignore")
    stem = f"{name}-{settings.variant}"
    taken = [re.fullmatch(rf"{re.escape(stem)}-([0-9]+)", path.name) for path in RUNS.iterdir()]
    number = max((int(match[1]) for match in taken if match), default=0) + 1
    while True:
        path = RUNS / f"{stem}-{number}"
        try:
            path.mkdir()
            return path
        except FileExistsError:  # made by another process, or in letters of another case
            number += 1
