"""Grad-CAM (Selvaraju et al. 2017): where an image shows a text (IV-C), on the patch tokens of the frozen ViT.

For a discriminator that does not read those, on the last feature map of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.errors import UsageError, unknown_name
from ratlip_cli.explain.inputs import discriminator_of
from ratlip_cli.explain.request import TARGETS
from ratlip_cli.model.clip import FrozenCLIP
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
    clip: FrozenCLIP
    reader: Any
    """What reads texts: the CLIP, or the model's text encoder."""
    encode: Callable[[Sequence[str]], Tensor]
    """n texts to vectors T (n,d), or to the condition (n,...) of the family."""
    look: Callable[[Tensor], Any]
    """Images (B,3,H,W) in [-1,1] to what `score` reads of them: CLIP features where `feature_map` is None."""
    score: Callable[[Any, Tensor], Tensor]
    """How well B images go with texts (B,...): values (B,)."""
    reads_after: tuple[int, ...]
    """The blocks of the ViT whose output the number depends on directly; nothing that enters a later one matters."""
    feature_map: nn.Module | None = None
    """The module whose output (B,C,g,g) is taken in place of the ViT's patch tokens."""
    alone: bool = False
    """Whether images are scored one at a time, as the number of one depends on the others of its batch."""


class Maps(NamedTuple):
    """Where B images hold what raises the target."""

    cells: Tensor  # (B,g,g): ReLU of the weighted sum of channels, not scaled.
    scores: Tensor  # (B,): the target, or its change where words were left out.


def make_target(name: str, model: Model) -> Target:
    """The target of that name: `clip`, the cosine of image and text vectors; `discriminator`, its logit.

    The family's warning, of what such a map does not show, is logged.

    Raises UsageError for another name, WeightsError where the model has no discriminator.
    """
    clip, family = model.clip, model.family
    if name == "clip":
        last = (clip.geometry.layers - 1,)
        return Target(
            name,
            "CLIP similarity",
            "similarity",
            clip,
            clip,
            clip.encode_text,
            clip.features,
            lambda features, text: clip_similarity(features.embedding, text),
            last,
        )
    if name == "discriminator":
        discriminator = discriminator_of(model)
        if warning := family.warning(model.config.discriminator):
            logger.warning(warning)
        return Target(
            name,
            f"logit of {family.discriminator_name}",
            "logit",
            clip,
            model.text_encoder,
            lambda texts: family.encode(model.text_encoder, texts),
            lambda images: family.look(clip, images),
            lambda view, condition: family.logits(discriminator, view, condition),
            tuple(clip.geometry.feature_blocks),
            family.feature_map(discriminator),
            family.compares_images,
        )
    raise unknown_name("target", name, TARGETS)


def resolve_layer(target: Target, layer: int | None) -> int | None:
    """The block whose incoming tokens are read; left out, the last that the target depends on.

    None for a target with a feature map of its own. Raises UsageError for a block that does not exist, and for one
    after which the target reads nothing.
    """
    if target.feature_map is not None:
        if layer is not None:
            raise UsageError(f"this {target.name} has a feature map of its own and no layers; leave out --layer.")
        return None
    if layer is None:
        return target.reads_after[-1]
    layers = target.clip.geometry.layers
    if not 0 <= layer < layers:
        raise UsageError(f"layer {layer} does not exist: this CLIP has the blocks 0 to {layers - 1}.")
    if layer > target.reads_after[-1]:
        raise UsageError(
            f"nothing that enters block {layer} reaches the {target.name}, which reads after the blocks "
            f"{', '.join(map(str, target.reads_after))}: choose a layer from 0 to {target.reads_after[-1]}."
        )
    return layer


def gradcam(target: Target, images: Tensor, text: Tensor, layer: int | None, without: Tensor | None = None) -> Maps:
    """Grad-CAM of the target at the patch tokens that enter block `layer`, or at its own feature map.

    Args:
        images: images (B,3,H,W) in [-1,1].
        text: texts (B,...), see `Target.encode`.
        layer: see `resolve_layer`.
        without: the same texts (B,...) without some words. Given, what is explained is the target's change when they
            are left out: target(text) - target(without).
    """
    if target.alone and len(images) > 1:
        withouts = [None] * len(images) if without is None else torch.split(without, 1)
        rows = zip(torch.split(images, 1), torch.split(text, 1), withouts, strict=True)
        return Maps(*map(torch.cat, zip(*(gradcam(target, x, t, layer, w) for x, t, w in rows), strict=True)))
    images = images.detach().requires_grad_()
    outputs: list[Tensor] = []
    watched: AbstractContextManager[object] = nullcontext()
    if target.feature_map is None:
        view, tokens = target.clip.features_and_tokens(images)
        outputs.append(tokens[target.reads_after[-1] if layer is None else layer])
    else:
        view = target.look(images)
        watched = target.feature_map.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with watched:
        scores = target.score(view, text)
        if without is not None:
            scores = scores - target.score(view, without)
    channels = outputs[0]
    # A feature map of two passes has the same values twice: their gradients add up.
    gradients = torch.stack(torch.autograd.grad(scores.sum(), outputs)).sum(dim=0)
    if target.feature_map is None:
        channels, gradients = target.clip.as_map(channels), target.clip.as_map(gradients)  # (B,C,g,g)
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    cells = F.relu((weights * channels).sum(dim=1)).detach()
    if without is not None:  # where the same text is read twice, what is left is rounding
        cells = cells * (text != without).flatten(1).any(dim=1)[:, None, None]
    return Maps(cells, scores.detach())


def upsample(cells: Tensor, size: int) -> Tensor:
    """Maps (B,g,g) as (B,size,size), bilinear, each scaled to its own maximum; one that is zero stays zero."""
    pixels = F.interpolate(cells[:, None], size=(size, size), mode="bilinear", align_corners=False)[:, 0]
    return pixels / pixels.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(pixels.dtype).tiny)


@torch.no_grad()
def scores_of(target: Target, images: Tensor, text: Tensor, batch_size: int = 32) -> Tensor:
    """The target (n,) of images (n,3,H,W) and one text (1,...)."""
    batches = torch.split(images, 1 if target.alone else batch_size)
    return torch.cat([target.score(target.look(some), text.expand(len(some), *text.shape[1:])) for some in batches])
