"""What can be asked of an evaluation. Standard library only: the command line reads it before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ratlip_cli.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from ratlip_cli.weights.model_folder import Model

OF_FEATURES = {"fid": ("fid",), "kid": ("kid",), "precision-recall": ("precision", "recall")}
"""Metrics that compare features of generated and of real images, and the keys of their scores."""

OF_CLIP = {"clip-score": ("clip_score",), "r-precision": ("r_precision",)}
"""Metrics that compare images with their captions, and the keys of their scores."""

METRICS = (*OF_FEATURES, *OF_CLIP)
DEFAULT_METRICS = ("fid", "clip-score")
PROTOCOLS = ("standard", "released")
FEATURES = ("inception", "clip")

FEWEST_RESAMPLES = 40
"""Bootstrap resamples below which there is no 2.5 % quantile."""


@dataclass(frozen=True)
class EvaluationRequest:
    """What to score, against what, by which metrics, and how.

    Either a model is scored, on a split of a dataset; or a folder of images, against a folder or a split.

    Raises UsageError for unknown names, numbers out of range, and settings that exclude each other.
    """

    model: str | Path | Model | None = None
    """What `load_model` takes, or a loaded model; left out, the newest run in runs/, else ratlip-demo."""
    images: Path | None = None
    """Folder of images to score instead of a model's."""
    reference: Path | None = None
    """With `images`: folder of real images, instead of `dataset`."""
    dataset: str | Path | None = None
    """Real images: a dataset's name or folder. Left out, what the model was trained on."""
    split: str = "test"
    """Split of the dataset."""
    data_dir: Path = Path("data")
    """Folder of prepared datasets."""
    metrics: tuple[str, ...] = DEFAULT_METRICS
    """Of METRICS."""
    protocol: str = "standard"
    """One of PROTOCOLS."""
    features: str | None = None
    """One of FEATURES, for FID, KID, precision and recall; left out, what the model names, else Inception. The protocol
    `released` has an Inception of its own instead."""
    clip: str | None = None
    """CLIP to score by, as `load_clip` takes it. Left out, the model's own where `features` is `clip` or it is a
    ViT-B/32, else OpenAI's ViT-B/32."""
    second_clip: str | None = None
    """A further CLIP, for CLIP score and R-precision."""
    inception_weights: Path | None = None
    """File of Inception's weights; left out, they are looked for and downloaded."""
    captions_per_image: int = 10
    """The first so many captions of each image are used, or all where there are fewer."""
    bootstrap: int = 0
    """Resamples for 95 % intervals; 0 for none."""
    seed: int = 0
    """Of the model's noise vectors."""
    batch_size: int | None = None
    """Images at a time; left out, feature networks take 16 on a CPU and 64 elsewhere."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps; a loaded model stays where it is."""

    def __post_init__(self) -> None:
        for metric in self.metrics:
            if metric not in METRICS:
                raise unknown_name("metric", metric, METRICS)
        if self.protocol not in PROTOCOLS:
            raise unknown_name("protocol", self.protocol, PROTOCOLS)
        if self.features is not None and self.features not in FEATURES:
            raise unknown_name("features", self.features, FEATURES)
        if self.captions_per_image < 1:
            raise UsageError(f"captions per image is {self.captions_per_image}; it must be at least 1.")
        if self.bootstrap < 0 or 0 < self.bootstrap < FEWEST_RESAMPLES:
            raise UsageError(f"bootstrap is {self.bootstrap}; it must be 0, or at least {FEWEST_RESAMPLES} for 95 %.")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed is {self.seed}; it must not be negative, and below 2^63.")
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"batch size is {self.batch_size}; it must be at least 1.")
        if self.images is None and self.reference is not None:
            raise UsageError("--reference goes with --images; a model is compared with a --dataset.")
        if self.images is not None and (self.model is not None or None not in (self.reference, self.dataset)):
            raise UsageError("--images takes no --model, and either --reference or --dataset.")

    @property
    def released(self) -> bool:
        """Whether images are prepared as the published code does it."""
        return self.protocol == "released"

    @property
    def feature_keys(self) -> list[str]:
        """Keys of the wanted scores that compare features of generated and of real images."""
        return self._keys(OF_FEATURES)

    @property
    def clip_keys(self) -> list[str]:
        """Keys of the wanted scores that compare images with their captions."""
        return self._keys(OF_CLIP)

    def _keys(self, table: Mapping[str, tuple[str, ...]]) -> list[str]:
        return [key for metric, keys in table.items() if metric in self.metrics for key in keys]
