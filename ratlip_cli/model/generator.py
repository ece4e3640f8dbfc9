"""Section III-A, Fig. 1: the generator. RAT bridge, CLIP-BLK, image-G.

z (B,noise_dim) ~ N(0,I); T (B,d) is CLIP's text vector, not normalised; y = [z;T]; W, g are CLIP's width and grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.errors import UsageError
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.config import ClipGeometry, GeneratorConfig
from ratlip_cli.model.rat import (
    CATBLK,
    RATBLK,
    AffineState,
    LSTMPerAffine,
    NoRecurrence,
    Recurrence,
    SharedLSTM,
)
from ratlip_cli.model.shuffle_attention import SAConv

CLIP_RESIDUAL = 0.1
"""Share of CLIP-BLK's output that is added to the bridge feature."""


class Generator(nn.Module):
    """Noise and text vectors to images. It holds no CLIP weights: the frozen CLIP comes as an argument.

    Args:
        config: the sizes; `config.variant` decides which affine and which convolution are used.
        geometry: the CLIP it will be given.
    """

    def __init__(self, config: GeneratorConfig, geometry: ClipGeometry) -> None:
        super().__init__()
        if config.image_size < geometry.grid:
            raise UsageError(
                f"image_size {config.image_size} is smaller than the CLIP's grid of {geometry.grid} patches."
            )
        self.config = config
        self.geometry = geometry
        condition_dim = config.noise_dim + geometry.embed_dim
        channels = config.block_channels(geometry.grid)
        sizes = config.block_sizes(geometry.grid)

        self.code = nn.Linear(config.noise_dim, config.bridge_channels * geometry.grid**2)
        self.bridge = RATBridge(config, geometry)
        self.prompts = nn.Linear(condition_dim, geometry.prompts * geometry.width)
        self.fuse = nn.Conv2d(geometry.width, channels[0], 5, padding=2)
        self.blocks = nn.ModuleList(
            GBlock(config, condition_dim, channels[i], channels[i + 1], size) for i, size in enumerate(sizes)
        )
        self.activation = nn.LeakyReLU(0.2)
        self.to_rgb = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, noise: Tensor, text: Tensor, clip: FrozenCLIP) -> Tensor:
        """Generate one image per row.

        Args:
            noise: z (B,noise_dim).
            text: T (B,d), from `clip.encode_text`.
            clip: the frozen CLIP of the geometry given at construction.

        Returns:
            Images (B,3,image_size,image_size), float, nominally in [-1,1]; clamp them when they become pixels.
        """
        feature, prompts = self.clip_input(noise, text)
        return self.image_g(feature, clip.clip_blk(feature, prompts), noise, text)

    def clip_input(self, noise: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """What CLIP-BLK is given: the bridge feature (B,W,g,g) and the prompts (B,8,W)."""
        grid = self.geometry.grid
        code = self.code(noise).unflatten(1, (-1, grid, grid))  # (B, 64, g, g)
        feature: Tensor = self.bridge(code, noise, text)  # (B, W, g, g)
        prompts = self.prompts(torch.cat((noise, text), dim=1))
        return feature, prompts.unflatten(1, (-1, self.geometry.width))  # (B, 8, W)

    def image_g(self, feature: Tensor, clip_feature: Tensor, noise: Tensor, text: Tensor) -> Tensor:
        """The image (B,3,S,S) from the bridge feature, CLIP-BLK's output (B,W,g,g), z and T."""
        y = torch.cat((noise, text), dim=1)
        x = self.fuse(feature + CLIP_RESIDUAL * clip_feature)  # (B, 8nf, g, g)
        for block in self.blocks:
            x = block(x, y)  # (B, C, size, size)
        image: Tensor = self.to_rgb(self.activation(x))  # (B, 3, S, S)
        return image


class RATBridge(nn.Module):
    """Turns the code of the noise into a feature that the frozen ViT can read, letting the text in at every affine."""

    def __init__(self, config: GeneratorConfig, geometry: ClipGeometry) -> None:
        super().__init__()
        self.recurrence = _recurrence(config, geometry)
        self.blocks = nn.ModuleList(
            BridgeBlock(config, self.recurrence.condition_dim) for _ in range(config.bridge_blocks)
        )
        self.to_clip = nn.Conv2d(config.bridge_channels, geometry.width, 5, padding=2)

    def forward(self, code: Tensor, noise: Tensor, text: Tensor) -> Tensor:
        """code (B,64,g,g), z and T -> the bridge feature (B,W,g,g)."""
        c, state = code, self.recurrence.initial_state(noise, text)
        for block in self.blocks:
            c, state = block(c, text, state, self.recurrence)
        feature: Tensor = self.to_clip(c)
        return feature


class BridgeBlock(nn.Module):
    """x + RATBLK(SAConv(RATBLK(Conv3x3(x)))): an SAConv between two RATBLKs (III-C)."""

    def __init__(self, config: GeneratorConfig, condition_dim: int) -> None:
        super().__init__()
        channels, inner = config.bridge_channels, config.bridge_channels // 2
        self.conv1 = nn.Conv2d(channels, inner, 3, padding=1)
        self.fuse1 = RATBLK(condition_dim, inner)
        self.conv2 = _convolution(config, inner, channels)
        self.fuse2 = RATBLK(condition_dim, channels)

    def forward(
        self, x: Tensor, text: Tensor, state: AffineState, recurrence: Recurrence
    ) -> tuple[Tensor, AffineState]:
        """x (B,64,g,g) -> (B,64,g,g), and the state for the next block."""
        c, state = self.fuse1(self.conv1(x), text, state, recurrence)
        c, state = self.fuse2(self.conv2(c), text, state, recurrence)
        return x + c, state


class GBlock(nn.Module):
    """One block of image-G: upsampling, then shortcut + SAConv(CATBLK(SAConv(CATBLK(x))))."""

    def __init__(
        self, config: GeneratorConfig, condition_dim: int, in_channels: int, out_channels: int, size: int
    ) -> None:
        super().__init__()
        self.size = size
        self.fuse1 = CATBLK(condition_dim, in_channels)
        self.conv1 = _convolution(config, in_channels, out_channels)
        self.fuse2 = CATBLK(condition_dim, out_channels)
        self.conv2 = _convolution(config, out_channels, out_channels)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (B,in,h,w) and y (B,noise_dim+d) -> (B,out,size,size)"""
        x = F.interpolate(x, size=(self.size, self.size), mode="nearest")  # (B, in, size, size)
        c = self.conv1(self.fuse1(x, y))
        c = self.conv2(self.fuse2(c, y))
        out: Tensor = self.shortcut(x) + c
        return out


def _recurrence(config: GeneratorConfig, geometry: ClipGeometry) -> Recurrence:
    if config.variant == "galip":
        return NoRecurrence(config.noise_dim, geometry.embed_dim)
    if config.variant == "ratlip-released":
        affines = 4 * config.bridge_blocks
        return LSTMPerAffine(config.noise_dim, geometry.embed_dim, config.hidden_size, affines)
    return SharedLSTM(config.noise_dim, geometry.embed_dim, config.hidden_size)


def _convolution(config: GeneratorConfig, in_channels: int, out_channels: int) -> nn.Module:
    """SAConv where the variant has shuffle attention, else a plain 3x3 convolution with bias."""
    if config.has_attention:
        return SAConv(in_channels, out_channels, config.attention_groups)
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)
