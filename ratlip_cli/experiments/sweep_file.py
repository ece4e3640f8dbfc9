"""A sweep file: rows times seeds of training settings, and how their runs are scored. Imports no torch.

images_shown = 25600                 # to each discriminator, at most: steps follow from it and the batch size
seeds = 3                            # 0, 1 and 2; or a list of them

[settings]                           # what stays, as in `ratlip train --config`
dataset = "demo-birds"
image_size = 32

[rows."RATLIP"]                      # what varies: named rows,
variant = "ratlip"
[rows."GALIP"]
variant = "galip"

[vary]                               # or instead of them lists, each value of which meets each of the others
hidden_size = [4, 16, 64]

[evaluation]                         # see `Protocol`
limit = 500

[printed."RATLIP"]                   # what a paper prints, for a column of its own; by metric
fid = 14.2
"""

from __future__ import annotations

import itertools
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratlip_cli.errors import UsageError, unknown_name
from ratlip_cli.experiments.ledger import BETTER, CONFIG_FILE, SWEEP_FILE, digest_of
from ratlip_cli.experiments.protocol import Protocol
from ratlip_cli.families import family_of
from ratlip_cli.files import decoded
from ratlip_cli.setting import Value, check_seed, settings_of
from ratlip_cli.training.settings import SETTINGS, TrainSettings, checked, read_settings, resolve_settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLES = ("settings", "rows", "vary", "evaluation", "printed")
KEYS = ("images_shown", "seeds", "config", *TABLES)

OWN = {
    "seed": "seeds",
    "steps": "images_shown",
    "epochs": "images_shown",
    "out": "--out",
    "resume": "nothing: a second call goes on",
    "max_time": "nothing: Ctrl-C saves, and a second call goes on",
    "device": "--device",
    "data_dir": "--data-dir",
}
"""Settings that a sweep file cannot give, and what says it instead."""

SHARED = ("dataset", "split", "caption_column", "stream_images", "image_size", "clip", "init_from")
"""Settings that all rows have in common, or their scores could not be compared: data, crop, side, text encoder, and
weights to begin with, which were shown images before."""

KEEP = 1
"""Checkpoints that a run keeps where nobody says how many: a run goes on from the last."""

LONGEST = 100
"""Bytes of a row's name in the names of its run folders, of which file systems take 255."""


@dataclass(frozen=True)
class Run:
    """One run of a sweep: a row with a seed."""

    name: str  # Of its folder in the sweep folder.
    row: str
    seed: int
    settings: TrainSettings


@dataclass(frozen=True)
class Config:
    """The settings file that a sweep file names."""

    name: str  # As it names it.
    content: bytes  # The file as it is.


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says."""

    content: bytes  # The file as it is.
    config: Config | None  # The settings file that lies below its own; None for a preset or none.
    runs: Sequence[Run]  # Row by row, each with its seeds.
    protocol: Protocol
    printed: Mapping[str, Mapping[str, float]]  # What a paper prints, by row and metric.

    @property
    def rows(self) -> list[str]:
        """The names of the rows, in the order of the file."""
        return list(dict.fromkeys(run.row for run in self.runs))


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file.

    That of a sweep folder is read with the settings file that was its config when the folder was last swept.

    Raises UsageError, which names the file and the row: it cannot be read, a key, setting or value is unknown or out
    of range, rows are the same, or they differ in what makes them comparable.
    """
    try:
        content = path.read_bytes()
        table = tomllib.loads(decoded(content, f"the sweep file {path}"))
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"cannot read the sweep file {path}: {why}.") from error
    for key, value in table.items():
        if key not in KEYS:
            raise UsageError(f"{path}: {unknown_name('key', key, KEYS)}")
        if key in TABLES and not isinstance(value, dict):
            raise UsageError(f"{path}: '{key}' must be a table, not {value!r}.")
    shown = table.get("images_shown")
    if type(shown) is not int or shown < 1:
        raise UsageError(f"{path}: give images_shown, the images that each discriminator is shown at most, from 1.")
    rows = _rows(path, table)
    common = checked(f"{path}, settings", table.get("settings", {}))
    _check_allowed(f"{path}, settings", common)
    seeds, named = _seeds(path, table.get("seeds")), _config(path, table.get("config"))
    kept = path.with_name(CONFIG_FILE)
    config = str(kept) if named is not None and path.name == SWEEP_FILE and kept.is_file() else named
    below = None
    if named is not None and config is not None and Path(config).is_file():
        below = Config(named, Path(config).read_bytes())
    runs = [
        Run(f"{_slug(row)}-seed{seed}", row, seed, settings.replaced(seed=seed))
        for row, own in rows.items()
        for settings in [_settings(f"{path}, row '{row}'", common, own, config, shown)]
        for seed in seeds
    ]
    firsts = [run for run in runs if run.seed == seeds[0]]
    _check_used(path, common, firsts)
    _check_rows(path, firsts)
    return Sweep(content, below, runs, _protocol(path, table.get("evaluation", {})), _printed(path, table, rows))


def _rows(path: Path, table: Mapping[str, Any]) -> dict[str, dict[str, Value]]:
    """The settings of each row by its name."""
    named, lists = table.get("rows", {}), table.get("vary", {})
    if bool(named) == bool(lists):
        raise UsageError(f"{path}: give either [rows.NAME] tables or a table [vary] of lists: what varies.")
    if named:
        for row, own in named.items():
            if not isinstance(own, dict):
                raise UsageError(f"{path}: 'rows.{row}' must be a table of settings, not {own!r}.")
            if not row.strip() or not row.isprintable():
                raise UsageError(f"{path}: {row!r} is no name of a row; use letters.")
        return {row: _checked_row(f"{path}, row '{row}'", own) for row, own in named.items()}
    for name, values in lists.items():
        if not isinstance(values, list) or not values:
            raise UsageError(f"{path}: vary: '{name}' must be a list of values, not {values!r}.")
    rows: dict[str, dict[str, Value]] = {}
    for values in itertools.product(*lists.values()):
        own = dict(zip(lists, values, strict=True))
        row = " ".join(f"{name}={value}" for name, value in own.items())
        if row in rows:
            raise UsageError(f"{path}: vary: {row} stands there twice; leave out one of them.")
        rows[row] = _checked_row(f"{path}, vary", own)
    return rows


def _checked_row(where: str, own: Mapping[str, Any]) -> dict[str, Value]:
    settings = checked(where, own)
    _check_allowed(where, settings)
    return settings


def _check_allowed(where: str, settings: Mapping[str, Value]) -> None:
    for name in settings:
        if name in OWN:
            raise UsageError(f"{where}: '{name}' is not for a sweep file; what says it is {OWN[name]}.")


def _seeds(path: Path, given: object) -> list[int]:
    if type(given) is int and given >= 1:
        return list(range(given))
    if not isinstance(given, list) or not given or not all(type(seed) is int for seed in given):
        raise UsageError(f"{path}: seeds must be how many there are, from 1, or a list of whole numbers.")
    if len(set(given)) < len(given):
        raise UsageError(f"{path}: seeds has a seed twice; leave out one of them.")
    for seed in given:
        check_seed(seed)
    return given


def _config(path: Path, given: object) -> str | None:
    if given is not None and not isinstance(given, str):
        raise UsageError(f"{path}: config must be a settings file or a preset, not {given!r}.")
    return given


def _settings(
    where: str, common: Mapping[str, Value], own: Mapping[str, Value], config: str | None, shown: int
) -> TrainSettings:
    """The settings of a row; of what stays, those that its family has."""
    try:
        variant = own.get("variant", common.get("variant"))
        if variant is None and config is not None:
            variant = read_settings(config).get("variant")
        family = family_of(str(variant or TrainSettings.variant))
        known = {*SETTINGS, *family.sizes, *family.weights} - family.unused
        given = {"keep": KEEP, **{name: value for name, value in common.items() if name in known}, **own}
        settings = resolve_settings({**given, "steps": 1}, config)
        family.check_trained(settings)
        if settings.batch_size > shown:
            raise UsageError(f"images_shown is {shown}, less than one batch of {settings.batch_size}.")
        return settings.replaced(steps=shown // settings.batch_size, max_time="")
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _check_used(path: Path, common: Mapping[str, Value], runs: Sequence[Run]) -> None:
    """Raise UsageError for what stays and no row has."""
    families = [run.settings.family for run in runs]
    for name in common:
        used = [one for one in families if name in {*SETTINGS, *one.sizes, *one.weights} - one.unused]
        if not used:
            raise UsageError(f"{path}, settings: no row has the setting '{name}'; leave it out.")


def _check_rows(path: Path, runs: Sequence[Run]) -> None:
    """Raise UsageError where rows are the same, have one folder, or differ in what they must share."""
    settings: dict[str, str] = {}
    folders: dict[str, str] = {}
    first = runs[0]
    if not first.settings.dataset:
        raise UsageError(f"{path}: give the dataset to train on, in [settings].")
    for run in runs:
        own, unread = run.settings, run.settings.family.unread
        read = own.replaced(**{name: value for name, value in TrainSettings().flat().items() if name in unread})
        same = settings.setdefault(digest_of(read.flat()), run.row)
        if same != run.row:
            raise UsageError(f"{path}: the rows '{same}' and '{run.row}' are the same; leave out one of them.")
        before = folders.setdefault(run.name.casefold(), run.row)
        if before != run.row:
            raise UsageError(f"{path}: the rows '{before}' and '{run.row}' have the same folder; rename one of them.")
        for name in SHARED:
            one, other = first.settings.flat()[name], run.settings.flat()[name]
            if one != other:
                raise UsageError(
                    f"{path}: {name} is {one!r} in row '{first.row}' and {other!r} in row '{run.row}', and scores of "
                    "different data, sizes, CLIPs or weights to begin with cannot be compared: make a sweep of each."
                )


def _protocol(path: Path, table: Mapping[str, Any]) -> Protocol:
    known = settings_of(Protocol)
    for name, value in table.items():
        if name == "metrics":
            if not isinstance(value, list):
                raise UsageError(f"{path}, evaluation: 'metrics' must be a list, not {value!r}.")
        elif name not in known:
            raise UsageError(f"{path}, evaluation: {unknown_name('setting', name, ['metrics', *known])}")
        else:
            known[name].check(f"{path}, evaluation", value)
    try:
        return Protocol(**table)
    except UsageError as error:
        raise UsageError(f"{path}, evaluation: {error}") from error


def _printed(path: Path, table: Mapping[str, Any], rows: Mapping[str, object]) -> dict[str, dict[str, float]]:
    printed = table.get("printed", {})
    for row, values in printed.items():
        if row not in rows:
            raise UsageError(f"{path}, printed: {unknown_name('row', row, rows)}")
        if not isinstance(values, dict):
            raise UsageError(f"{path}: 'printed.{row}' must be a table of numbers, not {values!r}.")
        for metric, value in values.items():
            if metric not in BETTER:
                raise UsageError(f"{path}, printed, row '{row}': {unknown_name('metric', metric, BETTER)}")
            if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
                raise UsageError(f"{path}, printed, row '{row}': '{metric}' must be a finite number, not {value!r}.")
    return {row: {metric: float(value) for metric, value in values.items()} for row, values in printed.items()}


def _slug(row: str) -> str:
    """A row's name as part of a folder's: letters of any script, digits and `_.+=`, `-` for all else."""
    letters = [
        one if one.isalnum() or one in "_.+=" or unicodedata.category(one)[0] == "M" else " " for one in _nfc(row)
    ]
    slug = "-".join("".join(letters).split()).strip("-.")
    return slug.encode()[:LONGEST].decode(errors="ignore") or "row"


def _nfc(text: str) -> str:
    """Letters with their accents in them, which some file systems take for the same as beside them."""
    return unicodedata.normalize("NFC", text)
