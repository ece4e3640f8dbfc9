"""Modules that are planned before they are built: sizes, but no memory and no values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _NoValues(TorchFunctionMode):
    """`torch.nn.init` leaves tensors as they are: on the meta device it would import PyTorch's compiler first."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def planned() -> Iterator[None]:
    """Modules made inside lie on the meta device, without initial values."""
    with torch.device("meta"), _NoValues():
        yield
