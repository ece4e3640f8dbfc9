"""What an importer makes of a published checkpoint file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """A published checkpoint under this package's names, float32."""

    generator_config: Any  # The generator's sizes, a dataclass of the family's.
    discriminator_config: Any  # The discriminator's sizes, a dataclass of the family's.
    generator: dict[str, Tensor]  # The generator's state dict.
    discriminator: dict[str, Tensor] | None  # The discriminator's; None where the file holds a generator alone.
    clip: dict[str, Tensor]  # What came with it of the CLIP's vision transformer, by open_clip's names.
    is_ema: bool = False  # Whether the generator is an EMA that the file holds beside the trained one.
    text_dim: int | None = None  # Numbers of the CLIP's text vectors that it reads, where the tensors alone tell them.
