"""What this machine and this installation are, for a report of a fault. Nothing of it is secret, no token is read."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub.constants

import ratlip_cli
from ratlip_cli.data.request import prepared_names
from ratlip_cli.errors import one_line

if TYPE_CHECKING:
    import torch

PACKAGES = (
    *("torch", "torchvision", "open_clip_torch", "timm", "numpy", "scipy", "pillow", "matplotlib", "scikit-learn"),
    *("safetensors", "huggingface-hub", "torch-fidelity", "tensorboard", "typer", "rich"),
    *("onnx", "onnxruntime", "onnxscript", "openvino", "umap-learn"),
)
"""Whose versions decide what ratlip does; the last five are optional."""

VARIABLES = (
    *("RATLIP_DATA", "RATLIP_DEBUG", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TORCH_HOME", "TMPDIR"),
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTORCH_ENABLE_MPS_FALLBACK"),
    *("LANG", "LC_ALL", "PYTHONUTF8", "NO_COLOR"),
)
"""Environment variables that change what ratlip does. None of them holds a secret; others are not told."""


def of_run(device: torch.device) -> dict[str, Any]:
    """What a run folder keeps of machine and installation, none of their paths, when `device` begins to train."""
    devices, threads, _ = _torch()
    return _installation(devices, threads) | {"commit": commit(), "machine": machine(device)}


def machine(device: torch.device) -> str:
    """The device and what computes on it, in words."""
    import torch

    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}, PyTorch {torch.__version__}"
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {os.cpu_count()} cores, {threads} of them used, PyTorch {torch.__version__}"


def cpu_name() -> str:
    """The CPU, as Linux names it; elsewhere its kind."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of the package's source, `-dirty` behind it where files were changed; None where it is installed."""
    package = Path(ratlip_cli.__file__).parent
    for command in (
        ["git", "ls-files", "--error-unmatch", "__init__.py"],
        ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*"],
    ):
        try:
            answer = subprocess.run(command, cwd=package, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
    return answer.stdout.strip()


def _installation(devices: list[dict[str, str]], threads: int | None) -> dict[str, Any]:
    return {
        "ratlip": ratlip_cli.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": devices,
        "threads": {"torch": threads, "cores": os.cpu_count()},
    }


def describe(data_dir: Path) -> dict[str, Any]:
    """Versions, devices, threads, caches with their sizes in bytes, datasets; what is broken is said in its place."""
    devices, threads, torch_cache = _torch()
    caches = {
        "Hugging Face Hub": Path(huggingface_hub.constants.HF_HUB_CACHE),
        "PyTorch": torch_cache,
        "downloads": data_dir / "downloads",
        "text vectors": data_dir.glob("*/.text_vectors"),
        "features": data_dir.glob("*/.features"),
    }
    return _installation(devices, threads) | {
        "installed_in": str(Path(ratlip_cli.__file__).parent),
        "encodings": {"stdout": getattr(sys.stdout, "encoding", None), "files": sys.getfilesystemencoding()},
        "caches": [_cache(what, folders) for what, folders in caches.items()],
        "data_dir": {"folder": str(data_dir), "datasets": prepared_names(data_dir)},
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _version(package: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _torch() -> tuple[list[dict[str, str]], int | None, Path | None]:
    """Devices by name, PyTorch's threads, and its cache; a PyTorch that cannot be imported is told as the device."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return [{"device": "none", "name": f"torch cannot be imported: {one_line(error)}"}], None, None
    devices = [{"device": "cpu", "name": cpu_name()}]
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        version = f"CUDA {torch.version.cuda}, compute capability {about.major}.{about.minor}"
        name = f"{about.name}, {about.total_memory / 2**30:.0f} GiB, {version}"
        devices.append({"device": f"cuda:{number}", "name": name})
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "name": "Apple GPU"})
    return devices, torch.get_num_threads(), Path(torch.hub.get_dir()) / "checkpoints"


def _cache(what: str, folders: Path | Iterable[Path] | None) -> dict[str, Any]:
    several = [folders] if isinstance(folders, Path) else list(folders or ())
    return {"cache": what, "folders": [str(folder) for folder in several], "bytes": sum(map(_size, several))}


def _size(folder: Path) -> int:
    """Bytes of the files below `folder`, 0 where there is none; a link counts for itself."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118
    return total
