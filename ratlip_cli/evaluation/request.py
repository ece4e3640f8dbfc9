"""What can be asked of an evaluation. Standard library only: the command line reads it before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ratlip_cli.errors import UsageError, unknown_name
from ratlip_cli.generation import PRECISIONS
from ratlip_cli.setting import check_choices, check_count, check_device, check_seed, setting, several

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

CAPTIONS_PER_IMAGE, CAPTIONS_PER_RENDERED_IMAGE = 10, 1
"""Where nobody says how many: of rendered images one, so that the bundled model is scored within a minute."""

FEWEST_RESAMPLES = 40
"""Bootstrap resamples below which there is no 2.5 % quantile."""


SCORED, HOW = "What is scored", "How"


@dataclass(frozen=True)
class EvaluationRequest:
    """What to score, against what, by which metrics, and how.

    Either a model is scored, on a split of a dataset; or a folder of images, against a folder or a split. Every field
    but `metrics` is an option of `ratlip evaluate` too. `model` may also be a loaded model, which stays on its device;
    `precision` is that of its images here, whatever it generates in otherwise.

    Raises UsageError for unknown names, numbers out of range, and settings that exclude each other.
    """

    model: str | Path | Model | None = setting(
        None,
        "Model folder, run folder, owner/name on the Hugging Face Hub, or ratlip-demo.",
        group=SCORED,
        names="model",
    )
    dataset: str | Path | None = setting(
        None,
        "Real images; the model's own dataset if left out.",
        group=SCORED,
        metavar="NAME|FOLDER",
        names="dataset",
    )
    split: str = setting("test", "Split of the dataset.", group=SCORED)
    images: Path | None = setting(None, "Score these images instead of a model's.", group=SCORED, metavar="DIR")
    reference: Path | None = setting(
        None, "With --images: real images, instead of --dataset.", group=SCORED, metavar="DIR"
    )
    resize: int | None = setting(
        None,
        "With --images: shorter side to which every image is resized, then the centre is cropped; for several sizes.",
        group=SCORED,
        metavar="PIXELS",
    )
    data_dir: Path = setting(Path("data"), "Folder of prepared datasets.", group=SCORED, envvar="RATLIP_DATA")
    metrics: tuple[str, ...] = DEFAULT_METRICS
    """Of METRICS."""
    protocol: str = setting(
        "standard",
        "released: as the published code, for comparison with its tables only.",
        group=HOW,
        choices=PROTOCOLS,
    )
    features: str | None = setting(
        None,
        "Network for FID, KID, precision and recall; clip: the model's own. If left out, what the model names.",
        group=HOW,
        choices=FEATURES,
    )
    inception_weights: Path | None = setting(
        None, "Inception's weights, for a machine without internet.", group=HOW, metavar="FILE", advanced=True
    )
    clip: str | None = setting(
        None,
        "CLIP to score by, also for --features clip; a model's own ViT-B/32, or OpenAI's, if left out.",
        group=HOW,
        metavar="MODEL[:PRETRAINED]",
        option="score-clip",
        formerly="clip",
        advanced=True,
    )
    clip_score_clip: str | None = setting(
        None,
        "A second CLIP for the CLIP metrics, which training never saw.",
        group=HOW,
        metavar="MODEL:PRETRAINED",
        advanced=True,
    )
    captions_per_image: int | None = setting(
        None,
        "Captions of each image, or all where there are fewer; 10 if left out, 1 for a model on rendered images.",
        group=HOW,
    )
    limit: int | None = setting(
        None,
        "Only so many images of the split, always the same; no score to compare with that of all.",
        group=HOW,
        metavar="N",
    )
    bootstrap: int = setting(0, "Resamples for 95 % intervals; 0 for none.", group=HOW, metavar="N")
    seed: int = setting(0, "Decides the noise vectors.", group=HOW)
    batch_size: int | None = setting(
        None, "Images that the networks get at a time; a score changes by rounding at most.", group=HOW, advanced=True
    )
    device: str = setting("auto", "Where to compute.", group=HOW, names="device")
    precision: str = setting(
        "fp32",
        "Arithmetic of the model's images, not of their features; auto is fp32.",
        group=HOW,
        choices=PRECISIONS,
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", several(self.metrics))
        for name in ("images", "reference", "data_dir", "inception_weights"):
            if isinstance(path := getattr(self, name), str):
                object.__setattr__(self, name, Path(path))
        for metric in self.metrics:
            if metric not in METRICS:
                raise unknown_name("metric", metric, METRICS)
        check_choices(self)
        check_device(self.device)
        check_count("captions per image", self.captions_per_image)
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit is {self.limit}; it must be at least 1 image.")
        check_count("bootstrap", self.bootstrap, least=0)
        if 0 < self.bootstrap < FEWEST_RESAMPLES:
            raise UsageError(f"bootstrap is {self.bootstrap}; it must be 0, or at least {FEWEST_RESAMPLES} for 95 %.")
        check_seed(self.seed)
        check_count("batch size", self.batch_size)
        if self.resize is not None and self.resize < 1:
            raise UsageError(f"resize is {self.resize}; it must be at least 1 pixel.")
        if self.clip_score_clip is not None and not self.clip_keys:
            raise UsageError(
                "--clip-score-clip goes with --clip-score or --r-precision, of which it gives a second one."
            )
        if self.released and self.features == "clip":
            raise UsageError("--protocol released has an Inception of its own: leave --features out.")
        if self.images is None and self.resize is not None:
            raise UsageError("--resize goes with --images; a model's images have the size of the model.")
        if self.images is not None and self.limit is not None:
            raise UsageError("--limit goes with a model; of --images, all are scored: leave some out of the folder.")
        if self.images is not None and self.precision != "fp32":
            raise UsageError("--precision goes with a model; --images are there already, and features are float32.")
        if self.images is not None and self.seed:
            raise UsageError("--seed goes with a model, whose noise vectors it decides; --images are there already.")
        if self.images is None and self.reference is not None:
            raise UsageError("--reference goes with --images; a model is compared with a --dataset.")
        if self.images is not None and (self.model is not None or None not in (self.reference, self.dataset)):
            raise UsageError("--images takes no --model, and either --reference or --dataset.")

    @property
    def released(self) -> bool:
        """Whether images are prepared as the published code does it."""
        return self.protocol == "released"

    def captions_of(self, rendered: bool) -> int:
        """Captions of each image that are used; `rendered`: of images that ratlip rendered, by a model."""
        if self.captions_per_image is not None:
            return self.captions_per_image
        return CAPTIONS_PER_RENDERED_IMAGE if rendered else CAPTIONS_PER_IMAGE

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
