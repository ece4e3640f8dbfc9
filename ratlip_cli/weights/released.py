"""Checkpoints of the published GALIP and RATLIP code, as weights of this package.

Such a file is `{"model": {"netG": tensors, "netD": tensors, "netC": tensors}}`, pickled by torch.save, its names
sometimes behind a leading `module.`. It is read with weights_only. The variant and all sizes are told from the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ratlip_cli.errors import WeightsError
from ratlip_cli.model.config import DiscriminatorConfig, GeneratorConfig
from ratlip_cli.tensor_files import load_pickled

RELEASED_IMAGE_SIZE = 224
"""The published code draws 224 pixels, whatever its configuration says."""

_GENERATOR_NAMES = (
    (r"fc_code\.", "code."),
    (r"mapping\.FBlocks\.(\d+)\.", r"bridge.blocks.\1."),
    (r"mapping\.conv_fuse\.", "bridge.to_clip."),
    (r"mapping\.conv\.", "fuse."),
    (r"mapping\.fc_prompt\.", "prompts."),
    (r"GBlocks\.(\d+)\.c_sc\.", r"blocks.\1.shortcut."),
    (r"GBlocks\.(\d+)\.c(\d)\.", r"blocks.\1.conv\2."),
    (r"GBlocks\.(\d+)\.", r"blocks.\1."),
    (r"to_rgb\.1\.", "to_rgb."),
)
_INNER_NAMES = (
    (r"\.affine(\d)\.fc_(gamma|beta)\.", r".affines.\1.\2."),
    (r"\.linear1\.", ".0."),
    (r"\.linear2\.", ".2."),
    (r"\.bn\.", ".norm."),
    (r"\.se\.gn\.", ".attention.norm."),
    (r"\.se\.c(weight|bias)", r".attention.channel_\1"),
    (r"\.se\.s(weight|bias)", r".attention.spatial_\1"),
)
_LSTM_NAME = re.compile(r"mapping\.FBlocks\.(\d+)\.fuse(\d)\.affine(\d)\.rnn\.(\w+)_l0")
_CLIP_PREFIX = "mapping.CLIP_ViT."
_UNUSED = re.compile(r"DBlocks\.\d+\.conv_s\.")  # 1x1 shortcuts that the published code builds and never calls


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """A published checkpoint under this package's names, float32."""

    generator_config: GeneratorConfig
    discriminator_config: DiscriminatorConfig
    generator: dict[str, Tensor]
    """For `Generator(generator_config, geometry)`."""
    discriminator: dict[str, Tensor] | None
    """For `Discriminator(discriminator_config, geometry)`; None where the file holds a generator alone."""


def read_released(path: Path) -> ReleasedCheckpoint:
    """Read a published checkpoint file. Raises WeightsError where it is anything else."""
    content = load_pickled(path)
    nets = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(nets, dict) or not _are_tensors(nets.get("netG")):
        raise WeightsError(f"{path} is not a checkpoint of the published GALIP or RATLIP code: it has no 'netG'.")
    try:
        return import_released(nets)
    except (KeyError, IndexError, ValueError) as error:
        raise WeightsError(f"{path} is not a checkpoint that the published code writes: {error!r}.") from error


def import_released(nets: Mapping[str, Mapping[str, Tensor]]) -> ReleasedCheckpoint:
    """Rename the tensors of `netG`, `netD` and `netC`, and read the sizes off them."""
    released = _without_module(nets["netG"])
    generator = dict(_generator_tensors(released))
    discriminator = None
    discriminator_config = DiscriminatorConfig()
    if _are_tensors(nets.get("netD")) and _are_tensors(nets.get("netC")):
        discriminator = _discriminator_tensors(_without_module(nets["netD"]), _without_module(nets["netC"]))
        discriminator_config = DiscriminatorConfig(base_channels=len(discriminator["referee.conv1.weight"]) // 2)
    return ReleasedCheckpoint(_generator_config(generator), discriminator_config, generator, discriminator)


def _generator_tensors(released: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in released.items():
        if name.startswith(_CLIP_PREFIX):
            continue
        if lstm := _LSTM_NAME.fullmatch(name):
            block, fuse, affine = (int(digits) for digits in lstm.groups()[:3])
            yield f"bridge.recurrence.cells.{4 * block + 2 * (fuse - 1) + affine}.{lstm[4]}", _float32(tensor)
        else:
            yield _renamed(name), _float32(tensor)


def _renamed(name: str) -> str:
    for pattern, replacement in _GENERATOR_NAMES:
        renamed, found = re.subn(rf"^{pattern}", replacement, name)
        if found:
            break
    for pattern, replacement in _INNER_NAMES:
        renamed = re.sub(pattern, replacement, renamed)
    return renamed


def _discriminator_tensors(extractor: Mapping[str, Tensor], referee: Mapping[str, Tensor]) -> dict[str, Tensor]:
    used = {name: _float32(tensor) for name, tensor in extractor.items() if not _UNUSED.match(name)}
    stages = ("DBlocks.0", "DBlocks.1", "main")
    renamed = {
        f"extractor.residual{number}.{layer}.weight": used.pop(f"{stage}.conv_r.{layer}.weight")
        for number, stage in enumerate(stages, start=1)
        for layer in (0, 2)
    }
    renamed["extractor.a"] = torch.cat([used.pop(f"{stage}.gamma") for stage in stages])
    renamed["extractor.b"] = torch.cat([used.pop(f"{stage}.beta") for stage in stages[:2]])
    for kind in ("weight", "bias"):
        renamed[f"extractor.project.{kind}"] = used.pop(f"main.conv_s.{kind}")
    if used:
        raise ValueError(f"unknown tensor {next(iter(used))} in netD")
    renamed["referee.conv1.weight"] = _float32(referee["joint_conv.0.weight"])
    renamed["referee.conv2.weight"] = _float32(referee["joint_conv.2.weight"])
    return renamed


def _generator_config(generator: Mapping[str, Tensor]) -> GeneratorConfig:
    recurrent = generator.get("bridge.recurrence.cells.0.weight_hh")
    bridge_channels, noise_dim = generator["bridge.to_clip.weight"].shape[1], generator["code.weight"].shape[1]
    blocks = {int(name.split(".")[2]) for name in generator if name.startswith("bridge.blocks.")}
    return GeneratorConfig(
        variant="galip" if recurrent is None else "ratlip-released",
        image_size=RELEASED_IMAGE_SIZE,
        noise_dim=noise_dim,
        hidden_size=GeneratorConfig.hidden_size if recurrent is None else recurrent.shape[1],
        base_channels=generator["to_rgb.weight"].shape[1],
        bridge_channels=bridge_channels,
        bridge_blocks=len(blocks),
    )


def _without_module(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _are_tensors(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(item, Tensor) for item in value.values())
