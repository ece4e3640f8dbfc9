"""`--devices`: the work in several processes of this machine, which torchrun starts and watches."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Annotated

import typer

from ratlip_cli import processes
from ratlip_cli.cli import signals
from ratlip_cli.errors import DeviceError, UsageError
from ratlip_cli.setting import DEVICES
from ratlip_cli.threads import usable_cores

_TO_TRY = 8
"""Processes that a CPU of fewer cores takes too; more would start for minutes, each with PyTorch's memory."""

_HELP = "Use so many GPUs of this machine, a process each; with --device cpu so many processes."
Devices = Annotated[str | None, typer.Option(metavar="all|N", help=_HELP)]
DevicesOfTraining = Annotated[str | None, typer.Option(metavar="all|N", help=_HELP, rich_help_panel="Machine")]


def count(devices: str | None, device: str) -> int:
    """How many processes `devices` asks for: 1 where it does not, or where this is one of them.

    Args:
        device: the setting, which says of what.

    Raises UsageError for what is no number and for more processes than a CPU can bear, DeviceError where there are not
    so many GPUs.
    """
    if devices is None or processes.are_several():
        return 1
    if devices != "all" and not (devices.isdecimal() and 1 <= int(devices) <= 1024):
        raise UsageError(f"--devices is {devices}; give all, or a number from 1 to 1024.")
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--devices and --device {device} do not go together: use one of {', '.join(DEVICES[:3])}.")
    if device == "cpu":
        if devices == "all":
            raise UsageError("--devices all is for GPUs: say how many processes are to use --device cpu.")
        most = max(_TO_TRY, usable_cores())
        if int(devices) > most:
            raise UsageError(f"--devices {devices}: too many processes for this CPU; give a number up to {most}.")
        return int(devices)
    import torch

    gpus = torch.cuda.device_count()
    if gpus == 0:
        raise DeviceError(
            f"--devices {devices}: PyTorch sees no CUDA GPU; use --devices N --device cpu for N processes on the CPU."
        )
    if devices != "all" and int(devices) > gpus:
        raise DeviceError(f"--devices {devices}: PyTorch sees {gpus} CUDA GPUs; give a number up to that, or all.")
    return gpus if devices == "all" else int(devices)


def run_again_in(processes_wanted: int) -> None:
    """Run this command line in so many processes, and end as they do.

    What torchrun says of a process that failed is left out: the process itself has told it. SIGUSR1 is SIGTERM to it,
    which torchrun by itself would die of, and `nohup` holds for all.
    """
    logging.disable(logging.ERROR)
    threads = max(1, (os.cpu_count() or 1) // processes_wanted)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig
    from torch.distributed.run import parse_args, run

    def stop(_number: int, _frame: object) -> None:
        raise SignalException("", signal.SIGTERM)

    takes = "signals_to_handle" in LaunchConfig.__dataclass_fields__  # an older PyTorch heeds SIGHUP under nohup too
    heeded = ["--signals-to-handle", "SIGTERM,SIGINT,SIGQUIT"] if takes and _is_ignored("SIGHUP") else []
    torchrun = ["--standalone", "--nproc-per-node", str(processes_wanted), *heeded]
    try:
        with signals.handled([] if _is_ignored("SIGUSR1") else [signal.SIGUSR1], stop):
            run(parse_args([*torchrun, "-m", "ratlip_cli", *sys.argv[1:]]))  # type: ignore[no-untyped-call]
    except ChildFailedError as failed:
        _, first = failed.get_first_failure()
        raise typer.Exit(128 - first.exitcode if first.exitcode < 0 else first.exitcode) from None
    except SignalException as stopped:
        raise typer.Exit(128 + int(stopped.sigval)) from None


def _is_ignored(name: str) -> bool:
    """Whether a signal has no effect here, or is none on this system."""
    return name not in signal.Signals.__members__ or signal.getsignal(signal.Signals[name]) is signal.SIG_IGN
