"""What an objective is to the trainer: two losses with their logs, on micro-batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ratlip_cli.model.losses import mismatched

Autocast: TypeAlias = Callable[[], AbstractContextManager[Any]]  # The context to compute in a run's precision.

Logs: TypeAlias = dict[str, Tensor]
"""What was measured, by the name that it has in metrics.jsonl; each tensor's mean over the micro-batch counts."""


class Negatives(NamedTuple):
    """Captions of each image of a micro-batch, its own but for a word and its neighbour's; some are wrong for it."""

    captions: Tensor  # Their text vectors (B,N,d).
    wrong: Tensor  # Which are wrong (B,N), see `losses.found_wrong`.


class MicroBatch(NamedTuple):
    """One of the equal parts of a step's batch; there is more than one under gradient accumulation."""

    images: Tensor  # Real images (B,3,S,S) in [-1,1].
    text: Tensor  # Their condition (B,...).
    mismatched: Tensor  # The condition of other images (B,...).
    noise: Tensor  # z (B,noise_dim).
    fake_text: Tensor  # The condition of the images to generate (B,...).
    draws: Mapping[str, Tensor] = {}  # The objective's own random numbers (B,...) by name, see `Objective.draws`.
    negatives: Negatives | None = None  # None where no term looks at them.
    classes: Tensor | None = None  # Numbers of the images' classes (B,), -1 for none; None where they are not known.


Phase: TypeAlias = Callable[[MicroBatch, Any], tuple[Tensor, Logs]]
"""A loss (scalar) of a micro-batch and its generated images, and what was measured."""


class Adam(NamedTuple):
    """What an Adam optimiser is made with."""

    lr: float
    betas: tuple[float, float]


class Objective(ABC):
    """The losses of a family. The trainer owns order, micro-batches, precision, rollback, EMA and records.

    Attributes:
        fresh_fake: whether the generator's half of a step generates images anew, instead of those of the other half.
        copies_buffers: whether the EMA takes the generator's buffers as they are; else it averages them too.
        progress: the share of the run that is done, in [0,1]; the trainer sets it before every step.
    """

    fresh_fake = False
    copies_buffers = False
    progress = 0.0

    @abstractmethod
    def fake(self, batch: MicroBatch) -> Any:
        """Generated images as both losses need them, with their graph where gradients are on."""

    @abstractmethod
    def discriminator_loss(self, batch: MicroBatch, fake: Any) -> tuple[Tensor, Logs]:
        """The discriminator's loss (scalar), and what was measured. `fake` is from `fake`; no gradient goes into it."""

    @abstractmethod
    def generator_loss(self, batch: MicroBatch, fake: Any) -> tuple[Tensor, Logs]:
        """The generator's loss (scalar), and what was measured. The discriminator needs no gradients here."""

    def discriminator_phases(self, step: int) -> Sequence[Phase]:
        """What the discriminator's half of step `step`, counted from 0, goes through; each ends in an update.

        Left as it is, `discriminator_loss` alone. The loss scale of fp16 is on the first alone: compute the others in
        float32.
        """
        return [self.discriminator_loss]

    def generator_phases(self, step: int) -> Sequence[Phase]:
        """The same of the generator's half; those after the first are given no generated images, but None.

        Left as it is, `generator_loss` alone. With `fresh_fake` the first is given None too.
        """
        return [self.generator_loss]

    def draws(self, batch_size: int, rng: torch.Generator) -> dict[str, Tensor]:
        """All random numbers (batch_size,...) of a step but z, on the CPU; one for the whole batch fills all rows."""
        return {}

    def adam(self, settings: Any) -> tuple[Adam, Adam]:
        """What the generator's and the discriminator's optimiser are made with; `settings` are the TrainSettings."""
        betas = (settings.beta1, settings.beta2)
        return Adam(settings.lr_g, betas), Adam(settings.lr_d, betas)

    def ema_decay(self, decay: float, step: int, images_seen: int) -> float:
        """The share of the EMA that stays after step `step`, counted from 0.

        Left as it is, early on min(decay, (1 + step) / (10 + step)), so that the first weights are soon forgotten.

        Args:
            decay: the setting `ema`.
            images_seen: images in all steps before.
        """
        return min(decay, (1 + step) / (10 + step))

    def state(self) -> dict[str, Any]:
        """What it remembers from step to step: plain values, and tensors that no later step changes in place.

        It is part of checkpoints, and put back where a step is undone.
        """
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        return

    def mismatched(self, text: Tensor) -> Tensor:
        """For each condition (B,...) of a whole batch that of another image: its neighbour's."""
        return mismatched(text)

    def fake_text(self, text: Tensor) -> Tensor:
        """The condition (B,...) of the images to generate for a micro-batch with the condition `text` (B,...)."""
        return text
