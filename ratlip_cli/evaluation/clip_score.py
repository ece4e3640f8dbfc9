"""How well images match their captions, by a CLIP: the CLIP score (Hessel et al. 2021) and R-precision."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from ratlip_cli.errors import DataError
from ratlip_cli.evaluation.feature_file import FeatureFile
from ratlip_cli.evaluation.images import Captions
from ratlip_cli.model.losses import clip_similarity

CANDIDATES = 100
"""Captions among which an image's own must rank first."""


def clip_scores(images: FeatureFile, captions: Captions, text: Tensor, released: bool = False) -> list[float]:
    """100 max(cos, 0) of each image and its caption, the mean over several.

    Args:
        images: image vectors (n,d).
        captions: the captions of all images.
        text: their text vectors (number of captions, d) by the same CLIP.
        released: score as the published code does: the plain cosine, not cut off at 0 and not times 100.
    """
    scores = []
    for vector, own in zip(_vectors(images), captions.of_image, strict=True):
        cosines = clip_similarity(vector[None], text[list(own)])
        scores.append((cosines if released else 100 * cosines.clamp(min=0)).mean().item())
    return scores


def ranks_first(images: FeatureFile, captions: Captions, text: Tensor) -> tuple[list[float], int]:
    """Whether the own caption of each image ranks first among `candidates`: 1 or 0, the mean over several.

    Args:
        images: image vectors (n,d).
        captions: the captions of all images.
        text: their text vectors (number of captions, d) by the same CLIP.

    Returns:
        That of each image, and the fewest candidates that there were. Raises DataError as `candidates` does.
    """
    scores, fewest = [], CANDIDATES
    for vector, own in zip(_vectors(images), captions.of_image, strict=True):
        first = []
        for number in own:
            among = candidates(captions, number)
            cosines = clip_similarity(vector[None], text[among])
            first.append(bool(cosines[-1] > cosines[:-1].max()))
            fewest = min(fewest, len(among))
        scores.append(float(np.mean(first)))
    return scores, fewest


def candidates(captions: Captions, number: int) -> NDArray[np.int64]:
    """The numbers of CANDIDATES captions: others, of other images and in other words, and last `number` itself.

    Which others compete is a random choice that depends on `number` alone; where there are too few, all of them do.
    Raises DataError where there is none.
    """
    scenes, wordings = captions.scenes, captions.wordings
    others = np.flatnonzero((scenes != scenes[number]) & (wordings != wordings[number]))
    if not len(others):
        raise DataError("R-precision needs images with different captions; all of these have the same one.")
    if len(others) >= CANDIDATES:
        others = np.random.default_rng(number).choice(others, CANDIDATES - 1, replace=False, shuffle=False)
    return np.append(others, number)


def _vectors(images: FeatureFile) -> Iterator[Tensor]:
    """The vectors (d,) of all images, a chunk in memory at a time."""
    for rows in images.chunks():
        yield from from_numpy(images[rows])
