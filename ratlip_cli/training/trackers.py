"""Where a run's curves and sample grids go besides its run folder: TensorBoard, Weights & Biases, Trackio.

A tracker is what `Tracker` says, and one entry in `TRACKERS`. One that fails costs a line on stderr and is left out
from there on: the run folder has everything, and a run of days is not to end because of a service. Imports no tracker
and no torch before one is opened: the command line asks for their names.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ratlip_cli.errors import one_line
from ratlip_cli.files import write_text
from ratlip_cli.json_files import from_json, is_of_kind, read_json
from ratlip_cli.setting import own_name

if TYPE_CHECKING:
    from PIL import Image

    from ratlip_cli.training.settings import TrainSettings

_log = logging.getLogger(__name__)

EVERY = 10
"""Steps between two points of a curve; metrics.jsonl has them all."""

PROJECT = "ratlip"
"""The project in wandb, where WANDB_PROJECT names no other, and in trackio."""

NAME_FILE = "trackers.json"


@dataclass(frozen=True)
class RunName:
    """What services call a run, the same when it is resumed; `trackers.json` in its run folder keeps it."""

    name: str  # For people: what its folder was called when it began.
    id: str  # Eight hex digits: folders elsewhere may have the same name.
    logged: dict[str, int] = field(default_factory=dict)  # The last step that services have, as "wandb curves".


class Tracker(Protocol):
    """One place that curves and images go to. Its methods may raise anything."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curves of these names."""

    def image(self, step: int, name: str, image: Image.Image) -> None:
        """Add an image."""

    def close(self) -> None:
        """Send or write what is left."""


class TensorBoard:
    """Event files in RUN/tensorboard, for `tensorboard --logdir`."""

    def __init__(self, folder: Path, settings: TrainSettings, steps_done: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=steps_done + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: Image.Image) -> None:
        import numpy as np

        self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A run of Weights & Biases, whose files are in RUN/wandb; WANDB_MODE, WANDB_ENTITY and so on are obeyed."""

    def __init__(self, folder: Path, settings: TrainSettings, steps_done: int) -> None:
        import wandb

        name = named(folder)
        self._image = wandb.Image
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=name.id,
            name=name.name,
            dir=folder,
            config=_config(settings),
            resume="allow",
            settings=wandb.Settings(console="off"),  # the terminal is the progress bar's
        )
        # By its own steps, which never go back, wandb would drop what a run repeats that was killed.
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def image(self, step: int, name: str, image: Image.Image) -> None:
        self._run.log({name: self._image(image), "step": step})

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A run of Trackio on this machine, for `trackio show`; TRACKIO_DIR and TRACKIO_SPACE_ID are obeyed."""

    def __init__(self, folder: Path, settings: TrainSettings, steps_done: int) -> None:
        import trackio

        name = named(folder)
        self._image, self._finish = trackio.Image, trackio.finish
        self._run: Any = trackio.init(
            PROJECT, name=f"{name.name}-{name.id}", config=_config(settings), resume="allow", embed=False
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def image(self, step: int, name: str, image: Image.Image) -> None:
        self._run.log({name: self._image(image.convert("RGB"))}, step=step)

    def close(self) -> None:
        self._finish()  # not the run's own, after which it would be finished again, on stdout, when Python ends


TRACKERS: dict[str, Callable[[Path, TrainSettings, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}


MODULES = {"tensorboard": "torch.utils.tensorboard.writer", "wandb": "wandb", "trackio": "trackio"}
"""What each imports, which takes seconds."""


def import_for(settings: TrainSettings) -> None:
    """Import what the trackers of a run take, before it has a folder: a signal meanwhile ends the program at once."""
    for kind in settings.trackers:
        with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr):  # it is told when it is opened
            importlib.import_module(MODULES[kind])


REWINDING = ("tensorboard",)
"""Those that drop what is ahead of the step after which a run goes on."""


class Trackers:
    """The trackers that `settings.log` names, opened for a run that goes on after step `steps_done`.

    A run that was killed repeats the steps after its last checkpoint. Services that keep everything are not told those
    again that they have.
    """

    def __init__(self, folder: Path, settings: TrainSettings, steps_done: int) -> None:
        self._folder = folder
        self._before = named(folder).logged if any(one not in REWINDING for one in settings.trackers) else {}
        self._open: dict[str, Tracker] = {}
        for kind in settings.trackers:
            with self._attempted(kind):
                self._open[kind] = TRACKERS[kind](folder, settings, steps_done)

    def log(self, step: int, values: Mapping[str, float], what: str = "curves") -> None:
        """Add a point to the curves. What comes later of a step that they have already is called something else."""
        for kind, tracker in list(self._open.items()):
            with self._attempted(kind):
                if self._is_new(kind, what, step):
                    tracker.log(step, values)

    def image(self, step: int, name: str, image: Image.Image) -> None:
        """Add an image."""
        for kind, tracker in list(self._open.items()):
            with self._attempted(kind):
                if self._is_new(kind, name, step):
                    tracker.image(step, name, image)

    def close(self) -> None:
        """Close all."""
        for kind, tracker in list(self._open.items()):
            with self._attempted(kind):
                tracker.close()

    def _is_new(self, kind: str, what: str, step: int) -> bool:
        """Whether a tracker has not got this step yet; if so it is noted first: better one missing than one twice."""
        key = f"{kind} {what}"
        if kind in REWINDING:
            return True
        if step <= self._before.get(key, 0):
            return False
        name = named(self._folder)
        _write_name(self._folder, replace(name, logged={**name.logged, key: step}))
        return True

    @contextlib.contextmanager
    def _attempted(self, kind: str) -> Iterator[None]:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
                yield
        except Exception as error:  # whatever a service, its client or its disk may say
            self._open.pop(kind, None)
            _log.warning("%s is left out from here on, training goes on: %s", kind, one_line(error))


def named(folder: Path) -> RunName:
    """The run's name for services, which its folder keeps from the first time on; a damaged one is made anew."""
    with contextlib.suppress(OSError, ValueError):
        name = from_json(RunName, read_json(folder / NAME_FILE), optional=True)
        if all(is_of_kind(step, int) for step in name.logged.values()):
            return name
    name = RunName(folder.resolve().name, uuid.uuid4().hex[:8])
    _write_name(folder, name)
    return name


def _write_name(folder: Path, name: RunName) -> None:
    write_text(folder / NAME_FILE, json.dumps(asdict(name)) + "\n")


def _config(settings: TrainSettings) -> dict[str, Any]:
    """The settings for a service: none of this machine's paths."""
    return {**settings.of_all_processes, "dataset": own_name(settings.dataset)}
