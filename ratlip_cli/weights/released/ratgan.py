"""Checkpoints of the published RAT-GAN code, and of the DF-GAN code of 2020 that it grew out of, and back.

Such files, netG_600.pth and netD_600.pth, are each the tensors of one network.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from ratlip_cli.families.dfgan import AFFINE_WIDTH_2020, DFGANConfig, DFGANDiscriminatorConfig
from ratlip_cli.families.ratgan import FLOWER, RATGANConfig, RATGANDiscriminatorConfig
from ratlip_cli.weights.released.checkpoint import ReleasedCheckpoint
from ratlip_cli.weights.released.renaming import AFFINE_LAYERS, backwards, renamed, without_module

logger = logging.getLogger(__name__)

_GENERATOR = (  # names of netG and ours; # stands for a number
    ("^lstm.W", "^lstm.text_to_gates.weight"),
    ("^lstm.bias", "^lstm.text_to_gates.bias"),
    ("^lstm.U", "^lstm.hidden_to_gates.weight"),
    ("^lstm.noise2h.", "^lstm.noise_to_hidden."),
    ("^lstm.noise2c.", "^lstm.noise_to_cell."),
    ("^fc.", "^code."),
    ("^block#.c_sc.", "^blocks.#.shortcut."),
    ("^block#.c#.", "^blocks.#.conv#."),
    ("^block#.", "^blocks.#."),
    ("^conv_img.1.", "^to_rgb."),
    (".affine0.fc_", ".affines1.0."),
    (".affine1.fc_", ".affines1.1."),
    (".affine4.fc_", ".affines1.2."),
    (".affine2.fc_", ".affines2.0."),
    (".affine3.fc_", ".affines2.1."),
    (".affine5.fc_", ".affines2.2."),
    *AFFINE_LAYERS,
)
_DISCRIMINATOR = (
    ("^conv_img.", "^conv."),
    ("^block#.conv_r.0.", "^blocks.#.conv1."),
    ("^block#.conv_r.2.", "^blocks.#.conv2."),
    ("^block#.conv_s.", "^blocks.#.shortcut."),
    ("^block#.", "^blocks.#."),
    ("^COND_DNET.joint_conv.0.", "^head.conv1."),
    ("^COND_DNET.joint_conv.2.", "^head.conv2."),
)
_OF_FLOWERS = (".affine4.", ".affine5.")
"""The third affines, which the model of flowers alone uses."""
_INPUT_MAJOR = ("lstm.W", "lstm.U")
"""Weights that the published code keeps the other way round."""


def is_ratgan(nets: Mapping[str, Mapping[str, Tensor]]) -> bool:
    """Whether `netG` of a file is RAT-GAN's or of the DF-GAN of 2020."""
    return "block0.affine0.fc_gamma.linear1.weight" in without_module(nets["netG"])


def import_ratgan(nets: Mapping[str, Mapping[str, Tensor]], variant: str | None = None) -> ReleasedCheckpoint:
    """Rename the tensors of `netG` and, where it is there, of `netD`, and read the sizes off them.

    The LSTM that every block of RAT-GAN's file holds once more is dropped, and so are `fea_l` and `fea_ll`, which the
    published code never uses. Its model of flowers alone uses affine4 and affine5: in the others they are dropped.

    Args:
        variant: of a RAT-GAN; left out, it is that of flowers if an affine4 or affine5 was ever trained: their last
            weights begin at 0. That of flowers is not taken where none was.

    Raises KeyError or ValueError where they are no such networks.
    """
    theirs = without_module(nets["netG"])
    recurrent = "lstm.W" in theirs
    if not recurrent:
        variant = "dfgan-2020-released"
    else:
        of_flowers = any(
            name.endswith(".linear2.weight") and any(affine in name for affine in _OF_FLOWERS) and bool(tensor.any())
            for name, tensor in theirs.items()
        )
        if variant is None or not of_flowers:
            variant = FLOWER if of_flowers else "ratgan-released"
        if variant != FLOWER and of_flowers:
            logger.warning("its third affines were trained, as those of %s are; %s leaves them out", FLOWER, variant)
    unused = _unused(variant)
    generator = {
        renamed(name, _GENERATOR): tensor.T.contiguous() if name in _INPUT_MAJOR else tensor
        for name, tensor in theirs.items()
        if not any(part in name for part in unused)
    }
    image_size = 2 * 2 ** len({name.split(".")[1] for name in generator if name.startswith("blocks.")})
    noise_dim, channels = generator["code.weight"].shape[1], generator["to_rgb.weight"].shape[1]
    config: DFGANConfig | RATGANConfig = DFGANConfig(variant, image_size, noise_dim, channels)
    if recurrent:
        hidden_size = generator["lstm.hidden_to_gates.weight"].shape[1]
        config = RATGANConfig(variant, image_size, noise_dim, channels, hidden_size)
    discriminator = None
    if "netD" in nets:
        discriminator = {renamed(name, _DISCRIMINATOR): tensor for name, tensor in without_module(nets["netD"]).items()}
        channels = len(discriminator["conv.weight"])
    sizes = RATGANDiscriminatorConfig if recurrent else DFGANDiscriminatorConfig
    return ReleasedCheckpoint(config, sizes(image_size, channels), generator, discriminator, {})


def export_ratgan(
    generator: Mapping[str, Tensor], discriminator: Mapping[str, Tensor] | None
) -> dict[str, dict[str, Tensor]]:
    """The way back: `netG` and, where there is a discriminator, `netD`; what is never used is filled with zeros."""
    net = {renamed(name, backwards(_GENERATOR)): tensor for name, tensor in generator.items()}
    if "lstm.W" in net:
        net |= {name: net[name].T.contiguous() for name in _INPUT_MAJOR}
        shared = {name: tensor for name, tensor in net.items() if name.startswith("lstm.")}
        for block in {name.split(".")[0] for name in net if name.startswith("block")}:
            net |= {f"{block}.{name}": tensor for name, tensor in shared.items()}
            net = _never_used(block, net) | net
    nets = {"netG": net}
    if discriminator is not None:
        nets["netD"] = {renamed(name, backwards(_DISCRIMINATOR)): tensor for name, tensor in discriminator.items()}
    return nets


def _unused(variant: str) -> tuple[str, ...]:
    """What stands in the names of tensors that a published model never uses, or has twice."""
    twice_or_never = (".lstm.", ".fea_l.", ".fea_ll.")
    return twice_or_never if variant == FLOWER else (*twice_or_never, *_OF_FLOWERS)


def _never_used(block: str, net: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Zeros in the shapes of what a block of RAT-GAN has and does not use."""
    out_channels, in_channels = net[f"{block}.c1.weight"].shape[:2]
    first, second = f"{block}.affine0.", f"{block}.affine2."
    zeros = {
        name.replace(used, f"{block}.{unused}."): torch.zeros_like(tensor)
        for used, unused in ((first, "affine4"), (second, "affine5"))
        for name, tensor in net.items()
        if name.startswith(used)
    }
    for layer, channels in (("fea_l", in_channels), ("fea_ll", out_channels)):
        zeros[f"{block}.{layer}.weight"] = torch.zeros(AFFINE_WIDTH_2020, channels)
        zeros[f"{block}.{layer}.bias"] = torch.zeros(AFFINE_WIDTH_2020)
    return zeros
