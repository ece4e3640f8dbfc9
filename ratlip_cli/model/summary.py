"""What a model consists of: shapes, parameters, memory and arithmetic of each part, counted without any weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ratlip_cli.model.clip import FrozenCLIP, ImageFeatures
from ratlip_cli.model.config import ClipGeometry, DiscriminatorConfig, GeneratorConfig
from ratlip_cli.model.discriminator import Discriminator
from ratlip_cli.model.generator import Generator

PAPER_HIDDEN_SIZES = (4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Part:
    """One part of the model."""

    name: str
    shape: tuple[int, ...]
    """Of its output for one image, without the batch."""
    trained: int
    """Parameters that training changes."""
    frozen: int
    """Parameters of CLIP."""
    flops: int
    """Floating-point operations for one image; a multiplication and an addition are two."""


def summarise(generator: GeneratorConfig, discriminator: DiscriminatorConfig, clip: FrozenCLIP) -> list[Part]:
    """The parts of a model in the order in which an image passes them.

    Args:
        clip: on the meta device, from `clip_architecture`.
    """
    with torch.device("meta"), torch.no_grad():
        g = Generator(generator, clip.geometry).eval()
        d = Discriminator(discriminator, clip.geometry).eval()
        noise, text = torch.empty(1, generator.noise_dim), torch.empty(1, clip.geometry.embed_dim)
        children = {
            "noise to code": g.code,
            "RAT bridge" if generator.variant != "galip" else "CAT bridge": g.bridge,
            "prompts": g.prompts,
            "fuse": g.fuse,
            **{f"image-G block {size}": block for size, block in zip(_sizes(g), g.blocks, strict=True)},
            "to RGB": g.to_rgb,
            "FE extractor": d.extractor,
            "referee": d.referee,
        }
        with _counted(children) as parts:
            images = g(noise, text, clip)
            seen, clip_image = _clip_image(clip, images)
            d(seen.patches, text, seen.pixels)
        clip_blk, clip_text = _clip_blk(clip), _clip_text(clip)
    before, after = parts[:3], parts[3:]
    drawing = len(after) - 2
    return [clip_text, *before, clip_blk, *after[:drawing], clip_image, *after[drawing:]]


def parameter_counts(config: GeneratorConfig, clip: FrozenCLIP) -> tuple[int, int]:
    """Trained parameters of the generator, and the frozen ones of its CLIP-BLK, patch convolution included.

    Their sum is what the paper's table calls GPs, in units of 2^20.
    """
    with torch.device("meta"):
        generator = Generator(config, clip.geometry)
    return _count(generator), clip_blk_parameters(clip)


def clip_blk_parameters(clip: FrozenCLIP) -> int:
    """Parameters of the frozen vision transformer up to its last block: what the published generator carries along."""
    visual = clip.visual
    outside: int = _count(visual.ln_post) + visual.proj.numel()
    return _count(visual) - outside


def discriminator_parameters(config: DiscriminatorConfig, geometry: ClipGeometry) -> tuple[int, int]:
    """Parameters of FE extractor and referee, and of two shortcuts that the published code counts and never uses."""
    with torch.device("meta"):
        used = _count(Discriminator(config, geometry))
    return used, 2 * (geometry.width**2 + geometry.width)


def _sizes(generator: Generator) -> list[int]:
    return generator.config.block_sizes(generator.geometry.grid)


def _count(module: nn.Module) -> int:
    return sum(int(parameter.numel()) for parameter in module.parameters())


@contextmanager
def _counted(children: dict[str, nn.Module]) -> Iterator[list[Part]]:
    """Record shape and arithmetic of each child as it is called."""
    parts: list[Part] = []
    with FlopCounterMode(display=False) as counter:
        starts: list[int] = []

        def start(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            starts.append(counter.get_total_flops())

        def stop(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
            shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()
            name = next(name for name, child in children.items() if child is module)
            parts.append(Part(name, shape, _count(module), 0, counter.get_total_flops() - starts.pop()))

        hooks = [child.register_forward_pre_hook(start) for child in children.values()]
        hooks += [child.register_forward_hook(stop) for child in children.values()]
        yield parts
        for hook in hooks:
            hook.remove()


def _clip_image(clip: FrozenCLIP, images: Tensor) -> tuple[ImageFeatures, Part]:
    with FlopCounterMode(display=False) as counter:
        seen = clip.features(images)
    shape = tuple(seen.patches.shape[1:])
    return seen, Part("CLIP image encoder", shape, 0, _count(clip.visual), counter.get_total_flops())


def _clip_text(clip: FrozenCLIP) -> Part:
    with FlopCounterMode(display=False) as counter:
        text = clip.encode_tokens(torch.zeros(1, clip.context_length, dtype=torch.long))
    return Part(
        "CLIP text encoder", tuple(text.shape[1:]), 0, _count(clip) - _count(clip.visual), counter.get_total_flops()
    )


def _clip_blk(clip: FrozenCLIP) -> Part:
    grid, width, prompts = clip.geometry.grid, clip.geometry.width, clip.geometry.prompts
    with FlopCounterMode(display=False) as counter:
        out = clip.clip_blk(torch.empty(1, width, grid, grid), torch.empty(1, prompts, width))
    return Part("CLIP-BLK", tuple(out.shape[1:]), 0, clip_blk_parameters(clip), counter.get_total_flops())
