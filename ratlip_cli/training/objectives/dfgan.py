"""DF-GAN's objective: matching-aware hinge losses on pixels, with the gradient penalty in the same pass.

L_D = E max(0, 1 - D(x,T)) + 1/2 E max(0, 1 + D(G(z,T),T)) + 1/2 E max(0, 1 + D(x,T_mis)) + k E ||grad D(x,T)||^p
L_G = - E D(G(z,T),T)
"""

from __future__ import annotations

from torch import Tensor, nn

from ratlip_cli.baselines.dfgan import Discriminator
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.losses import clip_similarity, generator_loss, matching_aware_gradient_penalty
from ratlip_cli.training.objectives.hinge import HingeObjective, Weights
from ratlip_cli.training.objectives.objective import Autocast, Logs, MicroBatch


class DFGANObjective(HingeObjective):
    """The losses above. The penalty is computed in float32, outside autocast."""

    def __init__(
        self, settings: Weights, generator: nn.Module, discriminator: nn.Module, clip: FrozenCLIP, autocast: Autocast
    ) -> None:
        if not isinstance(discriminator, Discriminator):
            raise TypeError(f"these losses need DF-GAN's discriminator, not {type(discriminator).__name__}.")
        super().__init__(settings, generator, discriminator, clip, autocast)
        self.plain_discriminator = discriminator

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
        return self.hinge(logit_real, logit_fake, logit_mismatched, penalty, {"penalty_norm": norm})

    def generator_loss(self, batch: MicroBatch, fake: Tensor) -> tuple[Tensor, Logs]:
        """L_G; and RATLIP's terms on CLIP's image vectors, where they were given a weight."""
        with self.autocast():
            logit_fake = self.discriminator(fake, batch.fake_text)
        if not self.looks_at_vectors:
            loss = -logit_fake.float().mean()
            return loss, {"loss_g": loss}
        with self.autocast():
            vectors = self.clip.encode_image(fake)
        similarity = clip_similarity(vectors, batch.fake_text)
        terms, logs = self.terms_on_vectors(vectors, batch)
        loss = generator_loss(logit_fake, similarity, self.similarity_weight) + terms
        return loss, {"loss_g": loss, "clip_similarity": similarity, **logs}
