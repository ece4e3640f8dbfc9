"""What the ledger of a sweep and the folders of its runs say, as tables: scores, settings, environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ratlip_cli.errors import RatlipError
from ratlip_cli.experiments.ledger import PLACES, Entry, checked
from ratlip_cli.families import FAMILIES
from ratlip_cli.json_files import from_json
from ratlip_cli.training.run_folder import ENVIRONMENT_FILE
from ratlip_cli.training.runs import RunSummary
from ratlip_cli.training.settings import by_present_names, settings_of_run
from ratlip_cli.web.charts import Table
from ratlip_cli.web.records import environment_rows, preset_of, read_ledger, read_object, said, score_rows

MOST_GROUPS = 12
"""Columns of the table of settings; one more would not be read."""

MOST_NAMES = 6
"""Runs that are named in a cell."""

OF_ENTRY = ("commit", "machine")
"""What an entry of the ledger says of the environment by the same name as a run folder."""


def entries_of(folder: Path, runs: Mapping[str, RunSummary]) -> dict[str, dict[str, Any]]:
    """The entries of a sweep's ledger by run; of a run that was changed since it was scored, CHANGED and why."""
    entries = {str(entry["run"]): entry for entry in read_ledger(folder)}
    return {name: _checked(runs[name].run, entry) if name in runs else entry for name, entry in entries.items()}


def _checked(run: Path, entry: dict[str, Any]) -> dict[str, Any]:
    try:
        return asdict(checked(run, from_json(Entry, entry, optional=True)))
    except (OSError, ValueError, TypeError, RatlipError):  # of another ratlip, or damaged: as it stands there
        return entry


def state_of(entry: Mapping[str, Any] | None, run: RunSummary | None) -> str:
    """What a run of a sweep is: that it trains now comes before what the ledger says of it."""
    if run and run.state == "running":
        return run.state
    return str(entry["state"]) if entry and entry.get("state") else run.state if run else "missing"


def scores_table(entries: Mapping[str, Mapping[str, Any]]) -> tuple[str, Table] | None:
    """The scores in a ledger, a row a run, and what is alike in all of them; None where there are none."""
    rows = {name: found for name, entry in entries.items() if (found := score_rows(entry, name))}
    if not rows:
        return None
    named = {name: {one.metric: one.value for one in found} for name, found in rows.items()}
    metrics = list(dict.fromkeys(metric for own in named.values() for metric in own))
    protocols = {name: found[0].protocol for name, found in rows.items()}
    alike = set(protocols.values())
    about = "The fingerprint is of the model that was scored. "
    about += f"All were scored alike: {alike.pop()}." if len(alike) == 1 and "" not in alike else _compared(alike)
    columns = ["run", *metrics, "fingerprint", *(["protocol"] if len(alike) > 1 else [])]
    cells = [
        [
            name,
            *(named[name].get(metric, "") for metric in metrics),
            found[0].fingerprint,
            *([protocols[name]] if len(alike) > 1 else []),
        ]
        for name, found in rows.items()
    ]
    return about, Table(columns, cells)


def _compared(protocols: set[str]) -> str:
    if len(protocols) == 1:
        return "How they were scored is not recorded."
    return f"They were scored in {len(protocols)} manners: compare those whose protocol is the same."


def settings_table(
    names: Sequence[str], entries: Mapping[str, Mapping[str, Any]], runs: Mapping[str, RunSummary]
) -> tuple[str, Table] | None:
    """The settings that differ between the rows of a sweep or from their preset; None where none are recorded.

    Runs with the same settings but for the seed share a column. A cell has what the preset says behind it where that
    is something else.
    """
    groups: dict[str, dict[str, Any]] = {}
    known: list[tuple[str, dict[str, Any]]] = []
    for name in names:
        own = _settings_of(entries.get(name), runs.get(name))
        if not own:
            continue
        shared = {key: value for key, value in own.items() if key != "seed"}
        title = next((title for title, others in known if others == shared), None)
        if title is None:
            row = str(entries.get(name, {}).get("row") or name)
            title = name if row in groups else row
            known.append((title, shared))
            groups[title] = shared
    if not groups:
        return None
    shown = dict(list(groups.items())[:MOST_GROUPS])
    presets = {title: preset_of(own.get("dataset"), own.get("variant")) for title, own in shown.items()}
    rows = []
    for setting in dict.fromkeys(setting for own in shown.values() for setting in own):
        values = {title: own[setting] for title, own in shown.items() if setting in own}
        usual = {title: presets[title].get(setting, value) for title, value in values.items()}
        if setting in ("dataset", "variant"):
            usual = values
        if len({said(value) for value in values.values()}) > 1 or any(values[one] != usual[one] for one in values):
            rows.append([setting, *(_beside(values, usual, title) for title in shown)])
    about = "Those that differ between the rows or from the preset, which stands in brackets where it says otherwise."
    if len(shown) < len(groups):
        about += f" {len(shown)} of {len(groups)} sets of settings are shown."
    if not rows:
        about = "Nothing differs between the rows, nor from the preset."
    return about, Table(["setting", *shown], rows)


def _beside(values: Mapping[str, Any], usual: Mapping[str, Any], title: str) -> str:
    if title not in values:
        return ""
    value, preset = values[title], usual[title]
    return said(value) if value == preset else f"{said(value)} (preset: {said(preset)})"


def _settings_of(entry: Mapping[str, Any] | None, run: RunSummary | None) -> dict[str, Any]:
    """The settings of a run that its family reads, without where things lay on the machine."""
    settings = entry.get("settings") if entry else None
    if not (isinstance(settings, dict) and settings):
        try:
            settings = settings_of_run(run.run).flat() if run else {}
        except RatlipError:
            return {}
    family = FAMILIES.get(str(settings.get("variant")))
    left_out = {*PLACES, *(family.unused if family else ())}
    return {name: value for name, value in by_present_names(settings).items() if name not in left_out}


def environment_table(
    names: Sequence[str], entries: Mapping[str, Mapping[str, Any]], runs: Mapping[str, RunSummary]
) -> Table | None:
    """The distinct versions, commits, machines and packages of a sweep's runs, and of which runs each is."""
    found: dict[str, dict[str, list[str]]] = {}
    of_whom: dict[str, list[str]] = {}
    for name in names:
        for what, value in _environment_of(entries.get(name, {}), runs.get(name)).items():
            found.setdefault(what, {}).setdefault(value, []).append(name)
            of_whom.setdefault(what, []).append(name)
    rows = [
        [what, value, _who(own, len(names))]
        for what, values in found.items()
        for value, own in values.items()
        if values.keys() != {"-"}
    ]
    return Table(("what", "value", "runs"), rows) if rows else None


def _environment_of(entry: Mapping[str, Any], run: RunSummary | None) -> dict[str, str]:
    """By what it is: as the ledger says it, else the run folder, which has more."""
    rows = environment_rows(read_object(run.run / ENVIRONMENT_FILE)) if run else []
    recorded = {name: entry.get(key) for name, key in (("ratlip", "version"), *((key, key) for key in OF_ENTRY))}
    scored = entry.get("scored_by")
    by = {f"scored by: {key}": value for key, value in scored.items()} if isinstance(scored, dict) else {}
    told = {name: said(value) for name, value in (recorded | by).items() if value not in (None, "")}
    return told | {name: value for name, value in rows if name not in told}


def _who(names: Iterable[str], count: int) -> str:
    own = list(names)
    if len(own) == count:
        return "all"
    more = f" and {len(own) - MOST_NAMES} more" if len(own) > MOST_NAMES else ""
    return f"{len(own)}: {', '.join(own[:MOST_NAMES])}{more}"
