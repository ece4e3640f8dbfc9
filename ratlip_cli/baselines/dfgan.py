"""DF-GAN: Tao et al., "DF-GAN: A Simple and Effective Baseline for Text-to-Image Synthesis", 2022.

One stage, on pixels: every block of the generator doubles the side, and the text enters by affines in each of them;
the discriminator halves the side down to 4 x 4 pixels, where the text joins. z (B,noise_dim) ~ N(0,I); T (B,d) is the
text vector; y = [z;T]; S is the side of the images; nf the channels of the layer next to the pixels. Where S is no
power of two, the other sides are S halved and rounded down, and the smallest, 4 as published, is 4 to 7.

`Generator2020` is the generator of the paper's first version, which RAT-GAN builds on.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.rat import CATBLK, SLOPE, Affine

SMALLEST_SIDE = 4
"""Of the feature maps in which the generator begins and the discriminator ends, and of the head's last kernel."""


def sides(image_size: int) -> list[int]:
    """Sides of the feature maps from `image_size` down to 4 to 7 pixels: 256, 128, ..., 4; or 100, 50, 25, 12, 6."""
    return [image_size >> halvings for halvings in range(image_size.bit_length() - 2)]


def widths(image_size: int, channels: int, most: int) -> list[int]:
    """Channels at each of these sides: nf, doubled at each halving up to `most` times nf."""
    return [channels * min(2**halvings, most) for halvings in range(len(sides(image_size)))]


class Generator(nn.Module):
    """Noise and text vectors to images.

    Args:
        image_size: side S of the images.
        channels: nf.
        noise_dim, text_dim: lengths of z and T.
    """

    def __init__(self, image_size: int, channels: int, noise_dim: int, text_dim: int) -> None:
        super().__init__()
        narrowing, growing = widths(image_size, channels, most=8)[::-1], sides(image_size)[::-1]
        self.side = growing[0]
        self.code = nn.Linear(noise_dim, narrowing[0] * self.side**2)
        self.blocks = nn.ModuleList(
            UpBlock(noise_dim + text_dim, *both, side)
            for both, side in zip(pairwise(narrowing), growing[1:], strict=True)
        )
        self.to_rgb = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, noise: Tensor, text: Tensor, clip: FrozenCLIP | None = None) -> Tensor:
        """z (B,noise_dim) and T (B,d) -> images (B,3,S,S) in [-1,1]. `clip` is not needed."""
        y = torch.cat((noise, text), dim=1)
        x = self.code(noise).unflatten(1, (-1, self.side, self.side))  # (B, 8nf, 4, 4)
        for block in self.blocks:
            x = block(x, y)  # (B, C, 8, 8) ... (B, nf, S, S)
        return torch.tanh(self.to_rgb(F.leaky_relu(x, SLOPE)))


class UpBlock(nn.Module):
    """Twice the side, rounded up where `side` says so: shortcut + Conv(DFBLK(Conv(DFBLK(x)))); a DFBLK is a CATBLK.

    The paper enlarges x first. Affines, LeakyReLU and 1x1 convolution act on each pixel alone, so they give the same
    before it, on a quarter of the pixels.
    """

    def __init__(self, condition_dim: int, in_channels: int, out_channels: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.fuse1 = CATBLK(condition_dim, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.fuse2 = CATBLK(condition_dim, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = _shortcut(in_channels, out_channels)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (B,in,h,h) and y (B,noise_dim+d) -> (B,out,2h,2h), or 2h+1"""
        c = self.conv1(_enlarged(self.fuse1(x, y), self.side))  # (B, out, 2h, 2h)
        c = self.conv2(self.fuse2(c, y))
        out: Tensor = _enlarged(self.shortcut(x), self.side) + c
        return out


class Discriminator(nn.Module):
    """Is this image real, and does it belong to this text?

    Args:
        image_size: side S of the images.
        channels: nf.
        text_dim: length of T.
        most: the widest block has as many times nf channels.
    """

    def __init__(self, image_size: int, channels: int, text_dim: int, most: int = 8) -> None:
        super().__init__()
        widening = widths(image_size, channels, most)
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(DownBlock(*both) for both in pairwise(widening))
        self.head = Head(widening[-1] + text_dim, 2 * channels)

    def forward(self, images: Tensor, text: Tensor) -> Tensor:
        """Images (B,3,S,S) in [-1,1] and T (B,d) -> logits (B,), high for real and matching."""
        logits: Tensor = self.head(self.features(images), text)
        return logits

    def features(self, images: Tensor) -> Tensor:
        """What the discriminator sees in images (B,3,S,S) before it knows their text: (B,C,4,4), or up to 7 x 7"""
        x: Tensor = self.conv(images)
        for block in self.blocks:
            x = block(x)
        return x


class DownBlock(nn.Module):
    """Half the side: shortcut + gamma * residual; gamma starts at 0.

    As in the published code every block has the 1x1 convolution of the shortcut, and uses it where channels change
    alone. The paper pools after it; before, the sums are the same, of a quarter of the products.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(B,in,h,h) -> (B,out,h/2,h/2)"""
        residual = F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x), SLOPE)), SLOPE)
        shortcut = F.avg_pool2d(x, 2)
        if self.shortcut.in_channels != self.shortcut.out_channels:
            shortcut = self.shortcut(shortcut)
        return shortcut + self.gamma * residual


class Head(nn.Module):
    """One logit from features and the text vector, tiled to every place; the mean of several where there are more."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, 1, SMALLEST_SIDE, bias=False)

    def forward(self, features: Tensor, text: Tensor) -> Tensor:
        """(B,C,4,4) and T (B,d) -> (B,)"""
        tiled = text[:, :, None, None].expand(-1, -1, *features.shape[2:])
        x = F.leaky_relu(self.conv1(torch.cat((features, tiled), dim=1)), SLOPE)  # (B, 2nf, 4, 4)
        logits: Tensor = self.conv2(x)  # (B, 1, 1, 1)
        return logits.mean(dim=(1, 2, 3))


class Generator2020(nn.Module):
    """The generator of the first version: a block more, at 4 x 4 pixels, affines that read T alone, gamma * residual.

    Args:
        image_size: side S of the images.
        channels: nf.
        noise_dim: length of z.
        condition_dim: length of an affine's condition.
        affine_width: hidden units of an affine's two MLPs.
        affines: how many affines stand before each convolution.
    """

    def __init__(
        self, image_size: int, channels: int, noise_dim: int, condition_dim: int, affine_width: int, affines: int = 2
    ) -> None:
        super().__init__()
        narrowing, growing = widths(image_size, channels, most=8)[::-1], sides(image_size)[::-1]
        self.side = growing[0]
        self.code = nn.Linear(noise_dim, narrowing[0] * self.side**2)
        self.blocks = nn.ModuleList(
            Block2020(condition_dim, affine_width, affines, *both, side)
            for both, side in zip(pairwise([narrowing[0], *narrowing]), growing, strict=True)
        )
        self.affines = 2 * affines * len(narrowing)  # in all blocks
        self.to_rgb = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, noise: Tensor, text: Tensor, clip: FrozenCLIP | None = None) -> Tensor:
        """z (B,noise_dim) and T (B,d) -> images (B,3,S,S) in [-1,1]. `clip` is not needed."""
        x = self.code(noise).unflatten(1, (-1, self.side, self.side))  # (B, 8nf, 4, 4)
        for block, conditions in zip(self.blocks, self.conditions(noise, text).chunk(len(self.blocks)), strict=True):
            x = block(x, conditions)  # (B, 8nf, 4, 4) ... (B, nf, S, S)
        return torch.tanh(self.to_rgb(F.leaky_relu(x, SLOPE)))

    def conditions(self, noise: Tensor, text: Tensor) -> Tensor:
        """The conditions (N,B,condition_dim) of all N affines in order: T for each."""
        return text.expand(self.affines, -1, -1)


class Block2020(nn.Module):
    """shortcut + gamma * Conv(affines(Conv(affines(x)))), a LeakyReLU after every affine; of that `side`.

    What `UpBlock` says of the enlargement holds here too.
    """

    def __init__(
        self, condition_dim: int, affine_width: int, affines: int, in_channels: int, out_channels: int, side: int
    ) -> None:
        super().__init__()
        self.side = side
        self.affines1 = nn.ModuleList(Affine(condition_dim, in_channels, affine_width) for _ in range(affines))
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.affines2 = nn.ModuleList(Affine(condition_dim, out_channels, affine_width) for _ in range(affines))
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = _shortcut(in_channels, out_channels)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
        """x (B,in,h,h) and its affines' conditions (N,B,condition_dim) -> (B,out,side,side)"""
        c, shortcut = x, self.shortcut(x)
        first, second = conditions.chunk(2)
        for affine, condition in zip(self.affines1, first, strict=True):
            c = F.leaky_relu(affine(c, condition), SLOPE)
        c, shortcut = _enlarged(c, self.side), _enlarged(shortcut, self.side)
        c = self.conv1(c)
        for affine, condition in zip(self.affines2, second, strict=True):
            c = F.leaky_relu(affine(c, condition), SLOPE)
        out: Tensor = shortcut + self.gamma * self.conv2(c)
        return out


def _shortcut(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)


def _enlarged(x: Tensor, side: int) -> Tensor:
    """(B,C,h,h) -> (B,C,side,side), each pixel four times where that is twice the side."""
    return x if x.shape[-1] == side else F.interpolate(x, (side, side), mode="nearest")
