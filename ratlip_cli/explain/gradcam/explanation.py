"""One image explained: where it shows the prompt and its words, and whether the map is to be trusted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ratlip_cli.explain.gradcam import words
from ratlip_cli.explain.gradcam.faithfulness import Curve, Faithfulness, compare, curves
from ratlip_cli.explain.gradcam.gradcam import Target, gradcam, scores_of, upsample
from ratlip_cli.explain.gradcam.input_images import InputImage
from ratlip_cli.explain.gradcam.segments import WHOLE, SegmentScore, score_segment, segment_named
from ratlip_cli.weights.model_folder import Model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Map:
    """Where an image shows the prompt, or some words of it."""

    text: str
    """The words; the whole prompt for its map."""
    score: float
    """The target; for words, its change when they are left out."""
    cells: NDArray[np.float32]
    """(g,g), scaled to its maximum; all 0 where nothing at this layer raises the score."""
    pixels: NDArray[np.float32]
    """(S,S), the cells at the image's size."""
    segment: SegmentScore | None
    """The map held against the segment that the words name, where that is known."""

    @property
    def share_above_half(self) -> float:
        """Share of the image where the map is at least half its maximum."""
        return float((self.pixels >= 0.5).mean())

    def record(self) -> dict[str, object]:
        """The numbers of the map, without its values."""
        y, x = np.unravel_index(self.pixels.argmax(), self.pixels.shape)
        size = len(self.pixels)
        return {
            "text": self.text,
            "score": self.score,
            "is_zero": not self.cells.any(),
            "highest_at": {"x": (float(x) + 0.5) / size, "y": (float(y) + 0.5) / size} if self.cells.any() else None,
            "share_above_half": self.share_above_half,
            "segment": asdict(self.segment) if self.segment else None,
        }


@dataclass(frozen=True)
class Explanation:
    """An image, its maps, and how the target changes when cells are put in or taken out."""

    model: Model
    target: Target
    layer: int | None
    """None for a target with a feature map of its own."""
    input: InputImage
    whole: Map
    """Of the whole prompt."""
    words: list[Map]
    curves: list[Curve]
    faithfulness: list[Faithfulness]

    @property
    def maps(self) -> list[Map]:
        """That of the whole prompt, then those of its words."""
        return [self.whole, *self.words]

    @property
    def segment_scores(self) -> list[SegmentScore]:
        """Of all maps, where segments are known."""
        return [one.segment for one in self.maps if one.segment]

    def record(self) -> dict[str, object]:
        """All numbers but the maps' values and the curves' points."""
        return {
            "model": self.model.name,
            "image": self.input.name,
            "prompt": self.input.prompt,
            "target": self.target.name,
            "layer": self.layer,
            "whole_prompt": self.whole.record(),
            "words": [one.record() for one in self.words],
            **{measured.kind: asdict(measured) for measured in self.faithfulness},
        }


def explain_image(
    model: Model,
    target: Target,
    layer: int | None,
    input: InputImage,
    phrases: Sequence[words.Phrase] = (),
    seed: int | Sequence[int] = 0,
) -> Explanation:
    """Explain one image.

    Args:
        layer: see `resolve_layer`.
        phrases: words of the prompt to make a map of each.
        seed: decides the random orders of insertion and deletion.
    """
    if target.reader.is_overlong(input.prompt):
        read = target.reader.context_length
        logger.warning("the prompt is as long as the %d tokens that are read; its end may be cut.", read)
    if unknown := model.unknown_words(input.prompt, target.reader):
        logger.warning("%s", unknown)
    (of_prompt, *of_words), text = maps_of(model, target, layer, input, phrases)
    image = input.image.to(model.device)
    random = np.random.default_rng(seed)
    measured = curves(lambda images: scores_of(target, images, text).cpu(), image, of_prompt.cells, random)
    return Explanation(model, target, layer, input, of_prompt, of_words, measured, compare(measured))


def maps_of(
    model: Model, target: Target, layer: int | None, input: InputImage, phrases: Sequence[words.Phrase] = ()
) -> tuple[list[Map], torch.Tensor]:
    """Where one image shows its prompt, then where it shows each of `phrases`; and the prompt's text (1,...).

    See `explain_image` and `Target.encode`.
    """
    text = target.encode([input.prompt, *(words.without(input.prompt, phrase) for phrase in phrases)])
    image = input.image.to(model.device)
    cells, scores = gradcam(target, image[None], text[:1], layer)
    if phrases:
        batch = image.expand(len(phrases), -1, -1, -1)
        left_out = gradcam(target, batch, text[:1].expand(len(phrases), *text.shape[1:]), layer, text[1:])
        cells, scores = torch.cat((cells, left_out.cells)), torch.cat((scores, left_out.scores))
    return _maps(input, words.labels(phrases), cells, scores), text[:1]


def _maps(input: InputImage, labels: Sequence[str], cells: torch.Tensor, scores: torch.Tensor) -> list[Map]:
    """Maps of the whole prompt and of the words `labels`, from cells (n,g,g) and scores (n,)."""
    pixels = upsample(cells, input.image.shape[-1]).cpu().numpy()
    scaled = (cells / cells.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(cells.dtype).tiny)).cpu().numpy()
    texts = (input.prompt, *labels)
    segments = [WHOLE if input.masks else None, *(segment_named(label, input.masks) for label in labels)]
    masks = {**input.masks, WHOLE: np.logical_or.reduce(list(input.masks.values()))}
    return [
        Map(
            text,
            float(scores[k]),
            scaled[k],
            pixels[k],
            None if segment is None else score_segment(segment, text, pixels[k], masks[segment]),
        )
        for k, (text, segment) in enumerate(zip(texts, segments, strict=True))
    ]
