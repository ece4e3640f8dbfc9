"""Grad-CAM (Selvaraju et al. 2017) on the patch tokens of the frozen ViT: where a sentence is seen (IV-C, Fig. 3)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.errors import UsageError, WeightsError, unknown_name
from ratlip_cli.model.clip import FrozenCLIP, ImageFeatures
from ratlip_cli.model.losses import clip_similarity
from ratlip_cli.weights.model_folder import DISCRIMINATOR_FILE, Model, load_discriminator

TARGETS = ("clip", "discriminator")

logger = logging.getLogger(__name__)

Score = Callable[[ImageFeatures, Tensor], Tensor]
"""How well images go with sentences: features of B images and T (B,d) to values (B,)."""


@dataclass(frozen=True)
class Target:
    """The number whose gradient is looked at."""

    name: str
    """One of TARGETS."""
    unit: str
    """What the number is, for people."""
    score: Score
    clip: FrozenCLIP
    last_layer: int
    """The last block whose incoming patch tokens the number depends on."""


@dataclass(frozen=True)
class Maps:
    """Where B images hold what raises the target."""

    cells: Tensor
    """(B,g,g): ReLU of the weighted sum of channels, not scaled."""
    scores: Tensor
    """(B,): the target, or its change where words were left out."""


def make_target(name: str, model: Model) -> Target:
    """The target of that name: `clip`, the cosine of image and sentence vector; `discriminator`, Mate-D's logit.

    A discriminator with a pixel stem is warned about: what it sees there no layer of the ViT shows.

    Raises UsageError for another name, WeightsError where the model has no discriminator.
    """
    geometry = model.clip.geometry
    if name == "clip":
        return Target(
            name,
            "CLIP similarity",
            lambda features, text: clip_similarity(features.embedding, text),
            model.clip,
            geometry.layers - 1,
        )
    if name == "discriminator":
        discriminator = discriminator_of(model)
        if warning := model.family.warning(model.config.discriminator):
            logger.warning(warning)
        return Target(
            name,
            "logit of Mate-D",
            lambda features, text: model.family.logits(discriminator, features, text),
            model.clip,
            geometry.feature_blocks[-1],
        )
    raise unknown_name("target", name, TARGETS)


def discriminator_of(model: Model) -> nn.Module:
    """The model's discriminator, frozen. Raises WeightsError where it comes without one."""
    if not (model.folder / DISCRIMINATOR_FILE).is_file():
        raise WeightsError(f"model {model.name} comes without its discriminator; use clip instead.")
    return load_discriminator(model).eval().requires_grad_(False)


def resolve_layer(target: Target, layer: int | None) -> int:
    """The block whose incoming tokens are looked at; left out, the last that the target depends on.

    Raises UsageError for a block that does not exist, and for one behind which the target reads nothing.
    """
    if layer is None:
        return target.last_layer
    geometry = target.clip.geometry
    if not 0 <= layer < geometry.layers:
        raise UsageError(f"layer {layer} does not exist: this CLIP has the blocks 0 to {geometry.layers - 1}.")
    if layer > target.last_layer:
        raise UsageError(
            f"nothing that enters block {layer} reaches the discriminator, which reads behind the blocks "
            f"{', '.join(map(str, geometry.feature_blocks))}: choose a layer from 0 to {target.last_layer}."
        )
    return layer


def gradcam(target: Target, images: Tensor, text: Tensor, layer: int, without: Tensor | None = None) -> Maps:
    """Grad-CAM of the target at the patch tokens that enter block `layer`.

    Args:
        images: images (B,3,H,W) in [-1,1].
        text: sentence vectors T (B,d).
        layer: see `resolve_layer`.
        without: sentence vectors (B,d) of the same sentences without some words. Given, what is explained is the
            target's change when they are left out: target(text) - target(without).
    """
    features, tokens = target.clip.features_and_tokens(images.detach().requires_grad_())
    scores = target.score(features, text)
    if without is not None:
        scores = scores - target.score(features, without)
    (gradient,) = torch.autograd.grad(scores.sum(), tokens[layer])
    channels, gradients = target.clip.as_map(tokens[layer]), target.clip.as_map(gradient)  # (B,W,g,g)
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    cells = F.relu((weights * channels).sum(dim=1)).detach()
    if without is not None:  # where CLIP reads the same sentence twice, what is left is rounding
        cells = cells * (text != without).any(dim=1)[:, None, None]
    return Maps(cells, scores.detach())


def upsample(cells: Tensor, size: int) -> Tensor:
    """Maps (B,g,g) as (B,size,size), bilinear, each scaled to its own maximum; one that is zero stays zero."""
    pixels = F.interpolate(cells[:, None], size=(size, size), mode="bilinear", align_corners=False)[:, 0]
    return pixels / pixels.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(pixels.dtype).tiny)


@torch.no_grad()
def scores_of(target: Target, images: Tensor, text: Tensor, batch_size: int = 32) -> Tensor:
    """The target (n,) of images (n,3,H,W) and one sentence (1,d)."""
    starts = range(0, len(images), batch_size)
    batches = [images[start : start + batch_size] for start in starts]
    return torch.cat([target.score(target.clip.features(some), text.expand(len(some), -1)) for some in batches])
