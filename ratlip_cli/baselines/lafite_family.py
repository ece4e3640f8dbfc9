"""LAFITE as a family: its settings, and how its networks are used. Importing it imports no torch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ratlip_cli.errors import UsageError
from ratlip_cli.family import Family
from ratlip_cli.setting import Value, setting

if TYPE_CHECKING:
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
_channel_base = functools.partial(
    setting, 32768, "Channels of both networks at a side are this divided by the side, 32768 in the paper."
)
_channel_max = functools.partial(setting, 512, "Most channels of both networks at any side.")


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
    w_dim: int = setting(512, "Length of w, what the mapping makes of z.")
    mapping_layers: int = setting(8, "Layers of the mapping.")
    text_width: int = setting(512, "Length of what each layer's style makes of the text vector.")
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
    batch_sum: bool = setting(
        False, "Add the published code's sum over the whole batch to every logit, instead of each image's own.",
        advanced=True,
    )
    unit_features: bool = setting(
        False, "Bring the discriminator's features to unit length before they meet the text.", advanced=True
    )

    def __post_init__(self) -> None:
        self.check()

    @property
    def last_side(self) -> int:
        """Side of the last feature map, 4 to 7."""
        return self.image_size >> self.doublings


@dataclass(frozen=True)
class LafiteReleasedGeneratorConfig(LafiteGeneratorConfig):
    """Sizes of the published weights."""

    variant: str = "lafite-released"


@dataclass(frozen=True)
class LafiteReleasedDiscriminatorConfig(LafiteDiscriminatorConfig):
    """As the published weights were trained."""

    batch_sum: bool = setting(
        True, "Add the published code's sum over the whole batch to every logit, instead of each image's own.",
        advanced=True,
    )
