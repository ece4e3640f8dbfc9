"""What a family of models is: all that differs between the papers whose models this package trains.

Importing it imports no torch: the command line reads names and sizes first. `families/__init__.py` has the table. To
add a family is one file with a subclass of `Family`, one line in the table, and tests; `tests/toy_family.py` is a small
one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ratlip_cli.errors import UsageError
from ratlip_cli.setting import Setting, Value, settings_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ratlip_cli.model.clip import FrozenCLIP
    from ratlip_cli.model.config import ClipGeometry
    from ratlip_cli.training.objectives.objective import Autocast, Objective


ON_CLIP_VECTORS = frozenset(
    {
        "similarity_weight",
        "contrastive_weight",
        "diversity_weight",
        "final_similarity_weight",
        "final_diversity_weight",
        "hard_negatives",
        "hard_negatives_from",
    }
)
"""The settings of what compares CLIP's vectors of images with its text vectors."""


AS_PUBLISHED: Mapping[str, Value] = {"precision": "fp32", "decay_from": 1.0, "final_lr": 0.0}
"""Defaults of the other papers' families: float32 and constant learning rates, whatever a preset has for RATLIP."""


class Family(ABC):
    """One architecture with its objective. Its name is the `variant` in settings and config.json.

    Attributes:
        name: what `--variant` takes.
        about: one sentence for people, in help texts and on model cards.
        generator_config: frozen dataclass of the generator's sizes, with at least `variant`, `image_size`, `noise_dim`.
        discriminator_config: frozen dataclass of the discriminator's sizes.
        objective_config: frozen dataclass of what its objective alone weighs; None where the run's settings say all.
        defaults: settings of a run as its paper has them, where they are others than RATLIP's.
        unused: settings of a run that its objective does not read.
        unread: sizes that it has, as its relatives do, and that its networks do not read.
        discriminator_name: what people call its discriminator.
        compares_images: whether its discriminator compares the images of a batch, whose logits depend on each other.
        unit_text: whether its condition is text vectors at unit length.
        blocks_name: what people call the part of its generator that its blocks are of.
        trainable: whether it is trained here; else it is for published weights.
        recomputes: whether its generator has `blocks`, which --recompute computes twice.
        local_statistics: whether its BatchNorm needs two images or more, of each process under --batch-norm local.
        in_halves: whether its losses treat the halves of a micro-batch differently, so that processes share out both.
    """

    name: str
    about: str
    generator_config: ClassVar[type[Any]]
    discriminator_config: ClassVar[type[Any]]
    objective_config: ClassVar[type[Any] | None] = None
    defaults: ClassVar[Mapping[str, Value]] = {}
    unused: ClassVar[frozenset[str]] = frozenset()
    unread: frozenset[str] = frozenset()
    discriminator_name: ClassVar[str] = "the discriminator"
    compares_images: ClassVar[bool] = False
    unit_text: ClassVar[bool] = False
    blocks_name: ClassVar[str] = "the generator"
    trainable: ClassVar[bool] = True
    recomputes: ClassVar[bool] = False
    local_statistics: ClassVar[bool] = False
    in_halves: ClassVar[bool] = False

    @property
    def sizes(self) -> dict[str, Setting]:
        """The settings that make its networks: those fields of both configs that were made by `setting.setting`."""
        return settings_of(self.generator_config) | settings_of(self.discriminator_config)

    @property
    def weights(self) -> dict[str, Setting]:
        """The settings of its objective alone."""
        return settings_of(self.objective_config) if self.objective_config else {}

    def objective_weights(self, given: Mapping[str, Value]) -> Any:
        """The `objective_config` of these settings, None where it has none; what is not given has its default.

        Raises UsageError for a value that cannot be.
        """
        self._check(given, self.weights)
        return self.objective_config(**_fields(self.objective_config, given)) if self.objective_config else None

    def configs(self, model: Mapping[str, Value]) -> tuple[Any, Any]:
        """Generator's and discriminator's config of these sizes; what is not given has its default.

        Raises UsageError for a size that the family does not have, or a value that cannot be.
        """
        self._check(model, self.sizes)
        return (
            self.generator_config(**_fields(self.generator_config, model), variant=self.name),
            self.discriminator_config(**_fields(self.discriminator_config, model)),
        )

    def _check(self, given: Mapping[str, Value], known: Mapping[str, Setting]) -> None:
        for name in given:
            if name not in known:
                raise self.lacks(name)

    def lacks(self, name: str) -> UsageError:
        """The error for a setting that its models and its objective do not have."""
        has = ", ".join([*self.sizes, *self.weights])
        return UsageError(f"variant {self.name} has no setting '{name}'. It has: {has}.")

    def model_of(self, generator_config: Any, discriminator_config: Any) -> dict[str, Value]:
        """The way back: the sizes of two configs by their settings' names."""
        both = (generator_config, discriminator_config)
        return {
            name: getattr(config, one.field.name) for config in both for name, one in settings_of(type(config)).items()
        }

    @abstractmethod
    def generator(self, config: Any, geometry: ClipGeometry) -> nn.Module:
        """A new generator: `(noise, text, clip) -> images` (B,3,image_size,image_size), nominally in [-1,1]."""

    @abstractmethod
    def discriminator(self, config: Any, geometry: ClipGeometry) -> nn.Module:
        """A new discriminator."""

    @abstractmethod
    def objective(
        self, settings: Any, generator: nn.Module, discriminator: nn.Module, clip: FrozenCLIP, autocast: Autocast
    ) -> Objective:
        """What both networks are trained for; `settings` are the run's TrainSettings."""

    def check_trained(self, settings: Any, processes: int = 1) -> None:
        """Raise UsageError where no run of these TrainSettings in so many processes can be, whatever the data."""
        if not self.trainable:
            raise UsageError(
                f"variant {self.name} is for published weights, which read captions by a text encoder of their own, "
                f"and cannot be trained: use --variant {self.name.partition('-')[0]}."
            )
        if settings.recompute and not self.recomputes:
            raise UsageError(f"variant {self.name} has no blocks to compute again; leave out --recompute.")
        images = settings.batch_size // settings.grad_accum
        if self.local_statistics and settings.batch_norm == "local":
            images //= processes
        if images < 2 and (reason := self.compares_micro_batch(settings)):
            of_each = "" if processes == 1 else f" in {processes} processes"
            raise UsageError(
                f"batch_size {settings.batch_size} in {settings.grad_accum} micro-batches{of_each} leaves one image to "
                f"each, and {reason}."
            )

    def compares_micro_batch(self, settings: Any) -> str | None:
        """Why a micro-batch of these TrainSettings needs two images or more, and what to do; None if it does not."""
        return None

    def needs_captions(self, weights: Any) -> bool:
        """Whether its objective of these weights (from `objective_weights`) needs a caption of every image."""
        return True

    def files(self, weights: Any) -> dict[str, dict[str, Tensor]]:
        """What its objective of these weights learns from besides data and CLIP: tensors by name, by setting.

        Raises WeightsError for a file that is not what the setting names.
        """
        return {}

    def ignored(self, weights: Any) -> list[str]:
        """What of these weights has no effect beside the others, in a line each."""
        return []

    def reads_captions(self, weights: Any) -> bool:
        """Whether its objective of these weights looks at captions at all."""
        return True

    @property
    def takes_images(self) -> bool:
        """Whether an image can stand for a caption, see `of_images`."""
        return type(self).of_images is not Family.of_images

    def of_images(self, clip: FrozenCLIP, images: Tensor) -> Tensor:
        """The condition (B,...) of images (B,3,H,W) in [-1,1] that have no caption.

        Raises UsageError where the family knows none.
        """
        raise UsageError(
            f"variant {self.name} generates for captions, and these images have none. Score prompts of your own: "
            "`ratlip generate --prompts FILE --out FOLDER`, then `ratlip evaluate --images FOLDER --dataset ...`."
        )

    def text_encoder(self, folder: Path, clip: FrozenCLIP) -> Any:
        """What reads captions for a model in `folder`: its CLIP, or an encoder of its own that lies there."""
        return clip

    def rows(self, encoder: Any, captions: Sequence[str]) -> Tensor:
        """What training keeps of captions in memory: one row each. Left as it is, CLIP's text vectors T (B,d).

        Args:
            encoder: from `text_encoder`.
        """
        text: Tensor = encoder.encode_text(captions)
        return text

    def condition(self, encoder: Any, rows: Tensor) -> Tensor:
        """The condition (B,...) that the networks are given, from what `rows` returned. Left as it is, the same."""
        return rows

    def encode(self, encoder: Any, captions: Sequence[str]) -> Tensor:
        """Captions as the condition (B,...) that the networks are given."""
        return self.condition(encoder, self.rows(encoder, captions))

    def truncated(self, noise: NDArray[np.float32], psi: float) -> NDArray[np.float32]:
        """Noise vectors (n,noise_dim) as the generator takes them for truncation psi: below 1, images vary less.

        Left as it is, they are scaled by psi. At 1 they are what they were.
        """
        return (noise * psi).astype(noise.dtype)

    def between(self, start: Tensor, end: Tensor, share: float) -> Tensor:
        """The condition between two (...), `start` at share 0 and `end` at 1. Left as it is, on a straight line."""
        return start.lerp(end, share)

    def example_condition(self, clip: FrozenCLIP) -> Tensor:
        """The condition (1,...) of some caption, for counting arithmetic; `clip` may be on the meta device."""
        return self.encode(clip, ["a bird"])

    @abstractmethod
    def look(self, clip: FrozenCLIP, images: Tensor) -> Any:
        """What the discriminator looks at of images (B,3,H,W) in [-1,1]: CLIP features, or pixels."""

    @abstractmethod
    def logits(self, discriminator: nn.Module, view: Any, text: Tensor) -> Tensor:
        """Logits (B,), high for real and matching, of what `look` returned and the condition (B,...)."""

    def feature_map(self, discriminator: nn.Module) -> nn.Module | None:
        """The module whose output (B,C,h,w) Grad-CAM takes for the discriminator's last feature map.

        None where the discriminator looks at CLIP's patch tokens: then those are taken.
        """
        return None

    @abstractmethod
    def features(self, discriminator: nn.Module, clip: FrozenCLIP, images: Tensor) -> Tensor:
        """Images (B,3,H,W) as vectors (B,n) of the discriminator, for latent views."""

    def modules(self, generator: nn.Module, discriminator: nn.Module) -> dict[str, nn.Module]:
        """The modules that `ratlip info` lists, by the names it gives them, in the order in which images pass."""
        named = {f"generator {name}": module for name, module in generator.named_children()}
        return named | {f"discriminator {name}": module for name, module in discriminator.named_children()}

    def warning(self, discriminator_config: Any) -> str | None:
        """What to know before a Grad-CAM map of the discriminator is read, if anything."""
        return None


def _fields(config: type[Any], model: Mapping[str, Value]) -> dict[str, Value]:
    return {one.field.name: model[name] for name, one in settings_of(config).items() if name in model}
