"""One model by every library at hand, on an idle CPU and with a core taken by other work, so that a user can choose."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import torch
from torch import Tensor

from ratlip_cli.device import torch_threads
from ratlip_cli.errors import RatlipError
from ratlip_cli.exported import ExportedModel
from ratlip_cli.fast.onednn import multiplies_bf16
from ratlip_cli.files import scratch_folder
from ratlip_cli.sampling import noise_vectors
from ratlip_cli.training.benchmark import PROMPT, seconds
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.export.export import export_model
from ratlip_cli.weights.model_folder import Model, clip_spec, load_folder

_SERVE = "from ratlip_cli.training.comparison import serve_plain; serve_plain()"
_BUSY_LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"  # ends with this process

Sampling = Callable[[Tensor, Tensor], Tensor]
Times = Callable[[], tuple[float, float]]
"""Measures the seconds of one image and of several."""


@dataclass(frozen=True)
class Contender:
    """How fast one library generates; seconds are None where it cannot."""

    name: str
    missing: str | None = None  # Why it was not measured.
    one_idle: float | None = None  # Seconds of one image.
    several_idle: float | None = None  # Seconds of all of several images.
    one_busy: float | None = None  # The same while another process keeps one core busy.
    several_busy: float | None = None
    difference: float | None = None  # Largest difference of a pixel in [-1,1] from the plain model's.


def compare(model: Model, count: int, threads: int, environment: Mapping[str, str]) -> Iterator[Contender]:
    """Measure the plain model, the fast one, onnxruntime and OpenVINO, on one image and on `count`, on the CPU.

    All of them, and what keeps a core busy, have `shared_cores`. The plain model is measured in a process of its own,
    whose memory and waiting are as PyTorch has them.

    Args:
        model: on the CPU.
        threads: of the CPU, for each of them.
        environment: of the plain model's process: without what was chosen for the speed of this one.

    Raises RatlipError where that process ends early.
    """
    noise = noise_vectors(0, range(count), model.config.generator.noise_dim)
    condition = model.encode([PROMPT])
    text = condition.expand(count, *condition.shape[1:])
    with _on(shared_cores(threads)), torch_threads(threads):
        expected = _one_by_one(_plain(model), noise, text).clamp(-1, 1)
        with _plain_process(model, count, threads, environment) as times:
            yield _measured("plain PyTorch", times, 0.0)
        yield _in_process("ratlip", model.sampler, model.sampler, noise, text, expected)
        if multiplies_bf16():
            sampler = model.in_precision("bf16").sampler
            yield _in_process("ratlip, bf16", sampler, sampler, noise, text, expected)
        else:
            yield Contender("ratlip, bf16", "this CPU does not multiply bf16; it would be slower than fp32")
        for name, file_format in (("onnxruntime", "onnx"), ("OpenVINO", "openvino")):
            with scratch_folder() as scratch:
                try:
                    folder = export_model(model, scratch / "exported", file_format).folder
                except RatlipError as error:
                    yield Contender(name, str(error))
                    continue
                one, several = (_by_export(folder, images, threads) for images in (1, count))
                yield _in_process(name, one, several, noise, text, expected)


def shared_cores(threads: int) -> list[int] | None:
    """The cores that so many threads and a busy loop share, one too few: as many as threads, two where that is one.

    None where the system does not bind programs to cores.
    """
    return sorted(os.sched_getaffinity(0))[: max(2, threads)] if hasattr(os, "sched_setaffinity") else None


@contextmanager
def _on(cores: Collection[int] | None) -> Iterator[None]:
    """Bind this process, and what it starts meanwhile, to these cores."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    _bind(cores)
    try:
        yield
    finally:
        _bind(before)


def _bind(cores: Collection[int]) -> None:
    """Bind each thread that this process has, as Linux binds threads; later ones are bound as those that start them."""
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # It has ended.
            os.sched_setaffinity(int(thread.name), cores)


def _by_export(folder: Path, count: int, threads: int) -> Sampling:
    exported = ExportedModel(folder, count, threads=threads)
    return lambda noise, text: torch.from_numpy(exported.generated(noise.numpy(), text.numpy()))


def _plain(model: Model) -> Sampling:
    """The plain model, all images at once."""
    clip = load_clip(clip_spec(model.folder, model.config), swaps=frozenset())

    def images(noise: Tensor, text: Tensor) -> Tensor:
        with torch.no_grad():
            made: Tensor = model.generator(noise, text, clip)
        return made

    return images


def _one_by_one(sampling: Sampling, noise: Tensor, text: Tensor) -> Tensor:
    """The images in less memory than together."""
    return torch.cat([sampling(*rows) for rows in zip(torch.split(noise, 1), torch.split(text, 1), strict=True)])


@contextmanager
def _plain_process(model: Model, count: int, threads: int, environment: Mapping[str, str]) -> Iterator[Times]:
    """Start a process that measures the plain model when it is told to, and ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(model.folder), str(count), str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(environment),
    )

    def times() -> tuple[float, float]:
        stdin, stdout = cast(IO[str], process.stdin), cast(IO[str], process.stdout)
        try:
            stdin.write("\n")
            stdin.flush()
            one, several = json.loads(stdout.readline())
        except (OSError, ValueError) as error:
            raise RatlipError("the process that measures plain PyTorch ended early.") from error
        return one, several

    try:
        yield times
    finally:
        process.kill()
        process.communicate()


def serve_plain() -> None:
    """Be the process that measures the plain model of a folder: on every line of stdin, the seconds as a JSON list."""
    folder, count, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = load_folder(Path(folder))
    plain = _plain(model)
    noise = noise_vectors(0, range(int(count)), model.config.generator.noise_dim)
    condition = model.encode([PROMPT])
    text = condition.expand(len(noise), *condition.shape[1:])
    for _ in sys.stdin:
        sys.stdout.write(f"{json.dumps(_times(plain, plain, noise, text))}\n")
        sys.stdout.flush()


def _times(one: Sampling, several: Sampling, noise: Tensor, text: Tensor) -> tuple[float, float]:
    cpu = torch.device("cpu")
    return seconds(lambda: one(noise[:1], text[:1]), cpu), seconds(lambda: several(noise, text), cpu)


def _in_process(
    name: str, one: Sampling, several: Sampling, noise: Tensor, text: Tensor, expected: Tensor
) -> Contender:
    difference = float((several(noise, text).clamp(-1, 1) - expected).abs().max())
    return _measured(name, lambda: _times(one, several, noise, text), difference)


def _measured(name: str, times: Times, difference: float) -> Contender:
    one_idle, several_idle = times()
    with busy_core():
        one_busy, several_busy = times()
    return Contender(name, None, one_idle, several_idle, one_busy, several_busy, difference)


@contextmanager
def busy_core() -> Iterator[int]:
    """Keep one core busy by a process of its own, whose id it gives and which ends with the block, or with ours."""
    loop = subprocess.Popen([sys.executable, "-S", "-c", _BUSY_LOOP])
    try:
        yield loop.pid
    finally:
        loop.kill()
        loop.wait()
