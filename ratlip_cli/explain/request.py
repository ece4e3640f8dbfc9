"""The requests of the two analyses. Standard library only: the command line reads it before torch is imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ratlip_cli.errors import RatlipError, UsageError, unknown_name
from ratlip_cli.explain.gradcam.words import phrases_of
from ratlip_cli.generation import MOST_FRAMES
from ratlip_cli.setting import check_choices, check_count, check_device, check_seed, setting, several

if TYPE_CHECKING:
    from ratlip_cli.weights.model_folder import Model

TARGETS = ("clip", "discriminator")
SPACES = ("clip", "discriminator")
METHODS = ("pca", "tsne", "umap")
FEWEST_POINTS = 3
SPLIT = "test"

IMAGES, DATASET_IMAGES = 1, 100
"""Images of Grad-CAM where `count` is left out: generated, and of a dataset."""
PAIRS, NOISE_VECTORS, STEPS = 200, 16, 8
"""Of latent views, where `count` and `steps` are left out: pairs, noise vectors under each caption, steps."""

SHOWN, HOW = "What is shown", "How"


@dataclass(frozen=True)
class GradCamRequest:
    """Which images to explain, and how: generated for a prompt, from files, or from a dataset.

    Every field is an option of `ratlip gradcam` too. Raises UsageError for values that cannot be used or do not go
    together.
    """

    prompt: str | None = None
    """The text to explain; with images of a prepared dataset it may be left out."""
    models: Sequence[str | Model] = ()
    """Models or their names, as `load_model` takes them; the default model if left out."""
    images: Sequence[Path] = ()
    """Image files to explain instead of generated ones."""
    dataset: str | None = setting(
        None,
        "Explain images of a dataset; those with known segments are scored.",
        group=SHOWN,
        metavar="NAME|FOLDER",
        names="dataset",
    )
    split: str = setting(SPLIT, "The split of --dataset.", group=SHOWN)
    count: int | None = None
    """Images to generate (1), or to take from the dataset (100)."""
    target: str = setting(
        "clip", "clip: cosine of image and text; discriminator: its logit.", group=HOW, choices=TARGETS
    )
    layer: int | None = setting(
        None,
        "The ViT block whose incoming patch tokens are read; the last if left out.",
        group=HOW,
        metavar="L",
        advanced=True,
    )
    every_word: bool = False
    """Whether to make a map of every word of the prompt."""
    words: Sequence[str] = ()
    """Words or phrases of the prompt to make a map of."""
    seed: int = setting(0, "Decides the noise vectors and the random baselines.", group=HOW)
    device: str = setting("auto", "Where to compute.", group=HOW, names="device")
    data_dir: Path = setting(Path("data"), "Folder of prepared datasets.", group=SHOWN, envvar="RATLIP_DATA")

    def __post_init__(self) -> None:
        for name in ("models", "words"):
            object.__setattr__(self, name, several(getattr(self, name)))
        object.__setattr__(self, "images", tuple(map(Path, several(self.images))))
        object.__setattr__(self, "data_dir", Path(self.data_dir))
        if self.dataset is not None and (self.prompt is not None or self.images or self.words):
            raise UsageError("--dataset brings its own images and captions; leave out the prompt, --image and --word.")
        if self.dataset is None and self.split != SPLIT:
            raise UsageError("--split is one of a dataset; give --dataset with it.")
        if self.images and self.count is not None:
            raise UsageError("-n is for generated images and for --dataset; leave it out with --image.")
        if self.prompt is None and self.dataset is None and not self.images:
            raise UsageError('there is no prompt; give one, such as "a red bird", or --image or --dataset.')
        if self.prompt is not None and not self.prompt.strip():
            raise UsageError("the prompt is empty; give one, such as 'a red bird'.")
        check_count("-n", self.count)
        check_seed(self.seed)
        check_choices(self)
        check_device(self.device)
        if self.prompt is not None:
            phrases_of(self.prompt, self.every_word, self.words)


@dataclass(frozen=True)
class LatentRequest:
    """Which images to show as vectors: pairs of a dataset, captions under the same noise, or an interpolation.

    Every field is an option of `ratlip latent-viz` too. Raises UsageError for values that cannot be used or do not go
    together, RatlipError for a method that is not installed.
    """

    model: str | Model | None = setting(
        None, "Model folder, run folder, owner/name or ratlip-demo.", group=SHOWN, names="model"
    )
    against: str | Model | None = setting(
        None, "A second model, beside it on the same axes.", group=SHOWN, metavar="MODEL", names="model"
    )
    dataset: str | None = setting(
        None,
        "Real images; the model's own dataset if left out.",
        group=SHOWN,
        metavar="NAME|FOLDER",
        names="dataset",
    )
    split: str = setting(SPLIT, "The split of the dataset.", group=SHOWN)
    count: int | None = setting(
        None, "Captions of the dataset (200); with --caption, noise vectors under each (16).", group=SHOWN
    )
    method: str = setting(METHODS[0], "The plane that the vectors are shown in.", group=HOW, choices=METHODS)
    space: str = setting("clip", "clip: image vectors; discriminator: its features.", group=HOW, choices=SPACES)
    captions: Sequence[str] = ()
    """Two or more, to generate from the same noise vectors."""
    start: str | None = None
    """The caption at which an interpolation starts."""
    end: str | None = None
    """The caption at which it ends."""
    steps: int | None = setting(None, "Images of the interpolation (8).", group=SHOWN)
    same_noise: bool = False
    """Whether the interpolation keeps its noise vector; else it goes from the first to the second."""
    seed: int = setting(0, "Decides the noise vectors.", group=HOW)
    device: str = setting("auto", "Where to compute.", group=HOW, names="device")
    data_dir: Path = setting(Path("data"), "Folder of prepared datasets.", group=SHOWN, envvar="RATLIP_DATA")

    def __post_init__(self) -> None:
        object.__setattr__(self, "captions", several(self.captions))
        object.__setattr__(self, "data_dir", Path(self.data_dir))
        ends = [caption for caption in (self.start, self.end) if caption is not None]
        if len(ends) == 1:
            raise UsageError("an interpolation needs both --from and --to.")
        if ends and (self.captions or self.dataset is not None or self.count is not None):
            raise UsageError("--from and --to show an interpolation; leave out --caption, --dataset and --count.")
        if ends and self.method != METHODS[0]:
            raise UsageError("--method is of a plane, and an interpolation shows none; leave it out.")
        if (ends or self.captions) and self.dataset is None and self.split != SPLIT:
            raise UsageError("--split is one of a dataset, and none is looked at here: leave it out.")
        if not ends and (self.steps is not None or self.same_noise):
            raise UsageError("--steps and --same-noise belong to an interpolation: give --from and --to.")
        if len(self.captions) == 1:
            raise UsageError("one --caption has nothing to be compared with; give two or more.")
        if not all(caption.strip() for caption in (*self.captions, *ends)):
            raise UsageError("a caption is empty; give one, such as 'a red bird'.")
        check_count("--steps", self.steps, least=2, most=MOST_FRAMES)
        check_count("--count", self.count)
        check_seed(self.seed)
        check_choices(self)
        check_device(self.device)
        check_method(self.method)
        if self.captions:
            check_points((self.count or NOISE_VECTORS) * len(self.captions))


def check_method(method: str) -> None:
    """Raise UsageError for a method that is none of METHODS, RatlipError where it is not installed."""
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if method == "umap" and importlib.util.find_spec("umap") is None:
        raise RatlipError("UMAP is not installed: `pip install umap-learn`, or choose --method pca or tsne.")


def check_points(count: int) -> None:
    """Raise UsageError where so many points make no plane."""
    if count < FEWEST_POINTS:
        raise UsageError(f"points: {count}, but a plane needs {FEWEST_POINTS}. Raise --count or take a larger dataset.")
