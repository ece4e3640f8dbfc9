"""A family of models in one file outside the package: what it takes to bring a GAN of one's own.

A generator of two layers on noise and text vector, a discriminator of pixels, and least-squares losses
(Mao et al., "Least Squares Generative Adversarial Networks", 2017), with noise added to what the discriminator sees, a
penalty of its real logits every other step, and one that keeps the mean colour of images where it was.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.families import FAMILIES
from ratlip_cli.family import Family
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.config import ClipGeometry
from ratlip_cli.setting import setting
from ratlip_cli.training.objectives.objective import Adam, Logs, MicroBatch, Objective, Phase


@dataclass(frozen=True)
class ToyConfig:
    """Sizes of the generator."""

    variant: str = "toy"
    image_size: int = setting(32, "Side of the generated images in pixels.")
    noise_dim: int = setting(8, "Length of the noise vector z.")
    toy_width: int = setting(16, "Units of the hidden layer.")


@dataclass(frozen=True)
class ToyDiscriminatorConfig:
    """Sizes of the discriminator."""

    toy_channels: int = setting(4, "Channels of the convolution.")


@dataclass(frozen=True)
class ToyWeights:
    """What the objective weighs."""

    toy_drift: float = setting(0.1, "Weight of the drift of real logits.")
    toy_colour: float = setting(0.1, "Weight of the drift of the mean colour.")


class ToyGenerator(nn.Module):
    """Two layers: z and T to an image of 8 x 8 pixels, enlarged."""

    def __init__(self, config: ToyConfig, text_dim: int) -> None:
        super().__init__()
        self.config = config
        self.hidden = nn.Linear(config.noise_dim + text_dim, config.toy_width)
        self.to_rgb = nn.Linear(config.toy_width, 3 * 8 * 8)

    def forward(self, noise: Tensor, text: Tensor, clip: FrozenCLIP) -> Tensor:
        """z (B,noise_dim) and T (B,d) -> (B,3,S,S)"""
        h = F.relu(self.hidden(torch.cat((noise, text), dim=1)))
        image = self.to_rgb(h).unflatten(1, (3, 8, 8))  # (B, 3, 8, 8)
        return F.interpolate(image, size=(self.config.image_size,) * 2, mode="nearest")


class ToyDiscriminator(nn.Module):
    """One convolution of the pixels, and how well what it finds goes with the text."""

    def __init__(self, config: ToyDiscriminatorConfig, text_dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, config.toy_channels, 8, stride=8)
        self.logit = nn.Linear(config.toy_channels + text_dim, 1)

    def forward(self, images: Tensor, text: Tensor) -> Tensor:
        """(B,3,S,S) and T (B,d) -> (B,)"""
        seen = F.leaky_relu(self.conv(images), 0.2).mean(dim=(2, 3))
        logit: Tensor = self.logit(torch.cat((seen, text), dim=1))
        return logit.flatten()


class LeastSquares(Objective):
    """E (D(x,T) - 1)^2 + E D(G,T)^2 + E D(x,T_mis)^2, and E (D(G,T) - 1)^2."""

    def __init__(self, weights: ToyWeights, generator: nn.Module, discriminator: nn.Module, clip: FrozenCLIP) -> None:
        self.weights, self.generator, self.discriminator, self.clip = weights, generator, discriminator, clip
        self.colour = 0.0

    def fake(self, batch: MicroBatch) -> Tensor:
        images: Tensor = self.generator(batch.noise, batch.fake_text, self.clip)
        return images

    def discriminator_loss(self, batch: MicroBatch, fake: Tensor) -> tuple[Tensor, Logs]:
        real = self.discriminator(batch.images + batch.draws["blur"], batch.text)
        wrong = self.discriminator(batch.images, batch.mismatched)
        generated = self.discriminator(fake.detach(), batch.fake_text)
        loss = ((real - 1) ** 2).mean() + (generated**2).mean() + (wrong**2).mean()
        return loss, {"loss_d": loss, "logit_real": real, "logit_fake": generated}

    def generator_loss(self, batch: MicroBatch, fake: Tensor) -> tuple[Tensor, Logs]:
        loss = ((self.discriminator(fake, batch.fake_text) - 1) ** 2).mean()
        return loss, {"loss_g": loss}

    def drift(self, batch: MicroBatch, fake: Tensor) -> tuple[Tensor, Logs]:
        """Of the real logits from 0."""
        loss = self.weights.toy_drift * (self.discriminator(batch.images, batch.text) ** 2).mean()
        return loss, {"drift": loss}

    def colour_drift(self, batch: MicroBatch, fake: Tensor | None) -> tuple[Tensor, Logs]:
        """Of the images' mean colour from what it was in the step before."""
        colour = self.generator(batch.noise, batch.fake_text, self.clip).mean()
        loss = self.weights.toy_colour * (colour - self.colour) ** 2
        self.colour = float(colour.detach())
        return loss, {"colour_drift": loss}

    def discriminator_phases(self, step: int) -> Sequence[Phase]:
        return [self.discriminator_loss, self.drift] if step % 2 else [self.discriminator_loss]

    def generator_phases(self, step: int) -> Sequence[Phase]:
        return [self.generator_loss, self.colour_drift]

    def draws(self, batch_size: int, rng: torch.Generator) -> dict[str, Tensor]:
        return {"blur": 0.1 * torch.randn(batch_size, 3, 1, 1, generator=rng)}

    def adam(self, settings: Any) -> tuple[Adam, Adam]:
        generator, discriminator = super().adam(settings)
        return generator._replace(betas=(0.0, 0.99)), discriminator

    def state(self) -> dict[str, Any]:
        return {"colour": self.colour}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.colour = state["colour"]


class Toy(Family):
    """All of it, by the name that `--variant` takes."""

    name = "toy"
    about = "a toy of two layers"
    generator_config = ToyConfig
    discriminator_config = ToyDiscriminatorConfig
    objective_config = ToyWeights
    defaults = types.MappingProxyType({"lr_g": 2e-3, "batch_size": 6})
    unused = frozenset({"penalty_weight"})

    def generator(self, config: ToyConfig, geometry: ClipGeometry) -> nn.Module:
        return ToyGenerator(config, geometry.embed_dim)

    def discriminator(self, config: ToyDiscriminatorConfig, geometry: ClipGeometry) -> nn.Module:
        return ToyDiscriminator(config, geometry.embed_dim)

    def objective(
        self,
        settings: Any,
        generator: nn.Module,
        discriminator: nn.Module,
        clip: FrozenCLIP,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> Objective:
        return LeastSquares(settings.objective_weights(), generator, discriminator, clip)

    def look(self, clip: FrozenCLIP, images: Tensor) -> Tensor:
        return images

    def logits(self, discriminator: nn.Module, view: Tensor, text: Tensor) -> Tensor:
        logits: Tensor = discriminator(view, text)
        return logits

    def features(self, discriminator: nn.Module, clip: FrozenCLIP, images: Tensor) -> Tensor:
        return discriminator.get_submodule("conv")(images).mean(dim=(2, 3))

    def feature_map(self, discriminator: nn.Module) -> nn.Module:
        return discriminator.get_submodule("conv")


def register() -> None:
    """The line in the table."""
    FAMILIES["toy"] = Toy()
