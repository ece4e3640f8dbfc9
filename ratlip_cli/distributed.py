"""Several processes that compute together what one computes, started by torchrun; alone, nothing is exchanged.

Process r of N has its rows of every batch. What depends on the whole batch goes through `World`: gradients, BatchNorm's
statistics, what was measured, decisions. Nothing of torch.distributed is imported where there is one process.
"""

from __future__ import annotations

import datetime
import functools
import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ratlip_cli.errors import UsageError

BUCKET = 2**24  # Numbers that are exchanged at once.

Network = TypeVar("Network", bound=nn.Module)


class World:
    """The processes that compute together: as it is, this one alone."""

    rank = 0
    size = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def rows(self, batch_size: int, micro_batches: int = 1, pairs: bool = False) -> list[int]:
        """The rows of a batch that this process computes, micro-batch by micro-batch.

        Args:
            pairs: whether rows k and k + half of a micro-batch must be computed by the same process.

        Raises UsageError where the batch cannot be shared out evenly.
        """
        return self._rows_of(self.rank, batch_size, micro_batches, pairs)

    def whole(self, rows: Tensor, micro_batches: int = 1, pairs: bool = False) -> Tensor:
        """The rows of all processes, in the order of the whole batch; no gradient flows."""
        return rows

    def mean_(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their means over the processes, which all have them in the same order."""

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of a tensor over the processes; gradients flow, more than once if need be."""
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process; each one must ask."""
        return flag

    def gather(self, value: Any) -> list[Any]:
        """Plain values of all processes, by rank; each one must give its own."""
        return [value]

    def wait(self) -> None:
        """Go on when all processes have come here."""

    def with_global_statistics(self, network: Network) -> Network:
        """Let BatchNorm take its statistics over all processes, in place."""
        return network

    def _rows_of(self, rank: int, batch_size: int, micro_batches: int, pairs: bool) -> list[int]:
        halves = 2 if pairs else 1
        share, left = divmod(batch_size, micro_batches * halves * self.size)
        if left:
            of_two = " in pairs" if pairs else ""
            raise UsageError(
                f"batch_size {batch_size} cannot be shared{of_two} by {self.size} processes with grad_accum "
                f"{micro_batches}: it must be a multiple of {micro_batches * halves * self.size}."
            )
        return [
            (part * self.size + rank) * share + row for part in range(micro_batches * halves) for row in range(share)
        ]


class Group(World):
    """The processes of torch.distributed's default group."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self._dist = dist
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def whole(self, rows: Tensor, micro_batches: int = 1, pairs: bool = False) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        self._dist.all_gather(parts, rows.contiguous())
        together = torch.cat(parts)
        order = [row for rank in range(self.size) for row in self._rows_of(rank, len(together), micro_batches, pairs)]
        return torch.empty_like(together).index_copy_(0, torch.tensor(order, device=rows.device), together)

    def mean_(self, tensors: Iterable[Tensor]) -> None:
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            self._dist.all_reduce(flat)
            flat /= self.size
            for tensor, part in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def mean(self, tensor: Tensor) -> Tensor:
        from torch.distributed.nn.functional import all_reduce

        total: Tensor = all_reduce(tensor)  # type: ignore[no-untyped-call]
        return total / self.size

    def any(self, flag: bool) -> bool:
        asked = torch.tensor(int(flag), device=self._device)
        self._dist.all_reduce(asked)
        return bool(asked)

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        self._dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        self._dist.barrier()

    def with_global_statistics(self, network: Network) -> Network:
        for module in network.modules():
            if type(module) in _GLOBAL:
                module.__class__ = _GLOBAL[type(module)]
        return network

    @property
    def _device(self) -> torch.device:
        return torch.device("cuda" if self._dist.get_backend() == "nccl" else "cpu")


class _GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm whose statistics are of the batches of all processes, forwards and backwards."""

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,...) -> (B,C,...)"""
        if not self.training:
            return super().forward(x)
        dims = [dim for dim in range(x.dim()) if dim != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        count = world().size * x.numel() // x.shape[1]
        mean = world().mean(x.float().mean(dims))
        centred = x.float() - mean.view(shape)
        variance = world().mean(centred.square().mean(dims))
        self._move_statistics(mean.detach(), variance.detach() * count / (count - 1))
        scale = torch.rsqrt(variance + self.eps) * self.weight
        normed: Tensor = (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)
        return normed

    @torch.no_grad()
    def _move_statistics(self, mean: Tensor, variance: Tensor) -> None:
        if self.num_batches_tracked is not None:  # it is while statistics are to stay untouched
            self.num_batches_tracked += 1
        cast(Tensor, self.running_mean).lerp_(mean, cast(float, self.momentum))
        cast(Tensor, self.running_var).lerp_(variance, cast(float, self.momentum))


class GlobalBatchNorm1d(_GlobalBatchNorm, nn.BatchNorm1d):
    """Of vectors."""


class GlobalBatchNorm2d(_GlobalBatchNorm, nn.BatchNorm2d):
    """Of images."""


_GLOBAL: dict[type[nn.Module], Any] = {nn.BatchNorm1d: GlobalBatchNorm1d, nn.BatchNorm2d: GlobalBatchNorm2d}


@functools.cache
def world() -> World:
    """The processes of this run, as torchrun started them; joined at the first call.

    Raises nothing of its own: torch.distributed tells what is missing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    import torch.distributed as dist

    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(local_rank())
    seconds = int(os.environ.get("RATLIP_TIMEOUT", "600"))
    dist.init_process_group(backend, timeout=datetime.timedelta(seconds=seconds))
    return Group()


def local_rank() -> int:
    """Which of this machine's processes this one is."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def _buckets(tensors: Iterable[Tensor]) -> list[Sequence[Tensor]]:
    """Tensors in lists of one kind and at most BUCKET numbers, if they are not larger themselves."""
    buckets: list[list[Tensor]] = []
    numbers = 0
    for tensor in tensors:
        same = bool(buckets) and buckets[-1][0].dtype == tensor.dtype and buckets[-1][0].device == tensor.device
        if not same or numbers + tensor.numel() > BUCKET:
            buckets.append([])
            numbers = 0
        buckets[-1].append(tensor)
        numbers += tensor.numel()
    return [*buckets]
