"""The tensors of a TorchScript archive, read without executing anything in it.

OpenAI published its CLIPs as such archives. Beside the code, which is not read, they hold data.pkl, a pickle of modules
and tensors, and data/N, the numbers. Of the pickle only tensors, modules as plain records of their attributes, and
containers are understood; every other name in it is refused before it is looked up.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
"""Of the numbers of tensors, by the name that pickles give them."""
_LISTS = ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag")
_MOST_MODULES, _LONGEST_NAME = 10_000, 1_000  # Far above what a network has; modules that hold one another never end.


class _Module:
    """A module of the archive: its attributes."""

    attributes: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        self.attributes = dict(state)


def script_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive by their names in its state dict, on the CPU.

    Raises pickle.UnpicklingError where it holds more than modules, tensors and containers; ValueError,
    zipfile.BadZipFile and what a damaged pickle makes Python raise where it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        wanted = [info for name, info in members.items() if name == "data.pkl" or name.startswith("data/")]
        if sum(info.file_size for info in wanted) > path.stat().st_size:
            raise ValueError("its members are larger than the file")
        if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
            raise ValueError("its numbers are big-endian")
        root = _Unpickler(archive, members).load()
    if not isinstance(root, _Module):
        raise ValueError("it holds no module")
    return dict(_named_tensors(root))


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler in Python, whose memory does not grow with numbers that the file makes up."""

    def __init__(self, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> None:
        super().__init__(io.BytesIO(archive.read(members["data.pkl"])))
        self.archive = archive
        self.members = members
        self.storages: dict[str, torch.UntypedStorage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if module == "torch.jit._pickle" and name in _LISTS:
            return _first
        raise pickle.UnpicklingError(f"{module}.{name} is no tensor")

    def persistent_load(self, saved: Any) -> tuple[torch.UntypedStorage, torch.dtype]:
        _, dtype, key, _, _ = saved
        if key not in self.storages:
            content = bytearray(self.archive.read(self.members[f"data/{key}"]))
            self.storages[key] = torch.frombuffer(content or bytearray(1), dtype=torch.uint8).untyped_storage()
        return self.storages[key], dtype


def _tensor(stored: tuple[torch.UntypedStorage, torch.dtype], offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    storage, dtype = stored
    if math.prod(size) * dtype.itemsize > storage.nbytes():
        raise ValueError("a tensor is larger than what the file stores of it")
    return torch.empty(0, dtype=dtype).set_(storage, offset, size, stride)


def _first(value: Any, *_: Any) -> Any:
    return value


def _named_tensors(root: _Module) -> Iterator[tuple[str, Tensor]]:
    modules = [("", root)]
    for _ in range(_MOST_MODULES):
        if not modules:
            return
        prefix, module = modules.pop()
        if len(prefix) > _LONGEST_NAME:
            break
        for name, value in module.attributes.items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
            elif isinstance(value, _Module):
                modules.append((f"{prefix}{name}.", value))
    raise ValueError("its modules hold one another")
