"""The networks whose features are compared, Inception and any CLIP, and which of them score.

A network takes 8-bit images, so that what a model generates is scored as its files would be.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ratlip_cli.errors import UsageError, unknown_name
from ratlip_cli.evaluation.request import FEATURES, EvaluationRequest
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.config import ClipGeometry
from ratlip_cli.pixels import from_uint8
from ratlip_cli.setting import DEFAULT_CLIP
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.model_folder import CLIP_FOLDER, Model

_log = logging.getLogger(__name__)

VIT_B_32 = ClipGeometry(width=768, grid=7, layers=12, embed_dim=512, image_size=224)
"""The architecture that the CLIP score is defined by."""


class FeatureNetwork(Protocol):
    """What makes features of images."""

    name: str
    """For people."""
    suffix: str
    """What follows the key of a metric of its features in the metric's name, such as `_clip`."""
    resize: str
    """How images come to the size that the network takes, in words."""
    fingerprint: str
    """16 hex digits over its weights, and over what else decides its features."""
    dimensions: int
    """d."""

    def __call__(self, images: Tensor) -> Tensor:
        """Features (B,d), float32, of images (B,3,H,W) uint8 on any device."""
        ...


class ClipNetwork:
    """A CLIP's image vectors, not normalised.

    Args:
        clip: on the device to compute on.
        spec: what names it in scores, as `load_clip` takes it, or whose it is.
        released: whether pixels are prepared as the published code does it: mapped to [0,1] twice, nearest pixels.
    """

    suffix = "_clip"

    def __init__(self, clip: FrozenCLIP, spec: str, released: bool = False) -> None:
        size = clip.geometry.image_size
        self.clip = clip
        self.spec = spec
        self.name = f"CLIP {spec} (released code)" if released else f"CLIP {spec}"
        self.resize = f"nearest to {size}, mapped to [0,1] twice" if released else f"antialiased bicubic to {size}"
        self.fingerprint = clip.computes
        self.dimensions = clip.geometry.embed_dim
        self.released = released

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        pixels = from_uint8(images.to(self.clip.mean.device))
        if self.released:
            size = self.clip.geometry.image_size
            pixels = F.interpolate((pixels + 1) / 2, size=(size, size), mode="nearest")
        return self.clip.encode_image(pixels).cpu()


@dataclass(frozen=True)
class Networks:
    """The networks that score."""

    features: FeatureNetwork | None
    """For FID, KID, precision and recall."""
    clips: tuple[ClipNetwork, ...]
    """For CLIP score and R-precision, each for itself."""
    device: torch.device
    others: tuple[FeatureNetwork, ...] = ()
    """Further ones that see the same images; what their features say is the caller's."""

    def by_name(self) -> dict[str, FeatureNetwork]:
        """All of them, by name."""
        every = (self.features, *self.clips, *self.others)
        return {network.name: network for network in every if network is not None}


def load_networks(
    request: EvaluationRequest, device: torch.device, model: Model | None = None, own_clip: str | None = None
) -> Networks:
    """Load the networks that a request needs.

    The CLIP is `request.clip` where that is given; else the model's own where its features are `clip` or it is a
    ViT-B/32; else OpenAI's ViT-B/32. The protocol `released` has an Inception of its own instead of `features`.

    Args:
        model: what is scored, if it is a model.
        own_clip: what its own CLIP is called, which then scores whichever it is, where `request.clip` names none.

    Raises:
        UsageError: the model names unknown features, or a CLIP to score by is named where none scores. WeightsError:
            weights could not be downloaded, or are of another network.
    """
    features = request.features or (model.config.features if model is not None else "inception")
    if features not in FEATURES:
        raise unknown_name("features", features, FEATURES)
    by_clip = features == "clip" and not request.released
    network: FeatureNetwork | None = None
    clips: list[ClipNetwork] = []
    if request.feature_keys and not by_clip:
        from ratlip_cli.evaluation.inception import load_inception

        network = load_inception(request, device)
    if request.clip_keys or (request.feature_keys and by_clip):
        clips.append(_scoring_clip(request, device, model, features == "clip", own_clip))
    if request.feature_keys and by_clip:
        network = clips[0]
    if request.clip is not None and not clips:
        raise UsageError("--score-clip scores nothing here: Inception's features are compared, and no captions.")
    if request.inception_weights is not None and (by_clip or not request.feature_keys):
        _log.warning("--inception-weights are not used: no features of Inception are compared")
    second = request.clip_score_clip
    if request.clip_keys and second is not None:
        clips.append(ClipNetwork(load_clip(second, device), second, request.released))
    return Networks(network, tuple(clips) if request.clip_keys else (), device)


def _scoring_clip(
    request: EvaluationRequest, device: torch.device, model: Model | None, own: bool, name: str | None
) -> ClipNetwork:
    if request.clip is None and model is not None and (own or name or model.clip.geometry == VIT_B_32):
        name = name or (f"of {model.name}" if model.config.clip == CLIP_FOLDER else model.config.clip)
        return ClipNetwork(model.clip, name, request.released)
    spec = request.clip or DEFAULT_CLIP
    return ClipNetwork(load_clip(spec, device), spec, request.released)
