"""Families of published weights that read captions by DAMSM's text encoder. Importing it imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ratlip_cli.family import Family

if TYPE_CHECKING:
    from torch import Tensor

    from ratlip_cli.model.clip import FrozenCLIP
    from ratlip_cli.model.config import ClipGeometry

DAMSM_WIDTH = 256
"""Numbers of a text vector of the published text encoders."""


class OnDamsm(Family):
    """A family whose text encoder and vocabulary lie in the model folder; its CLIP only scores and explains."""

    trainable = False

    def text_encoder(self, folder: Path, clip: FrozenCLIP) -> Any:
        """The text encoder in `folder`, where the CLIP is. Raises WeightsError where there is none."""
        from ratlip_cli.baselines.damsm_files import load_text_encoder

        return load_text_encoder(folder, clip.mean.device)

    def text_dim(self, geometry: ClipGeometry) -> int:
        """Length of the text vectors."""
        return DAMSM_WIDTH

    def example_condition(self, clip: FrozenCLIP) -> Tensor:
        """The condition (1,...) of some caption, by its shape alone: there is no text encoder without a model."""
        import torch

        return torch.zeros(1, DAMSM_WIDTH, device=clip.mean.device)

    def damsm_widths(self, generator_config: Any) -> dict[str, int]:
        """Numbers of what a generator of these sizes reads of a DAMSM, which are equal there, by its name."""
        return {"text vectors": DAMSM_WIDTH}
