"""The published codes whose checkpoints become models here, and go back: one entry for the code of each paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ratlip_cli.errors import UsageError
from ratlip_cli.weights.released import attngan, dfgan, lafite, ratgan, ratlip
from ratlip_cli.weights.released.checkpoint import ReleasedCheckpoint
from ratlip_cli.weights.released.nets import GENERATOR, Nets

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Code:
    """The published code of one paper."""

    variants: tuple[str, ...]  # The families of its weights.
    recognises: Callable[[Tensors], bool]  # Whether the tensors of a generator are of this code.
    read: Callable[[Nets, str | None], ReleasedCheckpoint]  # Of `read_nets`, and the variant where it was named.
    publish: Callable[[Any, Tensors, Tensors | None], dict[str, dict[str, Tensor]]] | None
    """The way back: of the generator's sizes and the tensors of both networks. None: its files cannot be written."""
    discriminators: tuple[str, ...] = ()  # The networks of files of their own, beside that of the generator.


def _attngan(nets: Nets, variant: str | None) -> ReleasedCheckpoint:
    numbered = [nets[name] for name in sorted(nets) if name.startswith("netD")]
    return attngan.import_attngan(nets[GENERATOR], numbered or None)


def _lafite(nets: Nets, variant: str | None) -> ReleasedCheckpoint:
    read = lafite.import_lafite(nets[GENERATOR], nets.get("netD"), is_ema=False)
    return replace(read, text_dim=nets[GENERATOR]["synthesis.b4.conv1.pre_0.weight"].shape[1])


CODES = (
    Code(
        ("galip", "ratlip-released"),
        lambda generator: any(name.startswith("mapping.FBlocks.") for name in generator),
        lambda nets, variant: ratlip.import_released(nets),
        None,  # they hold the CLIP too, see `ratlip.released_nets`
    ),
    Code(
        ("dfgan-released",),
        lambda generator: dfgan.is_dfgan({GENERATOR: generator}),
        lambda nets, variant: dfgan.import_dfgan(nets),
        lambda config, generator, discriminator: dfgan.export_dfgan(generator, discriminator),
    ),
    Code(
        ("dfgan-2020-released", "ratgan-released", "ratgan-flower-released"),
        lambda generator: ratgan.is_ratgan({GENERATOR: generator}),
        lambda nets, variant: ratgan.import_ratgan(nets, variant),
        lambda config, generator, discriminator: ratgan.export_ratgan(generator, discriminator),
        ("netD",),
    ),
    Code(
        ("attngan-released",),
        attngan.is_attngan,
        _attngan,
        attngan.export_attngan,
        ("netD0", "netD1", "netD2"),
    ),
    Code(
        ("lafite-released",),
        lambda generator: "synthesis.b4.const" in generator,
        _lafite,
        None,
    ),
)
VARIANTS = tuple(variant for code in CODES for variant in code.variants)


def code_of(generator: Tensors) -> Code | None:
    """The code that a generator with these tensors is of; None for one of another."""
    return next((code for code in CODES if code.recognises(generator)), None)


def code_for(variant: str) -> Code:
    """The code of a variant. Raises UsageError where no published code has it."""
    for code in CODES:
        if variant in code.variants:
            return code
    raise UsageError(f"variant {variant} is not one of published code; those are {', '.join(VARIANTS)}.")
