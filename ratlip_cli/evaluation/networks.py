"""Which networks score: by protocol, by the model, and by what was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ratlip_cli.errors import unknown_name
from ratlip_cli.evaluation.features import (
    IMAGENET_INCEPTION,
    INCEPTION,
    ClipNetwork,
    FeatureNetwork,
    ImageNetInception,
    InceptionNetwork,
    find_weights,
)
from ratlip_cli.evaluation.request import FEATURES, OF_CLIP, OF_FEATURES, Request
from ratlip_cli.model.clip import DEFAULT_CLIP
from ratlip_cli.model.config import ClipGeometry
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.model_folder import CLIP_FOLDER, Model

VIT_B_32 = ClipGeometry(width=768, grid=7, layers=12, embed_dim=512, image_size=224)
"""The architecture that the CLIP score is defined by."""


@dataclass(frozen=True)
class Networks:
    """The networks that score."""

    features: FeatureNetwork | None
    """For FID, KID, precision and recall."""
    clips: tuple[ClipNetwork, ...]
    """For CLIP score and R-precision, each for itself."""
    device: torch.device

    def by_name(self) -> dict[str, FeatureNetwork]:
        """All of them, by name."""
        return {network.name: network for network in (self.features, *self.clips) if network is not None}


def load_networks(
    request: Request,
    device: torch.device,
    features: str = "inception",
    model: Model | None = None,
    clip: str | None = None,
    second_clip: str | None = None,
    inception_weights: Path | None = None,
) -> Networks:
    """Load the networks that a request needs.

    The CLIP is `clip` where that is given; else the model's own where `features` is `clip` or it is a ViT-B/32; else
    OpenAI's ViT-B/32.

    Args:
        features: one of FEATURES; the protocol `released` has an Inception of its own instead.
        model: what is scored, if it is a model.
        clip: CLIP to score by, as `load_clip` takes it.
        second_clip: a further CLIP, for CLIP score and R-precision.
        inception_weights: file of Inception's weights; left out, they are looked for and downloaded.

    Raises:
        UsageError: an unknown name. WeightsError: weights that cannot be had or are of another network.
    """
    if features not in FEATURES:
        raise unknown_name("features", features, FEATURES)
    released = request.protocol == "released"
    by_clip = features == "clip" and not released
    network: FeatureNetwork | None = None
    if request.wants(OF_FEATURES) and not by_clip:
        network = _inception(released, inception_weights, device)
    clips: list[ClipNetwork] = []
    if request.wants(OF_CLIP) or (request.wants(OF_FEATURES) and by_clip):
        clips.append(_scoring_clip(model, features, clip, device, released))
    if request.wants(OF_CLIP) and second_clip is not None:
        clips.append(ClipNetwork(load_clip(second_clip, device), second_clip, released))
    if request.wants(OF_FEATURES) and by_clip:
        network = clips[0]
    return Networks(network, tuple(clips) if request.wants(OF_CLIP) else (), device)


def _inception(released: bool, weights: Path | None, device: torch.device) -> FeatureNetwork:
    if released:
        return ImageNetInception(find_weights(IMAGENET_INCEPTION, weights), device)
    return InceptionNetwork(find_weights(INCEPTION, weights), device)


def _scoring_clip(
    model: Model | None, features: str, clip: str | None, device: torch.device, released: bool
) -> ClipNetwork:
    if clip is None and model is not None and (features == "clip" or model.clip.geometry == VIT_B_32):
        name = f"of {model.name}" if model.config.clip == CLIP_FOLDER else model.config.clip
        return ClipNetwork(model.clip, name, released)
    spec = clip or DEFAULT_CLIP
    return ClipNetwork(load_clip(spec, device), spec, released)
