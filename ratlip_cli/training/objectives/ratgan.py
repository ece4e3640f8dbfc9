"""RAT-GAN's objective, and that of DF-GAN in 2020: DF-GAN's losses, the gradient penalty in an update of its own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ratlip_cli.model.losses import discriminator_loss, matching_aware_gradient_penalty
from ratlip_cli.training.objectives.dfgan import DFGANObjective
from ratlip_cli.training.objectives.objective import Logs, MicroBatch, Phase


class RATGANObjective(DFGANObjective):
    """The discriminator moves twice in a step: by the hinge losses, then by the penalty, a second pass."""

    def discriminator_phases(self, step: int) -> Sequence[Phase]:
        return [self.discriminator_loss, self.penalty]

    def discriminator_loss(self, batch: MicroBatch, fake: Tensor) -> tuple[Tensor, Logs]:
        """L_D without the penalty."""
        with self.autocast():
            features = self.plain_discriminator.features(batch.images)  # knows no text: both logits read it
            logit_real = self.plain_discriminator.head(features, batch.text)
            logit_mismatched = self.plain_discriminator.head(features, batch.mismatched)
            logit_fake = self.discriminator(fake.detach(), batch.fake_text)
        loss = discriminator_loss(logit_real, logit_fake, logit_mismatched, logit_real.new_zeros(()))
        return loss, {
            "loss_d": loss,
            "logit_real": logit_real,
            "logit_fake": logit_fake,
            "logit_mismatched": logit_mismatched,
        }

    def penalty(self, batch: MicroBatch, fake: Tensor) -> tuple[Tensor, Logs]:
        """k E ||grad D(x,T)||^p, in float32."""
        images, text = batch.images.detach().requires_grad_(), batch.text.detach().requires_grad_()
        penalty, norm = matching_aware_gradient_penalty(
            self.plain_discriminator(images, text),
            (images, text),
            self.settings.penalty_weight,
            self.settings.penalty_power,
        )
        return penalty, {"penalty": penalty, "penalty_norm": norm}
