"""Section III-C: shuffle attention, and the convolution that carries it.

Shuffle attention is from Zhang and Yang, "SA-Net: Shuffle Attention for Deep Convolutional Neural Networks", 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SLOPE = 0.01
"""Of the LeakyReLU before shuffle attention."""


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
        x0, x1 = torch.unflatten(x, 1, (self.groups, 2, -1)).unbind(dim=2)  # (B, G, C/2G, H, W) each
        pooled = x0.mean(dim=(-2, -1), keepdim=True)  # (B, G, C/2G, 1, 1)
        x0 = x0 * torch.sigmoid(self.channel_weight * pooled + self.channel_bias)
        normed = self.norm(x1.flatten(0, 1)).view(x1.shape)
        x1 = x1 * torch.sigmoid(self.spatial_weight * normed + self.spatial_bias)
        attended = torch.stack((x0, x1), dim=2).reshape(x.shape)
        return torch.unflatten(attended, 1, (2, -1)).transpose(1, 2).flatten(1, 2)  # the channel shuffle, 2 groups


class SAConv(nn.Module):
    """Conv3x3 without bias - BatchNorm - LeakyReLU(0.01) - shuffle attention: the "review" between two RATBLKs."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.conv: nn.Module = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(out_channels)
        self.activation = nn.LeakyReLU(SLOPE)
        self.attention: nn.Module = ShuffleAttention(out_channels, min(groups, out_channels // 2))

    def forward(self, x: Tensor) -> Tensor:
        """(B,in,H,W) -> (B,out,H,W)"""
        attended: Tensor = self.attention(self.activation(self.norm(self.conv(x))))
        return attended
