"""Learning rates and weights over a run: constant, then along half a cosine to their final values."""

from __future__ import annotations

import math


def scheduled(start: float, final: float | None, progress: float, decay_from: float) -> float:
    """The value at a share `progress` of the run: `start` until `decay_from`, `final` at 1.

    Args:
        final: None for `start` all along.
        progress, decay_from: in [0,1].
    """
    if final is None or progress <= decay_from:
        return start
    gone = min(1.0, (progress - decay_from) / (1 - decay_from)) if decay_from < 1 else 1.0
    return final + (start - final) * (1 + math.cos(math.pi * gone)) / 2
