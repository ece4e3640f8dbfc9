"""How the runs of a sweep are scored: the same for all of them. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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

    def request(self, run: Path, clip: str, data_dir: Path, device: str) -> EvaluationRequest:
        """What `ratlip evaluate` would be asked for a run that was trained with this CLIP."""
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
            clip=self.clip or clip,
            clip_score_clip=self.clip_score_clip,
            device=device,
        )
