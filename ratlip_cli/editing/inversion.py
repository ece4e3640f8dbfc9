"""GAN inversion: the noise vector z and the text vector T of which a generator makes a given image.

Both are found by gradient descent, as latent codes of StyleGANs are (Abdal et al., Image2StyleGAN, 2019). Of an image x
and y = G(z,T) the loss is

    L = |x - y|^2 + a (1 - cos(F(x), F(y))) + b (1 - cos(v(x), v(y))) + c |T - T0|^2 / |T0|^2 + d (|z|^2/n - 1)^2

with the patch tokens F and the image vector v of the model's frozen CLIP: a pixel, a perceptual and an identity term.
The last two keep T near T0, what CLIP sees in the image, and z, of n numbers, as long as noise is: there the generator
has learned, and a move along the difference of two captions means what it means elsewhere. Where a family's text has
unit length, as LAFITE's, T is brought to it wherever it is used.

Where T was moved, an image changes in more than was asked for: what captions leave open, z and T decide together.
`settle` searches z and T once more, near there, by the same loss with another image vector for v(x): one that differs
in what is to change alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ratlip_cli.sampling import noise_vectors
from ratlip_cli.weights.model_folder import Model

STARTS = 32
"""Noise vectors of which the best one is the start."""


@dataclass(frozen=True)
class Weights:
    """Of the terms of the loss, beside the pixels' 1, and how fast z and T move."""

    perceptual: float = 1.0
    identity: float = 0.5
    text: float = 0.02
    noise: float = 0.05
    rate: float = 0.1
    """Adam's, of z; that of T is as many times the root mean square of its numbers. Both fall to 0 as a cosine."""

    def loss(self, terms: Mapping[str, Tensor]) -> Tensor:
        """L (n,)."""
        beside = self.perceptual * terms["perceptual"] + self.identity * terms["identity"]
        return terms["pixel"] + beside + self.text * terms["text"] + self.noise * terms["noise"]


SETTLING = Weights(perceptual=1.5, identity=3.0, text=0.05, noise=0.15, rate=0.05)
"""Of the search after a move, whose image vector says what is to change; the pixels still are those from before it."""


@dataclass(frozen=True)
class Inversion:
    """What generates each of n images best."""

    noise: Tensor
    """z (n,noise_dim), on the CPU."""
    text: Tensor
    """T (n,d), on the CPU."""
    losses: dict[str, Tensor]
    """Term -> its value (n,) in the end, without its weight."""


def invert(
    model: Model,
    images: Tensor,
    text: Tensor,
    steps: int,
    seed: int = 0,
    weights: Weights | None = None,
    on_step: Callable[[float], None] = lambda loss: None,
) -> Inversion:
    """Find z and T of images that are first taken for `text`: of each image by itself.

    Args:
        images: (n,3,S,S) in [-1,1], S the side that the model generates.
        text: (n,d), T0.
        steps: of Adam; of 0, the best start.
        seed: decides the noise vectors of which the best one is the start.
        on_step: called with the mean loss before each step.
    """
    target = _Target(model, images.to(model.device), text.to(model.device), weights or Weights())
    return _descend(target, _best_start(target, seed), steps, on_step)


def settle(
    model: Model,
    images: Tensor,
    vectors: Tensor,
    moved: Inversion,
    steps: int,
    weights: Weights = SETTLING,
    on_step: Callable[[float], None] = lambda loss: None,
) -> Inversion:
    """Find z and T near those of `moved` whose images have other image vectors, and else are as they were.

    Args:
        images: (n,3,S,S) in [-1,1], from before the move.
        vectors: (n,d), the image vectors that they are to have, of any length.
        steps: of Adam.
        on_step: called with the mean loss before each step.
    """
    images, text = images.to(model.device), moved.text.to(model.device)
    target = _Target(model, images, text, weights, vectors.to(model.device))
    return _descend(target, moved.noise.to(model.device), steps, on_step)


def _descend(target: _Target, noise: Tensor, steps: int, on_step: Callable[[float], None]) -> Inversion:
    """Steps of Adam from `noise` and the target's T0."""
    noise, text = noise.clone().requires_grad_(), target.text.clone().requires_grad_()
    rate, size = target.weights.rate, float(target.text.square().mean().sqrt())
    groups = [{"params": [noise], "lr": rate}, {"params": [text], "lr": rate * size}]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    for step in range(steps):
        for group, fastest in zip(optimizer.param_groups, (rate, rate * size), strict=True):
            group["lr"] = fastest * (1 + math.cos(math.pi * step / steps)) / 2
        loss = target.weights.loss(target.terms(noise, text)).sum()
        noise.grad, text.grad = torch.autograd.grad(loss, (noise, text))
        optimizer.step()
        on_step(loss.item() / len(noise))
    noise, text = noise.detach(), as_long(target.model, text.detach())
    with torch.no_grad():
        terms = {name: value.cpu() for name, value in target.terms(noise, text).items()}
    return Inversion(noise.cpu(), text.cpu(), terms)


def as_long(model: Model, text: Tensor) -> Tensor:
    """Conditions (n,d) at unit length where all are that the model's family learns with, else as they are."""
    return F.normalize(text, dim=1) if model.family.unit_text else text


class _Target:
    """Images to be generated, and how far from them z and T are."""

    def __init__(
        self, model: Model, images: Tensor, text: Tensor, weights: Weights, vectors: Tensor | None = None
    ) -> None:
        self.model, self.images, self.text, self.weights = model, images, text, weights
        with torch.no_grad():
            features = model.clip.features(images)
        self.patches, self.vectors = features.patches, features.embedding if vectors is None else vectors

    def terms(self, noise: Tensor, text: Tensor, of: slice = slice(None)) -> dict[str, Tensor]:
        """The terms (n,) of the loss, of the images `of`."""
        text = as_long(self.model, text)
        generated = self.model.generator(noise, text, self.model.clip).float()
        features, images, start = self.model.clip.features(generated), self.images[of], self.text[of]
        patches, vectors = self.patches[of], self.vectors[of]
        return {
            "pixel": (generated - images).square().mean(dim=(1, 2, 3)),
            "perceptual": 1 - F.cosine_similarity(features.patches, patches, dim=2).mean(dim=(1, 2, 3)),
            "identity": 1 - F.cosine_similarity(features.embedding, vectors, dim=1),
            "text": (text - start).square().sum(dim=1) / start.square().sum(dim=1),
            "noise": (noise.square().mean(dim=1) - 1).square(),
        }


@torch.no_grad()
def _best_start(target: _Target, seed: int) -> Tensor:
    """For each image that of STARTS noise vectors (n,noise_dim) with the least loss under T0."""
    noise = noise_vectors(seed, range(STARTS), target.model.config.generator.noise_dim).to(target.images.device)
    best = []
    for row in range(len(target.images)):
        of, text = slice(row, row + 1), target.text[row : row + 1].expand(STARTS, -1)
        tried = zip(torch.split(noise, 8), torch.split(text, 8), strict=True)
        losses = [target.weights.loss(target.terms(z, t, of)) for z, t in tried]
        best.append(noise[torch.cat(losses).argmin()])
    return torch.stack(best)
