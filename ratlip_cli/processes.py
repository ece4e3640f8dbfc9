"""What torchrun tells a process of the others that it started, and who of them speaks. Imports no torch by itself."""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

from ratlip_cli.errors import DistributedError, UsageError, first_line

_FIRST_MAY_SPEAK = datetime.timedelta(seconds=2)
_FIRST_MAY_THINK = 600.0
_OTHERS_MAY_COME = datetime.timedelta(seconds=10)


def are_several() -> bool:
    """Whether this is one of several processes, as torchrun, or whatever sets its variables, started them."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """Which of all processes this is, 0 alone."""
    return int(os.environ["RANK"]) if are_several() else 0


def size() -> int:
    """How many processes work together, 1 alone."""
    return int(os.environ["WORLD_SIZE"]) if are_several() else 1


def local_rank() -> int:
    """Which of this machine's processes this is, 0 alone."""
    return int(os.environ.get("LOCAL_RANK", "0")) if are_several() else 0


def share(batch_size: int, size: int, micro_batches: int = 1, pairs: bool = False) -> int:
    """How many rows of half a micro-batch, or of a whole one without `pairs`, each of `size` processes computes.

    Raises UsageError where the batch cannot be shared out evenly.
    """
    parts = micro_batches * (2 if pairs and size > 1 else 1) * size
    if size > 1 and batch_size % parts:
        of_two = " in pairs" if pairs else ""
        raise UsageError(
            f"batch_size {batch_size} cannot be shared{of_two} by {size} processes with grad_accum "
            f"{micro_batches}: it must be a multiple of {parts}."
        )
    return batch_size // parts


def begin() -> bool:
    """Whether this process speaks for all; where it is one of several, before torch is imported."""
    if are_several():
        silence_torch()
    return rank() == 0


def go_alone() -> None:
    """Let this process do what several do not share."""
    os.environ["WORLD_SIZE"] = "1"
    os.environ.pop("TORCHELASTIC_RUN_ID", None)


def are_of_torchrun() -> bool:
    """Whether torchrun started this process, alone or with others, and may start it again."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch() -> str:
    """A word that all attempts of one torchrun share and that no other torchrun has, "" where there is none.

    It is one that torchrun keeps; or --rdzv-id, where it keeps none.
    """
    if are_of_torchrun() and torchrun_keeps_store():
        return str(_connected(_OTHERS_MAY_COME).compare_set("ratlip/launch", "", uuid.uuid4().hex).decode())
    run_id = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return "" if run_id == "none" else run_id  # what torchrun says where nobody gave one


def cannot_start_again() -> bool:
    """Whether torchrun was asked to start several machines again, and cannot: docs/distributed.md says why.

    With its backend `static` it can, which no variable tells.
    """
    asked = int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1 and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    return asked and (torchrun_keeps_store() or not launch())


def silence_torch() -> None:
    """Let torch's C++ parts not tell what we tell in one line; before torch is imported. RATLIP_DEBUG=1 lets them."""
    if os.environ.get("RATLIP_DEBUG") != "1":
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")


def store(seconds: float = 600) -> Any:
    """What all processes can read and write, words by names: a `torch.distributed.Store`.

    Args:
        seconds: how long the first call waits for the process that keeps it; a read then waits as long for a writer.

    Raises DistributedError: the process that keeps it cannot be reached, or a variable of torchrun's is missing.
    """
    if _store:
        return _store[0]
    import torch.distributed

    dist: Any = torch.distributed
    found = _connected(datetime.timedelta(seconds=seconds))
    if torchrun_keeps_store():  # for all attempts, and with it the words of those that failed
        found = dist.PrefixStore(f"ratlip/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", found)
    _store.append(found)
    found.set(f"{rank()} is here", "")
    return found


def _connected(timeout: datetime.timedelta) -> Any:
    """The store that torchrun keeps, or the first process for this attempt."""
    import torch.distributed

    dist: Any = torch.distributed
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    keeps = rank() == 0 and not torchrun_keeps_store()
    try:
        return dist.TCPStore(host, int(port), None, keeps, timeout, wait_for_workers=False)
    except (RuntimeError, ValueError) as error:
        _unreachable.append(True)
        raise DistributedError(
            f"the {size()} processes cannot find each other at {host}:{port} ({first_line(error)}); start them with "
            "torchrun, and choose another port where this one is taken."
        ) from error


def torchrun_keeps_store() -> bool:
    """Whether torchrun keeps the words of all, and not the first process."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def missing(seconds: float) -> list[int]:
    """The processes that have not come, after waiting so long for all."""
    kept, deadline = store(seconds), time.monotonic() + seconds
    absent = list(range(size()))
    while True:  # and not in C++, where no signal is heeded
        absent = [other for other in absent if not kept.check([f"{other} is here"])]
        if not absent or time.monotonic() > deadline:
            return absent
        time.sleep(0.05)


def end() -> None:
    """Before this process ends with an error: let the others, which may come later, read what it told."""
    if _store and rank() == 0 and not torchrun_keeps_store():
        missing(_OTHERS_MAY_COME.total_seconds())


def wait_to_be_ended() -> None:
    """Give the first process, which may still be starting, time to end all: torchrun's SIGTERM is raised in here."""
    time.sleep(_OTHERS_MAY_COME.total_seconds())


def part() -> None:
    """After `end`, when nothing is exchanged any more: end the group's threads, on which an interpreter may abort."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        with contextlib.suppress(RuntimeError):
            distributed.destroy_process_group()


def said(about: str, say: Callable[[], str]) -> str:
    """What `say` returns in the first process, which alone calls it. `about` is its name, for all the same."""
    _times[about] += 1
    name = f"{about} {_times[about]}"
    if rank() == 0:
        store().set(name, say())
    deadline = time.monotonic() + _FIRST_MAY_THINK
    while not store().check([name]) and time.monotonic() < deadline:  # and not in C++, where no signal is heeded
        time.sleep(0.02)
    return str(store().get(name).decode())


_times: Counter[str] = Counter()


_store: list[Any] = []
_unreachable: list[bool] = []


def speaks() -> bool:
    """Whether this process is the one to say why all of them end. Ask once, when this one is about to.

    It is the first process; another one where that has nothing to say, as when its own image cannot be read.
    """
    if _unreachable:
        return True
    try:
        if rank() > 0:
            try:
                store().wait(["told"], _FIRST_MAY_SPEAK)
            except RuntimeError:  # nobody has spoken
                pass
            else:
                return False
        return bool(store().add("told", 1) == 1)
    except (RuntimeError, DistributedError):  # nobody keeps the words any more
        return rank() == 1 or local_rank() == 0
