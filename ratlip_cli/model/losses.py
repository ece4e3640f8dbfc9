"""Section III-D, Eq. 8: hinge losses, the matching-aware gradient penalty, and the CLIP similarity.

The penalty is GALIP's and DF-GAN's MA-GP, taken with respect to the CLIP features of the real image and its caption.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_TIMES_AS_PROBABLE = 20
"""At which CLIP finds most of the demo's captions with a word exchanged that are wrong, and few that are not."""

_SMALLEST_DISTANCE = 1e-3
"""Added to that of two images' vectors, which may be equal."""


def mismatched(text: Tensor) -> Tensor:
    """T_mis (B,d): the batch's captions moved on by one, so that each image meets its neighbour's."""
    return text.roll(-1, dims=0)


def found_wrong(text: Tensor, image_vectors: Tensor, captions: Tensor, logit_scale: Tensor) -> Tensor:
    """Which captions CLIP finds wrong (B,N): the images' own are _TIMES_AS_PROBABLE as probable, or more.

    Args:
        text: T of the images' own captions (B,d).
        image_vectors: E of the images (B,d).
        captions: T of each image's captions in question (B,N,d).
        logit_scale: what CLIP multiplies cosines by, before a softmax makes probabilities of them (scalar).
    """
    images = image_vectors[:, None].float()
    advantage = _cosines(images, text[:, None]) - _cosines(images, captions)
    return logit_scale * advantage > math.log(_TIMES_AS_PROBABLE)


def hard_mismatched(captions: Tensor, wrong: Tensor, neighbours: Tensor) -> Tensor:
    """T_mis (B,d) as hard negatives: the first of each image's captions that counts as wrong for it.

    A neighbour's caption seldom differs in a small thing alone, so a discriminator learns late to look at those.
    Not in the paper: an option.

    Args:
        captions: T of each image's captions to choose among (B,N,d).
        wrong: which of them count (B,N), see `found_wrong`.
        neighbours: T (B,d) for images for which none does.
    """
    first = captions.take_along_dim(wrong.int().argmax(dim=1)[:, None, None], dim=1)[:, 0]
    return torch.where(wrong.any(dim=1, keepdim=True), first, neighbours)


def contrastive(image_vectors: Tensor, text: Tensor, captions: Tensor, wrong: Tensor, logit_scale: Tensor) -> Tensor:
    """The mean of -log p of generated images' captions, by CLIP, among them and the wrong ones of `captions`. Scalar.

    Where the similarity grows by whatever CLIP likes to see with a caption, this grows by what tells it from others
    alone, and is content when they are told apart. Not in the paper: an option.

    Args:
        image_vectors: E of generated images (B,d).
        text: T of their captions (B,d).
        captions: T of other captions of each (B,N,d).
        wrong: which of them count (B,N).
        logit_scale: what CLIP multiplies cosines by, before a softmax makes probabilities of them (scalar).
    """
    images = image_vectors[:, None].float()
    right = logit_scale * _cosines(images, text[:, None])
    others = (logit_scale * _cosines(images, captions)).masked_fill(~wrong, -torch.inf)
    return (torch.cat((right, others), dim=1).logsumexp(dim=1) - right[:, 0]).mean()


def _cosines(vectors: Tensor, others: Tensor) -> Tensor:
    return F.cosine_similarity(vectors.float(), others.float(), dim=-1)


def hinge_real(logits: Tensor) -> Tensor:
    """E max(0, 1 - D), for real images with their own caption. Scalar."""
    return F.relu(1 - logits.float()).mean()


def hinge_fake(logits: Tensor) -> Tensor:
    """E max(0, 1 + D), for generated images, and for real ones with another image's caption. Scalar."""
    return F.relu(1 + logits.float()).mean()


def discriminator_loss(real: Tensor, fake: Tensor, mismatch: Tensor, penalty: Tensor) -> Tensor:
    """L_D of Eq. 8 from the logits (B,) of D(x,T), D(G(z,T),T) and D(x,T_mis), and the gradient penalty. Scalar."""
    return hinge_real(real) + 0.5 * (hinge_fake(fake) + hinge_fake(mismatch)) + penalty


def generator_loss(fake: Tensor, similarity: Tensor, clip_weight: float = 4.0) -> Tensor:
    """L_G of Eq. 8 from logits (B,) of D(G(z,T),T) and CLIP similarities (B,); `clip_weight` is lambda. Scalar."""
    return -fake.float().mean() - clip_weight * similarity.float().mean()


def mode_seeking(image_vectors: Tensor, text: Tensor, noise: Tensor) -> Tensor:
    """E[ |z - z'| / (1 - cos(R, R')) ]: large where the noise changes little that CLIP sees. Scalar.

    R is what of E(G(z,T)) is perpendicular to T: what the caption leaves open. Leaving the caption wins nothing.
    Not in the paper: an option, from Mao et al., "Mode Seeking Generative Adversarial Networks", 2019, which takes the
    distance of the pixels. Those follow position and background; CLIP's image vectors follow what captions speak of.

    Args:
        image_vectors: E of generated images (B,d); k and k + B/2 are of one caption.
        text: their captions' T (B,d).
        noise: z (B,noise_dim); its distance is the mean of absolute differences.
    """
    direction = F.normalize(text.float(), dim=1)
    image_vectors = image_vectors.float()
    rest = image_vectors - (image_vectors * direction).sum(dim=1, keepdim=True) * direction
    apart = 1 - clip_similarity(*rest.chunk(2)) + _SMALLEST_DISTANCE
    z, other_z = noise.chunk(2)
    return ((z - other_z).abs().mean(dim=1) / apart).mean()


def clip_similarity(image_vectors: Tensor, text: Tensor) -> Tensor:
    """Cosines (B,) in [-1,1] between image vectors (B,d) and text vectors (B,d)."""
    return F.cosine_similarity(image_vectors.float(), text.float(), dim=1)


def matching_aware_gradient_penalty(
    logits: Tensor, inputs: Sequence[Tensor], k: float = 2.0, p: float = 6.0
) -> tuple[Tensor, Tensor]:
    """k E[ ||grad D(x,T)||^p ] over real images with their own captions (Eq. 8).

    The gradient with respect to all inputs is flattened and concatenated per sample. Compute all of it in float32,
    outside autocast: the sixth power of a norm overflows in half precision.

    Args:
        logits: D(x,T) (B,), computed from `inputs`, which require gradients.
        inputs: CLIP features of real images (B,3,W,g,g), their text vectors (B,d), and whatever else D is given.
        k, p: the paper's two hyper-parameters of the penalty.

    Returns:
        The penalty (scalar, differentiable), and the gradient norms (B,), detached.
    """
    gradients = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    norm = torch.cat([gradient.flatten(1) for gradient in gradients], dim=1).norm(dim=1)
    return k * norm.pow(p).mean(), norm.detach()
