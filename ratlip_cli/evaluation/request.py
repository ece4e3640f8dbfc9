"""What can be asked of an evaluation. Standard library only: the command line reads it before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ratlip_cli.errors import UsageError, unknown_name

METRICS = ("fid", "kid", "precision-recall", "clip-score", "r-precision")
OF_FEATURES, OF_CLIP = METRICS[:3], METRICS[3:]
DEFAULT_METRICS = ("fid", "clip-score")
PROTOCOLS = ("standard", "released")
FEATURES = ("inception", "clip")

FEWEST_DRAWS = 40
"""Bootstrap draws below which there is no 2.5 % quantile."""


@dataclass(frozen=True)
class Request:
    """What to measure, and how."""

    metrics: tuple[str, ...] = DEFAULT_METRICS
    """Of METRICS."""
    protocol: str = "standard"
    """One of PROTOCOLS."""
    captions_per_image: int = 10
    """The first so many captions of each image are used, or all where there are fewer."""
    bootstrap: int = 0
    """Draws for 95 % intervals; 0 for none."""
    seed: int = 0
    """Of a model's noises."""
    batch_size: int | None = None
    """Images at a time; left out, networks take 16 on a CPU and 64 elsewhere."""

    def __post_init__(self) -> None:
        for metric in self.metrics:
            if metric not in METRICS:
                raise unknown_name("metric", metric, METRICS)
        if self.protocol not in PROTOCOLS:
            raise unknown_name("protocol", self.protocol, PROTOCOLS)
        if self.captions_per_image < 1:
            raise UsageError(f"captions per image is {self.captions_per_image}; it must be at least 1.")
        if self.bootstrap < 0 or 0 < self.bootstrap < FEWEST_DRAWS:
            raise UsageError(f"bootstrap is {self.bootstrap}; it must be 0, or at least {FEWEST_DRAWS} for 95 %.")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed is {self.seed}; it must not be negative, and below 2^63.")
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"batch size is {self.batch_size}; it must be at least 1.")

    def wants(self, metrics: Sequence[str]) -> bool:
        """Whether any of `metrics` is asked for."""
        return any(metric in metrics for metric in self.metrics)
