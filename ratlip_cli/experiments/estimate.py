"""What a sweep will take, said before: time of its runs, measured on a few steps, and space on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ratlip_cli.device import torch_threads
from ratlip_cli.errors import RatlipError
from ratlip_cli.experiments.ledger import DONE
from ratlip_cli.experiments.sweep import UNSCORED, SweepFolder, is_trained, slots
from ratlip_cli.experiments.sweep_file import Run
from ratlip_cli.planned import planned
from ratlip_cli.progress import Progress, silent
from ratlip_cli.summary import count_parameters
from ratlip_cli.training.dry_run import dry_run
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.weights.clip_files import BUNDLED, WEIGHTS_FILE, clip_architecture

_LINE, _SAMPLES = 1000, 16
"""Bytes that a step takes in metrics.jsonl and TensorBoard's file; images in a grid of samples."""


@dataclass(frozen=True)
class RowEstimate:
    """What the runs of a row that are left will take."""

    row: str
    seeds: tuple[int, ...]  # Of the runs that are left.
    trained: tuple[int, ...]  # Those of them that are trained already, here or where they are taken from.
    steps: int  # Of a run.
    seconds: float  # Of a run, by a few steps or by what runs of the row that are done took.
    scoring: float  # Which of them scoring takes: all that a run takes that is trained already.
    measured: bool  # Whether on a few steps now; else by those runs.
    disk: int  # Bytes of a run.


@dataclass(frozen=True)
class Estimate:
    """What the runs of a sweep that are left will take."""

    rows: tuple[RowEstimate, ...]
    runs: int
    jobs: int  # Runs at a time.
    seconds: float  # In all, with so many at a time.
    disk: int  # Bytes in all.
    free: int  # Bytes that the disk has.


def estimate(folder: SweepFolder, progress: Progress = silent) -> Estimate:
    """Measure a few steps of each row of which no run is done, and write nothing but a dataset that is missing.

    They are measured with as many threads as a run will have, but alone: what runs at a time take from one another
    beside the cores, such as memory bandwidth, is not in it.

    Raises what training would raise before its first step.
    """
    left = folder.left()
    places = slots(folder.request, len(left))
    jobs, taken = len(places), folder.to_take()
    with torch_threads(int(places[0]["OMP_NUM_THREADS"])):
        rows = [_row(folder, [run for run in left if run.row == row], taken, progress) for row in _rows(left)]
    each = [row.scoring if seed in row.trained else row.seconds for row in rows for seed in row.seeds]
    seconds, longest = sum(each), max(each, default=0.0)
    return Estimate(
        rows=tuple(rows),
        runs=len(left),
        jobs=jobs,
        seconds=max(longest, seconds / jobs),
        disk=_missing(folder, left),
        free=_free(folder.path),
    )


def check_disk(folder: SweepFolder) -> None:
    """Raise RatlipError where the disk will not hold what the runs that are left write."""
    left = folder.left()
    needed, free = _missing(folder, left), _free(folder.path)
    if needed > free:
        raise RatlipError(
            f"{len(left)} runs write about {_gib(needed)} into {folder.path}, and its disk has {_gib(free)} free: free "
            "some space, choose another --out, or set keep = 1 and keep_every = 0 in [settings]."
        )


def _row(folder: SweepFolder, runs: Sequence[Run], taken: Mapping[str, Path], progress: Progress) -> RowEstimate:
    run, protocol = runs[0], folder.sweep.protocol
    settings = run.settings.replaced(device=folder.request.device, data_dir=folder.request.data_dir)
    steps, of_split = settings.steps or 0, protocol.limit
    done = [
        entry
        for other in folder.sweep.runs
        if other.row == run.row and (entry := folder.state(other)[1]) is not None and entry.state == DONE
    ]
    if done:
        seconds = sum(entry.seconds for entry in done) / len(done)
        scored = int(done[0].protocol.get("images", of_split or 0))
        scoring = seconds * scored / (scored + steps * settings.batch_size)
    else:
        measured = dry_run(settings, progress)
        scored = (of_split or measured.images // 10) * protocol.captions_per_image
        scoring = scored * measured.seconds_per_step / settings.batch_size  # an image at most as long as in a step
        seconds = measured.seconds + scoring
    trained = [one.seed for one in runs if one.name in taken or is_trained(folder.path / one.name, one.settings)]
    seeds = tuple(one.seed for one in runs)
    return RowEstimate(run.row, seeds, tuple(trained), steps, seconds, scoring, not done, bytes_of(settings))


def bytes_of(settings: TrainSettings) -> int:
    """About how many bytes a run of these settings writes, the second checkpoint while one is replaced among them."""
    clip = clip_architecture(settings.clip)
    g_config, d_config = settings.configs()
    with planned():
        generator = count_parameters(settings.family.generator(g_config, clip.geometry))
        discriminator = count_parameters(settings.family.discriminator(d_config, clip.geometry))
    steps = settings.steps or 0
    kept = settings.keep + 1 + (steps // settings.keep_every if settings.keep_every else 0)
    models = 2 if settings.eval_every else 1
    grids = steps // settings.sample_every if settings.sample_every else 0
    clip_folder = BUNDLED.get(settings.clip, Path(settings.clip)) / WEIGHTS_FILE
    copied = clip_folder.stat().st_size if clip_folder.is_file() else 0
    weights = 4 * kept * (4 * generator + 3 * discriminator) + models * (4 * (generator + discriminator) + copied)
    return weights + steps * _LINE + grids * 3 * _SAMPLES * settings.image_size**2


def _missing(folder: SweepFolder, runs: Sequence[Run]) -> int:
    """Bytes that these runs will write beside what they have written."""
    of_row: dict[str, int] = {}
    total, taken = 0, folder.to_take()
    for run in runs:
        place = folder.path / run.name
        if run.name in taken:
            total += _size(taken[run.name])
        elif folder.state(run)[0] != UNSCORED and not is_trained(place, run.settings):
            if run.row not in of_row:
                of_row[run.row] = bytes_of(run.settings)
            total += max(0, of_row[run.row] - _size(place))
    return total


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _free(folder: Path) -> int:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def _rows(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.row for run in runs))


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
