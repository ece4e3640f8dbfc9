"""The ledger of a sweep: one record a run, with all that decided its scores. Imports no torch.

runs/SWEEP/
  sweep.toml                 the sweep file as it was run last
  sweep-config.toml          the settings file that it names as its config, where it names one
  ledger.jsonl               one Entry a line, in the order of the file; made of the run folders whenever a run ends
  real-features.safetensors  `features` (n,d) of the real images, where scores compare with them
  ROW-seedN/                 an ordinary run folder, and in it
    scores.json              its Entry, written last: the run is done
    scores.safetensors       values of every image: (n,) by metric; `features` (n,d) of metrics of sets of images;
                             `scenes` (n,), which real image its caption belongs to
    broken.json              instead of them: why the run failed
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ratlip_cli.errors import DataError, RatlipError, first_line
from ratlip_cli.files import sha256_of, write_text
from ratlip_cli.json_files import from_json, read_json
from ratlip_cli.setting import Value
from ratlip_cli.training.settings import SETTINGS, TrainSettings, settings_of_run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SWEEP_FILE, CONFIG_FILE, LEDGER_FILE = "sweep.toml", "sweep-config.toml", "ledger.jsonl"
SCORES_FILE, VALUES_FILE, BROKEN_FILE = "scores.json", "scores.safetensors", "broken.json"
REAL_FEATURES_FILE = "real-features.safetensors"
GENERATOR_FILE = "model/generator.safetensors"
FEATURES, SCENES = "features", "scenes"
"""Keys in `scores.safetensors`; features are those in `real-features.safetensors` too."""

OF_FEATURES = ("fid", "kid", "precision", "recall")
"""Metrics that compare features of sets of images."""

BETTER = {
    "clip-score": True,
    "clip-score-2": True,
    "attribute-accuracy": True,
    "r-precision": True,
    "r-precision-2": True,
    "precision": True,
    "recall": True,
    "fid": False,
    "kid": False,
}
"""Metrics by their names here, and whether more of them is better."""

PLACES = ("data_dir", "out", "resume")
"""Settings that say where things lay on one machine, which is nobody's business who reads a published ledger."""

DONE, BROKEN, CHANGED = "done", "broken", "changed"


@dataclass(frozen=True)
class Entry:
    """One run of a sweep."""

    row: str  # As tables name it.
    seed: int
    run: str  # Name of its folder in the sweep folder.
    state: str  # DONE; BROKEN, without scores; or CHANGED by hand since it was scored.
    reason: str | None  # Why it is broken or counts as changed.
    settings: dict[str, Value | None]  # All of them, resolved, by flat names; in a ledger without PLACES.
    settings_digest: str  # 16 hex digits over those that decide what is trained.
    version: str = ""  # Of the ratlip that trained the run; of the last one, where several did.
    commit: str | None = None  # Of its source, where that is a git checkout; `-dirty` behind it where it was changed.
    clip: dict[str, str] = field(default_factory=dict)  # name and fingerprint.
    data: dict[str, str] = field(default_factory=dict)  # name and fingerprint.
    model_fingerprint: str = ""
    machine: str = ""  # That trained the run.
    scored_by: dict[str, str | None] = field(default_factory=dict)  # version, commit and machine that scored it.
    steps: int = 0  # Trained.
    images_shown: int = 0  # To the discriminator: steps times batch size.
    seconds: float = 0.0  # Wall-clock of training and scoring.
    protocol: dict[str, Any] = field(default_factory=dict)  # How it was scored: the same in runs that can be compared.
    scores: dict[str, float] = field(default_factory=dict)  # Point values by metric.
    files: dict[str, str] = field(default_factory=dict)  # SHA-256 of files of the run folder when it was scored.


def read_ledger(folder: Path) -> list[Entry]:
    """The entries of a sweep folder, in its order. A run that was changed since it was scored has the state CHANGED.

    Where only the ledger is there and not the run folders, the entries are as they were written.

    Raises DataError where it is no sweep folder or its ledger is damaged.
    """
    return [checked(folder / entry.run, entry) for entry in _written(folder)]


def is_published(folder: Path) -> bool:
    """Whether a sweep folder holds results without the run folders that they came of, as a repository keeps them.

    Some of its run folders have values of images but no training, or it has finished runs and no run folder at all.
    A run folder that was removed to train the run again makes none of it. A ledger that cannot be read may be all that
    there is of its results, so it is not written anew either where no run folder has a training.
    """
    if not folder.is_dir():
        return False
    inside = [path for path in folder.iterdir() if path.is_dir()]
    trained = {path.name for path in inside if (path / "config.toml").is_file()}
    if any((path / VALUES_FILE).is_file() for path in inside if path.name not in trained):
        return True
    if not (folder / LEDGER_FILE).exists():
        return False
    try:
        done = {entry.run for entry in _entries(folder) if entry.state == DONE}
    except _LEDGER_ERRORS:
        return not trained
    return bool(done) and not trained


_LEDGER_ERRORS = (OSError, ValueError, RecursionError)


def _written(folder: Path) -> list[Entry]:
    """The entries of a sweep folder as they were written, with the errors of `read_ledger`."""
    path = folder / LEDGER_FILE
    try:
        return _entries(folder)
    except _LEDGER_ERRORS as error:
        there = path.exists()
        what = (
            f"{path} cannot be read ({first_line(error)})"
            if there
            else f"{folder} is no sweep folder: it has no {path.name}"
        )
        if is_published(folder):
            remedy = (
                "its results are here without their runs, so nothing can write it anew: restore it from where it came"
            )
        else:
            remedy = f"`ratlip sweep` {'writes it anew' if there else 'makes one'}"
        raise DataError(f"{what}; {remedy}.") from error


def _entries(folder: Path) -> list[Entry]:
    entries = []
    for number, line in enumerate((folder / LEDGER_FILE).read_text(encoding="utf-8").splitlines(), 1):
        try:
            entries.append(from_json(Entry, json.loads(line), optional=True))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    return entries


def is_unfinished(entry: Entry) -> bool:
    """Whether a run was scored before its last step, where its settings say which that is."""
    wanted = entry.settings.get("steps")
    return isinstance(wanted, int) and entry.steps < wanted


def write_ledger(folder: Path, entries: Sequence[Entry]) -> None:
    """Write the ledger of a sweep folder, whole, without PLACES. Raises RatlipError where it cannot be written."""
    told = [replace(entry, settings=_without_places(entry.settings)) for entry in entries]
    write_text(folder / LEDGER_FILE, "".join(json.dumps(asdict(entry)) + "\n" for entry in told))


def _without_places(settings: Mapping[str, Value | None]) -> dict[str, Value | None]:
    return {name: value for name, value in settings.items() if name not in PLACES}


def read_entry(run: Path) -> Entry | None:
    """The entry in a run folder, None where the run is not scored yet.

    Raises DataError where it is damaged.
    """
    path = run / SCORES_FILE
    try:
        entry = from_json(Entry, read_json(path), optional=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({first_line(error)}); remove it to score the run again.") from error
    return checked(run, entry)


def write_entry(run: Path, entry: Entry) -> None:
    """Write the entry into a run folder, whole. Raises RatlipError where it cannot be written."""
    write_text(run / SCORES_FILE, json.dumps(asdict(entry), indent=2) + "\n")


def checked(run: Path, entry: Entry) -> Entry:
    """The entry; in the state CHANGED, with the reason, where its run folder is no longer what was scored."""
    reason = _changed(run, entry) if entry.state == DONE else None
    return entry if reason is None else replace(entry, state=CHANGED, reason=reason)


def _changed(run: Path, entry: Entry) -> str | None:
    if (run / "config.toml").is_file():
        try:
            differing = differences(entry.settings, settings_of_run(run).flat())
        except RatlipError as error:
            return f"its settings cannot be read: {error}"
        if differing:
            return f"its settings were changed after it was scored: {differing}"
    for name, digest in entry.files.items():
        if (run / name).is_file() and sha256_of(run / name) != digest:
            return f"{name} was changed after it was scored"
    for metric, mean in _means(run / VALUES_FILE, entry.scores).items():
        if abs(mean - entry.scores[metric]) > _ROUNDING * max(1, abs(mean)):
            return f"its {metric} is {entry.scores[metric]:.6g}, but {mean:.6g} by the values of its images"
    return None


_ROUNDING = 1e-5
"""By how much of itself, or of 1, a score may differ from the mean of its images' values, of single precision."""


def _means(path: Path, metrics: Iterable[str]) -> dict[str, float]:
    """The means of the values of images by metric, of those that a file has; none where it is missing or damaged."""
    if not path.is_file():
        return {}
    from safetensors import SafetensorError, safe_open  # imports numpy

    try:
        with safe_open(path, framework="np") as file:
            kept = set(file.keys())
            return {
                metric: float(file.get_tensor(metric).mean(dtype="float64")) for metric in metrics if metric in kept
            }
    except (OSError, SafetensorError):
        return {}


def shown_name(metric: str, protocol: Mapping[str, Any]) -> str:
    """A metric of the ledger as `ratlip evaluate` calls it: `fid_clip` where a CLIP's features are compared.

    Args:
        protocol: an entry's, whose first network is that of the features where any are compared.
    """
    by = next(iter(protocol.get("networks", {})), "")
    return f"{metric}_clip" if metric in OF_FEATURES and by.startswith("CLIP ") else metric


def decisive(settings: Mapping[str, Value | None]) -> dict[str, Value | None]:
    """Those of a run's settings by flat names that decide what is trained, wherever and however fast it runs."""
    free = {name for name, one in SETTINGS.items() if one.about.free or not one.about.repeated}
    return {name: value for name, value in settings.items() if name not in free}


def differences(before: Mapping[str, Value | None], now: Mapping[str, Value | None]) -> str:
    """In words, which decisive settings are others now; empty where none is.

    A setting that one of them lacks, as a run of an earlier version may, counts as left at its default.
    """
    default = TrainSettings().flat()
    first, second = ({**default, **decisive(one)} for one in (before, now))
    names = [name for name in {**decisive(before), **decisive(now)} if first.get(name) != second.get(name)]
    return ", ".join(f"{name} was {first.get(name)!r} and is {second.get(name)!r}" for name in names)


def digest_of(settings: Mapping[str, Value | None]) -> str:
    """16 hex digits over the decisive settings."""
    return hashlib.sha256(json.dumps(decisive(settings), sort_keys=True).encode()).hexdigest()[:16]


def read_values(folder: Path, entry: Entry) -> dict[str, NDArray[Any]]:
    """The values of every image of a run in a sweep folder: (n,) by metric, and `features` (n,d) where there are some.

    Image i is of the same caption and the same noise vector in every run of the sweep. `scenes` (n,) has for each the
    number of the real image that its caption belongs to. Scores of earlier versions of ratlip lack it: where one
    caption of each image was taken, image i is of real image i.

    Raises DataError where they are missing or damaged.
    """
    remedy = f"remove {folder / entry.run / SCORES_FILE} and sweep again, which scores the run again"
    values = _arrays(folder / entry.run / VALUES_FILE, _RESTORE if is_published(folder) else remedy)
    if SCENES not in values and values and entry.protocol.get("captions_per_image", 1) == 1:
        import numpy as np

        values[SCENES] = np.arange(len(next(iter(values.values()))))
    return values


def read_real_features(folder: Path) -> NDArray[np.float32]:
    """The features (n,d) of the real images that a sweep's runs are compared with.

    Raises DataError where they are missing or damaged.
    """
    if is_published(folder):
        remedy = _RESTORE
    elif (folder / LEDGER_FILE).is_file():
        remedy = "`ratlip sweep` writes it anew"
    else:
        remedy = f"remove {folder / SCORES_FILE}, and the run is scored again, which writes it anew"
    features: NDArray[np.float32] = _arrays(folder / REAL_FEATURES_FILE, remedy)[FEATURES]
    return features


def readable(path: Path) -> bool:
    """Whether a file of tensors is there and whole."""
    from safetensors import SafetensorError, safe_open  # imports numpy

    try:
        with safe_open(path, framework="np"):
            return True
    except (OSError, SafetensorError):
        return False


_RESTORE = "its runs are not here to make it anew: restore it from where it came"


def _arrays(path: Path, remedy: str) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file  # imports numpy

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read ({first_line(error)}); {remedy}.") from error
