"""Does the map of a word lie in its segment? Pointing game (Zhang et al. 2016) and energy inside (Wang et al. 2020).

They need images whose segments are known, such as the rendered ones. Each stands beside two baselines that do not
depend on the image: chance (a point anywhere, a map of one value: both give the segment's share of the image) and the
centre (its middle point, a Gaussian around it).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ratlip_cli.explain.gradcam.words import Phrase, phrases
from ratlip_cli.explain.intervals import FEWEST, Mean, mean_interval

WHOLE = "all segments"
"""Stands for the union of an image's segments, against which the map of the whole prompt is held."""

_CENTRE_WIDTH = 0.25
"""Standard deviation of the centre baseline's Gaussian, as a share of the image's side."""

_OTHER_NAMES = {
    "bill": "beak",
    "breast": "belly",
    "winged": "wings",
    **dict.fromkeys(("branch", "rock", "stone", "fence", "grass"), "perch"),
    **dict.fromkeys(("center", "middle"), "centre"),
    "leaf": "leaves",
    "bearded": "beard",
    **dict.fromkeys(("smile", "smiling"), "mouth"),
}
"""What captions call a segment besides its name."""


@dataclass(frozen=True)
class SegmentScore:
    """One map held against the mask of the segment that its words name. All values are shares, from 0 to 1."""

    segment: str
    text: str
    """The words."""
    pointing: float
    """1 where the map's maximum lies inside the segment, else 0; 0 for a map that is zero."""
    energy: float
    """Share of the map's sum that lies inside the segment."""
    chance: float
    """Share of the image that the segment covers: what a random point, or a map of one value, reaches."""
    centre_pointing: float
    """The same as `pointing` for the image's centre."""
    centre_energy: float
    """The same as `energy` for a Gaussian around the centre."""


@dataclass(frozen=True)
class Measured:
    """One of the two measures over many images."""

    map: Mean
    chance: float
    centre: float
    over_chance: Mean
    """The map's value minus chance, image by image."""
    over_centre: Mean
    """The map's value minus the centre baseline's, image by image."""

    @property
    def better_than_centre(self) -> bool:
        """Whether the whole interval of the difference is above 0."""
        return self.over_centre.side > 0


@dataclass(frozen=True)
class SegmentSummary:
    """One segment over many images."""

    segment: str
    n: int
    pointing: Measured
    energy: Measured

    @property
    def verdict(self) -> str:
        """In words, which baselines the map is better than, and by which measure."""
        if self.n < FEWEST:
            return f"{self.n} images are too few to say"
        by = {"pointing": self.pointing, "energy": self.energy}
        over_centre = [name for name, measured in by.items() if measured.better_than_centre]
        over_chance = [name for name, measured in by.items() if measured.over_chance.side > 0]
        return f"{_better('the centre baseline', over_centre)}; {_better('chance', over_chance)}"


def _better(than: str, by: list[str]) -> str:
    return f"better than {than} by {' and '.join(by)}" if by else f"no better than {than}"


def segment_named(text: str, segments: Iterable[str]) -> str | None:
    """The one of `segments` that words name, the last of them first: `wings` for "black wings"; None for none."""
    known = set(segments)
    for word in reversed(re.findall(r"[^\W_]+", text.lower())):
        for name in (word, f"{word}s", word.removesuffix("s"), _OTHER_NAMES.get(word, word)):
            if name in known:
                return name
    return None


def phrases_naming_segments(prompt: str, segments: Iterable[str]) -> list[Phrase]:
    """Phrases of the prompt, such as "black wings", that name one of `segments`: the first for each."""
    known = set(segments)
    named: dict[str, Phrase] = {}
    for phrase in phrases(prompt):
        segment = segment_named(phrase.text, known)
        if segment:
            named.setdefault(segment, phrase)
    return list(named.values())


def score_segment(segment: str, text: str, pixels: NDArray[np.floating], mask: NDArray[np.bool_]) -> SegmentScore:
    """Hold a map (S,S), not negative, against a mask (S,S) that is not empty."""
    total = float(pixels.sum())
    centre = centre_map(len(mask))
    return SegmentScore(
        segment=segment,
        text=text,
        pointing=float(mask.ravel()[pixels.argmax()]) if total > 0 else 0.0,
        energy=float(pixels[mask].sum()) / total if total > 0 else 0.0,
        chance=float(mask.mean()),
        centre_pointing=float(mask[centre == centre.max()].mean()),
        centre_energy=float(centre[mask].sum() / centre.sum()),
    )


def centre_map(size: int) -> NDArray[np.float64]:
    """The map (S,S) of the centre baseline: a Gaussian, 1 at its highest; four pixels share that where S is even."""
    places = np.abs(np.arange(size) - (size - 1) / 2)
    distance = places[:, None] ** 2 + places**2
    gaussian: NDArray[np.float64] = np.exp((distance.min() - distance) / (2 * (_CENTRE_WIDTH * size) ** 2))
    return gaussian


def summarise(scores: Iterable[SegmentScore]) -> list[SegmentSummary]:
    """Means with intervals for each segment, in the order of their names, all segments together last."""
    by_segment: dict[str, list[SegmentScore]] = defaultdict(list)
    for score in scores:
        by_segment[score.segment].append(score)
    return [
        SegmentSummary(
            segment,
            len(some),
            _measured([s.pointing for s in some], some, [s.centre_pointing for s in some]),
            _measured([s.energy for s in some], some, [s.centre_energy for s in some]),
        )
        for segment, some in sorted(by_segment.items(), key=lambda item: (item[0] == WHOLE, item[0]))
    ]


def _measured(own: list[float], scores: list[SegmentScore], centre: list[float]) -> Measured:
    values, chances, centres = np.array(own), np.array([score.chance for score in scores]), np.array(centre)
    return Measured(
        map=mean_interval(values),
        chance=float(chances.mean()),
        centre=float(centres.mean()),
        over_chance=mean_interval(values - chances),
        over_centre=mean_interval(values - centres),
    )
