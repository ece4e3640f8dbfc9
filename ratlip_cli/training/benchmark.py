"""How fast a model generates and trains on this machine, and what share of the machine's arithmetic that is."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ratlip_cli.data.dataset import Batch, CaptionedImages, training_batches
from ratlip_cli.data.prepare import OFFICIAL
from ratlip_cli.data.stream import StreamReader
from ratlip_cli.device import peak_memory_mib
from ratlip_cli.fast import onednn
from ratlip_cli.fast.onednn import fixed_linear
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.progress import silent
from ratlip_cli.sampling import noise_vectors, sample
from ratlip_cli.summary import gflop_per_image, summarise
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.training.start import open_dataset
from ratlip_cli.training.trainer import DTYPES, Trainer, resolve_precision
from ratlip_cli.weights.clip_files import clip_architecture
from ratlip_cli.weights.model_folder import Model, clip_spec

PROMPT = "a red bird with black wings"
MATRIX_SIDE = 2048
SHORTEST_SECONDS = 2.0  # Everything is measured at least this long, and at least three times; the median counts.


@dataclass(frozen=True)
class SamplingSpeed:
    """How fast images are generated."""

    latency_seconds: float  # From one text vector to its image.
    images_per_second: float  # Of `batch_size` images that are asked for together.
    batch_size: int
    gflop_per_image: float
    share_of_matrix_rate: float  # What the batch reaches of the rate of large matrix products.


@dataclass(frozen=True)
class TrainingSpeed:
    """How fast training steps are."""

    steps_per_second: float
    batch_size: int
    gflop_per_step: float
    share_of_matrix_rate: float
    epoch_minutes: dict[str, float]  # How long one pass over each dataset takes, without reading its images.
    precision: str
    matrix_gflops: float  # As in `Benchmark`, in this precision.


@dataclass(frozen=True)
class LoadingSpeed:
    """How fast the images of a dataset are read, decoded, resized and cropped, without a model."""

    dataset: str
    loader_images_per_second: float
    batch_size: int
    workers: int


@dataclass(frozen=True)
class Benchmark:
    """What was measured."""

    device: str
    precision: str
    threads: int  # Of the CPU.
    matrix_gflops: float  # 10^9 floating-point operations a second in products of large matrices, in this precision.
    sampling: SamplingSpeed
    training: TrainingSpeed | None
    peak_memory_mib: float  # Of the whole process, or of the GPU where there is one.


@torch.no_grad()
def matrix_gflops(device: torch.device, dtype: torch.dtype) -> float:
    """The rate of products of two matrices of MATRIX_SIDE rows and columns, by the faster of the libraries at hand.

    On a CPU PyTorch multiplies by MKL, convolves by oneDNN, and either may be the faster in products.
    """
    left, right = (torch.randn(MATRIX_SIDE, MATRIX_SIDE, device=device).to(dtype) for _ in range(2))
    products = (lambda: left @ right, lambda: fixed_linear(left, right, None))
    fastest = min(seconds(product, device) for product in products)
    return 2 * MATRIX_SIDE**3 / fastest / 1e9


def measure_sampling(model: Model, batch_size: int | None, matrix_rate: float) -> SamplingSpeed:
    """Generate one image, then `batch_size` at a time; left out, as many as `generate` does, by its way.

    `matrix_rate` is from `matrix_gflops`.
    """
    config = model.config.generator
    count = batch_size or model.sampler.together
    noise = noise_vectors(0, range(count), config.noise_dim)
    condition = model.encode([PROMPT])
    text = condition.expand(count, *condition.shape[1:])
    latency = seconds(lambda: sample(model, noise[:1], text[:1]), model.device)
    together = seconds(lambda: sample(model, noise, text, batch_size), model.device)
    modules = summarise(config, model.config.discriminator, clip_architecture(clip_spec(model.folder, model.config)))
    gflop = gflop_per_image(modules)
    rate = count / together
    return SamplingSpeed(latency, rate, count, gflop, gflop * rate / matrix_rate)


def measure_training(
    settings: TrainSettings, clip: FrozenCLIP, device: torch.device, matrix_rate: float
) -> TrainingSpeed:
    """Train a new model of these settings on noise: each kind of steps, which count by their shares."""
    size, count = settings.image_size, settings.batch_size
    random = torch.Generator().manual_seed(0)
    captions = [PROMPT] * count
    trainer = Trainer(settings, clip, settings.family.rows(clip, captions), count, device, captions=captions)
    batch = Batch(torch.rand(count, 3, size, size, generator=random) * 2 - 1, torch.arange(count))
    step = gflop = 0.0
    for number, share in trainer.kinds_of_steps(settings.total_steps(count)).items():

        def once(number: int = number) -> None:
            trainer.go_to(number)
            trainer.train_step(batch)

        step += share * seconds(once, device)
        with _FlopCounter() as counter:
            once()
        gflop += share * counter.flops / 1e9
    minutes = {name: dataset.counts["train"] / count * step / 60 for name, dataset in OFFICIAL.items()}
    precision = resolve_precision(settings.precision, device)
    return TrainingSpeed(1 / step, count, gflop, gflop / step / matrix_rate, minutes, precision, matrix_rate)


def measure_loading(settings: TrainSettings) -> LoadingSpeed:
    """Read the training images of the settings as a run would, after a first batch of each worker, and drop them.

    Raises what opening the dataset does.
    """
    dataset = open_dataset(settings, silent)
    if isinstance(dataset, CaptionedImages):
        batches = training_batches(dataset, settings.batch_size, 0, settings.workers)
    else:
        batches = StreamReader(dataset, settings.batch_size, settings.workers).batches()
    with contextlib.closing(batches):
        for _ in itertools.islice(batches, 3 * max(settings.workers, 1)):  # what workers read ahead is not counted
            pass
        started, images = time.perf_counter(), 0
        while time.perf_counter() - started < SHORTEST_SECONDS or images == 0:
            images += len(next(batches).images)
        seconds_taken = time.perf_counter() - started
    return LoadingSpeed(settings.dataset, images / seconds_taken, settings.batch_size, settings.workers)


class _FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts arithmetic like PyTorch's FlopCounterMode, which does not bear a gradient taken inside a step."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        onednn.count_flops()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median seconds that `work` takes, after a first time that is not counted."""

    def once() -> float:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    once()
    measured: list[float] = []
    while len(measured) < 3 or sum(measured) < SHORTEST_SECONDS:
        measured.append(once())
    return statistics.median(measured)


def measure(model: Model, batch_size: int | None, settings: TrainSettings | None = None) -> Benchmark:
    """All that `ratlip bench` shows: sampling in the model's precision and, with `settings`, training in its own.

    `batch_size` is that of `measure_sampling`. Raises UsageError for a model that cannot be trained so.
    """
    if settings is not None:
        settings.family.check_trained(settings)
    sampled_in = DTYPES[model.precision.partition("-")[0]]
    rate = matrix_gflops(model.device, sampled_in)
    sampling = measure_sampling(model, batch_size, rate)
    training = None
    if settings is not None:
        trained_in = DTYPES[resolve_precision(settings.precision, model.device)]
        trained_rate = rate if trained_in is sampled_in else matrix_gflops(model.device, trained_in)
        training = measure_training(settings, model.clip, model.device, trained_rate)
    return Benchmark(
        device=str(model.device),
        precision=model.precision,
        threads=torch.get_num_threads(),
        matrix_gflops=rate,
        sampling=sampling,
        training=training,
        peak_memory_mib=peak_memory_mib(model.device),
    )
