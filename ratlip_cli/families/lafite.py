"""LAFITE as a family: its settings, and how its networks are used. Importing it imports no torch."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ratlip_cli.errors import UsageError
from ratlip_cli.family import AS_PUBLISHED, ON_CLIP_VECTORS, Family
from ratlip_cli.setting import Value, setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ratlip_cli.model.clip import FrozenCLIP
    from ratlip_cli.model.config import ClipGeometry
    from ratlip_cli.training.objectives.objective import Autocast, Objective

SMALLEST_IMAGE, LARGEST_IMAGE = 32, 256
_LARGEST = {
    "noise_dim": 65536,
    "w_dim": 8192,
    "text_width": 8192,
    "mapping_layers": 64,
    "channel_base": 1 << 20,
    "channel_max": 4096,
}
"""The largest sizes: what a file may ask for before anything is built."""

_image_size = functools.partial(setting, 256, "Side of the generated images in pixels, 32 to 256.", name="image_size")
_lafite = functools.partial(setting, group="LAFITE")
_channel_base = functools.partial(
    _lafite, 32768, "Channels of both networks at a side are this divided by the side, 32768 in the paper."
)
_channel_max = functools.partial(_lafite, 512, "Most channels of both networks at any side.")


class _Sides:
    """The sides of the images inside both networks: halved from the image's own until one is below 8."""

    image_size: int
    channel_base: int
    channel_max: int

    @property
    def doublings(self) -> int:
        """How often the side doubles from the first to the last."""
        return self.image_size.bit_length() - 3

    @property
    def channels(self) -> list[int]:
        """Channels at each side, from the smallest; the published code's sides are 4, 8, ..., 256."""
        return [min(self.channel_base // (4 << number), self.channel_max) for number in range(self.doublings + 1)]

    def check(self, *names: str) -> None:
        """Raise UsageError where a size cannot be."""
        if not SMALLEST_IMAGE <= self.image_size <= LARGEST_IMAGE:
            raise UsageError(
                f"image_size is {self.image_size}; LAFITE's must be {SMALLEST_IMAGE} to {LARGEST_IMAGE} pixels."
            )
        for name in ("channel_base", "channel_max", *names):
            size = getattr(self, name)
            if not 1 <= size <= _LARGEST[name]:
                raise UsageError(f"{name} is {size}; it must be 1 to {_LARGEST[name]}.")
        if not self.channels[-1]:
            least = 4 << self.doublings
            raise UsageError(
                f"channel_base is {self.channel_base}; {self.image_size} pixels need at least {least}, one channel."
            )


@dataclass(frozen=True)
class LafiteGeneratorConfig(_Sides):
    """Sizes of the generator. The defaults are the published ones."""

    variant: str = "lafite"
    image_size: int = _image_size()
    noise_dim: int = setting(512, "Length of the noise vector z.")
    w_dim: int = _lafite(512, "Length of w, what the mapping makes of z.")
    mapping_layers: int = _lafite(8, "Layers of the mapping.")
    text_width: int = _lafite(512, "Length of what each layer's style makes of the text vector.")
    channel_base: int = _channel_base()
    channel_max: int = _channel_max()

    def __post_init__(self) -> None:
        self.check("noise_dim", "w_dim", "mapping_layers", "text_width")

    @property
    def sides(self) -> list[int]:
        """Sides of the synthesis, from the smallest: 4, 8, ..., 256; of 100 pixels 7, 13, 25, 50, 100."""
        return [-(-self.image_size // (1 << number)) for number in range(self.doublings, -1, -1)]


@dataclass(frozen=True)
class LafiteDiscriminatorConfig(_Sides):
    """Sizes of the discriminator, which the generator's settings decide too, and how it compares image and text."""

    image_size: int = _image_size()
    channel_base: int = _channel_base()
    channel_max: int = _channel_max()
    batch_sum: bool = _lafite(
        False,
        "Add the published code's sum over the whole batch to every logit, instead of each image's own.",
        advanced=True,
    )
    unit_features: bool = _lafite(
        False, "Bring the discriminator's features to unit length before they meet the text.", advanced=True
    )

    def __post_init__(self) -> None:
        self.check()

    @property
    def last_side(self) -> int:
        """Side of the last feature map, 4 to 7."""
        return self.image_size >> self.doublings


@dataclass(frozen=True)
class LafiteObjectiveConfig:
    """What its objective weighs. The defaults are the published ones for COCO; R1's weight follows the size."""

    itd: float = _lafite(5.0, "Weight of the contrastive term between the discriminator's features and the text.")
    itc: float = _lafite(10.0, "Weight of the contrastive term between CLIP's image vector and the text.")
    temperature: float = _lafite(
        0.5, "Temperature of the contrastive terms' softmax; 0 takes the cosines alone.", advanced=True
    )
    lam: float = _lafite(
        0.0,
        "Share of the contrastive terms that compares texts for each image, not images for each text.",
        advanced=True,
    )
    double_exponential: bool = _lafite(
        False, "Take the exponential in front of the softmax as the published code does.", advanced=True
    )
    r1_gamma: float = _lafite(0.0, "Weight gamma of R1; 0 takes 0.0002 times pixels divided by the batch size.")
    r1_every: int = _lafite(16, "Steps between two updates by R1; 0 makes none.", metavar="STEPS")
    path_length_weight: float = _lafite(2.0, "Weight of the path length.", advanced=True)
    path_length_every: int = _lafite(4, "Steps between two updates by the path length; 0 makes none.", metavar="STEPS")
    style_mixing: float = _lafite(0.9, "Share of batches whose late layers follow another z.", advanced=True)
    text_noise: float = _lafite(0.1, "How much of a text vector is noise in training, from 0 to 1.", advanced=True)
    language_free: bool = _lafite(
        False, "Learn from images alone: in place of a caption stands the image's own CLIP vector, with noise."
    )
    mixing: float = _lafite(
        0.0,
        "Share of captioned images whose caption is replaced so, from 0 to 1; those without one always are.",
        advanced=True,
    )
    pseudo_noise: float = _lafite(
        0.75, "How much of an image vector in place of a caption is noise, from 0 to 1.", advanced=True
    )
    pseudo_mapper: str = _lafite(
        "",
        "File of the mapper of Lafite-NN, which makes text vectors of image vectors.",
        metavar="FILE",
        path=True,
        advanced=True,
    )
    ema_half_life: float = _lafite(
        0.0, "Images after which the EMA has forgotten half; 0 takes 312.5 times the batch size.", metavar="IMAGES"
    )

    def __post_init__(self) -> None:
        for name in ("itd", "itc", "temperature", "r1_gamma", "path_length_weight", "ema_half_life"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise UsageError(f"{name} is {value}; it must be a number from 0.")
        for name in ("r1_every", "path_length_every"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must not be negative.")
        for name in ("lam", "style_mixing", "text_noise", "mixing", "pseudo_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be from 0 to 1.")


class Lafite(Family):
    """LAFITE on the frozen CLIP that the run names."""

    name = "lafite"
    about = "LAFITE: a StyleGAN2 styled by CLIP's text vector, which also learns without captions"
    generator_config: ClassVar[type[Any]] = LafiteGeneratorConfig
    discriminator_config: ClassVar[type[Any]] = LafiteDiscriminatorConfig
    objective_config: ClassVar[type[Any] | None] = LafiteObjectiveConfig
    defaults: ClassVar[Mapping[str, Value]] = {
        **AS_PUBLISHED,
        "noise_dim": 512,
        "batch_size": 16,
        "lr_g": 0.0025,
        "lr_d": 0.0025,
        "beta1": 0.0,
        "beta2": 0.99,
    }
    in_halves = True
    recomputes = True
    compares_images = True
    unit_text = True
    unused: ClassVar[frozenset[str]] = ON_CLIP_VECTORS | {"penalty_weight", "penalty_power", "ema"}

    def generator(self, config: LafiteGeneratorConfig, geometry: ClipGeometry) -> nn.Module:
        from ratlip_cli.baselines.lafite import Generator

        return Generator(config, geometry.embed_dim)

    def discriminator(self, config: LafiteDiscriminatorConfig, geometry: ClipGeometry) -> nn.Module:
        from ratlip_cli.baselines.lafite import Discriminator

        return Discriminator(config, geometry.embed_dim)

    def objective(
        self, settings: Any, generator: nn.Module, discriminator: nn.Module, clip: FrozenCLIP, autocast: Autocast
    ) -> Objective:
        from ratlip_cli.baselines.lafite import Discriminator, Generator
        from ratlip_cli.training.objectives.lafite import LafiteObjective

        if not isinstance(generator, Generator) or not isinstance(discriminator, Discriminator):
            raise TypeError("LAFITE's objective needs its own networks.")
        return LafiteObjective(settings, settings.objective_weights(), generator, discriminator, clip, autocast)

    def needs_captions(self, weights: LafiteObjectiveConfig) -> bool:
        return not (weights.language_free or weights.mixing)

    def files(self, weights: LafiteObjectiveConfig) -> dict[str, dict[str, Tensor]]:
        from pathlib import Path

        from ratlip_cli.training.objectives.lafite import mapper_tensors

        if not weights.pseudo_mapper or self.needs_captions(weights):
            return {}
        return {"pseudo_mapper": mapper_tensors(Path(weights.pseudo_mapper))}

    def ignored(self, weights: LafiteObjectiveConfig) -> list[str]:
        of_images = weights.language_free or weights.mixing
        usual = type(weights)()
        lines = []
        for names, where, why in (
            (("mixing", "text_noise"), weights.language_free, "with --language-free no image has a caption"),
            (("pseudo_mapper", "pseudo_noise"), not of_images, "it takes --language-free or --mixing"),
            (("pseudo_noise",), of_images and weights.pseudo_mapper, "--pseudo-mapper has its own noise"),
            (("path_length_weight",), not weights.path_length_every, "--path-length-every is 0"),
        ):
            given = [f"--{name.replace('_', '-')}" for name in names if getattr(weights, name) != getattr(usual, name)]
            if where and given:
                lines.append(f"not used: {' and '.join(given)}, because {why}")
        return lines

    def reads_captions(self, weights: LafiteObjectiveConfig) -> bool:
        return not weights.language_free

    def compares_micro_batch(self, settings: Any) -> str | None:
        weights = settings.objective_weights()
        if not (weights.itd or weights.itc):
            return None
        return (
            "LAFITE's contrastive terms compare the images of one: use a smaller --grad-accum, or leave them out by "
            "--itd 0 --itc 0"
        )

    def of_images(self, clip: FrozenCLIP, images: Tensor) -> Tensor:
        """CLIP's image vectors at unit length (B,d), which stand for text in training without captions."""
        return self.condition(clip, clip.encode_image(images))

    def condition(self, encoder: Any, rows: Tensor) -> Tensor:
        """T at unit length (B,d)."""
        from torch.nn import functional

        return functional.normalize(rows, dim=1)

    def between(self, start: Tensor, end: Tensor, share: float) -> Tensor:
        """At unit length too, as what lies on the straight line between two is shorter."""
        from torch.nn import functional

        if share in (0, 1):  # to the bit
            return end if share else start
        return functional.normalize(start.lerp(end, share), dim=-1)

    def truncated(self, noise: NDArray[np.float32], psi: float) -> NDArray[np.float32]:
        """Noise vectors and, where it is not 1, psi beside each (n,noise_dim+1): it acts on w, see `Generator.styles`.

        The mapping takes the noise at unit variance, so that scaling it would change nothing.
        """
        import numpy as np

        return noise if psi == 1 else np.pad(noise, ((0, 0), (0, 1)), constant_values=psi)

    def look(self, clip: FrozenCLIP, images: Tensor) -> Tensor:
        """The pixels themselves (B,3,S,S)."""
        return images.float()

    def logits(self, discriminator: nn.Module, view: Tensor, text: Tensor) -> Tensor:
        logits: Tensor = discriminator(view, text)[0]
        return logits

    def feature_map(self, discriminator: nn.Module) -> nn.Module:
        """The convolution at the smallest side."""
        return discriminator.get_submodule("conv")

    def features(self, discriminator: nn.Module, clip: FrozenCLIP, images: Tensor) -> Tensor:
        """What both heads of the discriminator read (B,channels)."""
        extracted: Tensor = discriminator.extract(images)  # type: ignore[operator]
        return extracted

    def modules(self, generator: nn.Module, discriminator: nn.Module) -> dict[str, nn.Module]:
        def blocks(network: nn.Module) -> dict[str, nn.Module]:
            return dict(network.get_submodule("blocks").named_children())

        return {
            "mapping": generator.get_submodule("mapping"),
            **{f"synthesis {block.side}": block for block in blocks(generator).values()},
            "from RGB": discriminator.get_submodule("from_rgb"),
            **{f"discriminator block {int(number) + 1}": block for number, block in blocks(discriminator).items()},
            **{f"discriminator {name}": discriminator.get_submodule(name) for name in ("conv", "hidden")},
            "logit": discriminator.get_submodule("logit"),
            "text features": discriminator.get_submodule("features"),
        }

    def warning(self, discriminator_config: LafiteDiscriminatorConfig) -> str | None:
        return "LAFITE's discriminator compares the images of a batch, and each is explained here by itself."


@dataclass(frozen=True)
class LafiteReleasedGeneratorConfig(LafiteGeneratorConfig):
    """Sizes of the published weights."""

    variant: str = "lafite-released"


@dataclass(frozen=True)
class LafiteReleasedDiscriminatorConfig(LafiteDiscriminatorConfig):
    """As the published weights were trained."""

    batch_sum: bool = _lafite(
        True,
        "Add the published code's sum over the whole batch to every logit, instead of each image's own.",
        advanced=True,
    )


@dataclass(frozen=True)
class LafiteReleasedObjectiveConfig(LafiteObjectiveConfig):
    """As the published weights were trained."""

    double_exponential: bool = _lafite(
        True, "Take the exponential in front of the softmax as the published code does.", advanced=True
    )
    r1_gamma: float = _lafite(10.0, "Weight gamma of R1; 0 takes 0.0002 times pixels divided by the batch size.")


class LafiteReleased(Lafite):
    """LAFITE with the published weights' sizes and sums."""

    name = "lafite-released"
    about = "LAFITE as its authors' code builds and trains it"
    generator_config = LafiteReleasedGeneratorConfig
    discriminator_config = LafiteReleasedDiscriminatorConfig
    objective_config = LafiteReleasedObjectiveConfig
