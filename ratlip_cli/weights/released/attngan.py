"""Checkpoints of the published AttnGAN code, as weights of this package, and back.

Such a file is a bare state dict: `bird_AttnGAN2.pth`, `coco_AttnGAN2.pth`, `bird_AttnDCGAN2.pth` and `netG_epoch_N.pth`
hold the generator's EMA, `netD0.pth`, `netD1.pth` and `netD2.pth` a discriminator each. Sizes are told from shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ratlip_cli.errors import UsageError
from ratlip_cli.families.attngan import (
    AttnGANConfig,
    ReleasedAttnGANConfig,
    ReleasedAttnGANDiscriminatorConfig,
)
from ratlip_cli.weights.released.checkpoint import ReleasedCheckpoint
from ratlip_cli.weights.released.renaming import without_module

RELEASED_BASE = 64
"""Side of the published code's first stage; its layers are named for it."""

_FIRST = "h_net1.fc.0.weight"
_PROJECTION = "h_net2.att.conv_context.weight"
_ONE_IMAGE = "img_net.img.0.weight"
_COUNTER = "num_batches_tracked"


def is_attngan(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of a published generator."""
    return "ca_net.fc.weight" in tensors and _FIRST in tensors


def import_attngan(
    generator: Mapping[str, Tensor], discriminators: Sequence[Mapping[str, Tensor]] | None = None
) -> ReleasedCheckpoint:
    """A published generator, and its discriminators from the smallest image to the largest, float32.

    Raises KeyError or ValueError where a tensor is missing or has a shape that the published code does not give it.
    """
    theirs = without_module(generator)
    config = _config(theirs)
    own = _renamed(theirs, {old: new for new, old in generator_names(config).items()})
    sizes = {name: getattr(config, name) for name in ("image_size", "base_size", "one_image", "text_dim")}
    if discriminators is None:
        return ReleasedCheckpoint(config, ReleasedAttnGANDiscriminatorConfig(**sizes), own, None, {}, is_ema=True)
    if len(discriminators) != len(config.image_sizes):
        raise ValueError(f"{len(discriminators)} discriminators for images of {len(config.image_sizes)} sizes")
    nets: dict[str, Tensor] = {}
    for number, (size, tensors) in enumerate(zip(config.image_sizes, discriminators, strict=True)):
        names = discriminator_names(size, not config.one_image)
        renamed = _renamed(without_module(tensors), {old: new for new, old in names.items()})
        nets |= {f"nets.{number}.{name}": tensor for name, tensor in renamed.items()}
    df = len(nets["nets.0.blocks.0.conv.weight"])
    discriminator_config = ReleasedAttnGANDiscriminatorConfig(**sizes, base_channels=df)
    return ReleasedCheckpoint(config, discriminator_config, own, nets, {}, is_ema=True)


def export_attngan(
    config: AttnGANConfig, generator: Mapping[str, Tensor], discriminator: Mapping[str, Tensor] | None = None
) -> dict[str, dict[str, Tensor]]:
    """The way back: `netG` and, where they are given, `netD0`, `netD1` ... as the published code names and shapes them.

    Raises UsageError where it has no model of these sizes: its first stage has 64 pixels, and every further one twice.
    """
    if config.sizes != tuple(RELEASED_BASE << stage for stage in range(len(config.sizes))):
        raise UsageError(
            f"the published AttnGAN code has stages of 64, 128 and 256 pixels; this model has {config.sizes}, and "
            "cannot be exported to it."
        )
    nets = {"netG": _renamed(generator, generator_names(config))}
    if discriminator is None:
        return nets
    for number, size in enumerate(config.image_sizes):
        prefix = f"nets.{number}."
        own = {name.removeprefix(prefix): one for name, one in discriminator.items() if name.startswith(prefix)}
        nets[f"netD{number}"] = _renamed(own, discriminator_names(size, not config.one_image))
    return nets


def generator_names(config: AttnGANConfig) -> dict[str, str]:
    """The renaming table of a generator's modules: ours and theirs."""
    names = {"augmentation.linear": "ca_net.fc", "first.linear": "h_net1.fc.0", "first.norm": "h_net1.fc.1"}
    for block in range(config.sizes[0].bit_length() - 3):
        names[f"first.blocks.{block}.conv"] = f"h_net1.upsample{block + 1}.1"
        names[f"first.blocks.{block}.norm"] = f"h_net1.upsample{block + 1}.2"
    for stage in range(len(config.sizes) - 1):
        own, theirs = f"further.{stage}", f"h_net{stage + 2}"
        names[f"{own}.attention.project"] = f"{theirs}.att.conv_context"
        for block in range(config.residual_blocks):
            for layer, place in (("conv1", 0), ("norm1", 1), ("conv2", 3), ("norm2", 4)):
                names[f"{own}.residual.{block}.{layer}"] = f"{theirs}.residual.{block}.block.{place}"
        names[f"{own}.up.conv"] = f"{theirs}.upsample.1"
        names[f"{own}.up.norm"] = f"{theirs}.upsample.2"
    for image in range(len(config.image_sizes)):
        names[f"to_rgb.{image}"] = "img_net.img.0" if config.one_image else f"img_net{image + 1}.img.0"
    return names


def discriminator_names(size: int, unconditional: bool) -> dict[str, str]:
    """The renaming table of the modules of a discriminator for images of 64, 128 or 256 pixels: ours and theirs."""
    blocks = [("img_code_s16.0", ""), *((f"img_code_s16.{n}", f"img_code_s16.{n + 1}") for n in (2, 5, 8))]
    halvings = size.bit_length() - 3
    blocks += [(f"img_code_s{1 << n}.0", f"img_code_s{1 << n}.1") for n in range(5, halvings + 1)]
    narrow = range(1, halvings - 3)
    blocks += [(f"img_code_s{1 << halvings}_{n}.0", f"img_code_s{1 << halvings}_{n}.1") for n in narrow]
    names = {}
    for block, (conv, norm) in enumerate(blocks):
        names[f"blocks.{block}.conv"] = conv
        if norm:
            names[f"blocks.{block}.norm"] = norm
    names |= {"joint.conv": "COND_DNET.jointConv.0", "joint.norm": "COND_DNET.jointConv.1"}
    names["conditional"] = "COND_DNET.outlogits.0"
    if unconditional:
        names["unconditional"] = "UNCOND_DNET.outlogits.0"
    return names


def _renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors by the other names. BatchNorm's counters, which old files lack, are there and zero."""
    renamed = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if module not in names:
            raise ValueError(f"unknown tensor {name}")
        if names[module].endswith("conv_context"):
            tensor = tensor[:, :, None, None]
        elif module.endswith("conv_context"):
            tensor = tensor[:, :, 0, 0]
        renamed[f"{names[module]}.{leaf}"] = tensor.float() if tensor.is_floating_point() else tensor
    for name in [name for name in renamed if name.endswith(".running_mean")]:
        renamed.setdefault(name.replace("running_mean", _COUNTER), torch.zeros((), dtype=torch.int64))
    return renamed


def _config(theirs: Mapping[str, Tensor]) -> ReleasedAttnGANConfig:
    """The sizes of a published generator, from its shapes."""
    stages = 1 + sum(bool(re.fullmatch(r"h_net[23]\.att\.conv_context\.weight", name)) for name in theirs)
    one_image = _ONE_IMAGE in theirs
    to_rgb = theirs[_ONE_IMAGE if one_image else "img_net1.img.0.weight"]
    condition_dim = len(theirs["ca_net.fc.bias"]) // 4
    text_dim = theirs["ca_net.fc.weight"].shape[1]
    return ReleasedAttnGANConfig(
        image_size=RELEASED_BASE << stages - 1,
        base_size=RELEASED_BASE,
        one_image=one_image,
        text_dim=text_dim,
        word_dim=theirs[_PROJECTION].shape[1] if stages > 1 else text_dim,
        z_dim=theirs[_FIRST].shape[1] - condition_dim,
        condition_dim=condition_dim,
        base_channels=to_rgb.shape[1],
        residual_blocks=len({name.split(".")[2] for name in theirs if name.startswith("h_net2.residual.")}),
    )
