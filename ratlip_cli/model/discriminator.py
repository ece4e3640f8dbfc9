"""Section III-A: Mate-D, the paired discriminator. It looks at CLIP features and holds no frozen weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.errors import UsageError
from ratlip_cli.model.config import ClipGeometry, DiscriminatorConfig

SMALLEST_GRID = 4
"""The referee's first convolution is 4x4."""
_STEM_CHANNELS = 32


class Discriminator(nn.Module):
    """FE extractor and referee: does this image belong to this text, and is it real?

    Args:
        config: the sizes.
        geometry: the CLIP whose features it is given; a grid of at least 4 patches.
    """

    def __init__(self, config: DiscriminatorConfig, geometry: ClipGeometry) -> None:
        super().__init__()
        if geometry.grid < SMALLEST_GRID:
            raise UsageError(
                f"the CLIP has a grid of {geometry.grid} patches; the discriminator needs {SMALLEST_GRID} or more."
            )
        self.config = config
        channels = 8 * config.base_channels
        self.extractor = FEExtractor(geometry.width, channels, PixelStem(geometry) if config.pixel_stem else None)
        self.referee = Referee(channels + geometry.embed_dim, 2 * config.base_channels, geometry.grid)

    def forward(self, patches: Tensor, text: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Logits (B,): high means real and matching.

        Args:
            patches, pixels: of `FrozenCLIP.features`; the pixels are looked at by a pixel stem only.
            text: T (B,d).
        """
        logits: Tensor = self.referee(self.extractor(patches, pixels), text)
        return logits


class FEExtractor(nn.Module):
    """Collects the bridge features f0, f1, f2 of three CLIP blocks. Its learned scalars a, b start at 0."""

    def __init__(self, width: int, channels: int, stem: PixelStem | None = None) -> None:
        super().__init__()
        self.stem = stem
        self.residual1 = _residual(width, width)
        self.residual2 = _residual(width, width)
        self.residual3 = _residual(width, channels)
        self.project = nn.Conv2d(width, channels, 1)
        self.a = nn.Parameter(torch.zeros(3))
        self.b = nn.Parameter(torch.zeros(2))

    def forward(self, patches: Tensor, pixels: Tensor | None = None) -> Tensor:
        """(B,3,W,g,g), and with a pixel stem (B,3,image_size,image_size) -> (B,channels,g,g)"""
        f0, f1, f2 = patches.unbind(dim=1)
        x = f0
        if self.stem is not None:
            if pixels is None:
                raise TypeError("this discriminator has a pixel stem and needs the pixels.")
            x = x + self.stem(pixels)
        x = x + self.a[0] * self.residual1(x) + self.b[0] * f1
        x = x + self.a[1] * self.residual2(x) + self.b[1] * f2
        extracted: Tensor = self.project(x) + self.a[2] * self.residual3(x)
        return extracted


class PixelStem(nn.Module):
    """Lets the discriminator see the pixels beside CLIP's features of them. An option, not in the paper.

    Where patches have more values than the CLIP is wide, it cannot tell all images apart, and a generator's noise
    stays where nobody looks. Convolutions of stride 2, down to the grid; a new stem adds zero.
    """

    def __init__(self, geometry: ClipGeometry) -> None:
        super().__init__()
        self.grid = geometry.grid
        halvings = (geometry.image_size // geometry.grid).bit_length() - 1
        channels = [3, *(min(_STEM_CHANNELS * 2**i, geometry.width) for i in range(halvings - 1))]
        self.inner = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], 4, stride=2, padding=1) for i in range(halvings - 1)
        )
        self.last = nn.Conv2d(channels[-1], geometry.width, 4, stride=2, padding=1, bias=False)
        nn.init.zeros_(self.last.weight)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B,3,image_size,image_size) in [-1,1] -> (B,W,g,g)"""
        x = pixels
        for convolution in self.inner:
            x = F.leaky_relu(convolution(x), 0.2)
        x = self.last(x)
        return x if x.shape[-1] == self.grid else F.adaptive_avg_pool2d(x, self.grid)


class Referee(nn.Module):
    """One logit from the extracted feature and the text vector, tiled to every patch."""

    def __init__(self, in_channels: int, channels: int, grid: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 4, bias=False)
        self.conv2 = nn.Conv2d(channels, 1, grid - 3, bias=False)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """(B,channels,g,g) and T (B,d) -> (B,)"""
        tiled = text[:, :, None, None].expand(-1, -1, *x.shape[2:])
        x = F.leaky_relu(self.conv1(torch.cat((x, tiled), dim=1)), 0.2)  # (B, 2nf, g-3, g-3)
        logit: Tensor = self.conv2(x)  # (B, 1, 1, 1)
        return logit.flatten()


def _residual(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.LeakyReLU(0.2),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        nn.LeakyReLU(0.2),
    )
