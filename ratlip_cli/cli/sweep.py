"""`ratlip sweep`: rows times seeds of training runs, made and scored."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from ratlip_cli.cli import console, signals, waiting
from ratlip_cli.cli.options import DataDir, Device, Json, Quiet, RetryBroken, check_file
from ratlip_cli.cli.train import StopRequest
from ratlip_cli.errors import Interrupted, RatlipError
from ratlip_cli.experiments.ledger import BROKEN, CHANGED, DONE, REAL_FEATURES_FILE, Entry, shown_name
from ratlip_cli.experiments.sweep import (
    BEGINS,
    ELSEWHERE,
    LOGS,
    MOST_JOBS,
    STOPPED,
    Event,
    SweepFolder,
    SweepRequest,
    is_trained,
)
from ratlip_cli.experiments.sweep import sweep as make_runs
from ratlip_cli.experiments.sweep_file import Run
from ratlip_cli.training.run_paths import step_saved

if TYPE_CHECKING:
    from ratlip_cli.experiments.estimate import Estimate

_MIB = 2**20


def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The sweep file, TOML.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder of the runs and the ledger; runs/ and the file's name if left out."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure a few steps of each row, print runs, time and disk, begin none.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N", help=f"Runs at a time; one a GPU, or else one a core, at most {MOST_JOBS}, if left out."
        ),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only every N-th run, from the I-th on: for array jobs of SLURM.")
    ] = None,
    retry_broken: RetryBroken = False,
    take: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER", help="Another sweep folder: runs that were trained there just so are copied. Repeatable."
        ),
    ] = None,
    device: Device = "auto",
    data_dir: DataDir = "data",
    only: Annotated[str | None, typer.Option(hidden=True)] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train and score every row of a sweep file with every seed. The sweep folder goes to stdout.

    What is done is passed over, and what was interrupted goes on; several calls share the work. Ctrl-C saves all.

    [bold]Examples[/]

    ratlip sweep examples/sweep.toml --dry-run

    ratlip sweep examples/sweep.toml --jobs 2

    ratlip sweep table1.toml --device cuda --shard $SLURM_ARRAY_TASK_ID/8
    """
    console.set_up(quiet)
    check_file(file)
    folder = SweepFolder(SweepRequest(file, out, device, data_dir, jobs, shard, retry_broken, take or ()))
    if only is not None:
        _make_one(folder, only)
        return
    for other in folder.nothing_in():
        console.note(f"--take {other}: no run was trained there as this file says")
    if dry_run:
        show_estimate(folder, json)
        return
    entries = complete(folder)
    states = {run.name: folder.state(run)[0] for run in folder.sweep.runs}
    states |= {entry.run: entry.state for entry in entries}
    told = {
        "folder": folder.path,
        "runs": len(folder.sweep.runs),
        "states": states,
        "entries": [asdict(entry) for entry in entries],
    }
    console.answer(json, told, folder.path)
    check_whole((folder, entries))


def complete(folder: SweepFolder) -> list[Entry]:
    """Make all runs that are left, and return the ledger. Raises Interrupted where a signal ended it."""
    if folder.left():
        from ratlip_cli.experiments.estimate import check_disk

        check_disk(folder)
    folder.open()
    if folder.left():
        _check_evaluation(folder)
    _tell_not_taken(folder)
    for name, source in folder.take().items():
        console.note(f"{name} is taken from {source}, to be scored here{_by_another_commit(source)}")
    if (again := folder.score_again_for_real_features()) is not None:
        console.note(f"{again} is scored again: {REAL_FEATURES_FILE}, which scoring writes, is missing or damaged")
    left = folder.left()
    folder.write_ledger()
    number, stopped = _make_all(folder, len(left))
    entries = folder.write_ledger()
    _tell_changed(folder, entries)
    if number:
        done = sum(entry.state == DONE for entry in entries)
        told = [f"{_of_runs(done, len(folder.sweep.runs))} done", *(_goes_on(folder, run) for run in stopped)]
        how = shlex.join(["ratlip", *sys.argv[1:]])
        raise Interrupted(f"stopped; {', '.join(told)}. Go on with: {how}", number)
    return entries


def _check_evaluation(folder: SweepFolder) -> None:
    with console.bars() as progress:
        folder.check_evaluation(progress)


def _tell_not_taken(folder: SweepFolder) -> None:
    """Say which runs elsewhere would be taken if their models were there."""
    by_sweep: dict[Path, list[str]] = {}
    for place in folder.not_taken().values():
        by_sweep.setdefault(place.parent, []).append(place.name)
    for sweep, names in by_sweep.items():
        console.note(f"not taken from {sweep}, which lacks the finished models of {', '.join(names)}")


def _tell_changed(folder: SweepFolder, entries: Sequence[Entry]) -> None:
    for entry in entries:
        if entry.state == CHANGED:
            console.note(f"{entry.run} is left out: {entry.reason}. {folder.remedy(entry, entries)}")


def _of_runs(some: int, runs: int) -> str:
    return f"{some} of {runs} runs {'is' if some == 1 else 'are'}"


def _goes_on(folder: SweepFolder, run: Run) -> str:
    """With what a run will go on that was stopped."""
    place = folder.path / run.name
    if is_trained(place, run.settings):
        return f"{run.name} is trained and not scored yet"
    step = step_saved(place)
    return f"{run.name} is saved up to step {step}" if step else f"nothing of {run.name} is saved"


def _by_another_commit(run: Path) -> str:
    """Where another commit than this one trained a run: that it did, and which."""
    from ratlip_cli.environment import commit
    from ratlip_cli.experiments.score import trained_by

    theirs, ours = trained_by(run)["commit"], commit()
    return "" if theirs == ours else f"; commit {theirs or 'unknown'} trained it, and this is {ours or 'unknown'}"


def check_whole(*swept: tuple[SweepFolder, Sequence[Entry]]) -> None:
    """Raise RatlipError where runs of these sweeps are broken."""
    broken = [entry for _, entries in swept for entry in entries if entry.state == BROKEN]
    reasons: dict[str | None, list[str]] = {}
    for entry in broken:
        reasons.setdefault(entry.reason, []).append(entry.run)
    if broken:
        told = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
        runs = sum(len(folder.sweep.runs) for folder, _ in swept)
        logs = " and ".join(str(folder.path / LOGS) for folder, _ in swept)
        raise RatlipError(
            f"{_of_runs(len(broken), runs)} broken ({told}). Their rows say so; "
            f"their logs are in {logs}, and --retry-broken tries them again."
        )


def show_estimate(folder: SweepFolder, json: bool) -> None:
    """Show what the runs that are left will take."""
    from ratlip_cli.experiments.estimate import estimate

    if folder.left():
        _check_evaluation(folder)
    _tell_not_taken(folder)
    _tell_changed(folder, folder.entries())
    with console.bars() as progress:
        estimated = estimate(folder, progress)
    if json:
        console.result_json(asdict(estimated))
    else:
        _show_estimate(folder, estimated)


def _make_all(folder: SweepFolder, left: int) -> tuple[int, list[Run]]:
    """Make all that is left, showing what happens; the signal that ended it early, else 0, and the runs it stopped."""
    total, stopped = len(folder.ordered), list[Run]()
    if left:
        console.note(f"{left} of {total} runs are left; each says how far it is in {folder.path / 'logs'}")
    with _Stops() as stops, console.progress("sweep", total, total - left, unit="runs") as advance:
        begun = dict[str, float]()
        for event in make_runs(folder, lambda: stops.count):
            if event.what in (DONE, BROKEN):
                advance(1)
            if event.what == STOPPED:
                stopped.append(event.run)
            now = time.monotonic()
            console.note(_told(event, now - begun.setdefault(event.run.name, now)))
    return stops.number, stopped


def _told(event: Event, seconds: float) -> str:
    """What has happened to a run, so many seconds after it began here."""
    name, entry = event.run.name, event.entry
    if event.what == BEGINS:
        return f"{name} begins"
    if event.what == ELSEWHERE:
        return f"{name} is made by another process; waiting for it"
    if event.what == DONE and entry is not None:
        named = {shown_name(metric, entry.protocol): value for metric, value in entry.scores.items()}
        scores = ", ".join(f"{metric} {value:.4g}" for metric, value in named.items())
        return f"{name} is done in {console.duration(seconds)}: {scores}, of {entry.protocol['images']} images"
    return f"{name} is {event.what}{'' if entry is None else f': {entry.reason}'}"


def _make_one(folder: SweepFolder, name: str) -> None:
    """Make one run in this process, which another `ratlip sweep` has started, until it closes our stdin or ends."""
    if "SIGUSR1" in signal.Signals.__members__:  # which SLURM may send to all processes: the other one acts on it
        signal.signal(signal.Signals["SIGUSR1"], signal.SIG_IGN)
    waiting.hardly_wait_where_busy()
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    from ratlip_cli.device import keep_freed_memory
    from ratlip_cli.experiments.one_run import make_run

    keep_freed_memory()
    with StopRequest() as stop, console.bars() as progress:
        make_run(folder, folder.run(name), lambda: stop.signal_number is not None or ended.is_set(), progress)


def _wait_for_end(ended: threading.Event) -> None:
    while os.read(0, 1):
        pass
    ended.set()


def _show_estimate(folder: SweepFolder, estimated: Estimate) -> None:
    rows = [
        (
            row.row,
            ", ".join(map(str, row.seeds)),
            f"{row.steps:,}",
            f"{console.duration(row.seconds)}{'' if row.measured else ', as before'}",
            f"{row.disk / _MIB:,.0f} MiB",
        )
        for row in estimated.rows
    ]
    console.result_table("", ("row", "seeds left", "steps", "time of a run", "disk of a run"), rows)
    trained = sum(len(row.trained) for row in estimated.rows)
    scored = f"; {trained} of them are trained already and only scored" if trained else ""
    console.result(f"runs: {estimated.runs} left of {len(folder.ordered)}, {estimated.jobs} at a time{scored}")
    console.result(f"time: about {console.duration(estimated.seconds)}")
    console.result(f"disk: {estimated.disk / _MIB:,.0f} MiB of {estimated.free / _MIB:,.0f} MiB free")
    if estimated.disk > estimated.free:
        console.note(f"the disk of {folder.path} will not hold it: free some space, or choose another --out")


class _Stops:
    """Counts the signals that ask to stop, of which SIGUSR1 counts as SIGTERM."""

    def __init__(self) -> None:
        self.count = 0
        self.number = 0

    def __enter__(self) -> _Stops:
        self._handled = signals.handled(signals.ending(), self._note)
        self._handled.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._handled.__exit__(None, None, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.number = self.number or (number if number in signals.stopping() else int(signal.SIGTERM))
        if self.count == 1:
            signals.say("\nending the steps and saving; once more stops at once")
