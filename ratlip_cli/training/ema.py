"""The exponential moving average of the generator: what samples, checkpoints and the model folder show."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

Network = TypeVar("Network", bound=nn.Module)


def start_ema(generator: Network) -> Network:
    """A copy of `generator` in eval mode that needs no gradients: the EMA before the first step."""
    return copy.deepcopy(generator).eval().requires_grad_(False)


@torch.no_grad()
def update_ema(ema: Sequence[Tensor], current: Sequence[Tensor], decay: float, copied: int = 0) -> None:
    """Move the EMA towards the generator; counters are copied.

    Args:
        ema, current: `tensors_of` the EMA and of the generator.
        decay: the share of the EMA that stays.
        copied: how many tensors at the end are copied whatever they are.
    """
    pairs = list(zip(ema, current, strict=True))
    averaged = len(pairs) - copied
    numbers = [pair for pair in pairs[:averaged] if pair[0].is_floating_point()]
    move = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    move([average for average, _ in numbers], [value for _, value in numbers], 0)
    for place, (counter, value) in enumerate(pairs):
        if place >= averaged or not counter.is_floating_point():
            counter.copy_(value)


def tensors_of(network: nn.Module) -> list[Tensor]:
    """Its parameters and buffers."""
    return [*network.parameters(), *network.buffers()]
