"""Plain pickles as published code writes them: snapshots of LAFITE, and the captions of DAMSM's datasets."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
from torch import Tensor, nn

from ratlip_cli.baselines.damsm import END


class EasyDict(dict[str, Any]):
    """LAFITE's dictionary."""


def _reconstruct_persistent_obj(meta: Mapping[str, Any]) -> None:
    raise AssertionError("the source that the pickle carries would be executed")


EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"
_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Persistent(nn.Module):
    """A module of LAFITE's code, whose pickle carries its source."""

    def __init__(self) -> None:
        super().__init__()
        self._init_args = (512,)
        self._init_kwargs = EasyDict(z_dim=512, synthesis_kwargs=EasyDict(channel_base=32768))
        self.weight_gain = 1 / np.sqrt(512)  # a number of NumPy
        self.use_fp16 = False

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {
            "type": "class",
            "version": 6,
            "module_src": "raise SystemExit('executed')",
            "class_name": "Generator",
            "state": self.__dict__,
        }
        return _reconstruct_persistent_obj, (meta,), None


def network(tensors: Mapping[str, Tensor], buffers: Collection[str] = ()) -> Persistent:
    """Modules with these tensors by name; those in `buffers` are no parameters."""
    root = Persistent()
    for name, tensor in tensors.items():
        *parents, last = name.split(".")
        module: nn.Module = root
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, Persistent())
            module = module.get_submodule(parent)
        if name in buffers:
            module.register_buffer(last, tensor)
        else:
            module.register_parameter(last, nn.Parameter(tensor))
    return root


@contextmanager
def published_code() -> Iterator[None]:
    """The modules of LAFITE's code that its pickles name."""
    modules = {name: ModuleType(name) for name in ("dnnlib", "dnnlib.util", "torch_utils", "torch_utils.persistence")}
    modules["dnnlib.util"].EasyDict = EasyDict  # type: ignore[attr-defined]
    modules["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    with patch.dict(sys.modules, modules):
        yield


def save_snapshot(path: Path, networks: Mapping[str, object], protocol: int = 4) -> Path:
    """A snapshot of LAFITE."""
    content = {
        "training_set_kwargs": EasyDict(class_name="training.dataset.ImageFolderDataset", path="birds.zip"),
        **networks,
        "augment_pipe": None,
    }
    with published_code():
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def save_captions(path: Path, words: Sequence[str], protocol: int = 2) -> Path:
    """A captions.pickle of these words, `<end>` before them."""
    by_number = dict(enumerate([END, *words]))
    captions = [[1, 2, len(words)], [2]]
    content = [captions, captions[:1], by_number, {word: number for number, word in by_number.items()}]
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path
