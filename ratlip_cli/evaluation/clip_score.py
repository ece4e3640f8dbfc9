"""How well images match their sentences, by a CLIP: the CLIP score (Hessel et al. 2021) and R-precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ratlip_cli.errors import DataError
from ratlip_cli.evaluation.features import ClipNetwork
from ratlip_cli.evaluation.images import Captions
from ratlip_cli.model.losses import clip_similarity

CANDIDATES = 100
"""Sentences among which an image's own must rank first."""


class ClipScorer:
    """The CLIP score: `values` has 100 max(cos, 0) of each image so far and its sentence, the mean over several.

    Args:
        network: whose image and sentence vectors are compared.
        captions: the sentences of all images.
        released: score as the published code does: the plain cosine, not cut off at 0 and not times 100.
    """

    def __init__(self, network: ClipNetwork, captions: Captions, released: bool = False) -> None:
        self.network = network
        self.values: list[float] = []
        self._captions = captions
        self._released = released
        self._text = captions.vectors(network.clip)

    def add(self, vectors: Tensor) -> None:
        """Score the next images by their image vectors (B,d)."""
        for vector in vectors:
            own = list(self._captions.of_image[len(self.values)])
            cosines = clip_similarity(vector[None], self._text[own])
            score = cosines if self._released else 100 * cosines.clamp(min=0)
            self.values.append(score.mean().item())


class RetrievalScorer:
    """R-precision: whether an image's own sentence ranks first among CANDIDATES, the others being of other images.

    `values` has 1 or 0 for each image so far, the mean over several sentences. Which others compete is drawn from the
    sentence's number; where there are too few, all of them do.

    Args:
        network: whose image and sentence vectors are compared.
        captions: the sentences of all images.

    Raises DataError where no other image has another sentence.
    """

    def __init__(self, network: ClipNetwork, captions: Captions) -> None:
        self.network = network
        self.values: list[float] = []
        self.candidates = CANDIDATES
        """Fewest sentences that a ranking had so far."""
        self._captions = captions
        self._text = captions.vectors(network.clip)
        wording = {sentence: number for number, sentence in enumerate(captions.sentences)}
        self._wordings = np.array([wording[sentence] for sentence in captions.sentences])

    def add(self, vectors: Tensor) -> None:
        """Rank the sentences of the next images by their image vectors (B,d)."""
        for vector in vectors:
            own = self._captions.of_image[len(self.values)]
            self.values.append(float(np.mean([self._ranks_first(vector, number) for number in own])))

    def _ranks_first(self, vector: Tensor, number: int) -> bool:
        others = self._others(number)
        self.candidates = min(self.candidates, len(others) + 1)
        cosines = clip_similarity(vector[None], self._text[np.append(others, number)])
        return bool(cosines[-1] > cosines[:-1].max())

    def _others(self, number: int) -> NDArray[np.int64]:
        scenes = self._captions.scenes
        others = np.flatnonzero((scenes != scenes[number]) & (self._wordings != self._wordings[number]))
        if not len(others):
            raise DataError("R-precision needs images with different captions; all of these have the same one.")
        if len(others) < CANDIDATES:
            return others
        return np.random.default_rng(number).choice(others, CANDIDATES - 1, replace=False, shuffle=False)
