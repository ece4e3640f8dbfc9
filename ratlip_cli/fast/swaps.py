"""Which accelerated modules there are, which of them a device takes, and how they take the place of the plain ones."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from enum import Enum
from typing import Any

import torch
from torch import nn

from ratlip_cli.fast.affines import FastCATBLK, FastRATBLK
from ratlip_cli.fast.attention import FastSAConv, FastShuffleAttention
from ratlip_cli.fast.clip import CutCLIP, FastCLIP, FastQuickGELU, FixedSelfAttention
from ratlip_cli.fast.onednn import FixedLinear, is_usable
from ratlip_cli.fast.referee import FastReferee
from ratlip_cli.fast.rows import RowLinear, RowLSTMCell
from ratlip_cli.fast.upsampling import ColourConv, ExportedGBlock, FastGBlock, UpsamplingConv
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.discriminator import Referee
from ratlip_cli.model.generator import GBlock, Generator
from ratlip_cli.model.rat import CATBLK, RATBLK
from ratlip_cli.model.shuffle_attention import SAConv, ShuffleAttention
from ratlip_cli.model.towers import CLIP, QuickGELU, SelfAttention


class Swap(Enum):
    """One way of doing the same with less work."""

    AFFINES = "affines"  # Two affines and their LeakyReLUs as one operation; kept for the gradient: input and output.
    ATTENTION = "attention"  # BatchNorm, LeakyReLU and shuffle attention as one operation; kept: its input alone.
    UPSAMPLING = "upsampling"  # Image-G's blocks without the enlarged input: transposed convolutions of summed weights.
    COLOURS = "colours"  # The last convolution, to three colours, by rows.
    IN_PLACE = "in-place"  # LeakyReLUs that overwrite their input.
    REFEREE = "referee"  # The referee without a tiled text vector.
    CLIP_LINEAR = "clip-linear"  # CLIP's products by oneDNN, whose weights get no gradient.
    CLIP_GELU = "clip-gelu"  # CLIP's QuickGELU as a SiLU.
    CLIP_PATCHES = "clip-patches"  # CLIP's patch convolution as one matrix; of its last block the class token alone.
    CLIP_CAPTIONS = "clip-captions"  # CLIP's text transformer up to a caption's end, without the padding.
    FOLDED = "folded"  # For sampling: BatchNorm folded into convolutions, channel shuffles into the order of weights.
    PACKED = "packed"  # For sampling, on top of FOLDED: weights of convolutions as oneDNN's kernels read them.


SWAPS: dict[str, frozenset[Swap]] = {"cpu": frozenset(Swap)}
"""What is measured to win, by kind of device; a kind that is not in it takes the plain model. docs/gpu.md tells how to
measure a GPU."""


def swaps_for(device: torch.device) -> frozenset[Swap]:
    """The swaps that a device takes, without those whose operators this PyTorch does not have."""
    return frozenset(swap for swap in SWAPS.get(device.type, frozenset()) if _has_operators(swap))


@functools.cache
def _has_operators(swap: Swap) -> bool:
    """Whether this PyTorch has the operators that a swap calls beside the public ones, as they are called here."""
    if swap in (Swap.CLIP_LINEAR, Swap.PACKED):
        return is_usable()
    tried: dict[Swap, nn.Module] = {Swap.AFFINES: CATBLK(2, 4), Swap.ATTENTION: SAConv(4, 4, 2)}
    if swap not in tried:
        return True
    x = torch.zeros(2, 4, 2, 2, requires_grad=True)
    given = (x, torch.zeros(2, 2)) if swap is Swap.AFFINES else (x,)
    try:
        swap_generator(tried[swap], frozenset({swap}))(*given).sum().backward()
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True


def swap_generator(generator: nn.Module, swaps: frozenset[Swap]) -> nn.Module:
    """Swap modules of RATLIP's generator, in place; a network of another kind has none of them and stays as it is."""
    if Swap.AFFINES in swaps:
        _swap(generator, {CATBLK: FastCATBLK, RATBLK: FastRATBLK})
    if swaps & {Swap.ATTENTION, Swap.UPSAMPLING}:
        _swap(generator, {SAConv: FastSAConv})
    if Swap.ATTENTION in swaps:
        _swap(generator, {ShuffleAttention: FastShuffleAttention})
    if Swap.UPSAMPLING in swaps:
        for block in [module for module in generator.modules() if isinstance(module, GBlock)]:
            _swap(block, {GBlock: FastGBlock})
            for conv in (block.conv1, block.conv2):
                three_by_three = conv.conv if isinstance(conv, SAConv) else conv
                three_by_three.__class__ = UpsamplingConv
    if Swap.COLOURS in swaps and isinstance(generator, Generator):
        generator.to_rgb.__class__ = ColourConv
    if Swap.IN_PLACE in swaps:
        for module in generator.modules():
            if isinstance(module, Generator | SAConv):
                module.activation.inplace = True
    return generator


def swap_rows(generator: nn.Module) -> None:
    """Let every linear layer and LSTM cell multiply row by row, in place."""
    _swap(generator, {nn.Linear: RowLinear, nn.LSTMCell: RowLSTMCell})


def for_export(generator: nn.Module) -> nn.Module:
    """A generator to export, which convolves small images where it can; `generator` stays and shares its weights."""
    exported = swap_generator(sharing_copy(generator), frozenset({Swap.UPSAMPLING}))
    _swap(exported, {FastGBlock: ExportedGBlock})
    return exported


def swap_discriminator(discriminator: nn.Module, swaps: frozenset[Swap]) -> nn.Module:
    """Swap modules of Mate-D, in place; a network of another kind has none of them and stays as it is."""
    if Swap.REFEREE in swaps:
        _swap(discriminator, {Referee: FastReferee})
    return discriminator


def swap_clip(clip: FrozenCLIP, swaps: frozenset[Swap]) -> None:
    """Swap modules of a CLIP, in place."""
    transformer = clip.visual.transformer
    if Swap.CLIP_LINEAR in swaps:
        _swap(transformer, {nn.Linear: FixedLinear, SelfAttention: FixedSelfAttention})
    if Swap.CLIP_GELU in swaps:
        _swap(transformer, {QuickGELU: FastQuickGELU})
    if Swap.CLIP_PATCHES in swaps and type(clip) is FrozenCLIP:
        clip.__class__ = FastCLIP
    if Swap.CLIP_CAPTIONS in swaps:
        _swap(clip, {CLIP: CutCLIP})


def sharing_copy(module: nn.Module) -> Any:
    """A copy of a module and of those in it, with the tensors of the original."""
    copied = copy.copy(module)
    vars(copied).update(
        _parameters=dict(module._parameters),
        _buffers=dict(module._buffers),
        _modules={name: None if part is None else sharing_copy(part) for name, part in module._modules.items()},
    )
    return copied


def _swap(network: nn.Module, classes: Mapping[type[nn.Module], type[nn.Module]]) -> None:
    for module in network.modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]
