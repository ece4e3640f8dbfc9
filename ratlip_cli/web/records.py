"""What runs and sweeps wrote, read as it lies there: also while a run goes on, and with lines that are damaged."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ratlip_cli.json_files import read_json
from ratlip_cli.training.runs import SCORES

LEDGER_FILE = "ledger.jsonl"

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
        if step <= self.last_step:
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
                values.append(float(value))


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


def score_rows(content: Mapping[str, Any], source: str) -> list[ScoreRow]:
    """The scores in what `ratlip evaluate --out`, an evaluation while training, or a sweep wrote; none in others."""
    if isinstance(content.get("evaluation"), dict):
        step = content.get("step")
        return score_rows(content["evaluation"], f"{source}, step {step}" if step is not None else source)
    protocol, fingerprint = content.get("protocol", ""), str(content.get("fingerprint", ""))
    if isinstance(protocol, dict):
        protocol = ", ".join(f"{name} {value}" for name, value in protocol.items())
    metrics, scores = content.get("metrics"), content.get("scores")
    if isinstance(metrics, dict) and fingerprint:
        return [
            ScoreRow(
                source,
                str(name),
                _number(score.get("value")),
                " to ".join(_number(end) for end in score.get("interval") or ()),
                str(score.get("features", "")),
                _counts(score),
                str(protocol),
                fingerprint,
            )
            for name, score in metrics.items()
            if isinstance(score, dict)
        ]
    if isinstance(scores, dict) and "settings_digest" in content:
        model = str(content.get("model_fingerprint", ""))
        return [
            ScoreRow(source, str(name), _number(value), protocol=str(protocol), fingerprint=f"model {model}")
            for name, value in scores.items()
        ]
    return []


def _counts(score: Mapping[str, Any]) -> str:
    real = score.get("n_real")
    return f"{score.get('n_fake', '?')} generated" + ("" if real is None else f", {real} real")


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else str(value)


@dataclass(frozen=True)
class Figure:
    """A figure of `ratlip gradcam` or `ratlip latent-viz`."""

    image: Path
    title: str
    says: Sequence[str]  # What it shows, with numbers.


def figures_of(folder: Path, own: set[str], within: Path | None) -> list[Figure]:
    """The figures in a folder that Grad-CAM or a latent view wrote of certain models, the newest first.

    Args:
        own: fingerprints of the models; empty for any.
        within: models in this folder count too, whatever their weights are now.
    """
    found: list[Figure] = []
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        content = read_object(path)
        if content.get("command") not in ("gradcam", "latent-viz") or not _is_of(content, own, within):
            continue
        says = [str(line) for line in content.get("says", []) if isinstance(line, str)]
        title = f"{content['command']}: {re.sub(r'^[0-9]{4,}_', '', path.stem).replace('-', ' ')}"
        names = [Path(file).name for file in content.get("files", []) if isinstance(file, str)]
        images = [path.with_name(name) for name in names if name.endswith(".png") and path.with_name(name).is_file()]
        found += [Figure(image, title, says if number == 0 else ()) for number, image in enumerate(images)]
    return found


def _is_of(content: Mapping[str, Any], own: set[str], within: Path | None) -> bool:
    models = [model for model in content.get("models", []) if isinstance(model, dict)]
    if not own:
        return True
    return any(
        model.get("fingerprint") in own
        or (within is not None and Path(str(model.get("model"))).resolve().is_relative_to(within.resolve()))
        for model in models
    )
