"""What a model consists of: shapes, parameters and arithmetic of each module, counted without any weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ratlip_cli.errors import UsageError
from ratlip_cli.families import family_of
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.config import ClipGeometry, DiscriminatorConfig, GeneratorConfig
from ratlip_cli.model.discriminator import Discriminator
from ratlip_cli.planned import planned

TEXT_ENCODER, CLIP_BLK = "CLIP text encoder", "CLIP-BLK"
_HIDDEN_SIZES = (4, 8, 16, 32, 64, 128)
_PAPER_TABLE = (
    *((variant, hidden_size) for variant in ("ratlip-released", "ratlip", "rat") for hidden_size in _HIDDEN_SIZES),
    ("galip", None),
)
"""Variants and hidden sizes of the paper's ablation."""


@dataclass(frozen=True)
class ModuleSummary:
    """One module of the model."""

    name: str
    shape: tuple[int, ...]  # Of its output for one image, without the batch.
    trained: int  # Parameters that training changes.
    frozen: int  # Parameters of CLIP.
    flops: int  # Floating-point operations for one image; a multiplication and an addition are two.
    generates: bool  # Whether it works when an image is generated; else it works in training alone.


def summarise(generator: Any, discriminator: Any, clip: FrozenCLIP) -> list[ModuleSummary]:
    """The modules of a model in the order in which an image passes them.

    Args:
        generator, discriminator: configs of a family.
        clip: on the meta device, from `clip_architecture`.
    """
    family = family_of(generator.variant)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        g = family.generator(generator, clip.geometry).eval()
        d = family.discriminator(discriminator, clip.geometry).eval()
        summaries: list[ModuleSummary] = []
        with _recorded(family.modules(g, d), clip, counter, summaries):
            text = family.example_condition(clip)
            images = g(torch.empty(1, generator.noise_dim), text, clip)
            generating = len(summaries)
            family.logits(d, family.look(clip, images), text)
    return [replace(one, generates=number < generating) for number, one in enumerate(summaries)]


def gflop_per_image(modules: Iterable[ModuleSummary]) -> float:
    """10^9 floating-point operations for one image of a prompt that is encoded already."""
    return sum(one.flops for one in modules if one.generates and one.name != TEXT_ENCODER) / 1e9


@dataclass(frozen=True)
class ParameterCount:
    """A row of the paper's table of parameters."""

    variant: str
    hidden_size: int | None  # None for a variant without an LSTM.
    generator: int  # With CLIP-BLK: the paper's GPs.
    with_discriminator: int  # And with FE extractor and referee, as the published code counts them: the paper's TPs.


def paper_table(
    generator: GeneratorConfig, discriminator: DiscriminatorConfig, clip: FrozenCLIP
) -> list[ParameterCount]:
    """The paper's table of parameters for networks of these sizes, but for variant and hidden size.

    Raises UsageError for a family that is not the paper's.
    """
    if not isinstance(generator, GeneratorConfig):
        raise UsageError(f"variant {generator.variant} is not in the paper's table.")
    referee = sum(discriminator_parameters(discriminator, clip.geometry))
    rows = []
    for variant, hidden_size in _PAPER_TABLE:
        config = replace(generator, variant=variant, hidden_size=hidden_size or generator.hidden_size)
        count = sum(parameter_counts(config, clip))
        rows.append(ParameterCount(variant, hidden_size, count, count + referee))
    return rows


def parameter_counts(config: Any, clip: FrozenCLIP) -> tuple[int, int]:
    """Trained parameters of the generator, and the frozen ones of its CLIP-BLK, patch convolution included.

    Their sum is what the paper's table calls GPs, in units of 2^20.
    """
    with planned():
        generator = family_of(config.variant).generator(config, clip.geometry)
    return count_parameters(generator), clip_blk_parameters(clip)


def clip_blk_parameters(clip: FrozenCLIP) -> int:
    """Parameters of the frozen vision transformer up to its last block: what the published generator carries along."""
    return count_parameters(clip.visual) - count_parameters(clip.visual.ln_post) - int(clip.visual.proj.numel())


def discriminator_parameters(config: DiscriminatorConfig, geometry: ClipGeometry) -> tuple[int, int]:
    """Parameters of FE extractor and referee, and of two shortcuts that the published code counts and never uses."""
    with planned():
        used = count_parameters(Discriminator(config, geometry))
    return used, 2 * (geometry.width**2 + geometry.width)


def count_parameters(module: nn.Module) -> int:
    """Parameters of a network, frozen ones included."""
    return sum(int(parameter.numel()) for parameter in module.parameters())


@contextmanager
def _recorded(
    modules: Mapping[str, nn.Module], clip: FrozenCLIP, counter: FlopCounterMode, summaries: list[ModuleSummary]
) -> Iterator[None]:
    """Append a summary of each module, and of each use of the CLIP, when it is called."""

    def recorded(name: str, call: Callable[..., Any], trained: int, frozen: int) -> Callable[..., Any]:
        def record(*given: Any) -> Any:
            before = counter.get_total_flops()
            output = call(*given)
            shown = output if isinstance(output, Tensor) else output[0]
            flops = counter.get_total_flops() - before
            summaries.append(ModuleSummary(name, tuple(shown.shape[1:]), trained, frozen, flops, True))
            return output

        return record

    for name, module in modules.items():
        module.forward = recorded(name, module.forward, count_parameters(module), 0)
    text_encoder = (TEXT_ENCODER, count_parameters(clip) - count_parameters(clip.visual))
    uses = {
        "encode_tokens": text_encoder,
        "encode_words": text_encoder,
        "clip_blk": (CLIP_BLK, clip_blk_parameters(clip)),
        "features": ("CLIP image encoder", count_parameters(clip.visual)),
    }
    for method, (name, frozen) in uses.items():
        setattr(clip, method, recorded(name, getattr(clip, method), 0, frozen))
    try:
        yield
    finally:
        for method in uses:
            delattr(clip, method)
