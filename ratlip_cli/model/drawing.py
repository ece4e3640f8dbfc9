"""A generator that only draws: the same function with less work, derived from a trained one."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.model.cache import CACHE_BYTES
from ratlip_cli.model.convolution import Conv3x3
from ratlip_cli.model.generator import Generator
from ratlip_cli.model.onednn import PackedConv, is_usable
from ratlip_cli.model.shuffle_attention import SAConv, ShuffleAttention


class DoublingConv(nn.Module):
    """A Conv3x3 that always enlarges to twice the side: its 4x4 weights are summed once and for all."""

    def __init__(self, conv: Conv3x3) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv.spread_weight(), requires_grad=False)
        self.bias = conv.bias

    def forward(self, x: Tensor, size: int) -> Tensor:
        """(B,in,h,h) -> (B,out,2h,2h)"""
        return F.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1)


class UnshuffledAttention(nn.Module):
    """Shuffle attention that moves no channel: both kinds of attention act in place, each on one half of the tensor.

    Its channels come in the order `before` and leave in the order `behind` of `channel_orders`, for which the weights
    in front of it and behind it must be ordered.
    """

    def __init__(self, attention: ShuffleAttention) -> None:
        super().__init__()
        groups = attention.groups
        self.channel_weight = nn.Parameter(attention.channel_weight.repeat(1, groups, 1, 1), requires_grad=False)
        self.channel_bias = nn.Parameter(attention.channel_bias.repeat(1, groups, 1, 1), requires_grad=False)
        gain, offset = (tensor.repeat(groups)[None, :, None, None] for tensor in attention.spatial_affine())
        self.gain, self.offset = nn.Parameter(gain, requires_grad=False), nn.Parameter(offset, requires_grad=False)
        self.eps = attention.norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W), which is overwritten -> (B,C,H,W)"""
        x0, x1 = x.chunk(2, dim=1)
        pooled = x0.mean(dim=(2, 3), keepdim=True)
        x0.mul_(torch.sigmoid(self.channel_weight * pooled + self.channel_bias))
        # PyTorch's GroupNorm takes E[x^2] - E[x]^2 in channels last on a CPU: no digits are left where means are large.
        centred = x1 - x1.mean(dim=(2, 3), keepdim=True)
        scale = self.gain * torch.rsqrt(centred.square().mean(dim=(2, 3), keepdim=True) + self.eps)
        x1.mul_(torch.addcmul(self.offset, scale, centred).sigmoid_())
        return x


def channel_orders(channels: int, groups: int) -> tuple[Tensor, Tensor]:
    """Which channel (C,) of shuffle attention's input, and which of its output, is k-th in UnshuffledAttention."""
    before = torch.arange(channels).view(groups, 2, -1).transpose(0, 1).flatten()
    half = channels // 2
    return before, 2 * (before % half) + before // half


@torch.no_grad()
def for_sampling(generator: Generator) -> Generator:
    """A generator that draws the same images with less work and cannot be trained; `generator` stays as it is.

    BatchNorm becomes part of the convolution in front of it, the weights of upsampled convolutions are summed once, and
    the channel shuffle becomes the order of the weights around it; with neither shuffle nor groups to pay for it, the
    layout is channels last, which convolutions are fastest in. On a CPU their weights are packed, in float32, so not
    under autocast. All other weights are shared with `generator`.
    """
    shared = {id(tensor): tensor for tensor in (*generator.parameters(), *generator.buffers())}
    drawing = copy.deepcopy(generator, shared).eval()
    for module in drawing.modules():
        if isinstance(module, SAConv) and isinstance(module.conv, Conv3x3) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv, module.norm = _folded(module.conv, module.norm), nn.Identity()
    _unshuffle(drawing)
    sizes = generator.config.block_sizes(generator.geometry.grid)
    for block, before, size in zip(drawing.blocks, [generator.geometry.grid, *sizes], sizes, strict=False):
        if size == 2 * before and isinstance(block.conv1, SAConv):
            block.conv1.conv = _doubling(block.conv1.conv)
        elif size == 2 * before:
            block.conv1 = _doubling(block.conv1)
    for module in drawing.modules():
        if isinstance(module, nn.Conv2d | DoublingConv):
            weight = module.weight.detach().contiguous(memory_format=torch.channels_last)
            module.weight = nn.Parameter(weight, requires_grad=False)
    if drawing.code.weight.device.type == "cpu" and is_usable() and not torch.is_autocast_enabled("cpu"):
        _pack(drawing)
    return drawing


def images_at_once(generator: Generator) -> int:
    """How many images image-G draws at once on a CPU: as many as keep its largest tensor within CACHE_BYTES."""
    config, grid = generator.config, generator.geometry.grid
    sizes = config.block_sizes(grid)
    channels = config.block_channels(grid)[1:]
    largest = max(count * size**2 for count, size in zip(channels, sizes, strict=True))
    return max(1, CACHE_BYTES // (4 * largest))


def _unshuffle(drawing: Generator) -> None:
    """Leave out image-G's channel shuffles, and order the weights of everything that meets what was shuffled."""
    if not drawing.config.has_attention:
        return

    def orders(channels: int) -> tuple[Tensor, Tensor]:
        return channel_orders(channels, min(drawing.config.attention_groups, channels // 2))

    channels = drawing.config.block_channels(drawing.geometry.grid)
    blocks: Iterable[Any] = drawing.blocks
    _order(drawing.fuse, outputs=orders(channels[0])[1])
    for block, inner, outer in zip(blocks, channels, channels[1:], strict=False):
        (_, found), (before, behind) = orders(inner), orders(outer)
        for fuse, review, order in ((block.fuse1, block.conv1, found), (block.fuse2, block.conv2, behind)):
            for affine in fuse.affines:
                _order(affine.gamma[-1], outputs=order)
                _order(affine.beta[-1], outputs=order)
            _order(review.conv, inputs=order, outputs=before)
            review.attention = UnshuffledAttention(review.attention)
        if isinstance(block.shortcut, nn.Conv2d):
            _order(block.shortcut, inputs=found, outputs=behind)
    _order(drawing.to_rgb, inputs=orders(channels[-1])[1])


def _pack(drawing: Generator) -> None:
    """Pack the weights of every convolution, for images of the size that it meets."""
    grid = drawing.geometry.grid
    sizes = drawing.config.block_sizes(grid)
    blocks: Iterable[Any] = drawing.blocks
    _packed(drawing.bridge, grid)
    drawing.fuse = _packed(drawing.fuse, grid)
    for block, before, size in zip(blocks, [grid, *sizes], sizes, strict=False):
        block.conv1 = _packed(block.conv1, before if size == 2 * before else size)
        block.conv2 = _packed(block.conv2, size)
        block.shortcut = _packed(block.shortcut, before)
    drawing.to_rgb = _packed(drawing.to_rgb, sizes[-1])


def _packed(module: nn.Module, size: int) -> Any:
    """`module`, or what it is made of, with its convolutions packed."""
    if isinstance(module, nn.Conv2d | DoublingConv):
        return PackedConv(module.weight, module.bias, size, isinstance(module, DoublingConv))
    for name, part in module.named_children():
        setattr(module, name, _packed(part, size))
    return module


def _order(layer: nn.Conv2d | nn.Linear, inputs: Tensor | None = None, outputs: Tensor | None = None) -> None:
    """Let input and output k of a convolution or a linear layer be what `inputs[k]` and `outputs[k]` were."""
    weight = layer.weight if inputs is None else layer.weight[:, inputs]
    if outputs is not None:
        weight = weight[outputs]
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias[outputs], requires_grad=False)
    layer.weight = nn.Parameter(weight, requires_grad=False)


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
