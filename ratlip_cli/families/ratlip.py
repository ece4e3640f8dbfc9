"""RATLIP, its ablations, and GALIP as families of models. Importing it imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ratlip_cli.family import Family
from ratlip_cli.model.config import ClipGeometry, DiscriminatorConfig, GeneratorConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ratlip_cli.model.clip import FrozenCLIP, ImageFeatures
    from ratlip_cli.training.objectives.objective import Autocast, Objective


class Ratlip(Family):
    """RATLIP and its ablations: generator and discriminator on a frozen CLIP, and Eq. 8."""

    generator_config = GeneratorConfig
    discriminator_config = DiscriminatorConfig
    discriminator_name = "Mate-D"
    blocks_name = "image-G"
    recomputes = True

    def __init__(self, name: str, about: str) -> None:
        self.name = name
        self.about = about
        self.unread = frozenset({"hidden_size"} if name == "galip" else ())  # which has no LSTM

    def generator(self, config: GeneratorConfig, geometry: ClipGeometry) -> nn.Module:
        from ratlip_cli.model.generator import Generator

        return Generator(config, geometry)

    def discriminator(self, config: DiscriminatorConfig, geometry: ClipGeometry) -> nn.Module:
        from ratlip_cli.model.discriminator import Discriminator

        return Discriminator(config, geometry)

    def objective(
        self, settings: Any, generator: nn.Module, discriminator: nn.Module, clip: FrozenCLIP, autocast: Autocast
    ) -> Objective:
        from ratlip_cli.training.objectives.ratlip import RatlipObjective

        return RatlipObjective(settings, generator, discriminator, clip, autocast)

    def look(self, clip: FrozenCLIP, images: Tensor) -> ImageFeatures:
        return clip.features(images)

    def logits(self, discriminator: nn.Module, view: ImageFeatures, text: Tensor) -> Tensor:
        logits: Tensor = discriminator(view.patches, text, view.pixels)
        return logits

    def features(self, discriminator: nn.Module, clip: FrozenCLIP, images: Tensor) -> Tensor:
        """The FE extractor's output, averaged over the patches."""
        view = clip.features(images)
        extracted: Tensor = discriminator.get_submodule("extractor")(view.patches, view.pixels)
        return extracted.mean(dim=(2, 3))

    def modules(self, generator: nn.Module, discriminator: nn.Module) -> dict[str, nn.Module]:
        bridge = "CAT bridge" if self.name == "galip" else "RAT bridge"
        named = {
            "noise to code": "code",
            bridge: "bridge",
            "prompts": "prompts",
            "fuse": "fuse",
            **{f"image-G block {block.size}": f"blocks.{i}" for i, block in enumerate(generator.blocks)},  # type: ignore[arg-type]
            "to RGB": "to_rgb",
        }
        return {
            **{shown: generator.get_submodule(name) for shown, name in named.items()},
            "FE extractor": discriminator.get_submodule("extractor"),
            "referee": discriminator.get_submodule("referee"),
        }

    def warning(self, discriminator_config: DiscriminatorConfig) -> str | None:
        if not discriminator_config.pixel_stem:
            return None
        return "this discriminator sees the pixels too; maps show what reaches it through CLIP alone."
