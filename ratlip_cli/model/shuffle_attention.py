"""Section III-C: shuffle attention, and the convolution that carries it.

Shuffle attention is from Zhang and Yang, "SA-Net: Shuffle Attention for Deep Convolutional Neural Networks", 2021.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ratlip_cli.model.convolution import Conv3x3


class ShuffleAttention(nn.Module):
    """Channel attention on one half of each group of channels, spatial attention on the other, then a channel shuffle.

    Args:
        channels: C of the input; divisible by twice the groups.
        groups: G; the same few weights serve every group.
    """

    def __init__(self, channels: int, groups: int = 8) -> None:
        super().__init__()
        self.groups = groups
        half = channels // (2 * groups)
        self.channel_weight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.channel_bias = nn.Parameter(torch.ones(1, half, 1, 1))
        self.spatial_weight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.spatial_bias = nn.Parameter(torch.ones(1, half, 1, 1))
        self.norm = nn.GroupNorm(half, half)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C,H,W)"""
        weights = (self.channel_weight, self.channel_bias, *self.spatial_affine())
        attended: Tensor = _Attended.apply(x, *weights, self.groups, self.norm.eps)
        return attended

    def spatial_affine(self) -> tuple[Tensor, Tensor]:
        """Gain and offset (C/2G,) of the normalised half: GroupNorm's and the spatial attention's, in one."""
        weight, bias = self.spatial_weight.flatten(), self.spatial_bias.flatten()
        return weight * self.norm.weight, weight * self.norm.bias + bias


class SAConv(nn.Module):
    """Conv3x3 without bias - BatchNorm - LeakyReLU(0.01) - shuffle attention: the review between two RATBLKs."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.conv: nn.Module = Conv3x3(in_channels, out_channels, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(out_channels)
        self.activation = nn.LeakyReLU(0.01, inplace=True)
        self.attention: nn.Module = ShuffleAttention(out_channels, min(groups, out_channels // 2))

    def forward(self, x: Tensor, size: int | None = None) -> Tensor:
        """(B,in,H,W) -> (B,out,H,W), or (B,out,size,size) of x enlarged to that size."""
        x = self.activation(self.norm(self.conv(x, size)))
        attended: Tensor = self.attention(x)
        return attended


class _Attended(torch.autograd.Function):
    """Both kinds of attention, and the shuffle. For the gradient they keep their input and no other large tensor.

    PyTorch's own gradient would keep what x0 and x1 are multiplied by, too: a sixth of what image-G keeps in training.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, offset: Tensor, groups: int, eps: float
    ) -> Tensor:
        batch, channels, height, width = x.shape
        x0, x1 = _halves(x.contiguous(), groups)
        pooled = x0.mean(dim=(-2, -1), keepdim=True, dtype=gain.dtype)
        channel_gate = torch.sigmoid(weight * pooled + bias)
        sizes = (batch * groups, len(gain), height * width, len(gain))  # of GroupNorm: N, C, H*W, groups
        rows = x1.to(gain).reshape(batch * groups, -1, height, width).contiguous()
        normalised, mean, rstd = torch.native_group_norm(rows, gain, offset, *sizes, eps)
        spatial_gate = normalised.sigmoid_().view(x1.shape)

        out = gain.new_empty(batch, channels // 2, 2, height, width).transpose(1, 2)  # its order before the shuffle
        if groups % 2:  # the shuffle cuts a group in two
            out = out.contiguous()
        out0, out1 = _halves(out, groups)
        torch.mul(x0, channel_gate, out=out0)
        torch.mul(x1, spatial_gate, out=out1)
        ctx.save_for_backward(x, weight, gain, offset, pooled, channel_gate, mean, rstd)
        ctx.groups, ctx.sizes = groups, sizes
        return out.transpose(1, 2).reshape(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, gain, offset, pooled, channel_gate, mean, rstd = ctx.saved_tensors
        batch, channels, height, width = x.shape
        x0, x1 = _halves(x.contiguous(), ctx.groups)
        d0, d1 = _halves(gradient.reshape(batch, channels // 2, 2, height, width).transpose(1, 2), ctx.groups)
        d_x = gradient.new_empty(x.shape)
        d_x0, d_x1 = _halves(d_x, ctx.groups)

        d_sigmoid = torch.mul(d0, x0, out=d_x0).sum(dim=(-2, -1), keepdim=True)
        d_channel = torch.ops.aten.sigmoid_backward(d_sigmoid, channel_gate)
        torch.addcmul(d_channel * weight / (height * width), channel_gate, d0, out=d_x0)

        rows = x1.to(gain).reshape(batch * ctx.groups, -1, height, width).contiguous()
        scale = rstd * gain
        shift = offset - mean * scale
        spatial_gate = torch.addcmul(shift[:, :, None, None], scale[:, :, None, None], rows).sigmoid_()
        d_sigmoid = torch.empty_like(rows)
        torch.mul(d1, x1, out=d_sigmoid.view(x1.shape))
        d_normalised = d_sigmoid.mul_(spatial_gate).addcmul_(d_sigmoid, spatial_gate, value=-1)
        d_rows, d_gain, d_offset = torch.ops.aten.native_group_norm_backward(
            d_normalised, rows, mean, rstd, gain, *ctx.sizes, [True, True, True]
        )
        torch.addcmul(d_rows.view(x1.shape), d1, spatial_gate.view(x1.shape), out=d_x1)

        d_weight, d_bias = (d_channel * pooled).sum_to_size(weight.shape), d_channel.sum_to_size(weight.shape)
        return d_x.to(x.dtype), d_weight, d_bias, d_gain, d_offset, None, None


def _halves(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """(B,C,H,W), or with its channels in two dimensions -> x0 and x1 (B,a,b,C/2G,H,W), where a b is the groups G."""
    outer = 1 if groups % 2 else 2  # the halves of the channels, which the shuffle interleaves
    grouped = x.reshape(x.shape[0], outer, groups // outer, 2, -1, *x.shape[-2:])
    return grouped.select(3, 0), grouped.select(3, 1)  # what is written into `unbind` is exported for one batch size
