"""Prove and measure everything on a CUDA machine, the most valuable first: see docs/gpu.md.

    python tests/gpu/check.py                                  # eight minutes on the GPU
    python tests/gpu/check.py --only right swaps --out gpu.json
    python tests/gpu/check.py --device cpu                     # the same at a tiny size, to try the check itself

Needs neither an installed ratlip nor a network. Exits with 1 where a check of correctness fails.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).resolve().parent
for folder in (HERE.parents[1] / "examples" / "demo", HERE.parent, HERE, HERE.parents[1]):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from report import CHECKOUT, Context, Report, driver, in_one_line  # noqa: E402

STEPS = {
    "right": ("right", 24),
    "several": ("several", 10),
    "swaps": ("swapping", 22),
    "generate": ("generating", 18),
    "train": ("training_speed", 20),
    "profile": ("profiling", 4),
    "learn": ("learning", 14),
}
"""Name -> the module beside this file whose `run` it is, and its share of the time; what one leaves is the others'."""
LEAST_SECONDS = 1.0
"""A step that would have less is not begun."""
GRACE = 25.0
"""Seconds after the end at which a hanging GPU no longer keeps the report back."""


class OutOfTime(BaseException):
    """The step's time is over; no step catches it."""


class Stopped(BaseException):
    """Somebody asked the check to end."""


class Clock:
    """Raises OutOfTime where a step goes on too long, and Stopped at SIGINT and SIGTERM.

    Both are raised again each second until the step has ended: one that is raised in a destructor is printed and gone.
    """

    def __enter__(self) -> Clock:
        self._stopped_by = ""
        self._before = {
            number: signal.signal(number, self._raise) for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def limit(self, seconds: float) -> None:
        """Give the code that follows this long."""
        if self._stopped_by:
            raise Stopped(self._stopped_by)
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01), 1.0)

    def release(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGALRM:
            self._stopped_by = signal.Signals(number).name
            signal.setitimer(signal.ITIMER_REAL, 1.0, 1.0)
        raise Stopped(self._stopped_by) if self._stopped_by else OutOfTime


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    out = Path(options.out)
    report = Report(out, {key: value for key, value in vars(options).items() if key != "out"})
    started = time.monotonic()
    deadline = started + 60 * options.minutes
    watchdog = threading.Timer(60 * options.minutes + GRACE, give_up, [report])
    watchdog.daemon = True
    watchdog.start()
    try:
        with Clock() as clock:
            run_steps(options, report, clock, deadline)
    except Stopped as stopped:
        report.content["ended"] = f"stopped by {stopped}"
    except OutOfTime:  # it rang between two steps
        report.content["ended"] = "time limit"
    finally:
        watchdog.cancel()
        report.content["seconds"] = time.monotonic() - started
        report.write()
    print(report.table(), flush=True)
    broken = [name for name, step in report.content["steps"].items() if step["state"] == "failed"]
    return int(bool(report.failed or broken))


def run_steps(options: argparse.Namespace, report: Report, clock: Clock, deadline: float) -> None:
    """Go through the steps, each with its share of the time that is left."""
    names = [name for name in STEPS if name in options.only]
    for name in names:
        report.content["steps"][name] = {"state": "not run", "seconds": 0.0, "rows": [], "figures": {}}
    report.write()
    try:
        device = find_device(options.device, report)
    except (ImportError, RuntimeError) as error:
        refuse(report, names, in_one_line(error))
        return
    tiny = options.size == "tiny" if options.size else device.type != "cuda"
    report.content["machine"]["size"] = "tiny" if tiny else "full"
    with threads(1 if tiny and device.type == "cpu" else None):
        run_each(names, report, clock, deadline, device, tiny)


def run_each(names: list[str], report: Report, clock: Clock, deadline: float, device: Any, tiny: bool) -> None:
    """The steps of these names, on a device that is there."""
    shared: dict[str, Any] = {"folder": report.path.resolve().parent}
    for number, name in enumerate(names):
        shares = [STEPS[later][1] for later in names[number:]]
        left = deadline - time.monotonic()
        seconds = left * shares[0] / sum(shares)
        if seconds < LEAST_SECONDS:
            report.content["steps"][name]["state"] = "no time"
            continue
        context = Context(name, report, device, tiny, time.monotonic() + seconds, shared)
        run_step(context, clock, seconds)
        free_memory()
    cut = any(step["state"] in ("cut", "no time") for step in report.content["steps"].values())
    report.content["ended"] = "time limit" if cut else "all done"


def run_step(context: Context, clock: Clock, seconds: float) -> None:
    """One step: whatever ends it, what it has measured stays."""
    step, began, processor = context.step, time.monotonic(), time.process_time()
    step["state"], step["allowed_seconds"] = "running", seconds
    try:
        print(f"{context.name} ... (at most {seconds:.0f} s)", file=sys.stderr, flush=True)
        clock.limit(seconds)
        importlib.import_module(STEPS[context.name][0]).run(context)
        clock.release()
        step["state"] = "done"
    except OutOfTime:
        clock.release()
        step["state"] = "cut"
    except Stopped:
        clock.release()
        step["state"] = "stopped"
        raise
    except Exception as error:
        clock.release()
        step["state"], step["error"] = "failed", in_one_line(error)
        if context.name == "right":
            context.check("right: it runs to its end", float("nan"), 0.0, in_one_line(error))
    finally:
        step["seconds"], step["cpu_seconds"] = time.monotonic() - began, time.process_time() - processor
        context.report.write()


def find_device(name: str, report: Report) -> Any:
    """The device, described in the report. Raises ImportError without PyTorch, RuntimeError without the device."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no CUDA GPU; use --device cpu")
    device, machine = torch.device(name), report.content["machine"]
    machine |= {"torch": torch.__version__, "cuda": torch.version.cuda, "threads": torch.get_num_threads()}
    machine["device"] = f"CPU, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        machine |= {
            "device": about.name,
            "memory_gib": about.total_memory / 2**30,
            "multiprocessors": about.multi_processor_count,
            "capability": f"{about.major}.{about.minor}",
            "driver": driver(),
            "cudnn": torch.backends.cudnn.version(),
        }
    return device


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let a CPU compute in `count` threads for a while: tiny tensors gain nothing from two."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def refuse(report: Report, names: Sequence[str], why: str) -> None:
    """Nothing can be run: say so in every step, and in a check that fails where correctness was asked for."""
    for name in names:
        report.content["steps"][name] |= {"state": "failed", "error": why}
    report.content["ended"] = why
    if "right" in names:
        report.content["checks"]["right: it runs"] = {
            "value": float("nan"),
            "limit": 0.0,
            "passed": False,
            "about": why,
        }


def give_up(report: Report) -> None:
    """Keep what there is where the main thread hangs in a call that does not return."""
    report.content["ended"] = "hung after the time limit"
    report.write()
    print(report.table(), flush=True)
    os._exit(1)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit of the whole (default 8)")
    parser.add_argument("--out", default=str(CHECKOUT / "runs" / "gpu-check.json"), help="JSON file to write")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=list(STEPS), help=f"steps: {', '.join(STEPS)}")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=("full", "tiny"), help="size of the model; full on cuda, else tiny")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.only if name not in STEPS]:
        parser.exit(2, f"unknown step {', '.join(unknown)}; there are: {', '.join(STEPS)}.\n")
    if options.minutes <= 0:
        parser.exit(2, "--minutes must be above 0.\n")
    return options


if __name__ == "__main__":
    sys.exit(main())
