"""RAT-GAN as families of models: on CLIP's text vectors, and as published on DAMSM's. Importing it imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ratlip_cli.families.damsm import OnDamsm
from ratlip_cli.families.dfgan import DFGAN, WIDEST_2020, DFGANDiscriminatorConfig, check_sizes
from ratlip_cli.family import ON_CLIP_VECTORS
from ratlip_cli.model.config import ClipGeometry
from ratlip_cli.setting import Value, setting

if TYPE_CHECKING:
    from torch import nn


FLOWER = "ratgan-flower-released"


@dataclass(frozen=True)
class RATGANConfig:
    """Sizes of the generator. The defaults are the published ones."""

    variant: str = "ratgan"
    image_size: int = setting(256, "Side of the generated images in pixels, 32 to 256.")
    noise_dim: int = setting(100, "Length of the noise vector z.")
    base_channels: int = setting(
        64, "Channels nf after the generator's last block; the first has 8 nf.", name="generator_channels"
    )
    hidden_size: int = setting(256, "Hidden units of the LSTM, and of every affine's two MLPs.")

    def __post_init__(self) -> None:
        check_sizes(self, "noise_dim", "base_channels", "hidden_size")

    @property
    def affines(self) -> int:
        """How many affines stand before each convolution."""
        return 3 if self.variant == FLOWER else 2


@dataclass(frozen=True)
class RATGANDiscriminatorConfig(DFGANDiscriminatorConfig):
    """Sizes of the discriminator."""

    base_channels: int = setting(64, "Channels nf of the discriminator's first layer.", name="discriminator_channels")


class RATGAN(DFGAN):
    """RAT-GAN on CLIP's text vectors."""

    name = "ratgan"
    about = "RAT-GAN: recurrent affine transformations on pixels, on a frozen CLIP's text vectors"
    generator_config = RATGANConfig
    discriminator_config = RATGANDiscriminatorConfig
    defaults: ClassVar[Mapping[str, Value]] = {
        **DFGAN.defaults,
        "generator_channels": 64,
        "discriminator_channels": 64,
        "hidden_size": 256,
        "batch_size": 24,
    }
    widest = WIDEST_2020
    penalty_apart = True

    def generator(self, config: Any, geometry: ClipGeometry) -> nn.Module:
        from ratlip_cli.baselines.ratgan import Generator

        return Generator(
            config.image_size,
            config.base_channels,
            config.noise_dim,
            self.text_dim(geometry),
            config.hidden_size,
            config.affines,
        )

    def modules(self, generator: nn.Module, discriminator: nn.Module) -> dict[str, nn.Module]:
        return {"LSTM": generator.get_submodule("lstm"), **super().modules(generator, discriminator)}


class RATGANReleased(OnDamsm, RATGAN):
    """RAT-GAN as its authors' code builds it, on DAMSM's sentence vectors."""

    unused = ON_CLIP_VECTORS

    def __init__(self, name: str, about: str) -> None:
        self.name = name
        self.about = about
