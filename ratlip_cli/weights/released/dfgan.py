"""Checkpoints of the published DF-GAN code, of 2022 on, as weights of this package, and back.

Such a file, state_epoch_1220.pth, is `{"model": {"netG": tensors, "netD": tensors, "netC": tensors}, ...}`. The version
of 2020 is RAT-GAN's kind, see `ratgan.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ratlip_cli.families.damsm import DAMSM_WIDTH
from ratlip_cli.families.dfgan import DFGANConfig, DFGANDiscriminatorConfig
from ratlip_cli.weights.released.checkpoint import ReleasedCheckpoint
from ratlip_cli.weights.released.renaming import AFFINE_LAYERS, backwards, renamed, without_module

_GENERATOR = (  # names of netG and ours; # stands for a number
    ("^fc.", "^code."),
    ("^GBlocks.#.c_sc.", "^blocks.#.shortcut."),
    ("^GBlocks.#.c#.", "^blocks.#.conv#."),
    ("^GBlocks.#.", "^blocks.#."),
    ("^to_rgb.1.", "^to_rgb."),
    (".affine#.fc_", ".affines.#."),
    *AFFINE_LAYERS,
)
_DISCRIMINATOR = (  # of netD, and of netC, whose names no tensor of netD has
    ("^conv_img.", "^conv."),
    ("^DBlocks.#.conv_r.0.", "^blocks.#.conv1."),
    ("^DBlocks.#.conv_r.2.", "^blocks.#.conv2."),
    ("^DBlocks.#.conv_s.", "^blocks.#.shortcut."),
    ("^DBlocks.#.", "^blocks.#."),
    ("^joint_conv.0.", "^head.conv1."),
    ("^joint_conv.2.", "^head.conv2."),
)


def is_dfgan(nets: Mapping[str, Mapping[str, Tensor]]) -> bool:
    """Whether `netG`, `netD`, `netC` of a file are DF-GAN's. GALIP's first layer has another name."""
    return {"fc.weight", "GBlocks.0.fuse1.affine0.fc_gamma.linear1.weight"} <= without_module(nets["netG"]).keys()


def import_dfgan(nets: Mapping[str, Mapping[str, Tensor]]) -> ReleasedCheckpoint:
    """Rename the tensors of `netG`, `netD` and `netC`, and read the sizes off them.

    Raises KeyError, IndexError or ValueError where they are no networks of DF-GAN's.
    """
    generator = {renamed(name, _GENERATOR): tensor for name, tensor in without_module(nets["netG"]).items()}
    noise_dim = generator["code.weight"].shape[1]
    text_dim = generator["blocks.0.fuse1.affines.0.gamma.0.weight"].shape[1] - noise_dim
    if text_dim != DAMSM_WIDTH:
        raise ValueError(f"its text vectors have {text_dim} values, those of a published DF-GAN {DAMSM_WIDTH}")
    image_size = 4 * 2 ** len({name.split(".")[1] for name in generator if name.startswith("blocks.")})
    channels = generator["to_rgb.weight"].shape[1]
    config = DFGANConfig("dfgan-released", image_size, noise_dim, channels)
    discriminator = None
    if "netD" in nets and "netC" in nets:
        theirs = without_module(nets["netD"]) | without_module(nets["netC"])
        discriminator = {renamed(name, _DISCRIMINATOR): tensor for name, tensor in theirs.items()}
        channels = len(discriminator["conv.weight"])
    return ReleasedCheckpoint(config, DFGANDiscriminatorConfig(image_size, channels), generator, discriminator, {})


def export_dfgan(
    generator: Mapping[str, Tensor], discriminator: Mapping[str, Tensor] | None
) -> dict[str, dict[str, Tensor]]:
    """The way back: `netG` and, where there is a discriminator, `netD` and `netC`, as the published code names them."""
    nets = {"netG": {renamed(name, backwards(_GENERATOR)): tensor for name, tensor in generator.items()}}
    if discriminator is not None:
        theirs = {renamed(name, backwards(_DISCRIMINATOR)): tensor for name, tensor in discriminator.items()}
        nets["netD"] = {name: tensor for name, tensor in theirs.items() if not name.startswith("joint_conv.")}
        nets["netC"] = {name: tensor for name, tensor in theirs.items() if name.startswith("joint_conv.")}
    return nets
