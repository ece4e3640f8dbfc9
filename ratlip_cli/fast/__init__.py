"""The same functions as `model/`, with less work: accelerated modules, and the one place that says who uses which.

A swap replaces modules of a model by subclasses with the same parameters under the same names, equal in values and
gradients to the plain ones (`tests/test_fast.py`). SWAPS says which a device takes: only those that were measured to
win there. torch.compile and torch.export take the plain forwards of generator and discriminator, by the subclasses
themselves; what `for_export` makes is fast when exported. Where the functions here are given no swaps, they take those
that pay on the network's device.
"""

from __future__ import annotations

import logging

import torch

from ratlip_cli.fast.onednn import multiplies_bf16
from ratlip_cli.fast.sampling import AUTOCAST, Sampler, has_packed
from ratlip_cli.fast.swaps import SWAPS, Swap, for_export, swap_clip, swap_discriminator, swap_generator, swaps_for
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.discriminator import Discriminator
from ratlip_cli.model.generator import Generator

__all__ = [
    "SWAPS",
    "Sampler",
    "Swap",
    "clip_for",
    "for_export",
    "for_sampling",
    "for_training",
    "resolve_precision",
    "swaps_for",
]

_log = logging.getLogger(__name__)


def for_training(
    generator: torch.nn.Module, discriminator: torch.nn.Module, swaps: frozenset[Swap] | None = None
) -> None:
    """Swap the modules of two networks that are trained, in place. The CLIP is `clip_for`'s, of whoever loaded it."""
    chosen = swaps_for(_device(generator)) if swaps is None else swaps
    if isinstance(generator, Generator):  # modules that another family borrows may have to be differentiated twice
        swap_generator(generator, chosen)
    if isinstance(discriminator, Discriminator):
        swap_discriminator(discriminator, chosen)


def for_sampling(
    generator: torch.nn.Module, clip: FrozenCLIP, swaps: frozenset[Swap] | None = None, precision: str = "fp32"
) -> Sampler:
    """What turns noise and text vectors into images with the least work; `generator` stays as it is.

    `precision` is one of `resolve_precision`, see `Sampler`.
    """
    return Sampler(generator, clip, swaps_for(_device(generator)) if swaps is None else swaps, precision)


def resolve_precision(name: str, generator: torch.nn.Module) -> str:
    """The precision of sampling of `name`, which is auto, fp32, bf16 or bf16-autocast: fp32, or which bf16 it is.

    That of the large products alone is bf16; that of PyTorch's autocast, where there are none of ours, AUTOCAST.

    `auto` is fp32: bf16 is measured to win on CPUs that multiply it for models on a wide CLIP, but to keep the scores
    only of a model for which it does not (docs/performance.md). Says so where bf16 was asked of a CPU that has no use
    for it.
    """
    if name not in ("auto", "fp32") and _device(generator).type == "cpu" and not multiplies_bf16():
        _log.warning("this CPU does not multiply bf16: it generates slower so than in fp32")
    if name in ("auto", "fp32"):
        return "fp32"
    return "bf16" if has_packed(generator, swaps_for(_device(generator))) else AUTOCAST


def clip_for(clip: FrozenCLIP, swaps: frozenset[Swap] | None = None) -> FrozenCLIP:
    """Swap the modules of a frozen CLIP, in place, and return it."""
    swap_clip(clip, swaps_for(clip.mean.device) if swaps is None else swaps)
    return clip


def _device(network: torch.nn.Module) -> torch.device:
    return next(network.parameters()).device
