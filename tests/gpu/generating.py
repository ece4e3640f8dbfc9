"""Step "generate": images a second and the time of one, plain and with all that makes it faster, beside the roof."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from harness import chosen_swaps, clip_on, compiled, far, seconds_of, settings_of, tf32, with_peak
from report import Context
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ratlip_cli import fast
from ratlip_cli.fast import Swap, clip_for
from ratlip_cli.model.clip import FrozenCLIP

BATCHES = (64, 1, 8, 256)
"""The batch of the targets first."""
TINY_BATCHES = (4, 1)
COMPILED_BATCHES = (1, 64)
"""Each is compiled anew."""
Sample = Callable[[Tensor, Tensor], Tensor]
"""Noise and text vectors on the device to images."""


def run(context: Context) -> None:
    """The roof, then every contender at every batch."""
    clip, settings = clip_on(context.device, context.tiny), settings_of(context.tiny)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = settings.family.generator(settings.configs()[0], clip.geometry).to(context.device).eval()
    rates = roof(context, generator, clip)
    swaps = chosen_swaps(context)
    context.note("ours", sorted(swap.value for swap in swaps))
    texts = torch.randn(max(BATCHES), clip.geometry.embed_dim, generator=torch.Generator().manual_seed(0))
    noises = torch.randn(max(BATCHES), generator.config.noise_dim, generator=torch.Generator().manual_seed(1))
    texts, noises = texts.to(context.device), noises.to(context.device)
    with torch.no_grad(), tf32(False):
        expected = generator(noises[:2], texts[:2], clip)
    for name, (make, precise, batches) in contenders(context, generator, clip, swaps).items():
        try:
            with torch.no_grad(), tf32("TF32 on" in name):
                measure(
                    context,
                    name,
                    make(),
                    (noises, texts),
                    TINY_BATCHES[: len(batches) - 1] if context.tiny else batches,
                )
                if precise is not None:
                    actual = make()(noises[:2], texts[:2])
                    context.check(f"generate, {name}: images", far(actual.float(), expected), precise)
        except Exception as error:
            context.attempt(name, error)
    judge(context, rates)


def contenders(
    context: Context, generator: Any, clip: FrozenCLIP, swaps: frozenset[Swap]
) -> dict[str, tuple[Callable[[], Sample], float | None, tuple[int, ...]]]:
    """Name -> what makes it, the largest relative error of its images (None: not compared), and its batches."""
    ours = ours_of(generator, clip, swaps, torch.float32)
    half = ours_of(generator, clip, swaps, torch.bfloat16)
    last = tuple(copy.deepcopy(network).to(memory_format=torch.channels_last) for network in half)
    plain = (generator, clip)
    found: dict[str, tuple[Callable[[], Sample], float | None, tuple[int, ...]]] = {
        "plain fp32, TF32 off": (lambda: eager(plain), 1e-4, BATCHES),
        "ours bf16": (lambda: eager(ours, autocast=True), 0.1, BATCHES),
        "ours bf16 weights": (lambda: eager(half), 0.1, BATCHES),
        "ours bf16 weights, channels last": (lambda: eager(last), 0.1, BATCHES),
    }
    if context.on_gpu:
        found["ours bf16 weights, CUDA graph"] = (lambda: in_graph(eager(half)), None, BATCHES)
        found["ours bf16 weights, channels last, CUDA graph"] = (lambda: in_graph(eager(last)), None, BATCHES)
    else:
        context.note("ours bf16 weights, CUDA graph", "not on this device")
    return found | {
        "plain fp32, TF32 on": (lambda: eager(plain), 5e-3, BATCHES),
        "plain bf16": (lambda: eager(plain, autocast=True), 0.1, BATCHES),
        "ours fp32": (lambda: eager(ours), 1e-4, BATCHES),
        "ours bf16, with the way to the CPU": (lambda: by_sampler(generator, clip, swaps), None, BATCHES),
        "plain bf16, compiled": (lambda: compiled_sample(plain, context.tiny), 0.1, COMPILED_BATCHES),
    }


def ours_of(
    generator: Any, clip: FrozenCLIP, swaps: frozenset[Swap], dtype: torch.dtype
) -> tuple[nn.Module, FrozenCLIP]:
    """Copies of generator and CLIP as the sampler derives them, in a precision of their weights."""
    if dtype is not torch.float32:
        swaps = swaps - {Swap.PACKED}
    derived = fast.for_sampling(copy.deepcopy(generator), clip, swaps).generator
    return derived.to(dtype), clip_for(copy.deepcopy(clip).to(dtype), swaps)


def eager(networks: Any, autocast: bool = False) -> Sample:
    """Images by a generator and a CLIP, in the precision of their weights or under autocast to bf16."""
    generator, clip = networks
    dtype = clip.visual.conv1.weight.dtype

    def sample(noise: Tensor, text: Tensor) -> Tensor:
        with torch.autocast(noise.device.type, torch.bfloat16, enabled=autocast, cache_enabled=False):
            images: Tensor = generator(noise.to(dtype), text.to(dtype), clip)
        return images

    return sample


def compiled_sample(networks: Any, tiny: bool) -> Sample:
    """The same, compiled as a whole, once for each batch."""
    return compiled(eager(networks, autocast=True), tiny)  # type: ignore[no-any-return]


def by_sampler(generator: Any, clip: FrozenCLIP, swaps: frozenset[Swap]) -> Sample:
    """What `ratlip generate` calls: images on the CPU."""
    own_clip = clip_for(copy.deepcopy(clip), swaps)
    sampler = fast.for_sampling(generator, own_clip, swaps, "bf16")
    return lambda noise, text: sampler(noise, text, len(noise))


def in_graph(sample: Sample) -> Sample:
    """The same, recorded once for each batch and replayed: the CPU then starts one thing instead of hundreds."""
    recorded: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor]] = {}

    def replayed(noise: Tensor, text: Tensor) -> Tensor:
        if len(noise) not in recorded:
            own_noise, own_text = noise.clone(), text.clone()
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    sample(own_noise, own_text)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                images = sample(own_noise, own_text)
            recorded[len(noise)] = graph, own_noise, own_text, images
        graph, own_noise, own_text, images = recorded[len(noise)]
        own_noise.copy_(noise)
        own_text.copy_(text)
        graph.replay()
        return images

    return replayed


def measure(
    context: Context, name: str, sample: Sample, given: tuple[Tensor, Tensor], batches: tuple[int, ...] | list[int]
) -> None:
    """Seconds a batch, images a second and memory, at each batch size."""
    device, budget, found = context.device, 0.0 if context.tiny else 0.3, {}
    for batch in batches:
        noise, text = (tensor[:batch] for tensor in given)

        def work(noise: Tensor = noise, text: Tensor = text) -> Tensor:
            return sample(noise, text)

        (seconds, spread), peak = with_peak(device, lambda work=work: seconds_of(work, device, budget))
        found[f"batch {batch}"] = {"seconds": seconds, "spread": spread, "images/s": batch / seconds, "gib": peak}
        context.note(name, found)
    rates = ", ".join(f"{batch}: {found[f'batch {batch}']['images/s']:.4g}" for batch in sorted(set(batches)))
    context.row(f"{name}, images/s", rates)


def roof(context: Context, generator: Any, clip: FrozenCLIP) -> dict[str, float]:
    """What the device can do: products of large matrices and copies; and what one image asks of it at least."""
    device, tiny = context.device, context.tiny
    side, copied = (256, 2**20) if tiny else (8192, 2**30)
    rates: dict[str, float] = {}
    for name, dtype, allowed in (
        ("bf16", torch.bfloat16, False),
        ("fp32", torch.float32, False),
        ("TF32", torch.float32, True),
    ):
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        with tf32(allowed):
            seconds, _ = seconds_of(lambda left=left, right=right: left @ right, device, 0.0 if tiny else 0.2)
        rates[f"{name} TFLOP/s"] = 2 * side**3 / seconds / 1e12
    source = torch.empty(copied, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    seconds, _ = seconds_of(lambda: target.copy_(source), device, 0.0 if tiny else 0.2)
    rates["copy GB/s, read and written"] = 2 * copied / seconds / 1e9
    rates |= arithmetic(generator, clip, device)
    context.note("roof", rates)
    context.row("bf16 matrices, copies", f"{rates['bf16 TFLOP/s']:.4g} TFLOP/s, {2 * copied / seconds / 1e9:.4g} GB/s")
    return rates


@torch.no_grad()
def arithmetic(generator: Any, clip: FrozenCLIP, device: torch.device) -> dict[str, float]:
    """Of one image: GFLOP, and the GB in bf16 that convolutions and linear layers must read and write at least."""
    moved = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal moved
        moved += 2 * (inputs[0].numel() + output.numel())

    layers = [
        module
        for network in (generator, clip.visual)
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    noise = torch.randn(1, generator.config.noise_dim, device=device)
    text = torch.randn(1, clip.geometry.embed_dim, device=device)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it has no formula
    try:
        with FlopCounterMode(display=False) as counter:
            generator(noise, text, clip)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for hook in hooks:
            hook.remove()
    return {"GFLOP an image": counter.get_total_flops() / 1e9, "GB an image": moved / 1e9}


def judge(context: Context, rates: dict[str, float]) -> None:
    """The targets, from the fastest in bf16."""
    figures = context.figures

    def images_a_second(name: str, batch: int) -> float:
        entry = figures.get(name)
        return float(entry.get(f"batch {batch}", {}).get("images/s", 0.0)) if isinstance(entry, dict) else 0.0

    batch = 4 if context.tiny else 64
    halves = [name for name in figures if "bf16" in name and "CPU" not in name]
    best = max(halves, key=lambda name: images_a_second(name, batch))
    rate, plain = images_a_second(best, batch), images_a_second("plain fp32, TF32 off", batch)
    from_tf32 = images_a_second("plain fp32, TF32 on", batch)
    by_rate = rates["bf16 TFLOP/s"] * 1e3 / rates["GFLOP an image"]
    by_copies = rates["copy GB/s, read and written"] / rates["GB an image"]
    share = rate / min(by_rate, by_copies)
    quick = [name for name in halves if "graph" in name or "compiled" in name]
    latency = min((1000 / images_a_second(name, 1) for name in quick if images_a_second(name, 1)), default=None)
    context.note(
        f"best in bf16 at batch {batch}",
        {
            "contender": best,
            "images/s": rate,
            "times plain, TF32 off": rate / plain if plain else None,
            "times plain, TF32 on": rate / from_tf32 if from_tf32 else None,
            "images/s at the matrix rate": by_rate,
            "images/s at the copy rate": by_copies,
            "share of the lower of both": share,
            "GFLOP a second over the matrix rate": rate / by_rate,
            "milliseconds of one image": latency,
        },
    )
    context.target("images/s in bf16 at batch 64, times plain float32", rate / plain if plain and rate else None, 5)
    context.target("share of the bf16 roof at batch 64", share if rate else None, 0.5)
    context.target("milliseconds of one image, graph or compiled", latency, 5, at_most=True)
