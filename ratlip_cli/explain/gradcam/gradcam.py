"""Grad-CAM (Selvaraju et al. 2017): where an image shows a text (IV-C).

On the patch tokens of the frozen ViT or, for a discriminator of pixels, on its last feature map.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
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
    look: Callable[[Tensor], Any]
    """Images (B,3,H,W) in [-1,1] to what `score` reads of them."""
    score: Callable[[Any, Tensor], Tensor]
    """How well images go with texts: what `look` returned and T (B,d) to values (B,)."""
    clip: FrozenCLIP
    reads_after: tuple[int, ...] = ()
    """The blocks of the ViT whose output the number depends on directly."""
    feature_map: nn.Module | None = None
    """The module whose output (B,C,h,w) is read instead of the ViT's tokens."""


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

        return Target(
            name, "CLIP similarity", "similarity", model.clip.features, similarity, model.clip, (geometry.layers - 1,)
        )
    if name == "discriminator":
        discriminator = discriminator_of(model)
        if warning := model.family.warning(model.config.discriminator):
            logger.warning(warning)

        def look(images: Tensor) -> Any:
            return model.family.look(model.clip, images)

        def logit(view: Any, text: Tensor) -> Tensor:
            return model.family.logits(discriminator, view, text)

        feature_map = model.family.feature_map(discriminator)
        if feature_map is not None:
            return Target(name, "logit", "logit", look, logit, model.clip, feature_map=feature_map)
        return Target(name, "logit of Mate-D", "logit", look, logit, model.clip, tuple(geometry.feature_blocks))
    raise unknown_name("target", name, TARGETS)


def resolve_layer(target: Target, layer: int | None) -> int | None:
    """The block whose incoming tokens are read; left out, the last that the target depends on. None for a feature map.

    Raises UsageError for a block that does not exist, and for one after which the target reads nothing.
    """
    if target.feature_map is not None:
        if layer is not None:
            raise UsageError("this discriminator reads pixels, not blocks of the ViT; leave out --layer.")
        return None
    last = target.reads_after[-1]
    if layer is None:
        return last
    layers = target.clip.geometry.layers
    if not 0 <= layer < layers:
        raise UsageError(f"layer {layer} does not exist: this CLIP has the blocks 0 to {layers - 1}.")
    if layer > last:
        raise UsageError(
            f"nothing that enters block {layer} reaches the {target.name}, which reads after the blocks "
            f"{', '.join(map(str, target.reads_after))}: choose a layer from 0 to {last}."
        )
    return layer


def gradcam(target: Target, images: Tensor, text: Tensor, layer: int | None, without: Tensor | None = None) -> Maps:
    """Grad-CAM of the target at the patch tokens that enter block `layer`, or at its feature map.

    Args:
        images: images (B,3,H,W) in [-1,1].
        text: text vectors T (B,d).
        layer: see `resolve_layer`.
        without: text vectors (B,d) of the same texts without some words. Given, what is explained is the target's
            change when they are left out: target(text) - target(without).
    """
    images = images.detach().requires_grad_()
    if layer is None:
        scores, channels, gradients = _at_feature_map(target, images, text, without)
    else:
        features, tokens = target.clip.features_and_tokens(images)
        scores = _scores(target, features, text, without)
        (gradient,) = torch.autograd.grad(scores.sum(), tokens[layer])
        channels, gradients = target.clip.as_map(tokens[layer]), target.clip.as_map(gradient)  # (B,W,g,g)
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    cells = F.relu((weights * channels).sum(dim=1)).detach()
    if without is not None:  # where CLIP reads the same text twice, what is left is rounding
        cells = cells * (text != without).any(dim=1)[:, None, None]
    return Maps(cells, scores.detach())


def _scores(target: Target, view: Any, text: Tensor, without: Tensor | None) -> Tensor:
    scores = target.score(view, text)
    return scores if without is None else scores - target.score(view, without)


def _at_feature_map(
    target: Target, images: Tensor, text: Tensor, without: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The target (B,), its feature map (B,C,h,w), and the gradient with respect to it."""
    if target.feature_map is None:
        raise ValueError(f"target {target.name} has no feature map")
    outputs: list[Tensor] = []  # one for each text
    hook = target.feature_map.register_forward_hook(lambda module, given, output: outputs.append(output))
    try:
        scores = _scores(target, target.look(images), text, without)
    finally:
        hook.remove()
    gradients = torch.autograd.grad(scores.sum(), outputs)
    return scores, outputs[0], torch.stack(gradients).sum(dim=0)


def upsample(cells: Tensor, size: int) -> Tensor:
    """Maps (B,g,g) as (B,size,size), bilinear, each scaled to its own maximum; one that is zero stays zero."""
    pixels = F.interpolate(cells[:, None], size=(size, size), mode="bilinear", align_corners=False)[:, 0]
    return pixels / pixels.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(pixels.dtype).tiny)


@torch.no_grad()
def scores_of(target: Target, images: Tensor, text: Tensor, batch_size: int = 32) -> Tensor:
    """The target (n,) of images (n,3,H,W) and one text (1,d)."""
    batches = torch.split(images, batch_size)
    return torch.cat([target.score(target.look(some), text.expand(len(some), -1)) for some in batches])
