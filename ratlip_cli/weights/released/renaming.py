"""Names of published tensors to ours and back, by tables of what differs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

AFFINE_LAYERS = (
    ("gamma.linear1.", "gamma.0."),
    ("gamma.linear2.", "gamma.2."),
    ("beta.linear1.", "beta.0."),
    ("beta.linear2.", "beta.2."),
)
"""Of an affine's two MLPs, theirs and ours."""


def renamed(name: str, rules: Iterable[tuple[str, str]]) -> str:
    """`name` by pairs of a text in it and what takes its place; ^ is the name's beginning, # stands for a number."""
    for old, new in rules:
        pattern = re.escape(old).replace(r"\^", "^").replace(r"\#", r"(\d+)")
        first, *others = new.removeprefix("^").split("#")
        replacement = first + "".join(rf"\g<{group}>{other}" for group, other in enumerate(others, start=1))
        name = re.sub(pattern, replacement, name)
    return name


def backwards(rules: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The rules of the way back."""
    return [(new, old) for old, new in rules]


def without_module(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name without the prefix of training on several GPUs, in float32."""
    return {
        name.removeprefix("module."): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
