"""Grad-CAM (Selvaraju et al. 2017) on the patch tokens of the frozen ViT: where an image shows a text (IV-C)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ratlip_cli.errors import UsageError, unknown_name
from ratlip_cli.explain.inputs import discriminator_of
from ratlip_cli.explain.request import TARGETS
from ratlip_cli.model.clip import FrozenCLIP, ImageFeatures
from ratlip_cli.model.losses import clip_similarity
from ratlip_cli.weights.model_folder import Model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """The number whose gradient makes the map."""

    name: str
    """One of TARGETS."""
    unit: str
    """What the number is, for people."""
    short_unit: str
    score: Callable[[ImageFeatures, Tensor], Tensor]
    """How well images go with texts: features of B images and T (B,d) to values (B,)."""
    clip: FrozenCLIP
    reads_after: tuple[int, ...]
    """The blocks of the ViT whose output the number depends on directly."""

    @property
    def last_layer(self) -> int:
        """The last block whose incoming patch tokens the number depends on."""
        return self.reads_after[-1]


@dataclass(frozen=True)
class Maps:
    """Where B images hold what raises the target."""

    cells: Tensor
    """(B,g,g): ReLU of the weighted sum of channels, not scaled."""
    scores: Tensor
    """(B,): the target, or its change where words were left out."""


def make_target(name: str, model: Model) -> Target:
    """The target of that name: `clip`, the cosine of image and text vectors; `discriminator`, Mate-D's logit.

    A discriminator with a pixel stem is warned about: no layer of the ViT shows what it takes from the pixels.

    Raises UsageError for another name, WeightsError where the model has no discriminator.
    """
    geometry = model.clip.geometry
    if name == "clip":

        def similarity(features: ImageFeatures, text: Tensor) -> Tensor:
            return clip_similarity(features.embedding, text)

        return Target(name, "CLIP similarity", "similarity", similarity, model.clip, (geometry.layers - 1,))
    if name == "discriminator":
        discriminator = discriminator_of(model)
        if warning := model.family.warning(model.config.discriminator):
            logger.warning(warning)

        def logit(features: ImageFeatures, text: Tensor) -> Tensor:
            return model.family.logits(discriminator, features, text)

        return Target(name, "logit of Mate-D", "logit", logit, model.clip, tuple(geometry.feature_blocks))
    raise unknown_name("target", name, TARGETS)


def resolve_layer(target: Target, layer: int | None) -> int:
    """The block whose incoming tokens are read; left out, the last that the target depends on.

    Raises UsageError for a block that does not exist, and for one after which the target reads nothing.
    """
    if layer is None:
        return target.last_layer
    layers = target.clip.geometry.layers
    if not 0 <= layer < layers:
        raise UsageError(f"layer {layer} does not exist: this CLIP has the blocks 0 to {layers - 1}.")
    if layer > target.last_layer:
        raise UsageError(
            f"nothing that enters block {layer} reaches the {target.name}, which reads after the blocks "
            f"{', '.join(map(str, target.reads_after))}: choose a layer from 0 to {target.last_layer}."
        )
    return layer


def gradcam(target: Target, images: Tensor, text: Tensor, layer: int, without: Tensor | None = None) -> Maps:
    """Grad-CAM of the target at the patch tokens that enter block `layer`.

    Args:
        images: images (B,3,H,W) in [-1,1].
        text: text vectors T (B,d).
        layer: see `resolve_layer`.
        without: text vectors (B,d) of the same texts without some words. Given, what is explained is the target's
            change when they are left out: target(text) - target(without).
    """
    features, tokens = target.clip.features_and_tokens(images.detach().requires_grad_())
    scores = target.score(features, text)
    if without is not None:
        scores = scores - target.score(features, without)
    (gradient,) = torch.autograd.grad(scores.sum(), tokens[layer])
    channels, gradients = target.clip.as_map(tokens[layer]), target.clip.as_map(gradient)  # (B,W,g,g)
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    cells = F.relu((weights * channels).sum(dim=1)).detach()
    if without is not None:  # where CLIP reads the same text twice, what is left is rounding
        cells = cells * (text != without).any(dim=1)[:, None, None]
    return Maps(cells, scores.detach())


def upsample(cells: Tensor, size: int) -> Tensor:
    """Maps (B,g,g) as (B,size,size), bilinear, each scaled to its own maximum; one that is zero stays zero."""
    pixels = F.interpolate(cells[:, None], size=(size, size), mode="bilinear", align_corners=False)[:, 0]
    return pixels / pixels.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(pixels.dtype).tiny)


@torch.no_grad()
def scores_of(target: Target, images: Tensor, text: Tensor, batch_size: int = 32) -> Tensor:
    """The target (n,) of images (n,3,H,W) and one text (1,d)."""
    batches = torch.split(images, batch_size)
    return torch.cat([target.score(target.clip.features(some), text.expand(len(some), -1)) for some in batches])
