"""What the objectives of hinge losses have in common: compiled networks, and the terms on CLIP's image vectors."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.losses import contrastive, discriminator_loss, mode_seeking
from ratlip_cli.training.objectives.objective import Autocast, Logs, MicroBatch, Objective
from ratlip_cli.training.objectives.schedule import scheduled


class Weights(Protocol):
    """What the losses take from the settings."""

    penalty_weight: float  # k
    penalty_power: float  # p
    similarity_weight: float  # lambda
    contrastive_weight: float
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

    @property
    def looks_at_vectors(self) -> bool:
        """Whether a term on CLIP's image vectors has a weight."""
        return bool(self.similarity_weight or self.settings.contrastive_weight or self.settings.diversity_weight)

    def terms_on_vectors(self, vectors: Tensor, batch: MicroBatch) -> tuple[Tensor | float, Logs]:
        """The terms that are not in the paper, on CLIP's vectors (B,d) of generated images, and what was measured."""
        terms: Tensor | float = 0.0
        logs: Logs = {}
        settings = self.settings
        if settings.contrastive_weight and batch.negatives is not None:
            captions, wrong = map(self.fake_text, batch.negatives)
            term = contrastive(vectors, batch.fake_text, captions, wrong, self.clip.logit_scale)
            terms, logs = settings.contrastive_weight * term, {"contrastive": term}
        if settings.diversity_weight:
            weight = self._now(settings.diversity_weight, settings.final_diversity_weight)
            terms = terms + weight * mode_seeking(vectors, batch.fake_text, batch.noise)
        return terms, logs

    def fake_text(self, text: Tensor) -> Tensor:
        """What belongs to the captions of a micro-batch (B,...) or, for mode seeking, half of it twice."""
        return torch.cat((half := text[: len(text) // 2], half)) if self.settings.diversity_weight else text

    def _now(self, start: float, final: float | None) -> float:
        return scheduled(start, final, self.progress, self.settings.decay_from)
