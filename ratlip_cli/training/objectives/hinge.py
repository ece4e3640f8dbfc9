"""What the objectives of hinge losses have in common: compiled networks, and the terms on CLIP's image vectors."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.losses import discriminator_loss, mode_seeking
from ratlip_cli.training.objectives.objective import Autocast, Logs, MicroBatch, Objective
from ratlip_cli.training.objectives.schedule import scheduled


class Weights(Protocol):
    """What the losses take from the settings."""

    penalty_weight: float  # k
    penalty_power: float  # p
    similarity_weight: float  # lambda
    diversity_weight: float
    final_similarity_weight: float | None
    final_diversity_weight: float | None
    decay_from: float
    compile: bool


class HingeObjective(Objective):
    """The networks, and the weights of this step.

    The penalty differentiates twice, which compiled networks cannot: for it subclasses keep the plain discriminator.
    """

    def __init__(
        self, settings: Weights, generator: nn.Module, discriminator: nn.Module, clip: FrozenCLIP, autocast: Autocast
    ) -> None:
        self.settings = settings
        self.clip = clip
        self.autocast = autocast
        self.generator = torch.compile(generator) if settings.compile else generator
        self.discriminator = torch.compile(discriminator) if settings.compile else discriminator

    def hinge(self, real: Tensor, fake: Tensor, mismatched: Tensor, penalty: Tensor, logs: Logs) -> tuple[Tensor, Logs]:
        """L_D of logits (B,) and a penalty (scalar), and what was measured, `logs` among it."""
        loss = discriminator_loss(real, fake, mismatched, penalty)
        logits = {"logit_real": real, "logit_fake": fake, "logit_mismatched": mismatched}
        return loss, {"loss_d": loss, **logs, **logits}

    @property
    def similarity_weight(self) -> float:
        """lambda in this step."""
        return self._now(self.settings.similarity_weight, self.settings.final_similarity_weight)

    def diversity(self, vectors: Tensor, batch: MicroBatch) -> Tensor | float:
        """The mode-seeking term of CLIP's vectors (B,d) of generated images, by its weight in this step."""
        if not self.settings.diversity_weight:
            return 0.0
        weight = self._now(self.settings.diversity_weight, self.settings.final_diversity_weight)
        return weight * mode_seeking(vectors, batch.fake_text, batch.noise)

    def fake_text(self, text: Tensor) -> Tensor:
        """The text vectors of a micro-batch (B,d) or, for mode seeking, half of them twice."""
        return text[: len(text) // 2].repeat(2, 1) if self.settings.diversity_weight else text

    def _now(self, start: float, final: float | None) -> float:
        return scheduled(start, final, self.progress, self.settings.decay_from)
