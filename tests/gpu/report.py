"""What a run of the check has measured so far: one JSON file, complete at any moment, and a short table.

Standard library only, so that there is a report also where a package is missing.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]
PACKAGES = {
    "torch": "torch",
    "triton": "triton",
    "torchvision": "torchvision",
    "open_clip": "open_clip_torch",
    "ftfy": "ftfy",
    "tomli_w": "tomli-w",
    "numpy": "numpy",
    "scipy": "scipy",
    "PIL": "pillow",
    "safetensors": "safetensors",
    "huggingface_hub": "huggingface-hub",
    "pytest": "pytest",
}
"""What the steps import, by the name under which it is installed."""
WRITE_EVERY = 2.0
"""Seconds between two writings while a step goes on."""


class Report:
    """The content of the JSON file, and its writing.

    Args:
        path: the file; it is replaced as a whole every time.
        options: how the check was called.
    """

    def __init__(self, path: Path, options: dict[str, Any]) -> None:
        self.path = path
        self.written = 0.0
        self.lock = threading.Lock()
        self.content: dict[str, Any] = {
            "format": 1,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "options": options,
            "ended": "not yet",
            "seconds": 0.0,
            "code": code(),
            "packages": packages(),
            "machine": {"platform": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()},
            "steps": {},
            "checks": {},
            "targets": {},
        }

    def write(self) -> None:
        """Write the file."""
        with self.lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_name(f".{self.path.name}.partial")
            partial.write_text(json.dumps(_plain(self.content), indent=1) + "\n", encoding="utf-8")
            partial.replace(self.path)
            self.written = time.monotonic()

    def write_now_and_then(self) -> None:
        """Write the file unless that was done a moment ago."""
        if time.monotonic() - self.written > WRITE_EVERY:
            self.write()

    @property
    def failed(self) -> list[str]:
        """The checks that do not hold, by name."""
        return [name for name, one in self.content["checks"].items() if not one["passed"]]

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [name for name, version in self.content["packages"].items() if version is None]

    def table(self) -> str:
        """What a person wants to know, in at most a screen or two."""
        machine, checks = self.content["machine"], self.content["checks"]
        lines = [f"{machine.get('device', 'no device')}, PyTorch {self.content['packages']['torch']}"]
        if self.missing:
            lines.append(f"missing packages: {', '.join(PACKAGES[name] for name in self.missing)}")
        for name, step in self.content["steps"].items():
            lines.append(f"{name:10} {step['state']:8} {step['seconds']:6.1f} s  {step.get('error', '')}".rstrip())
            lines += [f"    {what:46} {value}" for what, value in step["rows"]]
        for name, target in self.content["targets"].items():
            reached = {True: "yes", False: "NO", None: "-"}[target["reached"]]
            lines.append(f"target {name:52} {target['value']:>10} of {target['target']:<8} {reached}")
        lines.append(f"checks: {len(checks) - len(self.failed)} of {len(checks)} hold")
        lines += [f"  FAILED {name}: {checks[name]['value']:.3g} > {checks[name]['limit']:.3g}" for name in self.failed]
        return "\n".join([*lines, f"{self.content['ended']}; figures: {self.path}"])


@dataclass
class Context:
    """What a step is given: where it computes, how much time it has, and where its figures go."""

    name: str
    report: Report
    device: Any
    """torch.device."""
    tiny: bool
    """Whether everything is as small as can be, to try the check itself."""
    until: float
    """When the step will be cut, of time.monotonic."""
    shared: dict[str, Any] = field(default_factory=dict)
    """What later steps use again: `trainer`, `chosen` swaps and so on."""

    @property
    def on_gpu(self) -> bool:
        return bool(self.device.type == "cuda")

    @property
    def left(self) -> float:
        """Seconds until the step is cut."""
        return self.until - time.monotonic()

    @property
    def step(self) -> dict[str, Any]:
        entry: dict[str, Any] = self.report.content["steps"][self.name]
        return entry

    @property
    def figures(self) -> dict[str, Any]:
        """All that the step has measured."""
        figures: dict[str, Any] = self.step["figures"]
        return figures

    def note(self, name: str, value: Any) -> None:
        """Keep a figure, or several under one name."""
        self.figures[name] = value
        self.report.write_now_and_then()

    def row(self, what: str, value: str) -> None:
        """A line of the table."""
        self.step["rows"].append([what, value])

    def check(self, name: str, value: float, limit: float, about: str = "") -> None:
        """Hold a measured difference against the largest that is right; NaN never is."""
        verdict = {"value": value, "limit": limit, "passed": bool(value <= limit)}
        self.report.content["checks"][name] = verdict | ({"about": about} if about else {})
        self.report.write_now_and_then()

    def target(self, name: str, value: float | None, target: float, at_most: bool = False) -> None:
        """Hold a speed against its target; it counts on a GPU at full size alone."""
        reached = None
        if value is not None and self.on_gpu and not self.tiny:
            reached = value <= target if at_most else value >= target
        shown = "unmeasured" if value is None else f"{value:.3g}"
        self.report.content["targets"][name] = {"value": shown, "target": f"{target:g}", "reached": reached}

    def attempt(self, name: str, error: Exception) -> None:
        """Note that one item of the step broke, and go on with the next."""
        self.note(name, {"error": in_one_line(error)})
        self.row(name, f"ERROR {in_one_line(error)}")


def in_one_line(error: BaseException) -> str:
    """The kind of an error and the first line that it says."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0][:200]}" if said else type(error).__name__


def packages() -> dict[str, str | None]:
    """The version of each package that a step imports, None where it is not installed."""
    found: dict[str, str | None] = {}
    for module, package in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            found[module] = None
            continue
        try:
            found[module] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[module] = "unknown version"
    return found


def code() -> dict[str, Any]:
    """Which code is measured: the commit where git knows it, and 16 hex digits over the package's sources."""
    digest = hashlib.sha256()
    for path in sorted((CHECKOUT / "ratlip_cli").rglob("*.py")):
        digest.update(path.relative_to(CHECKOUT).as_posix().encode() + b"\0" + path.read_bytes())
    commit = _said_by("git", "-C", str(CHECKOUT), "rev-parse", "HEAD")
    changed = _said_by("git", "-C", str(CHECKOUT), "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": None if changed is None else bool(changed), "source": digest.hexdigest()[:16]}


def driver() -> str | None:
    """The version of the GPU's driver."""
    said = _said_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return said.splitlines()[0] if said else None


def _said_by(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _plain(value: Any) -> Any:
    """`value` as JSON has it: no NaN, numbers of six digits."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in list(value.items())}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value
