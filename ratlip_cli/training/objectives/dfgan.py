"""DF-GAN's objective: matching-aware hinge losses on pixels, with the gradient penalty in the same pass.

L_D = E max(0, 1 - D(x,T)) + 1/2 E max(0, 1 + D(G(z,T),T)) + 1/2 E max(0, 1 + D(x,T_mis)) + k E ||grad D(x,T)||^p
L_G = - E D(G(z,T),T)
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from ratlip_cli.baselines.dfgan import Discriminator
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.losses import (
    clip_similarity,
    discriminator_loss,
    generator_loss,
    matching_aware_gradient_penalty,
    mode_seeking,
)
from ratlip_cli.training.objectives.objective import Autocast, Logs, MicroBatch, Objective


class Weights(Protocol):
    """What the losses take from the settings."""

    penalty_weight: float  # k
    penalty_power: float  # p
    similarity_weight: float  # of RATLIP's CLIP similarity; 0 in the paper
    diversity_weight: float
    compile: bool


class DFGANObjective(Objective):
    """The losses above. The penalty is computed in float32, outside autocast."""

    def __init__(
        self, settings: Weights, generator: nn.Module, discriminator: nn.Module, clip: FrozenCLIP, autocast: Autocast
    ) -> None:
        if not isinstance(discriminator, Discriminator):
            raise TypeError(f"these losses need DF-GAN's discriminator, not {type(discriminator).__name__}.")
        self.settings = settings
        self.clip = clip
        self.autocast = autocast
        self.plain_discriminator = discriminator
        self.generator = torch.compile(generator) if settings.compile else generator
        # The penalty differentiates twice, which compiled networks cannot: it keeps the plain discriminator.
        self.discriminator = torch.compile(discriminator) if settings.compile else discriminator

    def fake(self, batch: MicroBatch) -> Tensor:
        """G(z,T) (B,3,S,S)"""
        with self.autocast():
            images: Tensor = self.generator(batch.noise, batch.fake_text, self.clip)
        return images

    def discriminator_loss(self, batch: MicroBatch, fake: Tensor) -> tuple[Tensor, Logs]:
        """L_D."""
        images, text = batch.images.detach().requires_grad_(), batch.text.detach().requires_grad_()
        features = self.plain_discriminator.features(images)  # knows no text: both logits read it
        logit_real = self.plain_discriminator.head(features, text)
        logit_mismatched = self.plain_discriminator.head(features, batch.mismatched)
        penalty, norm = matching_aware_gradient_penalty(
            logit_real, (images, text), self.settings.penalty_weight, self.settings.penalty_power
        )
        with self.autocast():
            logit_fake = self.discriminator(fake.detach(), batch.fake_text)
        loss = discriminator_loss(logit_real, logit_fake, logit_mismatched, penalty)
        return loss, {
            "loss_d": loss,
            "penalty_norm": norm,
            "logit_real": logit_real,
            "logit_fake": logit_fake,
            "logit_mismatched": logit_mismatched,
        }

    def generator_loss(self, batch: MicroBatch, fake: Tensor) -> tuple[Tensor, Logs]:
        """L_G; and RATLIP's terms on CLIP's image vectors, where they were given a weight."""
        with self.autocast():
            logit_fake = self.discriminator(fake, batch.fake_text)
        if not (self.settings.similarity_weight or self.settings.diversity_weight):
            loss = -logit_fake.float().mean()
            return loss, {"loss_g": loss}
        with self.autocast():
            vectors = self.clip.encode_image(fake)
        similarity = clip_similarity(vectors, batch.fake_text)
        loss = generator_loss(logit_fake, similarity, self.settings.similarity_weight)
        if self.settings.diversity_weight:
            loss = loss + self.settings.diversity_weight * mode_seeking(vectors, batch.fake_text, batch.noise)
        return loss, {"loss_g": loss, "clip_similarity": similarity}

    def fake_text(self, text: Tensor) -> Tensor:
        """The text vectors of a micro-batch (B,d) or, for mode seeking, half of them twice."""
        return text[: len(text) // 2].repeat(2, 1) if self.settings.diversity_weight else text
