"""Section III-D, Eq. 8: matching-aware hinge losses on CLIP features, a gradient penalty, and the CLIP similarity.

L_D = E max(0, 1 - D(x,T)) + 1/2 E max(0, 1 + D(G(z,T),T)) + 1/2 E max(0, 1 + D(x,T_mis)) + k E ||grad D(x,T)||^p
L_G = - E D(G(z,T),T) - lambda E cos(CLIP(G(z,T)), T)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ratlip_cli.model.clip import FrozenCLIP, ImageFeatures
from ratlip_cli.model.discriminator import Discriminator
from ratlip_cli.model.losses import clip_similarity, generator_loss, matching_aware_gradient_penalty
from ratlip_cli.training.objectives.hinge import HingeObjective, Weights
from ratlip_cli.training.objectives.objective import Autocast, Logs, MicroBatch


class RatlipObjective(HingeObjective):
    """Eq. 8. The penalty is computed in float32, outside autocast; the sixth power of a norm overflows in half."""

    def __init__(
        self, settings: Weights, generator: nn.Module, discriminator: nn.Module, clip: FrozenCLIP, autocast: Autocast
    ) -> None:
        if not isinstance(discriminator, Discriminator):
            raise TypeError(f"Eq. 8 needs Mate-D, not {type(discriminator).__name__}.")
        super().__init__(settings, generator, discriminator, clip, autocast)
        self.plain_discriminator = discriminator

    def fake(self, batch: MicroBatch) -> ImageFeatures:
        """CLIP(G(z,T)): what the discriminator and the similarity look at of the generated images."""
        with self.autocast():
            return self.clip.features(self.generator(batch.noise, batch.fake_text, self.clip))

    def discriminator_loss(self, batch: MicroBatch, fake: ImageFeatures) -> tuple[Tensor, Logs]:
        """L_D of Eq. 8."""
        with torch.no_grad(), self.autocast():
            patches = self.clip.patch_features(batch.images)
        patches, text = patches.float().requires_grad_(), batch.text.detach().requires_grad_()
        pixels = self.clip.resized(batch.images).detach().requires_grad_()

        extracted = self.plain_discriminator.extractor(patches, pixels)  # knows no text: both logits read it
        logit_real = self.plain_discriminator.referee(extracted, text)
        logit_mismatched = self.plain_discriminator.referee(extracted, batch.mismatched)
        penalty, norm = matching_aware_gradient_penalty(
            logit_real,
            (patches, text, pixels) if self.plain_discriminator.config.pixel_stem else (patches, text),
            self.settings.penalty_weight,
            self.settings.penalty_power,
        )
        with self.autocast():
            logit_fake = self.discriminator(fake.patches.detach(), batch.fake_text, fake.pixels.detach())
        return self.hinge(logit_real, logit_fake, logit_mismatched, penalty, {"penalty_norm": norm})

    def generator_loss(self, batch: MicroBatch, fake: ImageFeatures) -> tuple[Tensor, Logs]:
        """L_G of Eq. 8, and the terms that are not in the paper where they have a weight."""
        with self.autocast():
            logit_fake = self.discriminator(fake.patches, batch.fake_text, fake.pixels)
        similarity = clip_similarity(fake.embedding, batch.fake_text)
        terms, logs = self.terms_on_vectors(fake.embedding, batch)
        loss = generator_loss(logit_fake, similarity, self.similarity_weight) + terms
        return loss, {"loss_g": loss, "clip_similarity": similarity, **logs}
