"""LAFITE's operations as the published code computes them without its CUDA kernels: what ours are measured against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from ratlip_cli.baselines import lafite


def upfirdn(x: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0), gain: float = 1.0) -> Tensor:
    """Zeros inserted, padded, correlated with the filter, every `down`-th value kept."""
    batch, channels, height, width = x.shape
    x = F.pad(x.reshape(batch, channels, height, 1, width, 1), [0, up - 1, 0, 0, 0, up - 1])
    x = F.pad(x.reshape(batch, channels, height * up, width * up), [*pad, *pad])
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype)
    kernel = (torch.outer(taps, taps) / 64 * gain).expand(channels, 1, 4, 4)
    return F.conv2d(x, kernel, groups=channels)[:, :, ::down, ::down]


def up2(x: Tensor) -> Tensor:
    return upfirdn(x, up=2, pad=(2, 1), gain=4)


def down2(x: Tensor) -> Tensor:
    return upfirdn(x, down=2, pad=(1, 1))


def conv3_up2(x: Tensor, weight: Tensor) -> Tensor:
    return upfirdn(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), pad=(1, 1), gain=4)


def conv3_down2(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(upfirdn(x, pad=(2, 2)), weight, stride=2)


def modulated_conv(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool = True, up: bool = False) -> Tensor:
    """The unfused form, in which the published code trains: a kernel for each sample is made for its norm alone."""
    kernels = weight * style[:, None, :, None, None]  # (B, out, in, k, k)
    x = x * style[:, :, None, None]
    x = conv3_up2(x, weight) if up else F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    return x * (kernels.square().sum(dim=(2, 3, 4)) + 1e-8).rsqrt()[:, :, None, None] if demodulate else x


def fused_modulated_conv(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool = True, up: bool = False) -> Tensor:
    """The grouped form: every sample is convolved with its own kernel."""
    batch, channels = x.shape[:2]
    kernels = weight * style[:, None, :, None, None]
    if demodulate:
        kernels = kernels * (kernels.square().sum(dim=(2, 3, 4)) + 1e-8).rsqrt()[:, :, None, None, None]
    x = x.reshape(1, batch * channels, *x.shape[2:])
    if up:
        flat = kernels.transpose(1, 2).flatten(0, 1)  # (B*in, out, k, k)
        x = upfirdn(F.conv_transpose2d(x, flat, stride=2, groups=batch), pad=(1, 1), gain=4)
    else:
        x = F.conv2d(x, kernels.flatten(0, 1), padding=weight.shape[-1] // 2, groups=batch)
    return x.reshape(batch, -1, *x.shape[2:])


@contextmanager
def plain_operations(fused: bool = False) -> Iterator[None]:
    """Inside, the networks compute with the operations above."""
    plain = {"up2": up2, "down2": down2, "conv3_up2": conv3_up2, "conv3_down2": conv3_down2}
    with patch.multiple(lafite, modulated_conv=fused_modulated_conv if fused else modulated_conv, **plain):
        yield
