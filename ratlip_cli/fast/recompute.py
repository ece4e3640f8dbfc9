"""Less memory for more time: a gradient computes image-G's blocks once more instead of keeping their insides."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute(blocks: nn.ModuleList) -> None:
    """Let a gradient compute each of `blocks`, called with tensors, once more, one at a time: the same gradients."""
    for block in blocks:
        block.__class__ = type(f"Recomputed{type(block).__name__}", (_Recomputed, type(block)), {})


class _Recomputed(nn.Module):
    """Before a block's class in the order of its bases."""

    def forward(self, *tensors: Tensor) -> Any:
        def contexts() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
            # Differentiated twice, a block is computed again twice, which the context of one with BatchNorm is not for.
            normed = bool(batch_norms(self))
            return contextlib.nullcontext(), statistics_untouched(self) if normed else contextlib.nullcontext()

        return checkpoint(super().forward, *tensors, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Every BatchNorm of a network."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


@contextlib.contextmanager
def statistics_untouched(network: nn.Module) -> Iterator[None]:
    """Let every BatchNorm normalise by its batch, and leave the running statistics as they are."""
    norms = batch_norms(network)
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
