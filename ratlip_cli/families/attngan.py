"""AttnGAN as families: sizes, published settings, and how a frozen CLIP gives it sentence and words.

Importing it imports no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ratlip_cli.errors import UsageError
from ratlip_cli.families.damsm import OnDamsm
from ratlip_cli.family import AS_PUBLISHED, ON_CLIP_VECTORS, Family
from ratlip_cli.setting import Value, setting

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ratlip_cli.baselines.attngan import Discriminator, Discriminators, Generator, Logits
    from ratlip_cli.baselines.damsm import DamsmTextEncoder
    from ratlip_cli.model.clip import FrozenCLIP
    from ratlip_cli.model.config import ClipGeometry
    from ratlip_cli.training.objectives.objective import Autocast, Objective

SMALLEST_IMAGE, LARGEST_IMAGE = 32, 256
_attngan = functools.partial(setting, group="AttnGAN")
SMALLEST_BASE = 8
RELEASED_TEXT = 256
"""Channels of the sentences and words that the published weights read."""

_LARGEST = {
    "z_dim": 65536,
    "condition_dim": 65536,
    "generator_channels": 1024,
    "discriminator_channels": 512,
    "residual_blocks": 64,
    "text_dim": 16384,
    "word_dim": 16384,
}
"""The largest sizes: what a file may ask for before anything is built."""


@dataclass(frozen=True)
class _Stages:
    """The sides of the images, and what else generator and discriminators have in common."""

    image_size: int = setting(256, "Side of the generated images in pixels, 32 to 256.")
    base_size: int = _attngan(
        0,
        "Side of the first stage's images, a power of two of 8 or more; each further stage doubles it. "
        "0: a quarter of image_size, which makes three stages, as published.",
    )
    one_image: bool = False
    """Whether the last stage alone shows an image, judged with its sentence alone, as in the published AttnDCGAN."""
    text_dim: int = 0
    """Channels of the sentence; 0: as the CLIP has it."""

    def __post_init__(self) -> None:
        if not SMALLEST_IMAGE <= self.image_size <= LARGEST_IMAGE:
            raise UsageError(
                f"image_size is {self.image_size}; AttnGAN's must be {SMALLEST_IMAGE} to {LARGEST_IMAGE} pixels."
            )
        base = self.base_size
        if base and not (SMALLEST_BASE <= base <= self.image_size and base & (base - 1) == 0):
            raise UsageError(
                f"base_size is {base}; it must be a power of two, {SMALLEST_BASE} or more, and not above image_size "
                f"{self.image_size}; or 0 for a quarter of that."
            )
        _check("text_dim", self.text_dim, least=0)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Side of each stage: doubling from the first, up to image_size."""
        quarter = (self.image_size + 3) // 4
        sizes = [self.base_size or 1 << (quarter - 1).bit_length()]
        while sizes[-1] < self.image_size:
            sizes.append(min(2 * sizes[-1], self.image_size))
        return tuple(sizes)

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """Sides of the images that are shown and judged, the smallest first."""
        return self.sizes[-1:] if self.one_image else self.sizes


@dataclass(frozen=True)
class AttnGANConfig(_Stages):
    """Sizes of the generator. The defaults are those published for birds."""

    variant: str = "attngan"
    z_dim: int = _attngan(100, "Length of the noise vector z.")
    condition_dim: int = _attngan(100, "Length of the augmented condition, which comes with as many random numbers.")
    base_channels: int = setting(32, "Channels of every stage's last features.", name="generator_channels")
    residual_blocks: int = _attngan(2, "Residual blocks of each stage but the first.")
    published_mask: bool = _attngan(
        False,
        "Mask words by the captions of other images of the batch, as the published code does: an error.",
        advanced=True,
    )
    word_dim: int = 0
    """Channels of the words; 0: as the CLIP has it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("z_dim", self.z_dim)
        _check("condition_dim", self.condition_dim)
        _check("generator_channels", self.base_channels)
        _check("residual_blocks", self.residual_blocks, least=0)
        _check("word_dim", self.word_dim, least=0)

    @property
    def noise_dim(self) -> int:
        """Length of the noise in all: z, and the draw of the conditioning augmentation."""
        return self.z_dim + self.condition_dim


@dataclass(frozen=True)
class AttnGANDiscriminatorConfig(_Stages):
    """Sizes of the discriminators, one for each image that is shown."""

    base_channels: int = setting(
        64, "Base channels of the discriminators; each ends in 8 times as many.", name="discriminator_channels"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("discriminator_channels", self.base_channels)


@dataclass(frozen=True)
class ReleasedAttnGANConfig(AttnGANConfig):
    """Sizes of the published generators, which read a DAMSM's sentences and words.

    They were trained with the mask's error, and need it not: for one caption at a time the published code has none.
    """

    variant: str = "attngan-released"
    text_dim: int = RELEASED_TEXT
    word_dim: int = RELEASED_TEXT


@dataclass(frozen=True)
class ReleasedAttnGANDiscriminatorConfig(AttnGANDiscriminatorConfig):
    """Sizes of the published discriminators."""

    text_dim: int = RELEASED_TEXT


def _check(name: str, size: int, least: int = 1) -> None:
    if not least <= size <= _LARGEST[name]:
        raise UsageError(f"{name} is {size}; it must be {least} to {_LARGEST[name]}.")


@dataclass(frozen=True)
class AttnGANWeights:
    """What the generator's loss weighs."""

    match_weight: float = _attngan(5.0, "Weight LAMBDA of the loss by which CLIP tells image and caption apart.")
    match_sharpness: float = _attngan(10.0, "gamma3: the cosines in that loss are multiplied by it.")
    kl_weight: float = _attngan(1.0, "Weight of the divergence of the augmented condition from N(0,I).")

    def __post_init__(self) -> None:
        for name in ("match_weight", "match_sharpness", "kl_weight"):
            if not 0 <= getattr(self, name) < 1e6:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be 0 to 1,000,000.")


class AttnGAN(Family):
    """Stages of attention to words, on sentence and words of the frozen CLIP."""

    name = "attngan"
    about = "AttnGAN: three stages that attend to the caption's words, on a frozen CLIP's text"
    generator_config: ClassVar[type[Any]] = AttnGANConfig
    discriminator_config: ClassVar[type[Any]] = AttnGANDiscriminatorConfig
    objective_config: ClassVar[type[Any]] = AttnGANWeights
    defaults: ClassVar[Mapping[str, Value]] = {
        **AS_PUBLISHED,
        "batch_size": 20,
        "lr_g": 2e-4,
        "lr_d": 2e-4,
        "beta1": 0.5,
        "beta2": 0.999,
        "ema": 0.999,
    }
    unused = ON_CLIP_VECTORS | {"penalty_weight", "penalty_power"}
    discriminator_name = "the largest images' discriminator"
    local_statistics = True

    def check_trained(self, settings: Any, processes: int = 1) -> None:
        """See `Family.check_trained`."""
        super().check_trained(settings, processes)
        if processes > 1 and settings.configs()[0].published_mask:
            raise UsageError("published_mask mixes the captions of a batch and is for one process: leave it out.")

    def generator(self, config: AttnGANConfig, geometry: ClipGeometry) -> nn.Module:
        from ratlip_cli.baselines.attngan import Generator

        return Generator(config, config.text_dim or geometry.embed_dim, config.word_dim or geometry.text_width)

    def discriminator(self, config: AttnGANDiscriminatorConfig, geometry: ClipGeometry) -> nn.Module:
        from ratlip_cli.baselines.attngan import Discriminators

        text_dim = config.text_dim or geometry.embed_dim
        return Discriminators(config.base_channels, text_dim, config.image_sizes, unconditional=not config.one_image)

    def objective(
        self, settings: Any, generator: nn.Module, discriminator: nn.Module, clip: FrozenCLIP, autocast: Autocast
    ) -> Objective:
        from ratlip_cli.training.objectives.attngan import AttnGANObjective

        return AttnGANObjective(settings, generator, discriminator, clip, autocast)

    def compares_micro_batch(self, settings: Any) -> str:
        return "AttnGAN's BatchNorm and its loss of CLIP compare images: use a smaller --grad-accum or more images"

    def rows(self, encoder: FrozenCLIP, captions: Sequence[str]) -> Tensor:
        """Token ids (B,context): words of all captions would fill gigabytes."""
        tokens: Tensor = encoder.tokenizer(list(captions))
        return tokens

    def condition(self, encoder: FrozenCLIP, rows: Tensor) -> Tensor:
        """Sentence T and words, packed (B,context,1+max(d,text_width)): the text transformer's tokens but the first."""
        import torch

        from ratlip_cli.baselines.attngan import Condition, pack

        words = encoder.encode_words(rows)
        places = torch.arange(1, rows.shape[1], device=words.end.device)
        return pack(Condition(words.text, words.hidden[:, 1:], places <= words.end[:, None]))

    def between(self, start: Tensor, end: Tensor, share: float) -> Tensor:
        """Sentences and words go over; those of the longer caption come or go, see `baselines.attngan.between`."""
        from ratlip_cli.baselines.attngan import between

        return between(start, end, share)

    def look(self, clip: FrozenCLIP, images: Tensor) -> Tensor:
        """The pixels; the discriminators reduce them to their sizes."""
        return images

    def logits(self, discriminator: nn.Module, view: Tensor, text: Tensor) -> Tensor:
        """Of the largest image with its sentence."""
        networks = cast("Discriminators", discriminator)
        logits: list[Logits] = networks(networks.views(view), text)
        return logits[-1].conditional

    def feature_map(self, discriminator: nn.Module) -> nn.Module:
        """What the discriminator of the largest image judges (B,8df,4,4)."""
        return cast("Discriminator", cast("Discriminators", discriminator).nets[-1]).blocks

    def features(self, discriminator: nn.Module, clip: FrozenCLIP, images: Tensor) -> Tensor:
        """That, averaged over its places."""
        features: Tensor = self.feature_map(discriminator)(images).mean(dim=(2, 3))
        return features

    def modules(self, generator: nn.Module, discriminator: nn.Module) -> dict[str, nn.Module]:
        config = cast("Generator", generator).config
        named = {"conditioning augmentation": "augmentation", f"stage of {config.sizes[0]} pixels": "first"}
        named |= {f"stage of {size} pixels": f"further.{i}" for i, size in enumerate(config.sizes[1:])}
        named |= {f"to RGB, {size} pixels": f"to_rgb.{i}" for i, size in enumerate(config.image_sizes)}
        judges = {f"discriminator of {size} pixels": f"nets.{i}" for i, size in enumerate(config.image_sizes)}
        return {
            **{name: generator.get_submodule(path) for name, path in named.items()},
            **{name: discriminator.get_submodule(path) for name, path in judges.items()},
        }


class ReleasedAttnGAN(OnDamsm, AttnGAN):
    """The published weights, which read captions by a DAMSM text encoder."""

    name = "attngan-released"
    about = "AttnGAN as its authors' code builds it, on the sentences and words of a DAMSM"
    generator_config = ReleasedAttnGANConfig
    discriminator_config = ReleasedAttnGANDiscriminatorConfig

    def damsm_widths(self, generator_config: ReleasedAttnGANConfig) -> dict[str, int]:
        return {"text vectors": generator_config.text_dim, "words": generator_config.word_dim}

    def condition(self, encoder: DamsmTextEncoder, rows: Tensor) -> Tensor:  # type: ignore[override]
        """Sentence and words of the DAMSM, packed (B,1+context,1+text_dim)."""
        from ratlip_cli.baselines.attngan import Condition, pack

        words, sentence = encoder.encode_words(rows)
        return pack(Condition(sentence, words, (rows != 0).to(words.device)))

    def example_condition(self, clip: FrozenCLIP) -> Tensor:
        """Of 18 words of a new DAMSM, for its shape alone."""
        import torch

        return torch.zeros(1, 1 + 18, 1 + RELEASED_TEXT, device=clip.mean.device)

    def objective(
        self, settings: Any, generator: nn.Module, discriminator: nn.Module, clip: FrozenCLIP, autocast: Autocast
    ) -> Objective:
        """Raises NotImplementedError: its losses need the image encoder of the DAMSM."""
        raise NotImplementedError(f"variant {self.name} cannot be trained")
