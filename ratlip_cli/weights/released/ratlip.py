"""Checkpoints of the published GALIP and RATLIP code, as weights of this package, and back.

Such a file is `{"model": {"netG": tensors, "netD": tensors, "netC": tensors}}`, pickled by torch.save, its names
sometimes after a leading `module.`. It is read with weights_only. Variant and sizes are inferred from the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ratlip_cli.errors import UsageError
from ratlip_cli.model.config import ClipGeometry, DiscriminatorConfig, GeneratorConfig
from ratlip_cli.weights.model_folder import Model
from ratlip_cli.weights.released.checkpoint import ReleasedCheckpoint
from ratlip_cli.weights.released.renaming import AFFINE_LAYERS, backwards, renamed, without_module

RELEASED_IMAGE_SIZE = 224
"""The published code generates 224 pixels, whatever its configuration says."""

RELEASED_GEOMETRY = ClipGeometry(width=768, grid=7, layers=12, embed_dim=512, image_size=224)
"""Of ViT-B/32, the only CLIP that the published code knows."""

_NAMES = (  # of the published code and ours; # stands for a number
    ("^fc_code.", "^code."),
    ("^mapping.FBlocks.#.", "^bridge.blocks.#."),
    ("^mapping.conv_fuse.", "^bridge.to_clip."),
    ("^mapping.conv.", "^fuse."),
    ("^mapping.fc_prompt.", "^prompts."),
    ("^GBlocks.#.c_sc.", "^blocks.#.shortcut."),
    ("^GBlocks.#.c#.", "^blocks.#.conv#."),
    ("^GBlocks.#.", "^blocks.#."),
    ("^to_rgb.1.", "^to_rgb."),
    (".affine#.fc_gamma.", ".affines.#.gamma."),
    (".affine#.fc_beta.", ".affines.#.beta."),
    (".se.gn.", ".attention.norm."),
    (".bn.", ".norm."),
    (".se.cweight", ".attention.channel_weight"),
    (".se.cbias", ".attention.channel_bias"),
    (".se.sweight", ".attention.spatial_weight"),
    (".se.sbias", ".attention.spatial_bias"),
)
_LSTM = re.compile(r"mapping\.FBlocks\.(\d+)\.fuse(\d)\.affine(\d)\.rnn\.(\w+)_l0")
_CELL = re.compile(r"bridge\.recurrence\.cells\.(\d+)\.(\w+)")
_CLIP_PREFIX = "mapping.CLIP_ViT."
_CLIP_TENSORS = re.compile(r"class_embedding|positional_embedding|conv1\.|ln_pre\.|transformer\.")
_STAGES = ("DBlocks.0", "DBlocks.1", "main")
_EXTRACTOR = {  # names of ours and in netD
    **{
        f"extractor.residual{number}.{layer}.weight": f"{stage}.conv_r.{layer}.weight"
        for number, stage in enumerate(_STAGES, start=1)
        for layer in (0, 2)
    },
    **{f"extractor.project.{kind}": f"main.conv_s.{kind}" for kind in ("weight", "bias")},
}
_REFEREE = {"referee.conv1.weight": "joint_conv.0.weight", "referee.conv2.weight": "joint_conv.2.weight"}  # in netC
_UNUSED = re.compile(r"DBlocks\.\d+\.conv_s\.")  # 1x1 shortcuts that the published code builds and never calls


def released_nets(model: Model, discriminator: Mapping[str, Tensor] | None) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint file of the published code holds of a model: `netG`, and with a discriminator `netD`, `netC`.

    Raises UsageError where the published code has no such model.
    """
    config = model.config
    if config.generator.image_size != RELEASED_IMAGE_SIZE or config.geometry != RELEASED_GEOMETRY:
        raise UsageError(
            f"{model.name} generates {config.generator.image_size} pixels on CLIP {config.clip}; the published code "
            f"knows {RELEASED_IMAGE_SIZE} pixels on ViT-B/32 alone."
        )
    tag = config.clip.partition(":")[2]
    if not model.clip.model.quick_gelu or tag not in ("", "openai"):
        raise UsageError(f"{model.name} was trained on CLIP {config.clip}; the published code takes OpenAI's alone.")
    if config.discriminator.pixel_stem:
        raise UsageError(f"the discriminator of {model.name} has a pixel stem, which the published code does not know.")
    return export_released(model.generator.state_dict(), discriminator, model.clip.visual.state_dict())


def import_released(nets: Mapping[str, Mapping[str, Tensor]]) -> ReleasedCheckpoint:
    """Rename the tensors of `netG`, `netD` and `netC`, and read the sizes off them."""
    released = without_module(nets["netG"])
    clip = {name[len(_CLIP_PREFIX) :]: tensor for name, tensor in released.items() if name.startswith(_CLIP_PREFIX)}
    generator = {_own_name(name): tensor for name, tensor in released.items() if not name.startswith(_CLIP_PREFIX)}
    discriminator, discriminator_config = None, DiscriminatorConfig()
    if "netD" in nets and "netC" in nets:
        discriminator = _discriminator_tensors(without_module(nets["netD"]), without_module(nets["netC"]))
        discriminator_config = DiscriminatorConfig(base_channels=len(discriminator["referee.conv1.weight"]) // 2)
    config = _generator_config(generator)
    return ReleasedCheckpoint(config, discriminator_config, generator, discriminator, clip)


def export_released(
    generator: Mapping[str, Tensor], discriminator: Mapping[str, Tensor] | None, visual: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """The way back: `netG`, `netD` and `netC` as the published code names and shapes them.

    Args:
        generator: of variant galip or ratlip-released.
        discriminator: left out, the result has `netG` alone.
        visual: the frozen CLIP's vision transformer, which the published code saves inside the generator.
    """
    recurrent = any(_CELL.match(name) for name in generator)
    nets = {"netG": {_released_name(name, recurrent): tensor for name, tensor in generator.items()}}
    nets["netG"] |= {_CLIP_PREFIX + name: tensor for name, tensor in visual.items() if _CLIP_TENSORS.match(name)}
    if discriminator is not None:
        nets["netD"] = _released_extractor(discriminator)
        nets["netC"] = {theirs: discriminator[own] for own, theirs in _REFEREE.items()}
    return nets


def _own_name(name: str) -> str:
    if lstm := _LSTM.fullmatch(name):
        block, fuse, affine = (int(digits) for digits in lstm.groups()[:3])
        return f"bridge.recurrence.cells.{4 * block + 2 * (fuse - 1) + affine}.{lstm[4]}"
    return renamed(name, (*_NAMES, *AFFINE_LAYERS))


def _released_name(name: str, recurrent: bool) -> str:
    if cell := _CELL.fullmatch(name):
        block, affine = divmod(int(cell[1]), 4)
        return f"mapping.FBlocks.{block}.fuse{affine // 2 + 1}.affine{affine % 2}.rnn.{cell[2]}_l0"
    layers = () if recurrent and name.startswith("bridge.") else AFFINE_LAYERS
    return renamed(name, backwards((*_NAMES, *layers)))


def _discriminator_tensors(extractor: Mapping[str, Tensor], referee: Mapping[str, Tensor]) -> dict[str, Tensor]:
    used = {name: tensor for name, tensor in extractor.items() if not _UNUSED.match(name)}
    kept = {own: used.pop(theirs) for own, theirs in _EXTRACTOR.items()}
    kept["extractor.a"] = torch.cat([used.pop(f"{stage}.gamma") for stage in _STAGES])
    kept["extractor.b"] = torch.cat([used.pop(f"{stage}.beta") for stage in _STAGES[:2]])
    if used:
        raise ValueError(f"unknown tensor {next(iter(used))} in netD")
    return kept | {own: referee[theirs] for own, theirs in _REFEREE.items()}


def _released_extractor(discriminator: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """netD; the shortcuts that it builds and never calls are filled with zeros."""
    net = {theirs: discriminator[own] for own, theirs in _EXTRACTOR.items()}
    width = discriminator["extractor.project.weight"].shape[1]
    for number, stage in enumerate(_STAGES):
        net[f"{stage}.gamma"] = discriminator["extractor.a"][number : number + 1].clone()
        if stage != "main":
            net[f"{stage}.beta"] = discriminator["extractor.b"][number : number + 1].clone()
            net[f"{stage}.conv_s.weight"] = torch.zeros(width, width, 1, 1)
            net[f"{stage}.conv_s.bias"] = torch.zeros(width)
    return net


def _generator_config(generator: Mapping[str, Tensor]) -> GeneratorConfig:
    recurrent = generator.get("bridge.recurrence.cells.0.weight_hh")
    blocks = {int(name.split(".")[2]) for name in generator if name.startswith("bridge.blocks.")}
    return GeneratorConfig(
        variant="galip" if recurrent is None else "ratlip-released",
        image_size=RELEASED_IMAGE_SIZE,
        noise_dim=generator["code.weight"].shape[1],
        hidden_size=GeneratorConfig.hidden_size if recurrent is None else recurrent.shape[1],
        base_channels=generator["to_rgb.weight"].shape[1],
        bridge_channels=generator["bridge.to_clip.weight"].shape[1],
        bridge_blocks=len(blocks),
    )
