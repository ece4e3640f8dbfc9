"""The published LAFITE code's names of tensors, as weights of this package, and back.

The sizes are inferred from the shapes. The files hold the filter of every layer that resamples; here it is no weight.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ratlip_cli.baselines.lafite import Discriminator, Generator, fir
from ratlip_cli.errors import UsageError
from ratlip_cli.families.lafite import (
    LafiteReleasedDiscriminatorConfig,
    LafiteReleasedGeneratorConfig,
)
from ratlip_cli.planned import planned
from ratlip_cli.weights.released.checkpoint import ReleasedCheckpoint

_FILTER = "resample_filter"
_LAYERS = (  # of ours and of the published code, inside a layer or at the top
    ("style.text1.", "pre_0."),
    ("style.text2.", "pre_1."),
    ("style.affine.", "affine_0."),
    ("to_rgb.", "torgb."),
    ("from_rgb.", "fromrgb."),
    ("hidden.", "fc."),
    ("features.", "fts."),
    ("logit.", "out."),
)
_HEADS = ("conv.", "hidden.", "features.", "logit.")
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def import_lafite(
    generator: Mapping[str, Tensor], discriminator: Mapping[str, Tensor] | None, is_ema: bool
) -> ReleasedCheckpoint:
    """Rename the tensors of G (or G_ema) and D, and read the sizes off them.

    Raises ValueError or KeyError where a tensor is missing or of no model of the published code.
    """
    side = max(int(name.split(".")[1][1:]) for name in generator if name.startswith("synthesis.b"))
    widest, narrowest = generator["synthesis.b4.const"], generator[f"synthesis.b{side}.conv1.weight"]
    channel_base, channel_max = len(narrowest) * side, len(widest)
    w_dim, noise_dim = generator["mapping.fc0.weight"].shape
    text_width = len(generator["synthesis.b4.conv1.pre_1.weight"])
    layers = sum(name.startswith("mapping.fc") and name.endswith(".weight") for name in generator)
    text_dim = generator["synthesis.b4.conv1.pre_0.weight"].shape[1]
    config = LafiteReleasedGeneratorConfig(
        image_size=side,
        noise_dim=noise_dim,
        w_dim=w_dim,
        mapping_layers=layers,
        text_width=text_width,
        channel_base=channel_base,
        channel_max=channel_max,
    )
    discriminator_config = LafiteReleasedDiscriminatorConfig(side, channel_base, channel_max)
    with planned():
        networks: list[nn.Module] = [Generator(config, text_dim), Discriminator(discriminator_config, text_dim)]
    ours = _renamed(generator, generator_names(networks[0].state_dict()))
    theirs = None
    if discriminator is not None:
        theirs = _renamed(discriminator, discriminator_names(networks[1].state_dict(), side))
    return ReleasedCheckpoint(config, discriminator_config, ours, theirs, clip={}, is_ema=is_ema)


def export_lafite(
    config: Any, generator: Mapping[str, Tensor], discriminator: Mapping[str, Tensor] | None = None
) -> dict[str, dict[str, Tensor]]:
    """The way back: the tensors of `G_ema` and `D` as the published code names them, with its filters.

    Args:
        config: the generator's sizes.

    Raises UsageError for an image size that the published code has not.
    """
    if config.image_size & (config.image_size - 1):
        raise UsageError(f"image_size is {config.image_size}; the published code of LAFITE knows powers of two alone.")
    names = generator_names(generator)
    nets = {"G_ema": _with_filters({names[name]: tensor for name, tensor in generator.items()})}
    if discriminator is not None:
        names = discriminator_names(discriminator, config.image_size)
        nets["D"] = _with_filters({names[name]: tensor for name, tensor in discriminator.items()})
    return nets


def generator_names(own: Iterable[str]) -> dict[str, str]:
    """The published name of every tensor of a generator, by our name."""
    return {name: _generator_name(name) for name in own}


def discriminator_names(own: Iterable[str], side: int) -> dict[str, str]:
    """The published name of every tensor of a discriminator of images of that side, by our name."""
    return {name: _discriminator_name(name, side) for name in own}


def _generator_name(name: str) -> str:
    if name.startswith("mapping."):
        return name.replace("layers.", "fc").replace("average", "w_avg")
    block, rest = _BLOCK.fullmatch(name).groups()  # type: ignore[union-attr]
    number = int(block)
    first = 0 if number else 1  # the first block has conv1 alone
    rest = re.sub(r"^convs\.(\d)", lambda match: f"conv{int(match[1]) + first}", rest)
    rest = "const" if rest == "constant" else re.sub(r"\.noise$", ".noise_const", rest)
    return f"synthesis.b{4 << number}.{_layer(rest)}"


def _discriminator_name(name: str, side: int) -> str:
    if block := _BLOCK.fullmatch(name):
        return f"b{side >> int(block[1])}.{block[2]}"
    return f"b{4 if name.startswith(_HEADS) else side}.{_layer(name)}"


def _layer(name: str) -> str:
    for own, published in _LAYERS:
        name = name.replace(own, published)
    return name


def _renamed(published: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    unknown = published.keys() - names.values()
    for name in sorted(unknown):
        if not name.endswith(_FILTER):
            raise ValueError(f"unknown tensor {name}")
        if published[name].shape != (4, 4) or not torch.allclose(published[name].float(), fir(torch.empty(0))):
            raise ValueError(f"{name} is another filter than outer([1,3,3,1])/64")
    return {own: published[theirs].float() for own, theirs in names.items()}


def _with_filters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the filter that each convolution and each block has in the published code, but for toRGB's."""
    layers = {re.match(r"(.*b\d+)\.(conv\d?|fromrgb|skip)\.", name) for name in tensors}
    convs = {f"{found[1]}.{found[2]}" for found in layers if found}
    blocks = {name.rpartition(".")[0] for name in convs if not name.endswith("b4.conv")}
    return tensors | {f"{name}.{_FILTER}": fir(torch.empty(0)) for name in sorted(convs | blocks)}
