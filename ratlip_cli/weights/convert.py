"""Published checkpoint files to model folders, and back."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from ratlip_cli.errors import UsageError, WeightsError, unknown_name
from ratlip_cli.files import whole_file, whole_folder
from ratlip_cli.model.clip import DEFAULT_CLIP, FrozenCLIP
from ratlip_cli.model.config import ClipGeometry
from ratlip_cli.model.discriminator import Discriminator
from ratlip_cli.model.generator import Generator
from ratlip_cli.tensor_files import check_fit
from ratlip_cli.weights.card import write_card
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.model_folder import (
    DISCRIMINATOR_FILE,
    Model,
    ModelConfig,
    create_model_folder,
    load_discriminator,
    model_config,
    save_weights,
)
from ratlip_cli.weights.released import (
    RELEASED_IMAGE_SIZE,
    RELEASED_VARIANTS,
    ReleasedCheckpoint,
    export_released,
    read_released,
)

RELEASED_GEOMETRY = ClipGeometry(width=768, grid=7, layers=12, embed_dim=512, image_size=224)
"""Of ViT-B/32, the only CLIP that the published code knows."""

HALF_PRECISION = 2e-3
"""How far, relative, a CLIP stored in float16 may be from itself."""


def convert_released(
    path: Path,
    out: Path,
    variant: str | None = None,
    clip_spec: str = DEFAULT_CLIP,
    average: bool = True,
    half: bool = False,
) -> ModelConfig:
    """Make the model folder `out` from a published checkpoint file.

    Args:
        variant: the one that the file must be of; left out, it is told from the tensors.
        clip_spec: the CLIP it was trained with, see `load_clip`.
        average: take the generator's moving average where the file holds one.
        half: store float16.

    Raises:
        WeightsError: the file is anything else, holds more than tensors, or belongs to another CLIP. UsageError: `out`
            exists.
    """
    if variant is not None and variant not in RELEASED_VARIANTS:
        raise unknown_name("variant of the published code", variant, RELEASED_VARIANTS)
    if out.exists():
        raise UsageError(f"{out} exists; choose another --out.")
    checkpoint = read_released(path, average)
    if variant not in (None, checkpoint.generator_config.variant):
        raise WeightsError(f"{path} is of variant {checkpoint.generator_config.variant}, not {variant}.")
    clip = load_clip(clip_spec)
    _check(checkpoint, clip, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    training = {"converted_from": path.name, "sha256": digest, "average": checkpoint.averaged}
    config = model_config(checkpoint.generator_config, checkpoint.discriminator_config, clip, training)
    with whole_folder(out) as partial:
        create_model_folder(partial, config, clip)
        save_weights(partial, checkpoint.generator, checkpoint.discriminator, half=half)
        write_card(partial)
    return config


def write_released(model: Model, path: Path) -> None:
    """Write a model as a checkpoint file that the published code loads.

    Raises:
        UsageError: the published code has no such model, or `path` exists.
    """
    config = model.config
    if path.exists():
        raise UsageError(f"{path} exists; choose another --out.")
    if config.generator.variant not in RELEASED_VARIANTS:
        raise UsageError(
            f"{model.name} is of variant {config.generator.variant}; the published code knows "
            f"{' and '.join(RELEASED_VARIANTS)} alone."
        )
    if config.generator.image_size != RELEASED_IMAGE_SIZE or config.geometry != RELEASED_GEOMETRY:
        raise UsageError(
            f"{model.name} draws {config.generator.image_size} pixels on CLIP {config.clip}; the published code knows "
            f"{RELEASED_IMAGE_SIZE} pixels on ViT-B/32 alone."
        )
    if config.discriminator.pixel_stem:
        raise UsageError(f"the discriminator of {model.name} has a pixel stem, which the published code does not know.")
    discriminator = None
    if (model.folder / DISCRIMINATOR_FILE).is_file():
        discriminator = load_discriminator(model).state_dict()
    nets = export_released(model.generator.state_dict(), discriminator, model.clip.visual.state_dict())
    with whole_file(path) as partial:
        torch.save({"model": nets}, partial)


def _check(checkpoint: ReleasedCheckpoint, clip: FrozenCLIP, path: Path) -> None:
    """Raise WeightsError where the tensors do not fit, or were trained with another CLIP."""
    own: dict[str, Tensor] = clip.visual.state_dict()
    for name, tensor in checkpoint.clip.items():
        if name not in own or own[name].shape != tensor.shape:
            raise WeightsError(
                f"{path} was trained with another CLIP than {clip.spec}: it has {name}; give its --clip."
            )
        if not torch.allclose(tensor.float(), own[name], rtol=HALF_PRECISION, atol=1e-4):
            raise WeightsError(
                f"{path} was trained with another CLIP than {clip.spec}: {name} differs; give the right one by --clip."
            )
    with torch.device("meta"):
        check_fit(Generator(checkpoint.generator_config, clip.geometry), checkpoint.generator, path)
        if checkpoint.discriminator is not None:
            check_fit(Discriminator(checkpoint.discriminator_config, clip.geometry), checkpoint.discriminator, path)
