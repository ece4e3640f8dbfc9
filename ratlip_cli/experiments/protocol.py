"""How the runs of a sweep are scored: the same for all of them. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ratlip_cli.errors import UsageError, unknown_name
from ratlip_cli.evaluation.request import DEFAULT_METRICS, FEATURES, METRICS, EvaluationRequest
from ratlip_cli.setting import check_choices, check_seed, setting, several


@dataclass(frozen=True)
class Protocol:
    """How runs are scored; what `ratlip evaluate` calls the same means the same.

    Image i of every run is generated from the same caption and the same noise vector. The model is that of the last
    checkpoint.

    Raises UsageError for unknown metrics and numbers out of range.
    """

    metrics: tuple[str, ...] = DEFAULT_METRICS
    """Of METRICS."""
    split: str = setting("test", "Split of the dataset.")
    limit: int | None = setting(None, "Only so many images of the split, always the same.")
    captions_per_image: int = setting(1, "Captions of each image that an image is generated for.")
    seed: int = setting(0, "Decides the noise vectors.")
    features: str | None = setting(None, "Network for FID, KID, precision and recall.", choices=FEATURES)
    inception_weights: str | None = setting(None, "Inception's weights, for a machine without internet.")
    clip: str | None = setting(None, "CLIP to score by; the training's if left out.")
    clip_score_clip: str | None = setting(None, "A second CLIP for the CLIP metrics, which training never saw.")
    attribute_classifier: str | None = setting(None, "Rendered data: weights file of the attribute classifier.")

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", several(self.metrics))
        for metric in self.metrics:
            if metric not in METRICS:
                raise unknown_name("metric", str(metric), METRICS)
        if not self.metrics:
            raise UsageError(f"metrics is empty; name some of: {', '.join(METRICS)}.")
        check_choices(self)
        check_seed(self.seed)
        for name in ("limit", "captions_per_image"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1.")

    def request(self, run: Path, data_dir: Path, device: str) -> EvaluationRequest:
        """What `ratlip evaluate` would be asked for a run, but that its own CLIP scores where none is named."""
        weights = None if self.inception_weights is None else Path(self.inception_weights)
        return EvaluationRequest(
            model=str(run),
            data_dir=data_dir,
            metrics=self.metrics,
            split=self.split,
            limit=self.limit,
            captions_per_image=self.captions_per_image,
            seed=self.seed,
            features=self.features,
            inception_weights=weights,
            clip=self.clip,
            clip_score_clip=self.clip_score_clip,
            device=device,
        )


_NOT_DECISIVE = {"inception_weights", "attribute_classifier", "clip", "clip_score_clip", "networks", "model"}


def unlike(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The names of what differs between two protocols as they are recorded.

    Networks stand in the order of their tasks. What they are called and where their files lie does not count, their
    fingerprints do. Nor does `model`: it is the last checkpoint in all, and whether it is an EMA is a setting of the
    training.
    """
    every = {**first, **second}
    names = [name for name in every if name not in _NOT_DECISIVE and first.get(name) != second.get(name)]
    networks = zip_longest(*(protocol.get("networks", {}).items() for protocol in (first, second)), fillvalue=("", {}))
    return names + [one or other for (one, its), (other, others) in networks if its != others]
