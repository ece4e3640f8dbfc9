"""An exported model as a `Model` that is scored: its images and its CLIP's vectors are what the exported files make."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from ratlip_cli.clip_tokenizer import CLIPTokenizer
from ratlip_cli.errors import UsageError, WeightsError
from ratlip_cli.exported import ExportedModel, text_vectors
from ratlip_cli.fast import Sampler
from ratlip_cli.model.clip import FrozenCLIP, token_rows
from ratlip_cli.model.config import ClipGeometry
from ratlip_cli.setting import EXPORT_FILE, check_export
from ratlip_cli.weights.model_folder import Model, parse_model_config

_AT_ONCE = 64
"""Images that an evaluation hands over at a time, at least: every thread gets its own."""


class ExportedCLIP(FrozenCLIP):
    """The text and the image encoder of an exported model; there is nothing inside them to look at."""

    def __init__(self, exported: ExportedModel, spec: str, geometry: ClipGeometry, context_length: int) -> None:
        nn.Module.__init__(self)
        self.exported = exported
        self.spec, self.geometry, self.config = f"{spec} ({exported.settings.format})", geometry, None
        self.tokenizer = CLIPTokenizer(context_length)
        self.vocabulary = exported.settings.vocabulary
        if self.vocabulary is not None:
            self.register_buffer("token_rows", token_rows(self.vocabulary), persistent=False)
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1), persistent=False)  # says which device it is on

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over the original's and the format: vectors agree with the original's to rounding only."""
        settings = self.exported.settings
        return hashlib.sha256(f"{settings.clip_fingerprint} {settings.format}".encode()).hexdigest()[:16]

    @property
    def computes(self) -> str:
        """The fingerprint: the exported files compute what they do, whatever a configuration says."""
        return self.fingerprint

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Text vectors T (B,d) from token ids (B,context) of the tokenizer."""
        return torch.from_numpy(text_vectors(self.exported.encode_tokens(tokens.numpy()), self.geometry.embed_dim))

    def encode_image(self, images: Tensor) -> Tensor:
        """Image vectors (B,d) from images (B,3,S,S) in [-1,1], of the model's size. Raises UsageError for another."""
        size = self.exported.settings.image_size
        if images.shape[2:] != (size, size):
            raise UsageError(
                f"the CLIP of {self.exported.name} takes images of {size} pixels alone: name another by --score-clip, "
                "or evaluate the model that was exported."
            )
        return torch.from_numpy(self.exported.encode_images(images.numpy()))


class ExportedSampler(Sampler):
    """Noise and text vectors to images by an exported generator."""

    def __init__(self, exported: ExportedModel) -> None:
        self.exported = exported
        self.chunk, self.device = 1, torch.device("cpu")

    def __call__(self, noise: Tensor, text: Tensor, batch_size: int | None = None) -> Tensor:
        """See `Sampler`; every image is computed by itself, whatever the batch size."""
        return torch.from_numpy(self.exported.generated(noise.numpy(), text.numpy()))


@dataclass(frozen=True)
class ScoredExport(Model):
    """An exported model; what is left of the generator is what it makes."""

    exported: ExportedModel = field(kw_only=True)

    def in_precision(self, precision: str) -> Model:
        """Itself, which computes as it was exported. Raises UsageError for bf16."""
        check_export("cpu", precision)
        return self

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """What the exported text encoder gives (n,...) for prompts."""
        return torch.from_numpy(self.exported.encode_tokens(self.clip.tokenizer(list(prompts)).numpy()))

    def of_vectors(self, text: Tensor) -> Tensor:
        """Text vectors (n,d) as they are: the exported generator makes its condition of them."""
        return text

    @cached_property
    def sampler(self) -> Sampler:
        """Noise and text vectors to images."""
        return ExportedSampler(self.exported)

    @property
    def exported_as(self) -> str:
        """The format."""
        return self.exported.settings.format

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")


def load_exported(folder: Path) -> ScoredExport:
    """Load a folder of `ratlip export`.

    Raises WeightsError where it is damaged, of a format that takes PyTorch, or so old that it lacks CLIP's image
    encoder; RatlipError where a package is missing.
    """
    exported = ExportedModel(folder, _AT_ONCE)
    settings = exported.settings
    if settings.model is None or not exported.has_similarity:
        raise WeightsError(f"{folder} was exported by an earlier ratlip and lacks CLIP's image encoder: export again.")
    config = parse_model_config(settings.model, folder / EXPORT_FILE)
    clip = ExportedCLIP(exported, config.clip, config.geometry, settings.context_length)
    return ScoredExport(exported.name, folder, config, nn.Identity(), clip, exported.fingerprint, exported=exported)
