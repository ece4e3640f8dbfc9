"""Models, swaps and clocks that the steps of the check share."""

from __future__ import annotations

import contextlib
import copy
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import open_clip
import torch
from report import Context
from torch import Tensor, nn

from ratlip_cli.data.dataset import Batch
from ratlip_cli.fast import SWAPS, Swap, clip_for
from ratlip_cli.fast.swaps import _has_operators, swap_clip, swap_discriminator, swap_generator
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.tensor_files import load_into
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.training.trainer import Trainer
from ratlip_cli.weights.clip_files import build_clip, load_clip

FULL_CLIP = "ViT-B-32-quickgelu:random"
TINY_CLIP = {
    "model_cfg": {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}
TINY_SIZES = {
    "image_size": 32,
    "noise_dim": 12,
    "hidden_size": 8,
    "generator_channels": 8,
    "discriminator_channels": 4,
}
NONE: frozenset[Swap] = frozenset()
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@functools.cache
def plain_clip(tiny: bool) -> FrozenCLIP:
    """The CLIP with random weights, on the CPU, without a swap; to be copied."""
    if not tiny:
        return load_clip(FULL_CLIP, swaps=NONE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = build_clip(TINY_CLIP, "tiny")
        load_into(clip.model, open_clip.CLIP(**TINY_CLIP["model_cfg"]).state_dict(), "tiny")
        return clip


def clip_on(
    device: torch.device, tiny: bool, swaps: frozenset[Swap] = NONE, dtype: torch.dtype = torch.float32
) -> FrozenCLIP:
    """The CLIP with random weights on a device, with swaps."""
    return clip_for(copy.deepcopy(plain_clip(tiny)).to(device, dtype), swaps)


def settings_of(tiny: bool, **typed: Any) -> TrainSettings:
    """The paper's settings, or those of a model of milliseconds a step."""
    return TrainSettings.of(**{**(TINY_SIZES if tiny else {}), **typed})


def usable(device: torch.device) -> list[Swap]:
    """The swaps that can be tried on a device: oneDNN's packed weights are a CPU's alone."""
    return [swap for swap in Swap if _has_operators(swap) and (device.type == "cpu" or swap is not Swap.PACKED)]


def plain_trainer(settings: TrainSettings, clip: FrozenCLIP, device: torch.device, captions: int = 64) -> Trainer:
    """A trainer without any swap, whose text vectors are random."""
    text = torch.randn(captions, clip.geometry.embed_dim, generator=torch.Generator().manual_seed(1))
    with patch.dict(SWAPS, {device.type: NONE}):
        return Trainer(settings, clip, text, captions, device)


def shared_trainer(context: Context) -> Trainer:
    """The plain trainer of the paper's settings, or a tiny one, that several steps of the check use."""
    if "trainer" not in context.shared:
        clip = clip_on(context.device, context.tiny)
        context.shared["trainer"] = plain_trainer(settings_of(context.tiny), clip, context.device)
    trainer: Trainer = context.shared["trainer"]
    trainer.precision = "fp32"
    return trainer


def chosen_swaps(context: Context) -> frozenset[Swap]:
    """The swaps that the step "swaps" found to pay, or all where it was not run."""
    chosen: frozenset[Swap] = context.shared.get("chosen", frozenset(usable(context.device)))
    return chosen


def compiled(network: Any, tiny: bool) -> Any:
    """What `torch.compile` makes of it; tiny, only traced: the compiler for the device takes minutes on a CPU."""
    return torch.compile(network, backend="eager" if tiny else "inductor", dynamic=False)


def compile_networks(trainer: Trainer, tiny: bool) -> None:
    """What `--compile` does to a trainer."""
    objective: Any = trainer.objective
    objective.generator, objective.discriminator = (
        compiled(network, tiny) for network in (trainer.generator, trainer.discriminator)
    )


@contextlib.contextmanager
def swapped(trainer: Trainer, swaps: frozenset[Swap]) -> Iterator[None]:
    """Let a plain trainer work with swaps for a while, with the same weights at the same places."""
    networks = (trainer.generator, trainer.discriminator, trainer.clip)
    before = [
        (module, module.__class__, getattr(module, "inplace", None))
        for network in networks
        for module in network.modules()
    ]
    swap_generator(trainer.generator, swaps)
    swap_discriminator(trainer.discriminator, swaps)
    swap_clip(trainer.clip, swaps)
    try:
        yield
    finally:
        for module, own_class, inplace in before:
            module.__class__ = own_class
            if inplace is not None:
                module.inplace = inplace


@contextlib.contextmanager
def in_layout(trainer: Trainer, channels_last: bool) -> Iterator[None]:
    """Let a trainer's convolutions have their weights in channels last for a while; its optimisers begin anew."""
    if not channels_last:
        yield
        return
    networks: tuple[nn.Module, ...] = (trainer.generator, trainer.discriminator, trainer.clip)
    for memory_format in (torch.channels_last, torch.contiguous_format):
        for network in networks:
            network.to(memory_format=memory_format)
        for optimizer in (trainer.optimizer_g, trainer.optimizer_d):
            optimizer.state.clear()  # the moments lie in memory as the weights did
            optimizer.zero_grad()
        if memory_format is torch.channels_last:
            try:
                yield
            except BaseException:
                for network in networks:
                    network.to(memory_format=torch.contiguous_format)
                raise


def batch_of(trainer: Trainer, count: int) -> Batch:
    """`count` random images with captions, on the trainer's device already: without what the loader takes."""
    size = trainer.settings.image_size
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return Batch(images.to(trainer.device), torch.arange(count) % len(trainer.rows))


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether float32 products and convolutions on a GPU may round their factors to 10 bits."""
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = allowed
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.allow_tf32 = value


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device, seconds: float) -> tuple[float, float]:
    """Median and spread (half of the middle 50 %) of the seconds that `work` takes, in about `seconds` in all.

    After a time or two that do not count, three to thirty times; twice where no `seconds` are given.
    """
    for _ in range(2 if seconds else 1):
        work()
    synchronise(device)
    measured: list[float] = []
    while len(measured) < (3 if seconds else 2) or (sum(measured) < seconds and len(measured) < 30):
        began = time.perf_counter()
        work()
        synchronise(device)
        measured.append(time.perf_counter() - began)
    low, middle, high = statistics.quantiles(measured, n=4)
    return middle, (high - low) / 2


def with_peak(device: torch.device, work: Callable[[], Any]) -> tuple[Any, float | None]:
    """What `work` returns, and the most GiB of the GPU that were held meanwhile; None on a CPU."""
    if device.type != "cuda":
        return work(), None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    returned = work()
    return returned, torch.cuda.max_memory_allocated(device) / 2**30


def far(actual: Tensor, expected: Tensor) -> float:
    """Relative error |actual - expected| / |expected|, of the whole tensor."""
    actual, expected = actual.detach().double().cpu(), expected.detach().double().cpu()
    return float((actual - expected).norm() / expected.norm().clamp_min(1e-30))
