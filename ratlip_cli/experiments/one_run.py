"""One run of a sweep, in this process: trained, or gone on with, and scored."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from ratlip_cli.errors import Interrupted
from ratlip_cli.experiments.ledger import BROKEN_FILE, REAL_FEATURES_FILE, Entry
from ratlip_cli.experiments.score import Place, score_run
from ratlip_cli.experiments.sweep import SweepFolder, is_trained, remove_unbegun
from ratlip_cli.experiments.sweep_file import Run
from ratlip_cli.progress import Progress, silent
from ratlip_cli.training.start import open_session


def make_run(
    folder: SweepFolder, run: Run, should_stop: Callable[[], bool] = lambda: False, progress: Progress = silent
) -> Entry:
    """Make what is missing of a run, whose lock this process has, and return its entry.

    Args:
        should_stop: asked before every step and while images are scored; where it says so, what is done is kept.

    Raises Interrupted where it was stopped, and what `open_session`, `TrainingSession.run` and `score_run` raise.
    """
    place = folder.path / run.name
    (place / BROKEN_FILE).unlink(missing_ok=True)
    if not is_trained(place, run.settings):
        _train(folder, run, place, should_stop, progress)

    def watched(what: str, done: int, total: int | None, unit: str) -> None:
        if should_stop():
            raise Interrupted("stopped while it was scored.", signal.SIGTERM)
        progress(what, done, total, unit)

    stands = Place(place, run.row, folder.path / REAL_FEATURES_FILE)
    return score_run(place, folder.sweep.protocol, folder.request.device, stands, watched)


def _train(folder: SweepFolder, run: Run, place: Path, should_stop: Callable[[], bool], progress: Progress) -> None:
    """Train until the last step, from the newest checkpoint on where there is one."""
    remove_unbegun(place)
    session = open_session(folder.placed(run), progress=progress)
    for record in session.run(should_stop):
        progress("train", record.step, session.total_steps, "steps")
    if not session.finished:
        raise Interrupted(session.stopped, signal.SIGTERM)
