"""Blocks of image-G (Fig. 1) without ever making the enlarged input, and the last convolution, to three colours.

Affines, LeakyReLU and 1x1 convolutions act on each pixel alone, so they give the same values before the nearest
upsampling as after it, on a quarter of the pixels.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ratlip_cli.fast.attention import FastSAConv
from ratlip_cli.model.generator import GBlock

_SPREAD = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
"""A pixel of the small image is two of the large one side by side: their taps, added up."""


@functools.cache
def _spread(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(9,16): of a 3x3 kernel the sums that make a 4x4 one, both ways at once."""
    return torch.kron(_SPREAD, _SPREAD).T.to(device, dtype)


class FastGBlock(GBlock):
    """A block of image-G whose affines and shortcut run before the upsampling."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return super().forward(x, y)
        return plus_enlarged(self.convolved(x, y), self.shortcut(x))

    def convolved(self, x: Tensor, y: Tensor) -> Tensor:
        """What is added to the enlarged shortcut."""
        c = self.fuse1(x, y)
        if isinstance(self.conv1, FastSAConv):
            c = self.conv1.attend(self.conv1.conv(c, self.size))
        else:
            c = self.conv1(c, self.size)
        convolved: Tensor = self.conv2(self.fuse2(c, y))
        return convolved


class ExportedGBlock(FastGBlock):
    """A FastGBlock of operations that every format of exported models has."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.convolved(x, y) + F.interpolate(self.shortcut(x), size=(self.size, self.size), mode="nearest")


class UpsamplingConv(nn.Conv2d):
    """A 3x3 convolution with padding 1, of an image as it is or of its nearest upsampling."""

    def forward(self, x: Tensor, size: int | None = None) -> Tensor:
        """(B,in,h,h) -> (B,out,size,size): the convolution of x, enlarged to `size` pixels a side if that is given.

        Enlarged to exactly twice its side, x is convolved in one transposed convolution of stride 2, whose 4x4 weights
        are sums of the 3x3 ones: the same values from 4/9 of the arithmetic, and the large image is never made.
        """
        side = x.shape[-1]
        if size is None or size == side:
            return super().forward(x)
        if size != 2 * side:
            return super().forward(F.interpolate(x, size=(size, size), mode="nearest"))
        return F.conv_transpose2d(x, self.spread_weight(), self.bias, stride=2, padding=1)

    def spread_weight(self) -> Tensor:
        """(in,out,4,4): the weights of the transposed convolution, in its own order."""
        out_channels, in_channels = self.weight.shape[:2]
        reversed_taps = self.weight.flip(2, 3).transpose(0, 1).reshape(-1, 9)
        return (reversed_taps @ _spread(self.weight.device, self.weight.dtype)).view(in_channels, out_channels, 4, 4)


class ColourConv(nn.Conv2d):
    """The 3x3 convolution with padding 1 to the three colours.

    A CPU convolves to sixteen channels at a time, however few are wanted. So each row of the kernel is convolved to
    channels of its own, in one convolution to nine, and added to the row of the image where it belongs.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B,in,h,w) -> (B,3,h,w)"""
        if x.device.type != "cpu" or self.bias is None or torch.compiler.is_compiling():
            return super().forward(x)
        kernel_rows = self.weight.transpose(1, 2).flatten(0, 1)[:, :, None]  # (9,in,1,3)
        rows = F.conv2d(x, kernel_rows, padding=(0, 1))
        above, here, below = (rows[:, row::3] for row in range(3))
        out = here + self.bias[:, None, None]
        out[:, :, 1:] += above[:, :, :-1]
        out[:, :, :-1] += below[:, :, 1:]
        return out


def plus_enlarged(x: Tensor, small: Tensor) -> Tensor:
    """x (B,C,size,size), which may be overwritten, plus the nearest upsampling of `small` (B,C,h,h) to its size."""
    size = x.shape[-1]
    if size != 2 * small.shape[-1]:
        return x + F.interpolate(small, size=(size, size), mode="nearest")
    added: Tensor = _PlusDoubled.apply(x, small)
    return added


class _PlusDoubled(torch.autograd.Function):
    """Adds an image to one of twice its side, each pixel to the four that it becomes, and makes no large tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, small: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        for row in range(2):
            for column in range(2):
                x[:, :, row::2, column::2] += small
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        rows = gradient[:, :, ::2] + gradient[:, :, 1::2]
        return gradient, rows[..., ::2] + rows[..., 1::2]
