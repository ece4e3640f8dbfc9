"""What torchrun tells a process of the others that it started, and who of them speaks. Imports no torch by itself."""

from __future__ import annotations

import datetime
import os
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from ratlip_cli.errors import DistributedError, first_line

_FIRST_MAY_SPEAK = datetime.timedelta(seconds=2)
_OTHERS_MAY_COME = datetime.timedelta(seconds=10)
LATE = "see what its own output says; `ratlip train` waits longer by --dist-timeout."
_LOOK = 0.05
"""Seconds between two looks at what others have written."""


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
    return bool(os.environ.get("TORCHELASTIC_RUN_ID"))


def launch() -> str:
    """A word that the attempts of one torchrun share and no other torchrun has; "" where there is none.

    The first process alone asks. torchrun's own count of restarts is none: each machine's torchrun counts for itself,
    and machines that come or are replaced do not count.
    """
    run_id = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if not are_of_torchrun() or not _torchrun_keeps():
        return "" if run_id == "none" else run_id  # what torchrun calls those to which nobody gave a name
    return str(
        _kept_by_all(_OTHERS_MAY_COME.total_seconds()).compare_set("ratlip/launch", "", uuid.uuid4().hex).decode()
    )


def silence_torch() -> None:
    """Let torch's C++ parts not tell what we tell in one line; before torch is imported. RATLIP_DEBUG=1 lets them."""
    if os.environ.get("RATLIP_DEBUG") != "1":
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")


def store(seconds: float = 600) -> Any:
    """What all processes can read and write, words by names: a `torch.distributed.Store`.

    torchrun keeps one for all attempts, and with it the words of processes that are gone. So the first process gives
    each attempt a name of its own, and tells it to those that ask: an answer to a question of this very process comes
    from one that lives.

    Args:
        seconds: how long the first call waits for the process that keeps it, and for the first process; a read then
            waits as long for a writer.

    Raises DistributedError: they cannot be reached, or a variable of torchrun's is missing.
    """
    if _store:
        return _store[0]
    kept = _kept_by_all(seconds)
    attempt = uuid.uuid4().hex
    if rank() > 0:
        kept.set(f"ratlip/{rank()} asks", attempt)
        answer = f"ratlip/answer to {attempt}"
        if _absent(kept, [answer], seconds):
            _unreachable.append(True)
            raise DistributedError(f"process 0 of {size()} did not come in {seconds:.0f} s; {LATE}")
        attempt = kept.get(answer).decode()
    import torch.distributed

    dist: Any = torch.distributed
    _store.append(dist.PrefixStore(f"ratlip/{attempt}", kept))
    _attempt.append(attempt)
    _store[0].set(f"{rank()} is here", "")
    return _store[0]


def _kept_by_all(seconds: float) -> Any:
    """The store that torchrun keeps for all attempts, or the first process for this one."""
    if _kept:
        return _kept[0]
    import torch.distributed

    dist: Any = torch.distributed
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    keeps = rank() == 0 and not _torchrun_keeps()
    try:
        found = dist.TCPStore(host, int(port), None, keeps, datetime.timedelta(seconds=seconds), wait_for_workers=False)
    except (RuntimeError, ValueError) as error:
        _unreachable.append(True)
        raise DistributedError(
            f"the {size()} processes cannot find each other at {host}:{port} ({first_line(error)}); start them with "
            "torchrun, and choose another port where this one is taken."
        ) from error
    _kept.append(found)
    return found


def _torchrun_keeps() -> bool:
    """Whether torchrun keeps the words of all, and not the first process."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _absent(kept: Any, names: Iterable[str], seconds: float, meanwhile: Callable[[], None] = lambda: None) -> list[str]:
    """Those of `names` that nobody has written, after waiting so long for all."""
    deadline = time.monotonic() + seconds
    absent = list(names)
    while True:
        meanwhile()
        absent = [name for name in absent if not kept.check([name])]
        if not absent or time.monotonic() > deadline:
            return absent
        time.sleep(_LOOK)  # and not in C++, where no signal would be heeded


def missing(seconds: float) -> list[int]:
    """The processes that have not come, after waiting so long for all."""
    ours = store(seconds)
    names = {f"{other} is here": other for other in range(size())}
    return [names[name] for name in _absent(ours, names, seconds, _answer if rank() == 0 else lambda: None)]


def _answer() -> None:
    """Tell the name of this attempt to those that ask, also where a process that is gone had asked."""
    kept = _kept[0]
    for other in range(1, size()):
        name = f"ratlip/{other} asks"
        if not _store[0].check([f"{other} is here"]) and kept.check([name]):
            kept.set(f"ratlip/answer to {kept.get(name).decode()}", _attempt[0])


def end() -> None:
    """Before this process ends with an error: let the others, which may come later, read what it told."""
    if _store and rank() == 0:
        missing(_OTHERS_MAY_COME.total_seconds())


def said(about: str, say: Callable[[], str]) -> str:
    """What `say` returns in the first process, which alone calls it. `about` is its name, each used once."""
    if rank() == 0:
        store().set(about, say())
    return str(store().get(about).decode())


_kept: list[Any] = []
_store: list[Any] = []
_attempt: list[str] = []
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
                store(_OTHERS_MAY_COME.total_seconds()).wait(["told"], _FIRST_MAY_SPEAK)
            except RuntimeError:  # nobody has spoken
                pass
            else:
                return False
        return bool(store().add("told", 1) == 1)
    except (RuntimeError, DistributedError):  # nobody keeps the words any more
        return True
