"""How unlike a run's samples are, for CLIP, and whether that fell: here a generator that collapses shows first."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

UNDER_ONE_CAPTION, OVER_CAPTIONS = "variety_noise", "variety_captions"
"""Names of the two figures in metrics.jsonl."""

_FALLEN = 0.25
"""Share of a figure's highest value so far below which it has fallen."""

_ADVICE = {
    UNDER_ONE_CAPTION: "images under one caption have become alike; --diversity-weight keeps them apart",
    OVER_CAPTIONS: "images of different captions have become alike; try a lower --lr-g, or an earlier checkpoint",
}


def variety(image_vectors: Tensor) -> dict[str, float | None]:
    """Mean of 1 - cos over pairs of images, in [0,2], by name: under one caption, and of different captions.

    Args:
        image_vectors: of CLIP (captions, noise vectors, d), the same noise vectors under each caption. A figure of
            which there is no pair is left out, and is None where vectors are not finite.
    """
    captions, noises, _ = image_vectors.shape
    directions = F.normalize(image_vectors.float(), dim=2).flatten(0, 1)  # (captions * noises, d)
    distances = 1 - directions @ directions.T
    caption = torch.arange(captions, device=distances.device).repeat_interleave(noises)
    same = caption[:, None] == caption
    itself = torch.eye(len(caption), dtype=torch.bool, device=distances.device)
    pairs = {UNDER_ONE_CAPTION: same & ~itself, OVER_CAPTIONS: ~same}
    means = {name: distances[chosen].mean().item() for name, chosen in pairs.items() if chosen.any()}
    return {name: mean if math.isfinite(mean) else None for name, mean in means.items()}


@dataclass
class Watch:
    """Tells, once for each fall, that a figure is below a quarter of its highest value so far."""

    _highest: dict[str, tuple[float, int]] = field(default_factory=dict)  # By name: the value and its step.
    low: set[str] = field(default_factory=set)
    """Names of the figures that have fallen and not risen again."""

    @classmethod
    def of_run(cls, metrics: Path) -> Watch:
        """A watch that has seen the figures in the metrics.jsonl of a run, where there is one."""
        watch = cls()
        if metrics.is_file():
            with metrics.open(encoding="utf-8") as lines:
                for line in lines:
                    if line.endswith("\n") and any(name in line for name in _ADVICE):  # else cut short by a full disk
                        record = json.loads(line)
                        watch.fallen(record["step"], {name: record.get(name) for name in _ADVICE})
        return watch

    def fallen(self, step: int, figures: Mapping[str, float | None]) -> list[str]:
        """Take the figures of a step; a line for each that has fallen."""
        lines = []
        for name, value in figures.items():
            if value is None:
                continue
            highest, at = self._highest.get(name, (0.0, step))
            if value >= highest:
                self._highest[name] = (value, step)
            if value >= _FALLEN * highest:
                self.low.discard(name)
            elif name not in self.low:
                self.low.add(name)
                fall = f"step {step}: {name} fell to {value:.3g} from {highest:.3g} at step {at}"
                lines.append(f"{fall}: {_ADVICE[name]}; look at samples/")
        return lines
