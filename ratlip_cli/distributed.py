"""Several processes that compute together what one computes, started by torchrun; alone, nothing is exchanged.

Process r of N has its rows of every batch. What depends on the whole batch goes through `World`: gradients, BatchNorm's
statistics, terms that compare images of a batch, what was measured, decisions. Nothing of torch.distributed is imported
where there is one process.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ratlip_cli import processes
from ratlip_cli.device import resolve_device
from ratlip_cli.errors import READER_KILLED, DataError, DistributedError, UsageError, first_line, is_of_readers

BUCKET = 2**24  # Numbers that are copied together to be exchanged at once.
_LARGE = 2**20  # A tensor of so many numbers is exchanged where it is.

_LONGEST_WORK = datetime.timedelta(hours=24)
"""How long all wait for what one does: preparing data, scoring a model. Nobody waits for one that has ended."""
ANSWER_SECONDS = 600.0
"""How long an exchange waits for a process where no setting says it."""
_LATE = "see what its own output says; `ratlip train` waits longer by --dist-timeout."
_LOST_SECONDS = 1.5
"""How long those that lost another one wait for each other to say so; who has not said so then is missing."""

Network = TypeVar("Network", bound=nn.Module)
Result = TypeVar("Result")


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

    def gathered(self, rows: Tensor, pairs: bool = False) -> Tensor:
        """The rows of a micro-batch of all processes in their order; gradients flow, more than once if need be.

        A mean over the processes of what each computes from it has the gradient that it has in one process.
        """
        return rows

    def own(self, rows: Tensor, pairs: bool = False) -> Tensor:
        """Of the rows of a micro-batch those of this process."""
        return rows

    def mean_(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their means over the processes, which all have them in the same order."""

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of a tensor over the processes; gradients flow, more than once if need be."""
        return tensor

    def largest(self, *numbers: float) -> list[float]:
        """Of each number the largest that a process has; each one must ask."""
        return list(numbers)

    def total(self, *numbers: float) -> list[float]:
        """Of each number the sum over the processes; each one must ask."""
        return list(numbers)

    def gather(self, value: Any) -> list[Any]:
        """Plain values of all processes, by rank; each one must give its own."""
        return [value]

    def wait(self, however_long: bool = False) -> None:
        """Go on when all processes have come here.

        Args:
            however_long: whether one may work for hours before; else it must come as soon as to any exchange.
        """

    def in_turn(self, do: Callable[[], Result]) -> Result:
        """What `do` returns; the first process does it first, then the first of every machine, then the others."""
        return do()

    def said(self, about: str, say: Callable[[], str]) -> str:
        """What `say` returns in the first process, which alone calls it. `about` is its name, each used once."""
        return say()

    def agree(self, values: Mapping[str, Any]) -> None:
        """Raise UsageError where a process has another value of one of these names than the first one."""

    def leave(self) -> None:
        """Part from the other processes, when all work is done."""

    def with_global_statistics(self, network: Network) -> Network:
        """Let BatchNorm take its statistics over all processes, in place."""
        return network

    def _rows_of(self, rank: int, batch_size: int, micro_batches: int, pairs: bool) -> list[int]:
        if self.size == 1:
            return list(range(batch_size))
        halves = 2 if pairs else 1
        share = processes.share(batch_size, self.size, micro_batches, pairs)
        return [
            (part * self.size + rank) * share + row for part in range(micro_batches * halves) for row in range(share)
        ]


class Group(World):
    """The processes of torch.distributed's default group, which has begun.

    Every method that exchanges something raises DistributedError, which names the missing ones, where another process
    has ended or does not come within `timeout`.
    """

    def __init__(self, timeout: datetime.timedelta) -> None:
        import torch.distributed

        self._dist = dist = cast(Any, torch.distributed)
        self._store = processes.store()
        self._timeout = timeout
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        # Words and decisions go between CPUs, which asks no GPU to be done with its work.
        self._between_cpus = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo", timeout=timeout)
        self._store.set(f"host of {self.rank}", socket.gethostname())

    def whole(self, rows: Tensor, micro_batches: int = 1, pairs: bool = False) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        with self._together():
            self._dist.all_gather(parts, rows.contiguous())
        together = torch.cat(parts)
        order = [row for rank in range(self.size) for row in self._rows_of(rank, len(together), micro_batches, pairs)]
        return torch.empty_like(together).index_copy_(0, torch.tensor(order, device=rows.device), together)

    def gathered(self, rows: Tensor, pairs: bool = False) -> Tensor:
        places = torch.tensor(self.rows(self.size * len(rows), 1, pairs), device=rows.device)
        among_others = rows.new_zeros(self.size * len(rows), *rows.shape[1:]).index_copy(0, places, rows)
        return cast(Tensor, _Sum.apply(among_others, self))

    def own(self, rows: Tensor, pairs: bool = False) -> Tensor:
        return rows[torch.tensor(self.rows(len(rows), 1, pairs), device=rows.device)]

    def mean_(self, tensors: Iterable[Tensor]) -> None:
        for bucket in _buckets(tensors):
            if len(bucket) == 1 and (dense := _dense(bucket[0])).is_contiguous():
                self.sum_(dense)
                dense /= self.size
                continue
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            self.sum_(flat)
            for tensor, part in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
                torch.div(part.view_as(tensor), self.size, out=tensor)

    def mean(self, tensor: Tensor) -> Tensor:
        return cast(Tensor, _Sum.apply(tensor, self)) / self.size

    def sum_(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the processes; no gradient flows."""
        with self._together():
            self._dist.all_reduce(tensor)

    def largest(self, *numbers: float) -> list[float]:
        return self._reduced(numbers, self._dist.ReduceOp.MAX)

    def total(self, *numbers: float) -> list[float]:
        return self._reduced(numbers, self._dist.ReduceOp.SUM)

    def _reduced(self, numbers: Sequence[float], operation: Any) -> list[float]:
        asked = torch.tensor(numbers, dtype=torch.float64)
        with self._together():
            self._dist.all_reduce(asked, operation, group=self._between_cpus)
        return cast("list[float]", asked.tolist())

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        with self._together():
            self._dist.all_gather_object(values, value, group=self._between_cpus)
        return values

    def wait(self, however_long: bool = False) -> None:
        with self._together():
            self._dist.monitored_barrier(self._between_cpus, timeout=_LONGEST_WORK if however_long else self._timeout)

    def in_turn(self, do: Callable[[], Result]) -> Result:
        own = 0 if self.is_first else 1 if processes.local_rank() == 0 else 2
        results = []
        for turn in range(3):
            if turn == own:
                results.append(do())
            self.wait(however_long=True)
        return results[0]

    def said(self, about: str, say: Callable[[], str]) -> str:
        with self._together():
            return processes.said(about, say)

    def agree(self, values: Mapping[str, Any]) -> None:
        first, *others = self.gather(dict(values))
        for rank, theirs in enumerate(others, 1):
            for name, value in first.items():
                if theirs.get(name) != value:
                    raise UsageError(
                        f"{self._name(rank)} has {name} {theirs.get(name)}, and the first one {value}: start all "
                        "with the same settings, data and versions."
                    )

    def leave(self) -> None:
        self._dist.destroy_process_group()

    def with_global_statistics(self, network: Network) -> Network:
        for module in network.modules():
            if type(module) in _GLOBAL:
                module.__class__ = _GLOBAL[type(module)]
        return network

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """Turn what torch.distributed raises where another process does not come into one line that names it."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if is_of_readers(error):  # PyTorch's handler of SIGCHLD raises it here as anywhere
                raise DataError(READER_KILLED) from error
            raise DistributedError(
                self._lost(re.sub(r"^\[[^]]*\] ", "", first_line(error)).partition(". ")[0])
            ) from error

    def _lost(self, reason: str) -> str:
        with contextlib.suppress(RuntimeError):
            self._dist.destroy_process_group()  # so that no other one goes on waiting for this one
        try:
            self._store.set(f"{self.rank} has lost another", "")
            deadline = time.monotonic() + _LOST_SECONDS
            missing = list(range(self.size))
            while missing and time.monotonic() < deadline:
                time.sleep(0.05)
                missing = [rank for rank in missing if not self._store.check([f"{rank} has lost another"])]
            names = [self._name(rank) for rank in missing]
        except RuntimeError:
            names = ["torchrun" if processes.torchrun_keeps_store() else f"process 0 of {self.size}"]
        who = ", ".join(names) or f"the connection between the {self.size} processes"
        return f"{who} ended, or did not answer in time ({reason:.200}); go on from the last checkpoint with --resume."

    def _name(self, rank: int) -> str:
        host = f"host of {rank}"
        where = f" on {self._store.get(host).decode()}" if self._store.check([host]) else ""
        return f"process {rank} of {self.size}{where}"


class _Sum(torch.autograd.Function):
    """The sum of a tensor over the processes of a group; its gradient is the sum of theirs, and so on."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:
        ctx.group = group
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        group.sum_(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _Sum.apply(gradient, ctx.group), None


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm whose statistics are of the batches of all processes, forwards and backwards."""

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,...) -> (B,C,...)"""
        if not self.training:
            return super().forward(x)
        mean, var = self.statistics(x)
        normed: Tensor = _GloballyNormalised.apply(x, mean, var, self.eps, self.weight, self.bias)
        return normed

    @torch.no_grad()
    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (C,) of the batches (B,C,...) of all processes; the running statistics follow them."""
        own_mean, own_var = torch.batch_norm_update_stats(x.float() if x.dtype.itemsize < 4 else x, None, None, 0.0)
        moments = torch.stack((own_mean, own_var)).double()
        moments[1] += moments[0].square()  # the mean square, of which a mean can be taken
        world().mean_([moments])
        moments[1] -= moments[0].square()
        mean, var = moments.to(own_mean.dtype)
        count = world().size * x.numel() // x.shape[1]
        if self.num_batches_tracked is not None:  # it is while statistics are to stay untouched
            self.num_batches_tracked += 1
        cast(Tensor, self.running_mean).lerp_(mean, cast(float, self.momentum))
        cast(Tensor, self.running_var).lerp_(var * count / (count - 1), cast(float, self.momentum))
        return mean, var


class _GloballyNormalised(torch.autograd.Function):
    """BatchNorm by the mean and variance of the batches of all processes, which depend on x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, var: Tensor, eps: float, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, mean, var, weight)
        ctx.eps = eps
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, var, weight = ctx.saved_tensors
        _, d_weight, d_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, var, None, None, False, ctx.eps, [False, True, True]
        )
        of_all = torch.stack((d_weight, d_bias)) * x.shape[1] / x.numel()
        world().mean_([of_all])
        rstd = torch.rsqrt(var + ctx.eps)
        scale = weight * rstd
        gain = scale * rstd * of_all[0]  # nothing gets through that only shifts or scales the batch
        shift = mean * gain - scale * of_all[1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        d_x = torch.addcmul(shift.view(shape), x, -gain.view(shape))
        return torch.addcmul(d_x, gradient, scale.view(shape)).to(x.dtype), None, None, None, d_weight, d_bias


class GlobalBatchNorm1d(GlobalBatchNorm, nn.BatchNorm1d):
    """Of vectors."""


class GlobalBatchNorm2d(GlobalBatchNorm, nn.BatchNorm2d):
    """Of images."""


_GLOBAL: dict[type[nn.Module], Any] = {nn.BatchNorm1d: GlobalBatchNorm1d, nn.BatchNorm2d: GlobalBatchNorm2d}


_alone = World()
_joined: list[World] = []


def world() -> World:
    """The processes that have joined; before that, and where there is one, this one alone."""
    return _joined[0] if _joined else _alone


def join(device: torch.device, seconds: float) -> World:
    """Begin to compute on `device` together with the other processes that torchrun started.

    Args:
        seconds: how long any exchange may wait for a process.

    Raises DistributedError, which names it, where a process does not come.
    """
    if not _joined and processes.are_several():
        _joined.append(_begun(device, seconds))
    return world()


def _begun(device: torch.device, seconds: float) -> Group:
    # Before there is a group: its functions' defaults are the group that there is when they are defined, which
    # `leave` could not end then, and Python aborts at times where gloo's threads still work at its end.
    import torch.distributed.nn.functional

    dist: Any = torch.distributed
    store, rank, size = processes.store(seconds), processes.rank(), int(os.environ["WORLD_SIZE"])
    timeout = datetime.timedelta(seconds=seconds)
    store.set_timeout(timeout)
    try:
        if missing := processes.missing(seconds):
            who = f"process {', '.join(map(str, missing))} of {size}"
            raise DistributedError(f"{who} did not come in {seconds:.0f} s; {_LATE}")
        # NCCL wants a GPU for each process; else gloo carries what is on GPUs too.
        own_gpus = torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        backend = "nccl" if device.type == "cuda" and own_gpus else "gloo"
        dist.init_process_group(
            backend, store=dist.PrefixStore("group", store), rank=rank, world_size=size, timeout=timeout
        )
    except RuntimeError as error:
        raise DistributedError(
            f"a process ended, or did not come in {seconds:.0f} s ({first_line(error):.200}); {_LATE}"
        ) from error
    return Group(timeout)


def own_device(name: str) -> torch.device:
    """`resolve_device`; where it is a GPU without a number, this machine's process r has GPU r."""
    device = resolve_device(name)
    if device.type == "cuda" and ":" not in name and processes.are_several():
        device = torch.device("cuda", processes.local_rank() % torch.cuda.device_count())
    if device.type == "cuda" and processes.are_several():
        torch.cuda.set_device(device)
    return device


def _dense(tensor: Tensor) -> Tensor:
    """A view of the same numbers in the order in which they lie in memory."""
    return tensor.permute(sorted(range(tensor.dim()), key=tensor.stride, reverse=True))


def _buckets(tensors: Iterable[Tensor]) -> list[Sequence[Tensor]]:
    """Large tensors alone, others in lists of one kind and at most BUCKET numbers."""
    buckets: list[list[Tensor]] = []
    alone: list[list[Tensor]] = []
    numbers = 0
    for tensor in tensors:
        if tensor.numel() >= _LARGE:
            alone.append([tensor])
            continue
        same = bool(buckets) and buckets[-1][0].dtype == tensor.dtype and buckets[-1][0].device == tensor.device
        if not same or numbers + tensor.numel() > BUCKET:
            buckets.append([])
            numbers = 0
        buckets[-1].append(tensor)
        numbers += tensor.numel()
    return [*buckets, *alone]
