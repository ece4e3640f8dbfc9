"""A generator that only draws: the same function with less work, derived from a trained one."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.model.convolution import Conv3x3
from ratlip_cli.model.generator import Generator
from ratlip_cli.model.shuffle_attention import SAConv

CACHE_BYTES = 16 * 2**20
"""What is assumed to stay in a CPU's cache between one layer and the next."""


class DoublingConv(nn.Module):
    """A Conv3x3 that always enlarges to twice the side: its 4x4 weights are summed once and for all."""

    def __init__(self, conv: Conv3x3) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv.spread_weight(), requires_grad=False)
        self.bias = conv.bias

    def forward(self, x: Tensor, size: int) -> Tensor:
        """(B,in,h,h) -> (B,out,2h,2h)"""
        return F.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1)


@torch.no_grad()
def for_drawing(generator: Generator, channels_last: bool = False) -> Generator:
    """A generator that draws the same pictures with less work and cannot be trained; `generator` stays as it is.

    BatchNorm becomes part of the convolution in front of it, and the weights of upsampled convolutions are summed once.
    All other weights are shared with `generator`.

    Args:
        channels_last: keep the convolutions' weights in the layout that a GPU's matrix units read.
    """
    shared = {id(tensor): tensor for tensor in (*generator.parameters(), *generator.buffers())}
    drawing = copy.deepcopy(generator, shared).eval()
    for module in drawing.modules():
        if isinstance(module, SAConv) and isinstance(module.conv, Conv3x3) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv, module.norm = _folded(module.conv, module.norm), nn.Identity()
    sizes = generator.config.block_sizes(generator.geometry.grid)
    for block, before, size in zip(drawing.blocks, [generator.geometry.grid, *sizes], sizes, strict=False):
        if size == 2 * before and isinstance(block.conv1, SAConv):
            block.conv1.conv = _doubling(block.conv1.conv)
        elif size == 2 * before:
            block.conv1 = _doubling(block.conv1)
    if channels_last:
        for module in drawing.modules():
            if isinstance(module, nn.Conv2d | DoublingConv):
                weight = module.weight.detach().contiguous(memory_format=torch.channels_last)
                module.weight = nn.Parameter(weight, requires_grad=False)
    return drawing


def pictures_at_once(generator: Generator) -> int:
    """How many pictures image-G draws at once on a CPU: as many as keep its largest tensor within CACHE_BYTES."""
    config, grid = generator.config, generator.geometry.grid
    sizes = config.block_sizes(grid)
    channels = config.block_channels(grid)[1:]
    largest = max(count * size**2 for count, size in zip(channels, sizes, strict=True))
    return max(1, CACHE_BYTES // (4 * largest))


def _doubling(conv: object) -> DoublingConv:
    if not isinstance(conv, Conv3x3):
        raise TypeError(f"{type(conv).__name__} is no convolution of a trained generator")
    return DoublingConv(conv)


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Conv3x3:
    """norm(conv(x)) as one convolution: its weights divided by sigma, and moved by -mu/sigma."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("this BatchNorm has no running statistics")
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    folded = Conv3x3(conv.in_channels, conv.out_channels).requires_grad_(False)
    folded.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
    folded.bias = nn.Parameter(norm.bias - norm.running_mean * scale, requires_grad=False)
    return folded
