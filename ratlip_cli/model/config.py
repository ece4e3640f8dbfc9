"""What fixes the shape of a model: the sizes of the generator, of the discriminator and of the CLIP they work on."""

from __future__ import annotations

from dataclasses import dataclass, field

from ratlip_cli.errors import UsageError, unknown_name
from ratlip_cli.setting import setting

VARIANTS = ("ratlip", "rat", "galip", "ratlip-released")
"""The paper's model, its ablation without shuffle attention, the baseline, and the layout of the published weights."""

SMALLEST_IMAGE, LARGEST_IMAGE = 32, 512

LARGEST = {
    "width": 16384,
    "grid": 256,
    "layers": 128,
    "embed_dim": 16384,
    "noise_dim": 65536,
    "hidden_size": 8192,
    "base_channels": 2048,
    "bridge_channels": 8192,
    "bridge_blocks": 64,
    "attention_groups": 4096,
}
"""The largest sizes, far above those of any published model: what a file may ask for before anything is built."""


@dataclass(frozen=True)
class ClipGeometry:
    """The sizes of a CLIP that the rest of the model is built around; read from the CLIP, never written down."""

    width: int
    """Channels W of the vision transformer's tokens (768 for ViT-B/32)."""
    grid: int
    """Patches g along each side of the image (7 for ViT-B/32)."""
    layers: int
    """Blocks L of the vision transformer (12 for ViT-B/32)."""
    embed_dim: int
    """Dimension d of the image and text vectors (512 for ViT-B/32)."""
    image_size: int
    """Side of the image that CLIP takes, in pixels (224 for ViT-B/32)."""
    text_width: int = field(default=0, compare=False)
    """Channels of the text transformer's tokens (512 for ViT-B/32); 0 in files of before it was recorded."""

    def __post_init__(self) -> None:
        _check_sizes(self, "width", "grid", "layers", "embed_dim")
        if not 1 <= self.image_size <= 4096:
            raise UsageError(f"image_size of the CLIP is {self.image_size}; it must be 1 to 4096 pixels.")
        if self.layers < 2:
            raise UsageError("The CLIP's vision transformer has one block; it must have two or more.")

    @property
    def prompts(self) -> int:
        """Number of prompt tokens: they enter blocks 1 ... round(8L/12)."""
        return round(8 * self.layers / 12)

    @property
    def feature_blocks(self) -> tuple[int, int, int]:
        """The blocks after which the discriminator reads patch tokens: round(L*{1,4,8}/12)."""
        first, middle, last = (round(self.layers * block / 12) for block in (1, 4, 8))
        return first, middle, last


@dataclass(frozen=True)
class GeneratorConfig:
    """Sizes of the generator (Section III-A). The defaults are the paper's."""

    variant: str = "ratlip"
    """One of VARIANTS: which affine the bridge uses, and whether convolutions carry shuffle attention."""
    image_size: int = setting(256, "Side of the generated images in pixels, 32 to 512; published weights have 224.")
    noise_dim: int = setting(100, "Length of the noise vector z.")
    hidden_size: int = setting(64, "Hidden units D of the bridge's LSTM, in the paper 4 to 128; unused by galip.")
    base_channels: int = setting(
        64, "Channels nf after the last block of image-G; the first has 8 nf.", name="generator_channels"
    )
    bridge_channels: int = 64
    """Channels of the bridge; inside its blocks they are halved."""
    bridge_blocks: int = 4
    """Number of bridge blocks; each holds two RATBLKs, so four affines."""
    attention_groups: int = 8
    """Groups G of shuffle attention; layers with fewer than 2G channels use half their channels."""

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise unknown_name("variant", self.variant, VARIANTS)
        if not SMALLEST_IMAGE <= self.image_size <= LARGEST_IMAGE:
            raise UsageError(f"image_size is {self.image_size}; it must be {SMALLEST_IMAGE} to {LARGEST_IMAGE} pixels.")
        _check_sizes(self, "noise_dim", "hidden_size", "bridge_blocks", "attention_groups")
        for name, factor in (("base_channels", 2), ("bridge_channels", 4)):
            channels = getattr(self, name)
            if channels < factor or channels % factor:
                raise UsageError(f"{name} is {channels}; it must be a positive multiple of {factor}.")
            _check_sizes(self, name)
        if self.has_attention:
            for channels in (self.base_channels, self.bridge_channels):
                groups = min(self.attention_groups, channels // 2)
                if channels % (2 * groups):
                    raise UsageError(
                        f"{channels} channels do not divide into {groups} attention groups of two halves; "
                        f"use a multiple of {2 * groups}."
                    )

    @property
    def has_attention(self) -> bool:
        """Whether convolutions are SAConv (Section III-C) or plain."""
        return self.variant in ("ratlip", "ratlip-released")

    def block_sizes(self, grid: int) -> list[int]:
        """Image sides after each block of image-G: doubling from the first power of two >= grid, up to image_size."""
        size = 1 << (grid - 1).bit_length()
        sizes = []
        while size < self.image_size:
            sizes.append(size)
            size *= 2
        return [*sizes, self.image_size]

    def block_channels(self, grid: int) -> list[int]:
        """Channels before image-G and after each of its blocks: nf at the end, doubling backwards up to 8 nf."""
        blocks = len(self.block_sizes(grid))
        after = [self.base_channels * min(8, 2 ** (blocks - 1 - block)) for block in range(blocks)]
        return [8 * self.base_channels, *after]


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Sizes of Mate-D (Section III-A)."""

    base_channels: int = setting(
        64,
        "Base channels of the discriminator: the FE extractor ends in 8 times, the referee has 2 times as many.",
        name="discriminator_channels",
    )
    pixel_stem: bool = setting(
        False, "Let the discriminator see pixels beside CLIP's features; not in the paper, for CLIPs of small patches."
    )

    def __post_init__(self) -> None:
        _check_sizes(self, "base_channels", whose="discriminator ")


def _check_sizes(config: object, *names: str, whose: str = "") -> None:
    for name in names:
        size = getattr(config, name)
        if not 1 <= size <= LARGEST[name]:
            raise UsageError(f"{whose}{name} is {size}; it must be 1 to {LARGEST[name]}.")
