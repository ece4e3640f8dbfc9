"""BatchNorm, LeakyReLU and shuffle attention (Section III-C) as one operation that keeps its input alone.

Plain autograd keeps three tensors of that size. What is needed of them is computed again, in chunks that stay in cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ratlip_cli.distributed import GlobalBatchNorm, World, world
from ratlip_cli.fast.chunks import chunks
from ratlip_cli.model.shuffle_attention import SLOPE, SAConv, ShuffleAttention


class FastSAConv(SAConv):
    """SAConv whose normalisation, activation and attention are one operation."""

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(self.conv(x))

    def attend(self, c: Tensor) -> Tensor:
        """attention(LReLU(norm(c))) (B,C,H,W) -> (B,C,H,W)"""
        norm, attention = self.norm, self.attention
        is_compiling = torch.compiler.is_compiling()
        if isinstance(norm, nn.BatchNorm2d) and isinstance(attention, ShuffleAttention) and not is_compiling:
            return norm_and_attention(c, norm, attention)
        attended: Tensor = attention(self.activation(norm(c)))
        return attended


class FastShuffleAttention(ShuffleAttention):
    """Shuffle attention whose GroupNorm has the spatial attention's weight and bias in its own."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return super().forward(x)
        x0, x1 = torch.unflatten(x, 1, (self.groups, 2, -1)).unbind(dim=2)  # (B, G, C/2G, H, W) each
        channel_gate = torch.sigmoid(self.channel_weight * x0.mean(dim=(-2, -1), keepdim=True) + self.channel_bias)
        gain, offset = spatial_affine(self)
        spatial_gate = F.group_norm(x1.flatten(0, 1), len(gain), gain, offset, self.norm.eps).sigmoid().view(x1.shape)
        attended = torch.stack((x0 * channel_gate, x1 * spatial_gate), dim=2)
        return torch.unflatten(attended.reshape(x.shape), 1, (2, -1)).transpose(1, 2).flatten(1, 2)


def spatial_affine(attention: ShuffleAttention) -> tuple[Tensor, Tensor]:
    """Gain and offset (C/2G,) of the normalised half: GroupNorm's and the spatial attention's, in one."""
    weight, bias = attention.spatial_weight.flatten(), attention.spatial_bias.flatten()
    return weight * attention.norm.weight, weight * attention.norm.bias + bias


def norm_and_attention(c: Tensor, norm: nn.BatchNorm2d, attention: ShuffleAttention) -> Tensor:
    """attention(LReLU(norm(c))) from less memory, and the running statistics moved: (B,C,H,W) -> (B,C,H,W)

    Of a BatchNorm as SAConv makes it, whose momentum is a number.
    """
    mean, var = norm.running_mean, norm.running_var
    batches_of: World | None = None
    if norm.training and isinstance(norm, GlobalBatchNorm):
        batches_of = world()
        mean, var = norm.statistics(c.detach())
    elif norm.training:
        batches_of = World()
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        mean, var = torch.batch_norm_update_stats(c.detach(), mean, var, norm.momentum or 0.0)
    weights = (norm.weight, norm.bias, attention.channel_weight, attention.channel_bias, *spatial_affine(attention))
    options = (batches_of, norm.eps, attention.groups, attention.norm.eps)
    out: Tensor = _NormAndAttention.apply(c, mean, var, options, *weights)
    return out


class _Gates(NamedTuple):
    """What shuffle attention computes of x (B,C,H,W) before it multiplies."""

    x0: Tensor  # One half of every group, for channel attention (B,a,b,C/2G,H,W), see `_halves`.
    x1: Tensor  # The other, for spatial attention.
    pooled: Tensor  # x0, averaged over its pixels (B,a,b,C/2G,1,1).
    channel_gate: Tensor  # What x0 is multiplied by (B,a,b,C/2G,1,1).
    rows: Tensor  # x1 as GroupNorm sees it (BG,C/2G,H,W).
    mean: Tensor  # Of each channel of `rows` (BG,C/2G).
    rstd: Tensor  # One over its standard deviation (BG,C/2G).
    spatial_gate: Tensor  # What x1 is multiplied by (B,a,b,C/2G,H,W).


class _NormAndAttention(torch.autograd.Function):
    """BatchNorm, LeakyReLU and shuffle attention. For the gradient they keep their input and no other large tensor."""

    @staticmethod
    def forward(
        ctx: Any,
        c: Tensor,
        mean: Tensor,
        var: Tensor,
        options: tuple[World | None, float, int, float],
        *weights: Tensor,
    ) -> Tensor:
        """`options`: whose batches mean and variance are of, None for none; epsilon of BatchNorm; groups of the
        attention; epsilon of its GroupNorm.
        """
        ctx.save_for_backward(c, mean, var, *weights)
        ctx.options = options
        _, eps, groups, group_eps = options
        scale, shift = _normalisation(mean, var, eps, *weights[:2])
        out = scale.new_empty(c.shape)
        for chunk in chunks(c):
            gates = _gates(_normalised(c[chunk], scale, shift), groups, group_eps, *weights[2:])
            _multiplied(gates, groups, out[chunk])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        c, mean, var, norm_weight, norm_bias, *weights = ctx.saved_tensors
        batches_of, eps, groups, group_eps = ctx.options
        scale, shift = _normalisation(mean, var, eps, norm_weight, norm_bias)
        mean, rstd = mean[:, None, None], torch.rsqrt(var + eps)[:, None, None]
        d_c, totals = gradient.new_empty(c.shape), [torch.zeros_like(tensor) for tensor in (scale, shift, *weights)]
        for chunk in chunks(c):
            x, d = _normalised(c[chunk], scale, shift), d_c[chunk]
            d_attention = _gates_backward(gradient[chunk], _gates(x, groups, group_eps, *weights), groups, weights, d)
            torch.ops.aten.leaky_relu_backward.grad_input(d, x, SLOPE, True, grad_input=d)
            d_norm_bias = d.sum((0, 2, 3))[:, None, None]
            d_norm_weight = torch.sub(c[chunk], mean, out=x).mul_(d).sum((0, 2, 3))[:, None, None] * rstd
            for total, of_chunk in zip(totals, (d_norm_weight, d_norm_bias, *d_attention), strict=True):
                total += of_chunk
        d_norm_weight, d_norm_bias, *d_weights = totals
        if batches_of is not None:
            of_all = torch.stack((rstd * d_norm_weight, d_norm_bias)) * c.shape[1] / c.numel()
            batches_of.mean_([of_all])
        for chunk in chunks(c):
            d = d_c[chunk]
            if batches_of is not None:  # nothing gets through that only shifts or scales the batch
                d.sub_((c[chunk] - mean).mul_(of_all[0])).sub_(of_all[1])
            d.mul_(scale)
        return d_c.to(c.dtype), None, None, None, d_norm_weight.flatten(), d_norm_bias.flatten(), *d_weights


def _normalisation(mean: Tensor, var: Tensor, eps: float, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """BatchNorm as scale and shift (C,1,1)"""
    scale = weight * torch.rsqrt(var + eps)
    return scale[:, None, None], (bias - mean * scale)[:, None, None]


def _normalised(c: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LReLU(BatchNorm(c))"""
    return F.leaky_relu((c * scale).add_(shift), SLOPE, inplace=True)


def _gates(x: Tensor, groups: int, eps: float, weight: Tensor, bias: Tensor, gain: Tensor, offset: Tensor) -> _Gates:
    """What `ShuffleAttention.forward` multiplies by, kept apart for the gradient."""
    x0, x1 = _halves(x.contiguous(), groups)
    pooled = x0.mean(dim=(-2, -1), keepdim=True)
    rows = x1.reshape(-1, *x1.shape[-3:]).contiguous()
    sizes = (len(rows), len(gain), rows.shape[-2:].numel(), len(gain))  # N, C, H*W, groups
    normalised, mean, rstd = torch.native_group_norm(rows, gain, offset, *sizes, eps)
    spatial_gate = normalised.sigmoid_().view(x1.shape)
    return _Gates(x0, x1, pooled, torch.sigmoid(weight * pooled + bias), rows, mean, rstd, spatial_gate)


def _multiplied(gates: _Gates, groups: int, out: Tensor) -> None:
    """Write what is gated, and shuffled, into `out` (B,C,H,W)."""
    shuffled = torch.unflatten(out, 1, (-1, 2)).transpose(1, 2)  # written to in its order before
    attended = torch.empty_like(out) if groups % 2 else shuffled  # an odd number: the shuffle cuts a group in two
    out0, out1 = _halves(attended, groups)
    torch.mul(gates.x0, gates.channel_gate, out=out0)
    torch.mul(gates.x1, gates.spatial_gate, out=out1)
    if groups % 2:
        shuffled.copy_(attended.view(shuffled.shape))


def _gates_backward(
    gradient: Tensor, gates: _Gates, groups: int, weights: list[Tensor], d_x: Tensor
) -> tuple[Tensor, ...]:
    """Write the gradient of x into `d_x`, and return that of the weights."""
    x0, x1, pooled, channel_gate, rows, mean, rstd, spatial_gate = gates
    weight, _, gain, _ = weights
    d0, d1 = _halves(torch.unflatten(gradient, 1, (-1, 2)).transpose(1, 2), groups)
    d_x0, d_x1 = _halves(d_x, groups)

    d_sigmoid = torch.mul(d0, x0, out=d_x0).sum(dim=(-2, -1), keepdim=True)
    d_channel = torch.ops.aten.sigmoid_backward(d_sigmoid, channel_gate)
    torch.mul(channel_gate, d0, out=d_x0).add_(d_channel * weight / x0.shape[-2:].numel())

    d_sigmoid = torch.empty_like(rows)
    torch.mul(d1, x1, out=d_sigmoid.view(x1.shape))
    d_normalised = torch.ops.aten.sigmoid_backward(d_sigmoid, spatial_gate.view(rows.shape))
    d_rows, d_gain, d_offset = torch.ops.aten.native_group_norm_backward(
        d_normalised, rows, mean, rstd, gain, len(rows), len(gain), rows.shape[-2:].numel(), len(gain), [True] * 3
    )
    torch.mul(d1, spatial_gate, out=d_x1).add_(d_rows.view(x1.shape))
    return (d_channel * pooled).sum_to_size(weight.shape), d_channel.sum_to_size(weight.shape), d_gain, d_offset


def _halves(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """(B,C,H,W), or with its channels in two dimensions -> x0 and x1 (B,a,b,C/2G,H,W), where a b is the groups G."""
    outer = 1 if groups % 2 else 2  # the halves of the channels, which the shuffle interleaves
    grouped = x.reshape(x.shape[0], outer, groups // outer, 2, -1, *x.shape[-2:])
    return grouped.select(3, 0), grouped.select(3, 1)  # what is written into `unbind` is exported for one batch size
