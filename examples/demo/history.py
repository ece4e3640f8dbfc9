"""What made an artefact of the demo: commit, machine, time and settings, written by the commands that make it.

python examples/demo/history.py runs/demo-clip    # ends with a line where this training of a CLIP is not done
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import script
import torch

from ratlip_cli.errors import UsageError
from ratlip_cli.files import write_text
from ratlip_cli.tensor_files import fingerprint, load_tensors

HISTORY_FILE = "history.json"


def here(folder: Path) -> dict[str, object]:
    """Commit of the repository that holds `folder`, "-dirty" where a file of it is changed; machine and date."""
    return {
        "commit": _commit(folder),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        "torch": str(torch.__version__),  # which is not a plain string
        "began": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def fingerprint_of(weights: Path) -> str:
    """The fingerprint of a safetensors file's tensors."""
    return fingerprint(load_tensors(weights))


def write_history(file: Path, entries: dict[str, object]) -> None:
    """Put entries, by name of the artefact, into a file that may hold others already."""
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    write_text(file, json.dumps(before | entries, indent=2) + "\n")


def clip_record(run: Path) -> dict[str, Any]:
    """What made the CLIP of a run of `train_clip.py`. Raises UsageError where its training is not done."""
    file = run / HISTORY_FILE
    if not file.is_file():
        raise UsageError(f"{run} is no run of train_clip.py: it has no {HISTORY_FILE}.")
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["clip"]
    done, steps = record["steps"], record["settings"]["steps"]
    if done < steps:
        raise UsageError(f"{run} has done {done:,} of its {steps:,} steps: let it go on to its end first.")
    return record


def main() -> None:
    for run in sys.argv[1:]:
        clip_record(Path(run))


def _commit(folder: Path) -> str | None:
    if shutil.which("git") is None:
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None


def _processor() -> str:
    cpus = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpus.read_text(encoding="utf-8")) if cpus.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()


if __name__ == "__main__":
    script.run(main)
