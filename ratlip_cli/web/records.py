"""What runs and sweeps wrote, read as it lies there: also while a run goes on, and with lines that are damaged."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ratlip_cli.errors import RatlipError
from ratlip_cli.experiments.ledger import LEDGER_FILE, shown_name
from ratlip_cli.json_files import read_json
from ratlip_cli.training.runs import SCORES
from ratlip_cli.training.settings import resolve_settings

LARGEST_VALUE = 1e30
"""What stands for larger values of a curve: their means and differences stay numbers, of which a chart can be made."""

_LAST_STEP = 2**53  # A browser knows whole numbers up to here.
_NO_CURVES = ("step", "epoch", "evaluation")


@dataclass
class Metrics:
    """The curves in a metrics.jsonl by name; what is no finite number is left out."""

    last_step: int = 0
    skipped: list[int] = field(default_factory=list)  # Steps that were not finite.
    evaluations: list[tuple[int, str]] = field(default_factory=list)  # Steps that were scored, with fingerprints.
    _curves: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The names of all curves."""
        return list(self._curves)

    @property
    def scores(self) -> list[str]:
        """The names of curves that are scores."""
        return [name for name in self._curves if name.startswith(SCORES)]

    def steps(self, name: str) -> Sequence[int]:
        """The steps of a curve, which rise."""
        return self._curves.get(name, ([], []))[0]

    def values(self, name: str) -> Sequence[float]:
        """The values of a curve."""
        return self._curves.get(name, ([], []))[1]

    def take(self, record: Mapping[str, Any]) -> None:
        """Add a line of metrics.jsonl. Raises KeyError, TypeError or ValueError where it is none."""
        step = int(record["step"])
        if not self.last_step < step < _LAST_STEP:
            return
        self.last_step = step
        if record.get("skipped") is True:
            self.skipped.append(step)
        if "evaluation" in record:
            self.evaluations.append((step, str(record["evaluation"])))
        for name, value in record.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and name not in _NO_CURVES and math.isfinite(value):
                steps, values = self._curves.setdefault(name, ([], []))
                steps.append(step)
                values.append(max(-LARGEST_VALUE, min(LARGEST_VALUE, float(value))))


def read_metrics(run: Path) -> Metrics:
    """The metrics.jsonl of a run folder; lines that are no records are passed over."""
    metrics = Metrics()
    for record in _json_lines(run / "metrics.jsonl"):
        try:
            metrics.take(record)
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
    return metrics


def read_ledger(sweep: Path) -> list[dict[str, Any]]:
    """The entries of a sweep's ledger, by run; none where it has no ledger."""
    return [entry for entry in _json_lines(sweep / LEDGER_FILE) if isinstance(entry.get("run"), str)]


def _json_lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(content, dict):
            found.append(content)
    return found


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is not there, or anything else."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def as_list(value: object) -> list[Any]:
    """A list in a record; empty where it is anything else."""
    return value if isinstance(value, list) else []


@dataclass(frozen=True)
class ScoreRow:
    """One score and how it was made, as a table shows it."""

    source: str  # The file that says it.
    metric: str
    value: str
    interval: str = ""
    network: str = ""
    counts: str = ""
    protocol: str = ""
    fingerprint: str = ""
    model: str = ""  # The fingerprint of the model that was scored, where the file says it.


def score_rows(content: Mapping[str, Any], source: str) -> list[ScoreRow]:
    """The scores in what `ratlip evaluate --out`, an evaluation while training, or a sweep wrote; none in others."""
    if isinstance(content.get("evaluation"), dict):
        step = content.get("step")
        return score_rows(content["evaluation"], f"{source}, step {step}" if step is not None else source)
    protocol, fingerprint = content.get("protocol", ""), str(content.get("fingerprint", ""))
    if isinstance(protocol, dict):
        named = [shown_metric(str(metric), content) for metric in as_list(protocol.get("metrics"))]
        protocol = in_words({**protocol, "metrics": named})
    model = str(content.get("model_fingerprint", ""))
    made = [content.get("model_format"), content.get("precision")]
    protocol = ", ".join([str(protocol), *(f"images in {how}" for how in made if how not in (None, "fp32"))])
    metrics, scores = content.get("metrics"), content.get("scores")
    if isinstance(metrics, dict) and fingerprint:
        return [
            ScoreRow(
                source,
                str(name),
                shown_value(score.get("value")),
                " to ".join(shown_value(end) for end in as_list(score.get("interval"))),
                str(score.get("features", "")),
                _counts(score),
                protocol,
                fingerprint,
                model,
            )
            for name, score in metrics.items()
            if isinstance(score, dict)
        ]
    if isinstance(scores, dict) and "settings_digest" in content:
        return [
            ScoreRow(
                source,
                shown_metric(str(name), content),
                shown_value(value),
                protocol=protocol,
                fingerprint=f"model {model}",
                model=model,
            )
            for name, value in scores.items()
        ]
    return []


def shown_metric(metric: str, entry: Mapping[str, Any]) -> str:
    """The name of a score in an entry of a ledger as `ratlip evaluate` has it, which says whose features it is of."""
    protocol = entry.get("protocol")
    of_networks = isinstance(protocol, dict) and isinstance(protocol.get("networks"), dict)
    return shown_name(metric, protocol) if of_networks and isinstance(protocol, dict) else metric


def in_words(content: Mapping[str, Any]) -> str:
    """An object of a record on one line, what it says nothing of left out; objects in it stand in brackets."""
    return ", ".join(f"{name} {_value(value)}" for name, value in content.items() if value not in (None, "", [], {}))


def _value(value: object) -> str:
    if isinstance(value, dict):
        shown = {name: f"({_value(one)})" if isinstance(one, dict) else _value(one) for name, one in value.items()}
        return ", ".join(f"{name} {one}" for name, one in shown.items())
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)


def said(value: object) -> str:
    """A value of a setting or an environment as a table shows it."""
    return "-" if value is None or value == "" else str(value)


def preset_of(dataset: object, variant: object) -> dict[str, Any]:
    """The settings by flat names that a dataset and a variant have without being told; empty where there are none."""
    try:
        return dict(resolve_settings({"dataset": str(dataset or ""), "variant": str(variant)}).flat())
    except (RatlipError, OSError, ValueError):
        return {}


def environment_rows(content: Mapping[str, Any]) -> list[list[str]]:
    """What a run's environment.json says, in rows of a name and a value; none where it says nothing."""
    if not content:
        return []
    devices = [one for one in as_list(content.get("devices")) if isinstance(one, dict)]
    return [
        ["ratlip", said(content.get("ratlip"))],
        ["commit", said(content.get("commit"))],
        ["Python", said(content.get("python"))],
        ["platform", said(content.get("platform"))],
        ["machine", said(content.get("machine"))],
        *([f"device {one.get('device')}", said(one.get("name"))] for one in devices),
        *([name, said(count)] for name, count in _items(content.get("threads"), "threads: ")),
        *([name, said(version)] for name, version in _items(content.get("packages"), "")),
    ]


def _items(content: object, before: str) -> list[tuple[str, object]]:
    return [(f"{before}{name}", value) for name, value in content.items()] if isinstance(content, Mapping) else []


def _counts(score: Mapping[str, Any]) -> str:
    real = score.get("n_real")
    return f"{score.get('n_fake', '?')} generated" + ("" if real is None else f", {real} real")


def shown_value(value: object) -> str:
    """A value as a table shows it."""
    if not isinstance(value, int | float):
        return str(value)
    try:
        return f"{value:.4f}" if abs(value) < 1e9 else f"{value:.4g}"
    except OverflowError:  # a whole number of hundreds of digits
        return "inf"


@dataclass(frozen=True)
class Figure:
    """A figure of `ratlip gradcam` or `ratlip latent-viz`."""

    image: Path
    title: str
    says: Sequence[str]  # What it shows, with numbers.


def figures_of(folder: Path, own: set[str] | None, within: Path | None = None) -> list[Figure]:
    """The figures in a folder that Grad-CAM or a latent view wrote of certain models, the newest first.

    Args:
        own: fingerprints of the models; None for any.
        within: models in this folder count too, whatever their weights are now.
    """
    found: list[Figure] = []
    for path in sorted(filter(_is_file, folder.glob("*.json")), key=lambda path: path.stat().st_mtime, reverse=True):
        content = read_object(path)
        if content.get("command") not in ("gradcam", "latent-viz") or not _is_of(content, own, within):
            continue
        says = [line for line in as_list(content.get("says")) if isinstance(line, str)]
        title = f"{content['command']}: {re.sub(r'^[0-9]{4,}_', '', path.stem).replace('-', ' ')}"
        names = [Path(file).name for file in as_list(content.get("files")) if isinstance(file, str)]
        beside = [path.with_name(name) for name in names if name.endswith(".png")]
        images = filter(_is_file, beside)
        found += [Figure(image, title, says if number == 0 else ()) for number, image in enumerate(images)]
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # such as a name that is too long
        return False


def _is_of(content: Mapping[str, Any], own: set[str] | None, within: Path | None) -> bool:
    models = [model for model in as_list(content.get("models")) if isinstance(model, dict)]
    if own is None:
        return True
    return any(str(model.get("fingerprint")) in own or _lies_in(str(model.get("model")), within) for model in models)


def _lies_in(path: str, folder: Path | None) -> bool:
    try:
        return folder is not None and Path(path).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # no path, or links in a circle
        return False
