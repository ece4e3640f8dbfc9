"""The exponential moving average of the generator: what samples, checkpoints and the model folder show."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def start_average(generator: Network) -> Network:
    """A copy of `generator` in eval mode that needs no gradients: the average before the first step."""
    return copy.deepcopy(generator).eval().requires_grad_(False)


@torch.no_grad()
def update_average(average: nn.Module, generator: nn.Module, decay: float, step: int) -> None:
    """Move `average` towards `generator`, the running statistics of BatchNorm included; counters are copied.

    Args:
        decay: the share of the average that stays; early on min(decay, (1 + step) / (10 + step)), so that the
            first weights are soon forgotten.
        step: number of steps done, this one not counted.
    """
    decay = min(decay, (1 + step) / (10 + step))
    averaged, current = _by_kind(average), _by_kind(generator)
    torch._foreach_lerp_(averaged[True], current[True], 1 - decay)
    for counter, value in zip(averaged[False], current[False], strict=True):
        counter.copy_(value)


def _by_kind(module: nn.Module) -> dict[bool, list[Tensor]]:
    """Parameters and buffers, those with fractions under True and counters under False."""
    tensors = [*module.parameters(), *module.buffers()]
    return {kind: [tensor for tensor in tensors if tensor.is_floating_point() is kind] for kind in (True, False)}
