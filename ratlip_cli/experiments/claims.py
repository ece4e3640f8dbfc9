"""The paper's claims, each as one number with its interval and a verdict. Imports no torch.

A claim holds where the whole 95 % interval lies on its side, and fails where the whole interval lies on the other;
else the seeds do not decide it. The claims were fixed before the runs, and each has its own interval.

a, b and c come of the ledgers and the values of images beside them; d, e and f of files that measures.py leaves in the
run folders, where those are of the run's model and data as they are now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ratlip_cli.errors import DataError, first_line
from ratlip_cli.experiments.compare import CompareRequest, Row, read_rows, sample_of
from ratlip_cli.experiments.ledger import LEDGER_FILE, SCENES, SWEEP_FILE, Entry, read_ledger
from ratlip_cli.experiments.measure_files import ANGLES_FILE, GRADCAM_FILE, SWAP_FILE, is_current
from ratlip_cli.experiments.reproduce import (
    BASELINE,
    CHOSEN,
    HIDDEN_SIZES,
    LARGEST,
    OURS,
    PAPER,
    RAT,
    Folders,
    hidden,
)
from ratlip_cli.experiments.statistics import Estimate, Sample, combined, estimate, mean_sample
from ratlip_cli.experiments.sweep_file import read_sweep
from ratlip_cli.experiments.tables import interval, mean

HOLDS, FAILS = "holds", "fails"

MARGIN = 0.01
"""What counts as about equal and as enough: 1 % of the score, somewhat less than the 1.1 % that the paper passes over
(0.32 of 27.95 points)."""

AGE_CHANGES, REST_STAYS = 0.5, 0.9
"""What counts as changing the age and nothing else: in more than half of the pairs of images, more than nine attributes
of ten."""

SCORE = "clip-score"


@dataclass(frozen=True)
class Claim:
    """A claim and what came of it."""

    key: str
    text: str
    printed: str
    """What the paper prints."""
    number: str
    """What is measured, in words."""
    command: str
    """What makes the runs and measures them; empty where nothing does."""
    measured: Estimate | None
    """None where the runs are not there."""
    verdict: str
    asked: int = 0
    """How many seeds its sweep has, done or not."""


VerdictOf = Callable[[Estimate], str]


def claims(folders: Folders) -> list[Claim]:
    """All claims, in the order of the paper.

    Raises DataError where a ledger or a measure is damaged.
    """
    table2, table3, faces = (_rows(folder) for folder in (folders.table2, folders.table3, folders.faces))
    asked2, asked3, asked_faces = (len(_asked(folder)) for folder in (folders.table2, folders.table3, folders.faces))
    masks, classifier = ("masks of segments", "attribute classifier of faces") if folders.scale == PAPER else ("", "")
    return [
        _claim(
            "a",
            "RAT+ATT has a higher CLIP score than the baseline GALIP",
            "+0.43 (CUB), +0.17 (Oxford), +0.96 (CelebA-tiny)",
            "CLIP score of RAT+ATT minus that of GALIP",
            folders.command("table3"),
            lambda: _combined(table3, {OURS: 1, BASELINE: -1}),
            _above(0),
            asked3,
        ),
        _claim(
            "b",
            "RAT without attention about equals the baseline",
            "+0.02 (CUB), +0.06 (Oxford), -0.32 (CelebA-tiny)",
            "CLIP score of RAT minus that of GALIP, in shares of GALIP's; about equal: within ±0.01",
            folders.command("table3"),
            lambda: _relative(table3, RAT, BASELINE),
            _within(MARGIN),
            asked3,
        ),
        _claim(
            "c1",
            "the CLIP score rises with the hidden size from 4 to 128",
            "+0.27 a doubling (CUB; 30.81 at 4, 32.12 at 128)",
            "slope of the CLIP score over doublings of the hidden size",
            folders.command("table2"),
            lambda: _combined(table2, slope_weights()),
            _above(0),
            asked2,
        ),
        _claim(
            "c2",
            "a hidden size of 64 is enough",
            "32.03 at 64, 32.12 at 128 (CUB)",
            "CLIP score at 128 minus that at 64, in shares of that at 64; enough: below 0.01",
            folders.command("table2"),
            lambda: _relative(table2, hidden(LARGEST), hidden(CHOSEN)),
            _below(MARGIN),
            asked2,
        ),
        _claim(
            "d",
            "Grad-CAM covers the subject better at 64 than at 4 to 32",
            "images only (Fig. 3)",
            "share of the map's energy inside the subject at 64 minus the mean of that at 4, 8, 16 and 32",
            folders.command("fig3"),
            lambda: _combined(
                table2,
                {hidden(CHOSEN): 1.0, **{hidden(size): -0.25 for size in HIDDEN_SIZES if size < CHOSEN}},
                (GRADCAM_FILE, "energy"),
            ),
            _above(0),
            asked2,
            lacking=masks,
        ),
        _claim(
            "e",
            "the angle between real and generated vectors is smaller than the baseline's",
            "one figure of each (Fig. 5)",
            "angle of RAT+ATT minus that of GALIP, in degrees",
            folders.command("fig5"),
            lambda: _combined(table3, {OURS: 1, BASELINE: -1}, (ANGLES_FILE, "angle")),
            _below(0),
            asked3,
        ),
        _claim(
            "f1",
            "old in place of young under one noise vector changes the age",
            "one example (Fig. 5)",
            "share of pairs of images of RAT+ATT that are as old as their captions say; more than 0.5",
            folders.command("fig5"),
            lambda: _combined(faces, {OURS: 1}, (SWAP_FILE, "age")),
            _above(AGE_CHANGES),
            asked_faces,
            lacking=classifier,
        ),
        _claim(
            "f2",
            "and changes nothing else",
            "one example (Fig. 5)",
            "share of the other attributes of RAT+ATT that stay; more than 0.9",
            folders.command("fig5"),
            lambda: _combined(faces, {OURS: 1}, (SWAP_FILE, "kept")),
            _above(REST_STAYS),
            asked_faces,
            lacking=classifier,
        ),
        _claim(
            "f3",
            "which the baseline does less well",
            "one example (Fig. 5)",
            "share of pairs of images whose age changes as said, RAT+ATT minus GALIP",
            folders.command("fig5"),
            lambda: _combined(faces, {OURS: 1, BASELINE: -1}, (SWAP_FILE, "age")),
            _above(0),
            asked_faces,
            lacking=classifier,
        ),
    ]


def markdown(found: Sequence[Claim]) -> str:
    """The claims as a table."""
    rows = [("", "claim", "printed", "measured", "95 % interval", "seeds", "verdict", "command")]
    for one in found:
        own = one.measured
        numbers = ("-", "-", "-") if own is None else (mean(own), interval(own), _seeds(one))
        command = f"`{one.command}`" if one.command else "-"
        rows.append((one.key, f"{one.text} ({one.number})", one.printed, *numbers, one.verdict, command))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---|---|---|---:|---:|---:|---|---|", *lines[1:]]) + "\n"


def _seeds(one: Claim) -> str:
    done = 0 if one.measured is None else one.measured.seeds
    return f"{done} of {one.asked}" if done < one.asked else str(done)


def measured_in(table: str) -> set[str]:
    """The keys of the claims that have a number in a table that `markdown` wrote."""
    rows = [[cell.strip() for cell in line.split(" | ")] for line in table.splitlines() if line.startswith("| ")]
    return {row[0].removeprefix("| ") for row in rows[1:] if len(row) > 3 and row[3] != "-"}


def provenance(folders: Folders) -> str:
    """Lines of a list: seeds of each sweep, machines and commits of ratlip that trained the runs that count, runs that
    do not count, and what stands beside the numbers of d and e.
    """
    seeds, machines, commits = [], set[str](), set[str]()
    for folder in (folders.table2, folders.table3, folders.faces):
        entries = [run.entry for row in _rows(folder).values() for run in row.runs]
        if entries:
            seeds.append(f"{folder.name} {', '.join(map(str, sorted({entry.seed for entry in entries})))}")
        machines |= {entry.machine or "an unknown machine" for entry in entries}
        commits |= {_short(entry) for entry in entries}
    if not seeds:
        return "Nothing is trained yet."
    what = {
        "Seeds": seeds,
        "Trained on": sorted(machines),
        f"Commit{'s' if len(commits) > 1 else ''} of ratlip that trained": sorted(commits),
        "Left out": _left_out(folders),
        "Beside d, at each hidden size": _beside_gradcam(_rows(folders.table2)),
        "Beside e": _beside_angles(_rows(folders.table3)),
    }
    return "\n".join(f"- {name}: {'; '.join(values)}" for name, values in what.items() if values)


_NAMED = 3
"""Runs that are not done that are named each; more are counted."""


def _left_out(folders: Folders) -> list[str]:
    """Runs that do not count, each with the reason, and those that a measure lacks which others have."""
    lines = []
    for folder, file in ((folders.table2, GRADCAM_FILE), (folders.table3, ANGLES_FILE), (folders.faces, SWAP_FILE)):
        rows = _rows(folder)
        lines += [f"{folder.name}: {reason}" for row in rows.values() for reason in row.left_out]
        begun = {entry.run for entry in read_ledger(folder)} if rows else set()
        if rows and (folder / SWEEP_FILE).is_file():
            runs_asked = read_sweep(folder / SWEEP_FILE).runs
            missing = [run.name for run in runs_asked if run.name not in begun]
            if len(missing) <= _NAMED:
                lines += [f"{folder.name}: {name} is not done yet" for name in missing]
            else:
                lines.append(f"{folder.name}: {len(missing)} of {len(runs_asked)} runs are not done yet")
        runs = [run for row in rows.values() for run in row.runs]
        lacking = [run.entry.run for run in runs if not is_current(run.path / file, run.entry)]
        if any((run.path / file).is_file() for run in runs):
            lines += [f"{folder.name}: {run} has no {file} of its model and data as they are" for run in lacking]
    return lines


def _beside_gradcam(rows: Mapping[str, Row]) -> list[str]:
    """The share of the energy inside the subject, and that of the area, which a map of one value has."""
    lines = []
    for name in map(hidden, HIDDEN_SIZES):
        found = [
            None if name not in rows else _measured(rows[name], GRADCAM_FILE, of) for of in ("energy", "area", "zero")
        ]
        energy, area, zero = (None if one is None else float(one.values.mean()) for one in found)
        if energy is not None and area is not None and zero is not None:
            lines.append(
                f"{name}: energy {energy:.3f}, the subject's area {area:.3f}, {zero:.1%} of the maps zero everywhere"
            )
    return lines


def _beside_angles(rows: Mapping[str, Row]) -> list[str]:
    """The control of the angles: those to the image of the next caption, which a collapse would narrow as well."""
    found = _combined(rows, {OURS: 1, BASELINE: -1}, (ANGLES_FILE, "mismatched"))
    if found is None or not found.seeds:
        return []
    own = estimate(found)
    return [f"the angle to the image of the next caption, RAT+ATT minus GALIP: {mean(own)} {interval(own)}"]


def _asked(folder: Path) -> set[int]:
    """The seeds of a sweep, done or not; none where it is not there."""
    if not (folder / LEDGER_FILE).is_file():
        return set()
    if (folder / SWEEP_FILE).is_file():
        return {run.seed for run in read_sweep(folder / SWEEP_FILE).runs}
    return {entry.seed for entry in read_ledger(folder)}


def _short(entry: Entry) -> str:
    if entry.commit is None:
        return f"version {entry.version or 'unknown'}, no checkout"
    digits, dash, dirty = entry.commit.partition("-")
    return digits[:12] + dash + dirty


def slope_weights() -> dict[str, float]:
    """What each row of table 2 counts in the least-squares slope over the doublings of the hidden size."""
    doublings = np.log2(HIDDEN_SIZES)
    centred = doublings - doublings.mean()
    weights = centred / (centred**2).sum()
    return {hidden(size): float(weight) for size, weight in zip(HIDDEN_SIZES, weights, strict=True)}


def _rows(folder: Path) -> Mapping[str, Row]:
    """The rows of a sweep by name; none where it is not there."""
    if not (folder / LEDGER_FILE).is_file():
        return {}
    return {row.name: row for row in read_rows(CompareRequest([folder]))}


def _samples(
    rows: Mapping[str, Row], names: Sequence[str], values: tuple[str, str] | None = None
) -> list[Sample] | None:
    """A sample of each of a sweep's rows; None where one of them is not there or not measured yet.

    Args:
        values: the file of a measure and the name of its values; the CLIP score if left out.
    """
    if not set(names) <= set(rows):
        return None
    found = [sample_of(rows[name], SCORE) if values is None else _measured(rows[name], *values) for name in names]
    there = [sample for sample in found if sample is not None]
    return there if len(there) == len(names) else None


def _measured(row: Row, file: str, name: str) -> Sample | None:
    there = [run for run in row.runs if (run.path / file).is_file()]
    try:
        loaded = [(run, load_file(run.path / file)) for run in there]
        runs = [run for run in there if is_current(run.path / file, run.entry)]
        if not runs:
            return None
        arrays = [array for run, array in loaded if run in runs]
        values = np.stack([array[name] for array in arrays])
        return mean_sample([run.entry.seed for run in runs], values, arrays[0].get(SCENES))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(
            f"{file} of {row.name} is damaged ({first_line(error)}); remove it to measure again."
        ) from error


def _combined(
    rows: Mapping[str, Row], weights: dict[str, float], values: tuple[str, str] | None = None
) -> Sample | None:
    samples = _samples(rows, list(weights), values)
    return None if samples is None else combined(samples, list(weights.values()))


def _relative(rows: Mapping[str, Row], row: str, base: str) -> Sample | None:
    """A row's CLIP score minus that of `base`, in shares of the latter's mean."""
    samples = _samples(rows, (row, base))
    if samples is None:
        return None
    scale = float(samples[1].values.mean())
    return combined(samples, (1 / scale, -1 / scale))


def _claim(
    key: str,
    text: str,
    printed: str,
    number: str,
    command: str,
    sample: Callable[[], Sample | None],
    verdict_of: VerdictOf,
    asked: int,
    lacking: str = "",
) -> Claim:
    """One claim, measured. `lacking`: what ratlip does not read or train yet at this scale."""
    said = (key, text, printed, number)
    if lacking:
        verdict = f"not measured: ratlip has no {lacking} at this scale yet"
        return Claim(*said, command="", measured=None, verdict=verdict)
    found = sample()
    if found is None or not found.seeds:
        return Claim(*said, command, measured=None, verdict="not measured yet")
    own = estimate(found)
    so_far = f" ({own.seeds} of {asked} seeds so far)" if own.seeds < asked else ""
    return Claim(*said, command, measured=own, verdict=verdict_of(own) + so_far, asked=asked)


def _above(limit: float) -> VerdictOf:
    return lambda own: _verdict(own, own.low is not None and own.low > limit, _ends_below(own, limit))


def _below(limit: float) -> VerdictOf:
    return lambda own: _verdict(own, _ends_below(own, limit), own.low is not None and own.low > limit)


def _within(margin: float) -> VerdictOf:
    def verdict_of(own: Estimate) -> str:
        low, high = own.low, own.high
        if low is None or high is None:
            return _verdict(own, False, False)
        return _verdict(own, -margin < low and high < margin, low > margin or high < -margin)

    return verdict_of


def _ends_below(own: Estimate, limit: float) -> bool:
    return own.high is not None and own.high < limit


def _verdict(own: Estimate, holds: bool, fails: bool) -> str:
    count = f"{own.seeds} seed{'' if own.seeds == 1 else 's'}"
    return HOLDS if holds else FAILS if fails else f"not decided by {count}"
