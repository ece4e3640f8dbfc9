"""Section III-C: shuffle attention, and the convolution that carries it.

Shuffle attention is from Zhang and Yang, "SA-Net: Shuffle Attention for Deep Convolutional Neural Networks", 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
        batch, channels, height, width = x.shape
        x0, x1 = x.reshape(batch * self.groups, -1, height, width).chunk(2, dim=1)  # (BG, C/2G, H, W) each
        pooled = x0.mean(dim=(2, 3), keepdim=True)
        x0 = x0 * torch.sigmoid(self.channel_weight * pooled + self.channel_bias)
        x1 = x1 * torch.sigmoid(self.spatial_weight * self.norm(x1) + self.spatial_bias)
        x = torch.cat((x0, x1), dim=1).reshape(batch, 2, channels // 2, height, width)
        return x.transpose(1, 2).reshape(batch, channels, height, width)  # channel shuffle with two groups


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
