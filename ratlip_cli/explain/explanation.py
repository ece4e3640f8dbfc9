"""One image explained: where the sentence and its words are seen, and whether that is to be trusted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ratlip_cli.explain import words
from ratlip_cli.explain.faithfulness import Curve, Faithfulness, compare, curves
from ratlip_cli.explain.gradcam import Target, gradcam, scores_of, upsample
from ratlip_cli.explain.input_images import InputImage
from ratlip_cli.explain.segments import SUBJECT, SegmentScore, score_segment, segment_named
from ratlip_cli.weights.model_folder import Model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Map:
    """Where the sentence, or some words of it, are seen."""

    text: str
    """The words; the whole prompt for the map of the sentence."""
    score: float
    """The target; for words, its change when they are left out."""
    cells: NDArray[np.float32]
    """(g,g), scaled to its maximum; all 0 where nothing at this layer raises the score."""
    pixels: NDArray[np.float32]
    """(S,S), the cells at the image's size."""
    part: SegmentScore | None
    """The map held against the part that the words name, where that is known."""

    def record(self) -> dict[str, object]:
        """The numbers of the map, without its values."""
        high = self.pixels >= 0.5
        y, x = np.unravel_index(self.pixels.argmax(), self.pixels.shape)
        size = len(self.pixels)
        return {
            "text": self.text,
            "score": self.score,
            "is_zero": not self.cells.any(),
            "highest_at": {"x": (float(x) + 0.5) / size, "y": (float(y) + 0.5) / size} if self.cells.any() else None,
            "share_above_half": float(high.mean()),
            "part": asdict(self.part) if self.part else None,
        }


@dataclass(frozen=True)
class Explanation:
    """An image, its maps, and how the target goes when cells are put in or taken out."""

    model: Model
    target: Target
    layer: int
    subject: InputImage
    sentence: Map
    words: list[Map]
    curves: list[Curve]
    faithfulness: list[Faithfulness]

    def record(self) -> dict[str, object]:
        """All numbers but the maps' values and the curves' points."""
        return {
            "model": self.model.name,
            "image": self.subject.name,
            "prompt": self.subject.prompt,
            "target": self.target.name,
            "layer": self.layer,
            "sentence": self.sentence.record(),
            "words": [found.record() for found in self.words],
            **{found.kind: asdict(found) for found in self.faithfulness},
        }

    def part_scores(self) -> list[SegmentScore]:
        """Of the sentence and the words, where parts are known."""
        return [found.part for found in (self.sentence, *self.words) if found.part]


def explain(
    model: Model, target: Target, layer: int, subject: InputImage, phrases: Sequence[words.Phrase] = (), seed: int = 0
) -> Explanation:
    """Explain one image.

    Args:
        layer: see `resolve_layer`.
        phrases: words of the subject's prompt to make a map of each.
        seed: decides the random orders of insertion and deletion.
    """
    if model.clip.is_overlong(subject.prompt):
        tokens = model.clip.context_length
        logger.warning("the prompt is as long as the %d tokens that CLIP reads; its end may be cut.", tokens)
    sentences = [words.without(subject.prompt, phrase) for phrase in phrases]
    text = model.clip.encode_text([subject.prompt, *sentences])
    image = subject.image.to(model.device)
    whole = gradcam(target, image[None], text[:1], layer)
    cells, scores = whole.cells, whole.scores
    if phrases:
        batch = image.expand(len(phrases), -1, -1, -1)
        left_out = gradcam(target, batch, text[:1].expand(len(phrases), -1), layer, text[1:])
        cells, scores = torch.cat((cells, left_out.cells)), torch.cat((scores, left_out.scores))
    sentence, *of_words = _maps(subject, words.labels(phrases), cells, scores)
    random = np.random.default_rng(seed)
    found = curves(lambda shown: scores_of(target, shown, text[:1]).cpu(), image, sentence.cells, random)
    return Explanation(model, target, layer, subject, sentence, of_words, found, compare(found))


def _maps(subject: InputImage, labels: Sequence[str], cells: torch.Tensor, scores: torch.Tensor) -> list[Map]:
    pixels = upsample(cells, subject.image.shape[-1]).cpu().numpy()
    scaled = (cells / cells.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(cells.dtype).tiny)).cpu().numpy()
    found = []
    for place, text in enumerate((subject.prompt, *labels)):
        part = _score(subject, text, pixels[place], whole=place == 0)
        found.append(Map(text, float(scores[place]), scaled[place], pixels[place], part))
    return found


def _score(subject: InputImage, text: str, pixels: NDArray[np.float32], whole: bool) -> SegmentScore | None:
    if not subject.masks:
        return None
    if whole:
        return score_segment(SUBJECT, text, pixels, np.logical_or.reduce(list(subject.masks.values())))
    part = segment_named(text, subject.masks)
    return score_segment(part, text, pixels, subject.masks[part]) if part else None


def phrases_of(prompt: str, every_word: bool, chosen: Sequence[str]) -> list[words.Phrase]:
    """The words to explain: those `chosen`, and every one where `every_word` says so; in the order of the prompt.

    Raises UsageError for a chosen word that is not in the prompt.
    """
    found = {phrase for wanted in chosen for phrase in words.find(prompt, wanted)}
    found |= set(words.words(prompt)) if every_word else set()
    return sorted(found, key=lambda phrase: (phrase.start, phrase.end))
