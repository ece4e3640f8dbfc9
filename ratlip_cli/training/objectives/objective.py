"""What an objective is to the trainer: two losses with their logs, on micro-batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from ratlip_cli.model.losses import mismatched

Autocast: TypeAlias = Callable[[], AbstractContextManager[Any]]  # The context to compute in a run's precision.

Logs: TypeAlias = dict[str, Tensor]
"""What was measured, by the name that it has in metrics.jsonl; each tensor's mean over the micro-batch counts."""


class MicroBatch(NamedTuple):
    """One of the equal parts of a step's batch; there is more than one under gradient accumulation."""

    images: Tensor  # Real images (B,3,S,S) in [-1,1].
    text: Tensor  # Their condition (B,...).
    mismatched: Tensor  # The condition of other images (B,...).
    noise: Tensor  # z (B,noise_dim).
    fake_text: Tensor  # The condition of the images to generate (B,...).


class Objective(ABC):
    """The losses of a family. The trainer owns order, micro-batches, precision, rollback, EMA and records."""

    @abstractmethod
    def fake(self, batch: MicroBatch) -> Any:
        """Generated images as both losses need them, with their graph where gradients are on."""

    @abstractmethod
    def discriminator_loss(self, batch: MicroBatch, fake: Any) -> tuple[Tensor, Logs]:
        """The discriminator's loss (scalar), and what was measured. `fake` is from `fake`; no gradient goes into it."""

    @abstractmethod
    def generator_loss(self, batch: MicroBatch, fake: Any) -> tuple[Tensor, Logs]:
        """The generator's loss (scalar), and what was measured. The discriminator needs no gradients here."""

    def mismatched(self, text: Tensor) -> Tensor:
        """For each condition (B,...) of a whole batch that of another image: its neighbour's."""
        return mismatched(text)

    def fake_text(self, text: Tensor) -> Tensor:
        """The condition (B,...) of the images to generate for a micro-batch with the condition `text` (B,...)."""
        return text
