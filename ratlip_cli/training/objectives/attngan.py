"""AttnGAN's losses (Xu et al. 2018, Section 3.2), with CLIP in the place of DAMSM.

Of each image size i, on the probabilities D_i(x) and D_i(x,s) with the sentence s:
L_D = 1/2 [BCE(D(x),1) + BCE(D(x,s),1)] + 1/3 [BCE(D(G),0) + BCE(D(G,s),0) + BCE(D(x,s_mis),0)]
L_G = sum over i [BCE(D_i(G_i),1) + BCE(D_i(G_i,s),1)] + lambda (s0 + s1) + KL

s0 and s1 are DAMSM's losses of image and sentence vectors, here of CLIP's. Its losses of words have no counterpart: a
frozen CLIP's patch tokens are not aligned with its word tokens.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ratlip_cli.baselines.attngan import (
    Discriminator,
    Discriminators,
    Generator,
    Logits,
    Stages,
    adversarial_loss,
    contrast,
    discriminator_loss,
    kl_divergence,
    same_captions,
    same_classes,
    sentence_relevance,
)
from ratlip_cli.distributed import world
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.losses import clip_similarity
from ratlip_cli.training.objectives.objective import Autocast, Logs, MicroBatch, Objective


class AttnGANObjective(Objective):
    """All discriminators in one update, which is for Adam the same as one each; then the generator's against them."""

    copies_buffers = True

    def __init__(
        self, settings: Any, generator: nn.Module, discriminator: nn.Module, clip: FrozenCLIP, autocast: Autocast
    ) -> None:
        if not isinstance(generator, Generator) or not isinstance(discriminator, Discriminators):
            raise TypeError(f"AttnGAN's losses need its networks, not {type(generator).__name__}.")
        self.weights = settings.objective_weights()
        self.clip = clip
        self.autocast = autocast
        self.discriminators = discriminator
        self.nets = cast("list[Discriminator]", discriminator.nets)
        self.stages = torch.compile(generator.stages) if settings.compile else generator.stages

    def fake(self, batch: MicroBatch) -> Stages:
        """Images of every stage."""
        with self.autocast():
            return self.stages(batch.noise, batch.fake_text)

    def discriminator_loss(self, batch: MicroBatch, fake: Stages) -> tuple[Tensor, Logs]:
        """L_D, summed over the sizes; the logits that are measured are the largest image's with its sentence."""
        right, wrong, asked = map(self.discriminators.sentence, (batch.text, batch.mismatched, batch.fake_text))
        losses = []
        with self.autocast():
            for net, image, generated in zip(
                self.nets, self.discriminators.views(batch.images), fake.images, strict=True
            ):
                real_code, fake_code = net.blocks(image), net.blocks(generated.detach())
                real = Logits(net.match(real_code, right), net.alone(real_code))
                generated_logits = Logits(net.match(fake_code, asked), net.alone(fake_code))
                mismatched = net.match(real_code, wrong)
                losses.append(discriminator_loss(real, generated_logits, mismatched))
        loss = torch.stack(losses).sum()
        return loss, {
            "loss_d": loss,
            "logit_real": real.conditional,
            "logit_fake": generated_logits.conditional,
            "logit_mismatched": mismatched,
        }

    def generator_loss(self, batch: MicroBatch, fake: Stages) -> tuple[Tensor, Logs]:
        """L_G."""
        with self.autocast():
            logits = self.discriminators(fake.images, batch.fake_text)
            codes = self.clip.encode_image(fake.images[-1])
        sentence = self.discriminators.sentence(batch.fake_text)
        everyone = world().gathered(sentence)
        relevance = sentence_relevance(world().gathered(codes), everyone, self.weights.match_sharpness)
        same = same_captions(everyone)
        if batch.classes is not None:
            same |= same_classes(world().gathered(batch.classes))
        s0, s1 = contrast(relevance, same)
        kl = kl_divergence(fake.mu, fake.logvar)
        loss = adversarial_loss(logits) + self.weights.match_weight * (s0 + s1) + self.weights.kl_weight * kl
        return loss, {"loss_g": loss, "clip_similarity": clip_similarity(codes, sentence), "match": s0 + s1, "kl": kl}

    def ema_decay(self, decay: float, step: int, images_seen: int) -> float:
        """The same from the first step on, as published."""
        return decay
