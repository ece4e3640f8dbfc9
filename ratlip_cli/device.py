"""Where tensors live: the device that was asked for, and how much of its memory is in use."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ratlip_cli.errors import DeviceError
from ratlip_cli.setting import check_device

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h: how much free memory the process keeps, and up to what size it looks for memory there."""
_LARGEST_REUSED = (2**27, 2**25)
"""Up to how many bytes; an older glibc refuses the first and takes the second."""
_LARGEST = 2**31 - 1


def resolve_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA when present, else the CPU.

    Raises UsageError for a name that is none of `setting.DEVICES`, DeviceError for a device that is not there: there is
    no silent fallback.
    """
    check_device(name)
    kind, _, index = name.partition(":")
    if kind == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"device '{name}' is not there: PyTorch sees no CUDA GPU. Use --device cpu.")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise DeviceError(f"device '{name}' is not there: the last of {count} GPUs is cuda:{count - 1}.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device 'mps' is not there: this is no Apple GPU. Use --device cpu.")
    return torch.device(name)


def peak_memory_mib(device: torch.device) -> float:
    """The most memory in MiB that this process has held so far: of the GPU where there is one, else of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let PyTorch have so many threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let this process reuse memory that tensors have freed, instead of handing it back to Linux after every layer.

    New pages cost more than the arithmetic of a cheap layer. Tensors of 128 MiB and more (32 with an older glibc) are
    handed back unless there is a gap for them: to make room for each would leave gaps everywhere. Only glibc's
    allocator has, and needs, this.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None and any(mallopt(_M_MMAP_THRESHOLD, largest) for largest in _LARGEST_REUSED):
        mallopt(_M_TRIM_THRESHOLD, _LARGEST)
