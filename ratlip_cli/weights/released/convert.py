"""Files of published code to what this package reads: checkpoints to model folders, and back; DAMSM's text side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ratlip_cli.baselines.damsm import DamsmTextEncoder
from ratlip_cli.baselines.damsm_files import is_text_encoder, save_text_encoder, save_vocabulary
from ratlip_cli.errors import RatlipError, UsageError, WeightsError, unknown_name
from ratlip_cli.families import family_of
from ratlip_cli.families.damsm import OnDamsm
from ratlip_cli.files import sha256_of, whole_folder
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.planned import planned
from ratlip_cli.setting import DEFAULT_CLIP
from ratlip_cli.tensor_files import check_fit, save_pickled
from ratlip_cli.weights.card import write_card
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.model_folder import (
    DISCRIMINATOR_FILE,
    Model,
    ModelConfig,
    create_model_folder,
    fingerprint_of,
    load_discriminator,
    model_config,
    save_weights,
)
from ratlip_cli.weights.released.checkpoint import ReleasedCheckpoint
from ratlip_cli.weights.released.codes import VARIANTS, Code, code_for, code_of
from ratlip_cli.weights.released.nets import GENERATOR, Nets, read_net, read_nets, what_else
from ratlip_cli.weights.released.pickles import is_captions, read_captions
from ratlip_cli.weights.released.ratlip import RELEASED_GEOMETRY, released_nets
from ratlip_cli.weights.released.text import read_text_encoder

AUTO = "auto"
HALF_PRECISION = 2e-3
"""How far, relative, a CLIP stored in float16 may be from itself."""


@dataclass(frozen=True)
class Conversion:
    """What to make of a published file, and of what goes with it."""

    path: Path
    out: Path  # A model folder; of a text encoder alone, the folder of its two files; of captions, vocabulary.json.
    variant: str = AUTO  # The one that a checkpoint must be of; AUTO: it is inferred from the tensors.
    clip: str = DEFAULT_CLIP  # The CLIP that it was trained with, see `load_clip`.
    ema: bool = True  # Take the generator's EMA where the file holds one.
    half: bool = False  # Store float16.
    text_encoder: Path | None = None  # The file or folder of the DAMSM text encoder that it was trained with.
    captions: Path | None = None  # The text encoder's words: captions.pickle or vocabulary.json.
    discriminators: Sequence[Path] = ()  # Files of discriminators that are not in the generator's.


@dataclass(frozen=True)
class Converted:
    """What was made."""

    path: Path
    variant: str | None = None  # Of a model.
    fingerprint: str | None = None  # Of a model or a text encoder.
    words: int | None = None  # Of a vocabulary.


def convert_released(request: Conversion) -> Converted:
    """Make a model folder from a published checkpoint; from a text encoder its two files; from captions their words.

    Raises WeightsError where a file is anything else, holds more than tensors, or does not belong to the others;
    UsageError where `out` exists, or an option is needed or superfluous.
    """
    if request.variant not in (AUTO, *VARIANTS):
        raise unknown_name("variant of published code", request.variant, (AUTO, *VARIANTS))
    if request.out.exists():
        raise UsageError(f"{request.out} exists; choose another --out.")
    if request.path.is_file() and is_captions(request.path):
        return _convert_captions(request)
    nets, is_ema = read_nets(request.path, request.ema)
    if is_text_encoder(nets[GENERATOR]):
        return _convert_text_encoder(request)
    checkpoint = _checkpoint(request, nets, is_ema)
    text_encoder = _text_encoder(request, checkpoint)
    clip = load_clip(request.clip)
    config = model_config(
        checkpoint.generator_config,
        checkpoint.discriminator_config,
        clip,
        _record(request, checkpoint),
        text_encoder=text_encoder.fingerprint if text_encoder is not None else "",
    )
    _check(checkpoint, config, clip, request.path)
    with whole_folder(request.out) as partial:
        create_model_folder(partial, config, clip)
        if text_encoder is not None:
            save_text_encoder(partial, text_encoder)
        save_weights(partial, checkpoint.generator, checkpoint.discriminator, half=request.half)
        write_card(partial)
    return Converted(request.out, config.generator.variant, fingerprint_of(request.out))


def read_released(path: Path, ema: bool = True) -> ReleasedCheckpoint:
    """Read a published checkpoint file; with `ema`, the generator's EMA where the file holds one.

    Raises WeightsError where the file is anything else, or a pickle that would execute something.
    """
    return _checkpoint(Conversion(path, Path(), ema=ema), *read_nets(path, ema))


def write_released(model: Model, path: Path) -> list[Path]:
    """Write a model as checkpoint files that the published code loads, and return their paths.

    The code of AttnGAN, RAT-GAN and the DF-GAN of 2020 keeps each network in a file: `path` is the generator's, and the
    discriminators', netD0.pth and so on, stand beside it.

    Raises UsageError where the published code has no such model, a file exists, or two would be one.
    """
    variant = model.config.generator.variant
    code = code_for(variant)
    trained = (model.folder / DISCRIMINATOR_FILE).is_file()
    discriminator = load_discriminator(model).state_dict() if trained else None
    generator = model.generator.state_dict()
    if variant in ("galip", "ratlip-released"):
        nets = released_nets(model, discriminator)
    elif code.publish is None:
        raise UsageError(
            f"{model.name} is of variant {variant}: its published files hold source code, and ratlip writes none."
        )
    else:
        nets = code.publish(model.config.generator, generator, discriminator)
    files: dict[Path, Any] = {path: {"model": nets}}
    if code.discriminators:
        for net in nets.keys() - {GENERATOR}:
            if path.name.casefold() == f"{net}.pth".casefold():
                raise UsageError(
                    f"{path} is where the discriminator of that name goes, beside the generator: choose another --out, "
                    f"such as {path.with_name('netG.pth')}."
                )
        files = {path if net == GENERATOR else path.with_name(f"{net}.pth"): tensors for net, tensors in nets.items()}
    for file in files:
        if file.exists():
            raise UsageError(f"{file} exists; choose another --out.")
    for file, content in reversed(files.items()):  # the generator's last: where it is, all are
        save_pickled(file, content)
    return list(files)


def _convert_captions(request: Conversion) -> Converted:
    _refuse(request, "holds captions, of which the words alone are taken")
    words = read_captions(request.path)
    save_vocabulary(request.out, words)
    return Converted(request.out, words=len(words))


def _convert_text_encoder(request: Conversion) -> Converted:
    _refuse(replace(request, captions=None), "is a text encoder of DAMSM")
    encoder = read_text_encoder(request.path, request.captions)
    with whole_folder(request.out) as partial:
        save_text_encoder(partial, encoder)
    return Converted(request.out, fingerprint=encoder.fingerprint, words=len(encoder.vocabulary))


def _refuse(request: Conversion, what: str) -> None:
    """Raise UsageError for options that say something about a checkpoint alone."""
    given = {
        "--variant": request.variant != AUTO,
        "--text-encoder": request.text_encoder is not None,
        "--captions": request.captions is not None,
        "--discriminator": bool(request.discriminators),
        "--half": request.half,
        "--no-ema": not request.ema,
    }
    for option, is_given in given.items():
        if is_given:
            raise UsageError(f"{request.path} {what}: leave out {option}.")


def _checkpoint(request: Conversion, nets: Nets, is_ema: bool) -> ReleasedCheckpoint:
    code = code_of(nets[GENERATOR])
    if code is None:
        raise WeightsError(f"{request.path} {what_else(nets[GENERATOR])}.")
    nets |= _discriminators(request, code, nets)
    try:
        read = code.read(nets, request.variant if request.variant in code.variants else None)
    except (KeyError, IndexError, ValueError, TypeError, RuntimeError, AttributeError, RatlipError) as error:
        reason = error if isinstance(error, RatlipError) else repr(error)
        raise WeightsError(f"{request.path} is not a checkpoint that the published code writes: {reason}") from error
    if request.variant not in (AUTO, read.generator_config.variant):
        raise WeightsError(f"{request.path} is of variant {read.generator_config.variant}, not {request.variant}.")
    return replace(read, is_ema=read.is_ema or is_ema)


def _discriminators(request: Conversion, code: Code, nets: Nets) -> Nets:
    given, names = request.discriminators, code.discriminators
    if not given:
        return {}
    if len(given) > len(names) or any(name.startswith("netD") for name in nets):
        own = f"keeps {len(names)} of them in files of their own" if names else "keeps it in the generator's file"
        raise UsageError(
            f"--discriminator was given {len(given)} times, but the code that wrote {request.path} {own}: leave "
            "out the others."
        )
    return {name: read_net(path) for name, path in zip(names, given, strict=False)}


def _text_encoder(request: Conversion, checkpoint: ReleasedCheckpoint) -> DamsmTextEncoder | None:
    config = checkpoint.generator_config
    family = family_of(config.variant)
    if not isinstance(family, OnDamsm):
        for option, given in (("--text-encoder", request.text_encoder), ("--captions", request.captions)):
            if given is not None:
                raise UsageError(
                    f"{request.path} is of variant {config.variant}, which reads text by CLIP: leave out {option}."
                )
        return None
    if request.text_encoder is None:
        raise UsageError(
            f"{request.path} is of variant {config.variant}, which reads text by a text encoder of DAMSM: give "
            "--text-encoder text_encoder200.pth --captions captions.pickle, from the archive that its authors link."
        )
    encoder = read_text_encoder(request.text_encoder, request.captions)
    for what, width in family.damsm_widths(config).items():
        if encoder.width != width:
            raise WeightsError(
                f"{request.text_encoder} gives {what} of {encoder.width} numbers, but {request.path} reads {width}: "
                "it was trained with another one."
            )
    return encoder


def _record(request: Conversion, checkpoint: ReleasedCheckpoint) -> dict[str, Any]:
    """Where a model comes from, for people."""
    record = {
        "converted_from": request.path.name,
        "sha256": sha256_of(request.path),
        "average": checkpoint.is_ema,
    }
    for name, path in (("text_encoder_from", request.text_encoder), ("vocabulary_from", request.captions)):
        if path is not None:
            record[name] = f"{path.name}, sha256 {sha256_of(path)}" if path.is_file() else path.name
    return record


def _check(checkpoint: ReleasedCheckpoint, config: ModelConfig, clip: FrozenCLIP, path: Path) -> None:
    """Raise WeightsError where the tensors are not those of the networks, or were trained with another CLIP."""
    if checkpoint.text_dim not in (None, clip.geometry.embed_dim):
        raise WeightsError(
            f"{path} was trained with another CLIP than {clip.spec}, whose text vectors have {clip.geometry.embed_dim} "
            f"numbers, not {checkpoint.text_dim}; give the right one by --clip."
        )
    # Such files hold CLIP's weights, which do not tell its activation.
    if checkpoint.clip and clip.geometry == RELEASED_GEOMETRY and not clip.model.quick_gelu:
        raise WeightsError(
            f"{path} was trained on OpenAI's CLIP, whose activation is QuickGELU, and {clip.spec} has GELU: give the "
            f"right one by --clip, such as {DEFAULT_CLIP}."
        )
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
