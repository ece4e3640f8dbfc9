"""One model by every library at hand, on an idle CPU and with a core taken by other work, so that a user can choose."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ratlip_cli.errors import RatlipError
from ratlip_cli.exported import ExportedModel
from ratlip_cli.fast import for_sampling
from ratlip_cli.sampling import noise_vectors
from ratlip_cli.training.benchmark import PROMPT, seconds
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.export.export import export_model
from ratlip_cli.weights.model_folder import Model, clip_spec

_BUSY_LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"  # ends with this process

Sampling = Callable[[Tensor, Tensor], Tensor]


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


def compare(model: Model, count: int, threads: int) -> Iterator[Contender]:
    """Measure the plain model, the fast one, onnxruntime and OpenVINO, on one image and on `count`, on the CPU.

    Args:
        model: on the CPU.
        threads: of the CPU, for each of them.
    """
    noise = noise_vectors(0, range(count), model.config.generator.noise_dim)
    condition = model.encode([PROMPT])
    text = condition.expand(count, *condition.shape[1:])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        clip = load_clip(clip_spec(model.folder, model.config), swaps=frozenset())
        plain = for_sampling(model.generator, clip, frozenset())
        expected = plain(noise, text).clamp(-1, 1)
        yield _measured("plain PyTorch", plain, plain, noise, text, expected)
        yield _measured("ratlip", model.sampler, model.sampler, noise, text, expected)
        for name, file_format in (("onnxruntime", "onnx"), ("OpenVINO", "openvino")):
            with tempfile.TemporaryDirectory(prefix="ratlip-") as scratch:
                try:
                    folder = export_model(model, Path(scratch, "exported"), file_format).folder
                except RatlipError as error:
                    yield Contender(name, str(error))
                    continue
                one, several = (_by_export(folder, images, threads) for images in (1, count))
                yield _measured(name, one, several, noise, text, expected)
    finally:
        torch.set_num_threads(before)


def _by_export(folder: Path, count: int, threads: int) -> Sampling:
    exported = ExportedModel(folder, count, threads=threads)
    return lambda noise, text: torch.from_numpy(exported.generated(noise.numpy(), text.numpy()))


def _measured(name: str, one: Sampling, several: Sampling, noise: Tensor, text: Tensor, expected: Tensor) -> Contender:
    cpu = torch.device("cpu")

    def times() -> tuple[float, float]:
        return seconds(lambda: one(noise[:1], text[:1]), cpu), seconds(lambda: several(noise, text), cpu)

    difference = float((several(noise, text).clamp(-1, 1) - expected).abs().max())
    one_idle, several_idle = times()
    with busy_core():
        one_busy, several_busy = times()
    return Contender(name, None, one_idle, several_idle, one_busy, several_busy, difference)


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep one core busy by a process of its own, which ends with the block, or with this process."""
    loop = subprocess.Popen([sys.executable, "-S", "-c", _BUSY_LOOP])
    try:
        yield
    finally:
        loop.kill()
        loop.wait()
