"""Runs and sweeps side by side: what each row scores over its seeds, and whether it differs from the first."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ratlip_cli.errors import DataError, UsageError, unknown_name
from ratlip_cli.experiments.ledger import (
    BETTER,
    BROKEN,
    CHANGED,
    DONE,
    FEATURES,
    LEDGER_FILE,
    REAL_FEATURES_FILE,
    SCENES,
    SCORES_FILE,
    SWEEP_FILE,
    VALUES_FILE,
    Entry,
    decisive,
    is_published,
    is_unfinished,
    read_entry,
    read_ledger,
    read_real_features,
    read_values,
    shown_name,
)
from ratlip_cli.experiments.protocol import Protocol, unlike
from ratlip_cli.experiments.statistics import (
    MOST_DIMENSIONS,
    Comparison,
    Estimate,
    Sample,
    compare,
    estimate,
    frechet_sample,
    mean_sample,
    seed_sample,
)
from ratlip_cli.experiments.sweep_file import read_sweep
from ratlip_cli.progress import Progress, silent
from ratlip_cli.setting import own_name
from ratlip_cli.training.run_paths import images_of_run, step_of_model

_log = logging.getLogger(__name__)


_ROUNDING = 1e-3
"""By how much of itself a distance may differ from the same one computed on another machine."""


@dataclass(frozen=True)
class CompareRequest:
    """What to compare, and how."""

    folders: Sequence[Path]
    """Run folders and sweep folders; the first row of the first is what the others are compared with."""
    metrics: Sequence[str] = ()
    """Those to show; all that the rows have if left out."""
    baseline: str | None = None
    """The row to compare with; the first if left out."""
    include_changed: bool = False
    """Whether runs that were changed by hand since they were scored count."""
    device: str = "auto"
    """Where to score runs that have no scores yet."""


@dataclass(frozen=True)
class Run:
    """A run, and where its values are."""

    folder: Path
    """What its folder lies in; for a run of a sweep, the sweep folder."""
    entry: Entry
    real_features: Sequence[Path]
    """The folders that may have the features of its real images, its own before that of a sweep."""

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder / self.entry.run

    @property
    def is_of_sweep(self) -> bool:
        """Whether its folder lies in a sweep folder."""
        return (self.folder / LEDGER_FILE).is_file()


@dataclass(frozen=True)
class Row:
    """All runs of one row, a seed each."""

    name: str
    runs: Sequence[Run]
    left_out: Sequence[str]
    """Runs that do not count, each with its reason."""
    printed: Mapping[str, float]
    """What a paper prints, by metric."""

    @property
    def images_shown(self) -> list[int]:
        """To the discriminator of each run: one number, or several where they differ."""
        return sorted({run.entry.images_shown for run in self.runs})


@dataclass(frozen=True)
class Cell:
    """One metric of one row."""

    estimate: Estimate
    comparison: Comparison | None
    """With the first row; None in that itself, or where it lacks the metric."""
    printed: float | None


@dataclass(frozen=True)
class Table:
    """Rows side by side."""

    rows: Sequence[Row]
    """The first is what the others are compared with."""
    metrics: Sequence[str]
    """By the names of the ledger."""
    cells: Mapping[tuple[str, str], Cell]
    """By row and metric; a row without a score has none."""
    notes: Sequence[str]
    """What makes the table less than it seems."""


def compare_runs(request: CompareRequest, progress: Progress = silent) -> Table:
    """Compare runs and sweeps. Runs that have no scores yet are scored first, by the protocol of the first that has.

    Where none has, they are scored as `Protocol` is by default.

    Raises:
        UsageError: no folder, an unknown metric or row, a run that is given twice.
        DataError: a folder is neither a run nor a sweep, runs were scored in different ways, or none has scores.
        Whatever `score_run` raises.
    """
    rows = read_rows(request, progress)
    known = list(dict.fromkeys(metric for row in rows for run in row.runs for metric in run.entry.scores))
    if not known:
        reasons = "; ".join(reason for row in rows for reason in row.left_out)
        raise DataError(f"no run has scores: {reasons or 'the sweep is empty'}. `ratlip sweep` goes on with it.")
    shown = {shown_name(metric, protocol_of(rows)): metric for metric in known}
    metrics = [shown.get(metric, metric) for metric in request.metrics] or known
    for metric in metrics:
        if metric not in known:
            raise unknown_name("metric", metric, known)
    cells: dict[tuple[str, str], Cell] = {}
    notes = [*_unfinished(request.folders), *_notes(rows)]
    for done, metric in enumerate(metrics):
        progress("comparing", done, len(metrics), "metrics")
        samples = {row.name: sample for row in rows if (sample := sample_of(row, metric)) is not None}
        comparisons: dict[str, Comparison] = {}
        if rows[0].name in samples:
            _, *others = samples
            comparisons = dict(zip(others, compare(list(samples.values()), BETTER.get(metric)), strict=True))
        for row in rows:
            if row.name in samples:
                own = estimate(samples[row.name])
                cells[row.name, metric] = Cell(own, comparisons.get(row.name), row.printed.get(metric))
        if alone := dict.fromkeys(sample.alone for sample in samples.values() if sample.alone):
            name = shown_name(metric, protocol_of(rows))
            notes.append(f"{name}: intervals are over seeds alone, because {' and '.join(alone)}")
    progress("comparing", len(metrics), len(metrics), "metrics")
    notes += _unlike_printed(rows, metrics)
    return Table(rows, metrics, cells, notes)


def read_rows(request: CompareRequest, progress: Progress = silent) -> list[Row]:
    """The rows of runs and sweeps, with the errors of `compare_runs`.

    A sweep has its own rows. Of plain runs, those are one row that differ in nothing but the seed.
    """
    if not request.folders:
        raise UsageError("there is nothing to compare; give run folders or sweep folders.")
    grouped: dict[tuple[Path, str], list[Run]] = {}
    printed: dict[tuple[Path, str], Mapping[str, float]] = {}
    plain: list[tuple[Mapping[str, Any], tuple[Path, str]]] = []
    read = [_read(folder) for folder in request.folders]
    scored = [entry for entries in read for entry in entries if entry is not None and _counts(entry, request)]
    first = next((entry.protocol for entry in scored if entry.protocol), {})
    for folder, entries in zip(request.folders, read, strict=True):
        if (folder / LEDGER_FILE).is_file():
            of_paper = read_sweep(folder / SWEEP_FILE).printed if (folder / SWEEP_FILE).is_file() else {}
            for entry in filter(None, entries):
                grouped.setdefault((folder, entry.row), []).append(Run(folder, entry, [folder]))
                printed[folder, entry.row] = of_paper.get(entry.row, {})
        else:
            run = _plain_run(folder, entries[0], first, request, progress)
            settings = {name: value for name, value in decisive(run.entry.settings).items() if name != "seed"}
            key = next((key for known, key in plain if known == settings), None)
            if key is None:
                key = (folder, run.entry.row)
                plain.append((settings, key))
            grouped.setdefault(key, []).append(run)
    rows = [
        _row(name, runs, printed.get(key, {}), request)
        for name, (key, runs) in zip(_names(list(grouped)), grouped.items(), strict=True)
    ]
    if request.baseline is not None:
        if request.baseline not in [row.name for row in rows]:
            raise unknown_name("row", request.baseline, [row.name for row in rows])
        rows.sort(key=lambda row: row.name != request.baseline)
    _check_protocols([run for row in rows for run in row.runs])
    return rows


def _names(rows: Sequence[tuple[Path, str]]) -> list[str]:
    """A name for each row of a folder: its own; where others have it too, behind its folder's name, or whole path."""
    names = [row for _, row in rows]
    for by_name in (True, False):
        names = [
            f"{own_name(folder) if by_name else folder}/{row}" if names.count(name) > 1 else name
            for name, (folder, row) in zip(names, rows, strict=True)
        ]
    return names


def _read(folder: Path) -> list[Entry | None]:
    """The entries of a sweep folder, or that of a run folder, None where it is to be scored first."""
    if (folder / LEDGER_FILE).is_file():
        return [*read_ledger(folder)]
    if not (folder / "config.toml").is_file():
        raise DataError(f"{folder} is neither a run folder nor a sweep folder; `ratlip runs` lists runs.")
    entry = read_entry(folder.resolve())
    if entry is not None and entry.state == CHANGED and (is_unfinished(entry) or step_of_model(folder) > entry.steps):
        return [None]  # it was trained further
    return [entry]


def _plain_run(
    folder: Path, entry: Entry | None, protocol: Mapping[str, Any], request: CompareRequest, progress: Progress
) -> Run:
    """A run that is given by itself, scored by `protocol` where it has no scores yet."""
    path = folder.resolve()
    if entry is None:
        from ratlip_cli.experiments.score import score_run  # imports torch

        own = {field.name for field in fields(Protocol)}
        _log.info("%s has no scores yet: scoring it", folder)
        asked = Protocol(**{name: value for name, value in protocol.items() if name in own})
        entry = score_run(path, asked, request.device, progress=progress)
    # The folder may have another name by now than when it was scored.
    entry = replace(entry, run=path.name, row=path.name if entry.row == entry.run else entry.row)
    return Run(path.parent, entry, [path, path.parent])


def _counts(entry: Entry, request: CompareRequest) -> bool:
    """Whether a run counts; one that was changed before it was ever scored has nothing to count."""
    return entry.state == DONE or (entry.state == CHANGED and request.include_changed and bool(entry.scores))


def _row(name: str, runs: Sequence[Run], printed: Mapping[str, float], request: CompareRequest) -> Row:
    counted, left_out = [], []
    seeds: dict[int, Run] = {}
    for run in runs:
        entry = run.entry
        if not _counts(entry, request):
            what = "is broken" if entry.state == BROKEN else "was changed by hand"
            remedy = "" if run.is_of_sweep else f"; to score it again, remove {run.path / SCORES_FILE}"
            left_out.append(f"{entry.run} {what}: {entry.reason}{remedy}")
            continue
        if entry.seed in seeds:
            raise UsageError(
                f"{seeds[entry.seed].path} and {run.path} have the same settings and the same seed; leave out one."
            )
        seeds[entry.seed] = run
        counted.append(run)
    return Row(name, counted, left_out, printed)


def _of_training(first: Entry, second: Entry) -> list[str]:
    """What differs between the ways two runs were scored because it differs between their trainings."""
    one, other = first.protocol, second.protocol

    def differs(name: str) -> bool:
        return one.get(name) != other.get(name)

    of_data = differs("data_fingerprint") and first.data.get("name") != second.data.get("name")
    own_clips = one.get("clip") is None and other.get("clip") is None
    of_clips = own_clips and differs("networks") and first.clip.get("fingerprint") != second.clip.get("fingerprint")
    found = {"image sizes": differs("image_size"), "datasets": of_data, "CLIPs": of_clips}
    return [what for what, is_so in found.items() if is_so]


def _check_protocols(runs: Sequence[Run]) -> None:
    """Raise DataError where two runs were scored in different ways."""
    for run in runs:
        if differing := unlike(runs[0].entry.protocol, run.entry.protocol):
            remedy = f"remove {SCORES_FILE} from one, and it is scored as the other"
            if trained := _of_training(runs[0].entry, run.entry):
                what = " and ".join(trained)
                remedy = f"{what} are those that each was trained with, so scoring them again is no help"
            elif runs[0].is_of_sweep or run.is_of_sweep:
                remedy = "sweep both with the same `[evaluation]`"
            raise DataError(
                f"{runs[0].path} and {run.path} were scored in different ways ({', '.join(differing)}), so they cannot "
                f"be compared: {remedy}."
            )


def sample_of(row: Row, metric: str) -> Sample | None:
    """A metric of a row's runs, with the values of images where all runs have them; None where no run has it."""
    runs = [run for run in row.runs if metric in run.entry.scores]
    if not runs:
        return None
    seeds = [run.entry.seed for run in runs]
    scores = seed_sample(seeds, [run.entry.scores[metric] for run in runs])
    if not all((run.path / VALUES_FILE).is_file() for run in runs):
        return scores
    values = [read_values(run.folder, run.entry) for run in runs]
    key = FEATURES if metric == "fid" else metric
    arrays = [one[key] for one in values if key in one]
    scenes = [one[SCENES] for one in values if SCENES in one]
    if len(arrays) < len(runs):
        return replace(scores, alone="no values of images are kept of it")
    if len({array.shape for array in arrays}) > 1:
        return replace(scores, alone="its runs have values of different images")
    if len(scenes) < len(runs) or not all(np.array_equal(scenes[0], other) for other in scenes):
        return replace(scores, alone="nothing says which real images its images belong to")
    if metric != "fid":
        return replace(mean_sample(seeds, np.stack(arrays), scenes[0]), values=scores.values)
    dimensions = arrays[0].shape[1]
    if dimensions > MOST_DIMENSIONS:
        return replace(scores, alone=f"features of {dimensions:,} dimensions take too long to resample")
    real = _real_features(runs[0])
    if real is None:
        return replace(scores, alone="the features of its real images are not there")
    sample = frechet_sample(seeds, np.stack(arrays), real, scenes[0])
    if not np.allclose(sample.values, scores.values, rtol=_ROUNDING, atol=_ROUNDING):
        found, told = (", ".join(f"{value:.4g}" for value in one) for one in (sample.values, scores.values))
        raise DataError(
            f"row '{row.name}': {metric} is {told} in its entries, but {found} by the features beside them: score its "
            f"runs again (remove their {SCORES_FILE}), or restore them from where they came."
        )
    return replace(sample, values=scores.values)


def _real_features(run: Run) -> NDArray[np.float32] | None:
    """Those (n,d) that a run was compared with; None where there are none of as many images."""
    for folder in run.real_features:
        if (folder / REAL_FEATURES_FILE).is_file():
            features = read_real_features(folder)
            if len(features) == run.entry.protocol.get("real_images", len(features)):
                return features
    return None


def _unlike_printed(rows: Sequence[Row], metrics: Sequence[str]) -> Iterator[str]:
    """Which printed values stand beside distances of other features than theirs."""
    for metric in metrics:
        shown = shown_name(metric, protocol_of(rows))
        if shown != metric and any(metric in row.printed for row in rows):
            yield f"{shown}: what is printed as {metric} is of Inception's features, so it is no number to compare"


def _too_few(rows: Sequence[Row]) -> str | None:
    """That a Fréchet distance is of fewer images than its features take, where their values are there to say so."""
    run = next((run for row in rows for run in row.runs if "fid" in run.entry.scores), None)
    if run is None or not (run.path / VALUES_FILE).is_file():
        return None
    features = read_values(run.folder, run.entry).get(FEATURES)
    if features is None:
        return None
    images, dimensions = features.shape
    fewest, needed = min(images, run.entry.protocol.get("real_images", images)), dimensions + 1
    if fewest >= needed:
        return None
    name = shown_name("fid", run.entry.protocol)
    return f"{name}: {fewest} images, fewer than the {needed} that a covariance of {dimensions} features takes"


def protocol_of(rows: Sequence[Row]) -> Mapping[str, Any]:
    """How the runs of rows were scored, which is the same for all; empty where there are none."""
    return next((run.entry.protocol for row in rows for run in row.runs), {})


def _unfinished(folders: Sequence[Path]) -> Iterator[str]:
    """Which rows of sweeps have runs that are still to be made, and what goes on with them.

    Nothing goes on with results whose run folders are elsewhere.
    """
    for folder in folders:
        file, published = folder / SWEEP_FILE, is_published(folder)
        if not file.is_file() or not (folder / LEDGER_FILE).is_file():
            continue
        entries = {entry.run: entry.state for entry in read_ledger(folder)}
        runs = read_sweep(file).runs
        command = shlex.join(["ratlip", "sweep", str(file), "--out", str(folder)])
        for row in dict.fromkeys(run.row for run in runs):
            states = [entries.get(run.name) for run in runs if run.row == row]
            if None in states:
                done = states.count(DONE)
                made = f"{done} of {len(states)} seeds {'is' if done == 1 else 'are'} done"
                yield f"{row}: {made}" + ("" if published else f"; go on with `{command}`")


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    """What makes rows less than comparable, and a distance less than it seems."""
    for row in rows:
        yield from row.left_out
        for run in row.runs:
            entry = run.entry
            if entry.state == CHANGED:
                yield f"{entry.run} counts, although it was changed by hand: {entry.reason}"
            if is_unfinished(entry):
                yield f"{entry.run} is not trained to its end: {entry.steps:,} of {entry.settings['steps']:,} steps"
            epochs, images = entry.settings.get("epochs"), images_of_run(run.path)
            if isinstance(epochs, int) and entry.images_shown < epochs * images:
                yield f"{entry.run} is not trained to its end: {entry.images_shown / images:.1f} of {epochs:,} epochs"
    having = [row for row in rows if row.runs]
    if (fewest := _too_few(having)) is not None:
        yield fewest
    if len({tuple(row.images_shown) for row in having}) > 1:
        yield "the rows' discriminators were shown different numbers of images"
    if len({frozenset(run.entry.seed for run in row.runs) for row in having}) > 1:
        yield "the rows have different seeds: a difference is over those that both have"
    for what in ("clip", "data"):
        if len({str(getattr(run.entry, what).get("fingerprint")) for row in having for run in row.runs}) > 1:
            yield f"the rows were trained with different {'CLIPs' if what == 'clip' else 'data'}"
    for what in ("version", "commit"):
        found = {str(getattr(run.entry, what)) for row in having for run in row.runs}
        if len(found) > 1:
            yield f"the runs were trained by {len(found)} {what}s of ratlip"
