"""How many samples of a batch are worked on at once, so that on a CPU they stay in its cache between operations."""

from __future__ import annotations

from torch import Tensor

CACHE_BYTES = 16 * 2**20  # What is assumed to stay in a CPU's cache between one layer and the next.
_TENSORS = 4  # How many tensors of a chunk's size are held at once while it is worked on.


def chunks(x: Tensor) -> list[slice]:
    """Slices of the batch x (B,...), to be worked on one after the other; the whole of it anywhere but on a CPU.

    A chunk is one sample at least, however large, and what is computed of it is float32 at least.
    """
    if x.device.type != "cpu":
        return [slice(None)]
    batch = x.shape[0]
    batch_bytes = _TENSORS * max(4, x.element_size()) * max(1, x.numel())
    samples = max(1, CACHE_BYTES * batch // batch_bytes)
    return [slice(start, start + samples) for start in range(0, batch, samples)]
