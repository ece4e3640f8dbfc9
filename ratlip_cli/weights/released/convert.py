"""Published checkpoint files to model folders."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from ratlip_cli.errors import UsageError, WeightsError, unknown_name
from ratlip_cli.files import whole_folder
from ratlip_cli.model.clip import DEFAULT_CLIP, FrozenCLIP
from ratlip_cli.planned import planned
from ratlip_cli.tensor_files import check_fit
from ratlip_cli.weights.card import write_card
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.model_folder import ModelConfig, create_model_folder, model_config, save_weights
from ratlip_cli.weights.released.checkpoint import ReleasedCheckpoint
from ratlip_cli.weights.released.ratlip import RELEASED_VARIANTS, read_released

HALF_PRECISION = 2e-3
"""How far, relative, a CLIP stored in float16 may be from itself."""


def convert_released(
    path: Path,
    out: Path,
    variant: str | None = None,
    clip_spec: str = DEFAULT_CLIP,
    ema: bool = True,
    half: bool = False,
) -> ModelConfig:
    """Make the model folder `out` from a published checkpoint file.

    Args:
        variant: the one that the file must be of; left out, it is inferred from the tensors.
        clip_spec: the CLIP it was trained with, see `load_clip`.
        ema: take the generator's EMA where the file holds one.
        half: store float16.

    Raises WeightsError where the file is anything else, holds more than tensors, or belongs to another CLIP; UsageError
    where `out` exists.
    """
    if variant is not None and variant not in RELEASED_VARIANTS:
        raise unknown_name("variant of the published code", variant, RELEASED_VARIANTS)
    if out.exists():
        raise UsageError(f"{out} exists; choose another --out.")
    checkpoint = read_released(path, ema)
    if variant not in (None, checkpoint.generator_config.variant):
        raise WeightsError(f"{path} is of variant {checkpoint.generator_config.variant}, not {variant}.")
    clip = load_clip(clip_spec)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    training = {"converted_from": path.name, "sha256": digest, "average": checkpoint.is_ema}
    config = model_config(checkpoint.generator_config, checkpoint.discriminator_config, clip, training)
    _check(checkpoint, config, clip, path)
    with whole_folder(out) as partial:
        create_model_folder(partial, config, clip)
        save_weights(partial, checkpoint.generator, checkpoint.discriminator, half=half)
        write_card(partial)
    return config


def _check(checkpoint: ReleasedCheckpoint, config: ModelConfig, clip: FrozenCLIP, path: Path) -> None:
    """Raise WeightsError where the tensors are not those of the networks, or were trained with another CLIP."""
    own: dict[str, Tensor] = clip.visual.state_dict()
    for name, tensor in checkpoint.clip.items():
        same_shape = name in own and own[name].shape == tensor.shape
        if not same_shape or not torch.allclose(tensor.float(), own[name], rtol=HALF_PRECISION, atol=1e-4):
            raise WeightsError(
                f"{path} was trained with another CLIP than {clip.spec}: {name} differs; give the right one by --clip."
            )
    with planned():
        check_fit(config.family.generator(config.generator, config.geometry), checkpoint.generator, path)
        if checkpoint.discriminator is not None:
            discriminator = config.family.discriminator(config.discriminator, config.geometry)
            check_fit(discriminator, checkpoint.discriminator, path)
