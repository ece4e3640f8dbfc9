"""DF-GAN as families of models: on CLIP's text vectors, and as published on DAMSM's. Importing it imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ratlip_cli.errors import UsageError
from ratlip_cli.families.damsm import OnDamsm
from ratlip_cli.family import AS_PUBLISHED, ON_CLIP_VECTORS, Family
from ratlip_cli.model.config import LARGEST, ClipGeometry
from ratlip_cli.setting import Value, setting

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ratlip_cli.model.clip import FrozenCLIP
    from ratlip_cli.training.objectives.objective import Autocast, Objective

SMALLEST_IMAGE, LARGEST_IMAGE = 32, 256

AFFINE_WIDTH_2020 = 256
"""Hidden units of an affine's MLPs in the version of 2020."""

WIDEST_2020 = 16
"""How many times nf channels the discriminator of 2020 has at most; eight times since."""


@dataclass(frozen=True)
class DFGANConfig:
    """Sizes of the generator. The defaults are the published ones."""

    variant: str = "dfgan"
    image_size: int = setting(256, "Side of the generated images in pixels, 32 to 256.")
    noise_dim: int = setting(100, "Length of the noise vector z.")
    base_channels: int = setting(
        32, "Channels nf after the generator's last block; the first has 8 nf.", name="generator_channels"
    )

    def __post_init__(self) -> None:
        check_sizes(self, "noise_dim", "base_channels")


@dataclass(frozen=True)
class DFGANDiscriminatorConfig:
    """Sizes of the discriminator."""

    image_size: int = setting(256, "Side of the generated images in pixels, 32 to 256.")
    base_channels: int = setting(32, "Channels nf of the discriminator's first layer.", name="discriminator_channels")

    def __post_init__(self) -> None:
        check_sizes(self, "base_channels")


def check_sizes(config: Any, *names: str) -> None:
    """Raise UsageError where a config's image size, or one of its sizes `names`, cannot be."""
    if not SMALLEST_IMAGE <= config.image_size <= LARGEST_IMAGE:
        raise UsageError(f"image_size is {config.image_size}; it must be {SMALLEST_IMAGE} to {LARGEST_IMAGE} pixels.")
    for name in names:
        if not 1 <= getattr(config, name) <= LARGEST[name]:
            raise UsageError(f"{name} is {getattr(config, name)}; it must be 1 to {LARGEST[name]}.")


class DFGAN(Family):
    """DF-GAN on CLIP's text vectors."""

    name = "dfgan"
    about = "DF-GAN: one stage on pixels, text by affines in every block, on a frozen CLIP's text vectors"
    generator_config: ClassVar[type[Any]] = DFGANConfig
    discriminator_config: ClassVar[type[Any]] = DFGANDiscriminatorConfig
    defaults: ClassVar[Mapping[str, Value]] = {
        **AS_PUBLISHED,
        "noise_dim": 100,
        "generator_channels": 32,
        "discriminator_channels": 32,
        "batch_size": 32,
        "lr_g": 1e-4,
        "lr_d": 4e-4,
        "beta1": 0.0,
        "beta2": 0.9,
        "similarity_weight": 0.0,
        "diversity_weight": 0.0,
        "penalty_weight": 2.0,
        "penalty_power": 6.0,
        "ema": 0.0,
    }

    recomputes = True
    widest: ClassVar[int] = 8
    """How many times nf channels the discriminator has at most."""
    penalty_apart: ClassVar[bool] = False
    """Whether the gradient penalty has an update of its own."""

    def text_dim(self, geometry: ClipGeometry) -> int:
        """Length of the text vectors."""
        return geometry.embed_dim

    def generator(self, config: Any, geometry: ClipGeometry) -> nn.Module:
        from ratlip_cli.baselines.dfgan import Generator

        return Generator(config.image_size, config.base_channels, config.noise_dim, self.text_dim(geometry))

    def discriminator(self, config: Any, geometry: ClipGeometry) -> nn.Module:
        from ratlip_cli.baselines.dfgan import Discriminator

        return Discriminator(config.image_size, config.base_channels, self.text_dim(geometry), self.widest)

    def objective(
        self, settings: Any, generator: nn.Module, discriminator: nn.Module, clip: FrozenCLIP, autocast: Autocast
    ) -> Objective:
        from ratlip_cli.training.objectives.dfgan import DFGANObjective
        from ratlip_cli.training.objectives.ratgan import RATGANObjective

        losses = RATGANObjective if self.penalty_apart else DFGANObjective
        return losses(settings, generator, discriminator, clip, autocast)

    def look(self, clip: FrozenCLIP, images: Tensor) -> Tensor:
        return images

    def logits(self, discriminator: nn.Module, view: Tensor, text: Tensor) -> Tensor:
        logits: Tensor = discriminator(view, text)
        return logits

    def feature_map(self, discriminator: nn.Module) -> nn.Module:
        """The last block: (B,C,4,4), or up to 7 x 7"""
        last: nn.Module = discriminator.get_submodule("blocks")[-1]  # type: ignore[index]
        return last

    def features(self, discriminator: nn.Module, clip: FrozenCLIP, images: Tensor) -> Tensor:
        """What the last block finds, averaged over its places."""
        features: Tensor = discriminator.features(images)  # type: ignore[operator]
        return features.mean(dim=(2, 3))

    def modules(self, generator: nn.Module, discriminator: nn.Module) -> dict[str, nn.Module]:
        up, down = list(generator.get_submodule("blocks").children()), discriminator.get_submodule("blocks").children()
        return {
            "noise to code": generator.get_submodule("code"),
            **{f"generator block {number}": block for number, block in enumerate(up, start=1)},
            "to RGB": generator.get_submodule("to_rgb"),
            "discriminator convolution": discriminator.get_submodule("conv"),
            **{f"discriminator block {number}": block for number, block in enumerate(down, start=1)},
            "discriminator head": discriminator.get_submodule("head"),
        }


class DFGANReleased(OnDamsm, DFGAN):
    """DF-GAN as its authors' code builds it, on DAMSM's sentence vectors."""

    name = "dfgan-released"
    about = "DF-GAN as its authors' code builds it, on DAMSM's sentence vectors"
    unused = ON_CLIP_VECTORS


class DFGAN2020(DFGANReleased):
    """The published weights of DF-GAN's first version."""

    name = "dfgan-2020-released"
    about = "DF-GAN's first version of 2020 as its authors' code builds it, on DAMSM's sentence vectors"
    defaults: ClassVar[Mapping[str, Value]] = {**DFGAN.defaults, "batch_size": 24}
    widest = WIDEST_2020
    penalty_apart = True

    def generator(self, config: Any, geometry: ClipGeometry) -> nn.Module:
        from ratlip_cli.baselines.dfgan import Generator2020

        return Generator2020(
            config.image_size, config.base_channels, config.noise_dim, self.text_dim(geometry), AFFINE_WIDTH_2020
        )
