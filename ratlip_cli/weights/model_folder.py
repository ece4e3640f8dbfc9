"""A model as a folder that anyone can load, check and share.

config.json                 ModelConfig: variant, sizes, the CLIP, what it was trained on, versions
generator.safetensors       the generator's EMA, without CLIP's weights
discriminator.safetensors   optional, to train on from
clip/                       the CLIP, where it is not one that open_clip knows by name
text_encoder.safetensors    what reads captions, where that is not the CLIP, and
vocabulary.json             the words that it knows
README.md, samples.png      the model card, see card.py
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import torch
from torch import Tensor, nn

import ratlip_cli
from ratlip_cli.baselines.damsm_files import TEXT_ENCODER_FILE, VOCABULARY_FILE
from ratlip_cli.errors import RatlipError, WeightsError
from ratlip_cli.families import FAMILIES, family_of
from ratlip_cli.family import Family
from ratlip_cli.fast import Sampler, for_sampling, resolve_precision
from ratlip_cli.file_kinds import other_file
from ratlip_cli.files import whole_folder, write_text
from ratlip_cli.json_files import check_keys, from_json, is_of_kind, read_json
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.config import ClipGeometry
from ratlip_cli.planned import planned
from ratlip_cli.samples import unknown_words
from ratlip_cli.tensor_files import (
    fingerprint,
    load_into,
    load_tensors,
    load_tensors_and_metadata,
    save_tensors,
)
from ratlip_cli.weights import clip_files
from ratlip_cli.weights.clip_files import load_clip, public_name, save_clip

FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
GENERATOR_FILE = "generator.safetensors"
DISCRIMINATOR_FILE = "discriminator.safetensors"
CLIP_FOLDER = "clip"
MODEL_FILES = (
    CONFIG_FILE,
    GENERATOR_FILE,
    DISCRIMINATOR_FILE,
    f"{CLIP_FOLDER}/{clip_files.CONFIG_FILE}",
    f"{CLIP_FOLDER}/{clip_files.WEIGHTS_FILE}",
    TEXT_ENCODER_FILE,
    VOCABULARY_FILE,
)
"""All that a program reads of a model folder: JSON and safetensors."""
CHECKPOINT_FILE = "checkpoint.json"  # What tells a checkpoint of a training run, see training/checkpoint.py.
CARD_FILE = "README.md"
SAMPLES_FILE = "samples.png"
CARD_FILES = (CARD_FILE, SAMPLES_FILE)
"""What it holds for people."""


@dataclass(frozen=True)
class ModelConfig:
    """What config.json says."""

    generator: Any  # The generator's sizes, a dataclass of the family's; its `variant` names the family.
    discriminator: Any  # The discriminator's sizes, a dataclass of the family's.
    clip: str  # NAME:PRETRAINED of open_clip, or `clip`, the folder inside the model folder.
    clip_fingerprint: str  # Of the CLIP that the model was trained with; with another one the images are nonsense.
    geometry: ClipGeometry
    training: Mapping[str, Any] = field(default_factory=dict)  # Data and settings, for people and records.
    features: str = "inception"  # What scores its images: `inception`, or `clip`, its own, far from photographs.
    clip_computes: str = ""  # `FrozenCLIP.computes` of that CLIP; empty where an earlier version wrote it.
    text_encoder: str = ""  # The fingerprint of its own text encoder and vocabulary; empty where its CLIP reads text.

    @property
    def family(self) -> Family:
        """The family of the model."""
        return family_of(self.generator.variant)


@dataclass(frozen=True)
class Model:
    """A loaded model, ready to generate."""

    name: str  # What the user called it by, or the folder it was found in.
    folder: Path
    config: ModelConfig
    generator: nn.Module
    clip: FrozenCLIP
    fingerprint: str  # Of the generator's weights, its sizes and what reads text; it stands in every output.
    precision: str = "fp32"  # Arithmetic of its images, see `fast.resolve_precision`.

    def in_precision(self, precision: str) -> Model:
        """The same model that generates in another precision, see `fast.resolve_precision`."""
        resolved = resolve_precision(precision, self.generator)
        return self if resolved == self.precision else replace(self, precision=resolved)

    @cached_property
    def sampler(self) -> Sampler:
        """Noise and text vectors to images, with the least work that this device offers."""
        return for_sampling(self.generator, self.clip, precision=self.precision)

    @property
    def exported_as(self) -> str | None:
        """The format, where an exported model makes its images: they agree to rounding only."""
        return None

    @property
    def family(self) -> Family:
        """What differs between papers."""
        return self.config.family

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """The generator's condition (n,...) of prompts, on the CPU."""
        return self.family.encode(self.text_encoder, prompts).cpu()

    def of_vectors(self, text: Tensor) -> Tensor:
        """What the sampler takes (n,...), on the CPU, of CLIP's text vectors T (n,d) where the family reads those."""
        return self.family.condition(self.clip, text).cpu()

    @cached_property
    def text_encoder(self) -> Any:
        """What reads prompts: the CLIP, or an encoder of the model's own.

        Raises WeightsError where its files are missing or damaged, or it is another one than in training.
        """
        encoder = self.family.text_encoder(file_of(self.folder, VOCABULARY_FILE).parent, self.clip)
        found = "" if encoder is self.clip else encoder.fingerprint
        if found != self.config.text_encoder:
            raise WeightsError(
                f"{self.folder} was trained with a text encoder of fingerprint {self.config.text_encoder or 'none'}, "
                f"but the one in it is {found or 'none'}: other weights or words, so other images. Get the original."
            )
        return encoder

    def unknown_words(self, prompt: str, encoder: Any = None) -> str | None:
        """One line that names the words of a prompt that a text encoder does not know, None where it knows them all.

        Args:
            encoder: the model's own if left out.
        """
        words: list[str] = (self.text_encoder if encoder is None else encoder).unknown_words(prompt)
        if not words:
            return None
        lists = f"`ratlip info {shlex.quote(self.name)} --words` lists the words that it knows"
        return f"{unknown_words(self.name, words)}: {lists}"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.generator.parameters()).device


def model_config(
    generator: Any,
    discriminator: Any,
    clip: FrozenCLIP,
    training: Mapping[str, Any] | None = None,
    features: str = "inception",
    text_encoder: str = "",
) -> ModelConfig:
    """The config of a model that uses `clip`. A CLIP from a folder or file travels with the model, named `clip`."""
    name, training = clip.spec if clip.config is None else CLIP_FOLDER, training or {}
    return ModelConfig(
        generator,
        discriminator,
        name,
        clip.fingerprint,
        clip.geometry,
        training,
        features,
        clip_computes=clip.computes,
        text_encoder=text_encoder,
    )


def create_model_folder(folder: Path, config: ModelConfig, clip: FrozenCLIP) -> None:
    """Write config.json, and the CLIP where it is one of the user's own. The folder has no weights yet."""
    if clip.config is not None and not (folder / CLIP_FOLDER).is_dir():
        with whole_folder(folder / CLIP_FOLDER) as partial:
            save_clip(partial, clip.config, clip.model.state_dict())
    write_model_config(folder, config)


def write_model_config(folder: Path, config: ModelConfig) -> None:
    """Write config.json."""
    write_text(folder / CONFIG_FILE, json.dumps(config_content(config), indent=2) + "\n")


def config_content(config: ModelConfig) -> dict[str, Any]:
    """What config.json holds."""
    content = {"format_version": FORMAT_VERSION, "library": "ratlip", "library_version": ratlip_cli.__version__}
    own = asdict(config)
    for name in ("text_encoder", "clip_computes"):
        if not own[name]:
            del own[name]
    return content | own


def save_weights(
    folder: Path,
    generator: Mapping[str, Tensor],
    discriminator: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
    half: bool = False,
) -> None:
    """Replace the weights of a model folder, each file at once, so that the folder is complete at any moment.

    Args:
        generator, discriminator: state dicts.
        metadata: strings kept in the files' headers, such as the training step.
        half: store float16, in half the space; vectors, such as BatchNorm's statistics, stay float32. The fingerprint
            is of the values as stored, so it is another one.
    """
    for file, tensors in ((DISCRIMINATOR_FILE, discriminator), (GENERATOR_FILE, generator)):
        if tensors is not None:
            save_tensors(folder / file, _halved(tensors) if half else tensors, metadata)


def file_of(folder: Path, name: str) -> Path:
    """Where a model folder keeps that one of MODEL_FILES.

    A checkpoint of a training run is one too: its generator is the EMA that it holds, and its config.json and CLIP are
    those of the model folder in its run.
    """
    if not (folder / CHECKPOINT_FILE).is_file() or name == DISCRIMINATOR_FILE:
        return folder / name
    if name != GENERATOR_FILE:
        return folder.resolve().parents[1] / "model" / name
    earlier = folder / "average.safetensors"
    return earlier if earlier.is_file() else folder / "ema.safetensors"


def read_model_config(folder: Path) -> ModelConfig:
    """Read and check config.json. Raises WeightsError where it is missing, damaged or of another format."""
    path = file_of(folder, CONFIG_FILE)
    try:
        content = read_json(path)
    except OSError as error:
        raise WeightsError(
            f"{folder} is not a model folder: {CONFIG_FILE} cannot be read ({error.strerror})."
        ) from error
    except ValueError as error:
        raise WeightsError(f"{path} is {other_file(path) or f'damaged: {error}'}.") from error
    return parse_model_config(content, path)


def parse_model_config(content: object, path: Path) -> ModelConfig:
    """Check what was read as config.json from `path`. Raises WeightsError where it is of another format."""
    if not isinstance(content, dict) or content.get("library") != "ratlip":
        raise WeightsError(f"{path} does not describe a ratlip model.")
    if not is_of_kind(content.get("format_version"), int) or content["format_version"] != FORMAT_VERSION:
        raise WeightsError(
            f"{path} has format version {content.get('format_version')!a:.20}, this ratlip ({ratlip_cli.__version__}) "
            f"reads {FORMAT_VERSION}; install the ratlip that wrote it ({content.get('library_version')!a:.20}) or "
            "newer."
        )
    try:
        return _model_config(content)
    except (ValueError, RatlipError) as error:
        raise WeightsError(f"{path} does not describe a ratlip model: {error}") from error


def load_folder(folder: Path, device: str | torch.device = "cpu", name: str | None = None) -> Model:
    """Load a model folder for sampling. Raises WeightsError naming what is missing, damaged or does not fit."""
    config = read_model_config(folder)
    weights = file_of(folder, GENERATOR_FILE)
    tensors = load_tensors(weights)
    clip = load_model_clip(folder, config, device)
    with planned():
        generator = config.family.generator(config.generator, config.geometry)
    load_into(generator, tensors, weights)
    generator.to(device).eval().requires_grad_(False)
    model = Model(name or str(folder), folder, config, generator, clip, model_fingerprint(tensors, config))
    _ = model.text_encoder  # so that what is wrong with it is told now
    return model


def fingerprint_of(folder: Path) -> str:
    """The fingerprint of a model folder: the same as that of the loaded model."""
    return model_fingerprint(load_tensors(file_of(folder, GENERATOR_FILE)), read_model_config(folder))


def files_of(folder: Path) -> dict[str, Path]:
    """Those of MODEL_FILES and CARD_FILES that a model folder has, by name."""
    files = {name: file_of(folder, name) for name in MODEL_FILES} | {name: folder / name for name in CARD_FILES}
    return {name: path for name, path in files.items() if path.is_file()}


def save_half(folder: Path, target: Path) -> None:
    """Write the weights of a model folder into `target` as float16, see `save_weights`."""
    generator, metadata = load_tensors_and_metadata(file_of(folder, GENERATOR_FILE))
    file = folder / DISCRIMINATOR_FILE
    save_weights(target, generator, load_tensors(file) if file.is_file() else None, metadata, half=True)


def load_discriminator(model: Model) -> nn.Module:
    """The discriminator of a model folder. Raises WeightsError where the folder has none."""
    path = model.folder / DISCRIMINATOR_FILE
    tensors = load_tensors(path)
    with planned():
        discriminator = model.family.discriminator(model.config.discriminator, model.config.geometry)
    load_into(discriminator, tensors, path)
    return discriminator.to(model.device)


def clip_spec(folder: Path, config: ModelConfig) -> str:
    """What `load_clip` takes to load the CLIP of a model folder.

    Raises WeightsError where a model of the Hugging Face Hub names anything but a CLIP of open_clip, the bundled one or
    the folder beside it: nobody else says which files of this machine are read.
    """
    if config.clip == CLIP_FOLDER:
        return str(file_of(folder, CLIP_FOLDER))
    if not is_pulled(folder):
        return config.clip
    public = public_name(config.clip)
    if public is None:
        raise WeightsError(
            f"the model in {folder} was downloaded and names '{config.clip}' as its CLIP, which is neither a CLIP of "
            f"open_clip, NAME:PRETRAINED, nor its own folder {CLIP_FOLDER}/: ask its owner to push it again."
        )
    return public


def is_pulled(folder: Path) -> bool:
    """Whether a model folder was downloaded: it lies in the cache of the Hugging Face Hub."""
    return Path(huggingface_hub.constants.HF_HUB_CACHE).resolve() in folder.resolve().parents


def load_model_clip(folder: Path, config: ModelConfig, device: str | torch.device) -> FrozenCLIP:
    """The CLIP that a model was trained with. Raises WeightsError where it is another one."""
    spec = clip_spec(folder, config)
    clip = load_clip(spec, device)
    if clip.geometry != config.geometry:
        raise WeightsError(f"{folder} was trained with a CLIP of {config.geometry}, but {spec} has {clip.geometry}.")
    if clip.fingerprint != config.clip_fingerprint:
        raise WeightsError(
            f"{folder} was trained with CLIP {config.clip} of fingerprint {config.clip_fingerprint}, but the one found "
            f"here is {clip.fingerprint}: other weights, so other images. Get the original weights of this CLIP."
        )
    if not computes_alike(config, clip):
        raise WeightsError(
            f"{folder} was trained with a CLIP of the same weights as {spec} and of another activation, other heads or "
            "another end of text, so with other vectors: get the original configuration of this CLIP."
        )
    return clip


def computes_alike(config: ModelConfig, clip: FrozenCLIP) -> bool:
    """Whether a CLIP of the right weights computes what the model was trained on; True where nobody noted it."""
    return config.clip_computes in ("", clip.computes)


def model_fingerprint(generator: Mapping[str, Tensor], config: ModelConfig) -> str:
    """Over the generator's weights, its sizes, its CLIP, and the fingerprint of its own text encoder."""
    own = {"text_encoder": config.text_encoder} if config.text_encoder else {}
    if config.clip_computes not in ("", config.clip_fingerprint):
        own["clip_computes"] = config.clip_computes
    return fingerprint(generator, {"generator": asdict(config.generator), "clip": config.clip_fingerprint, **own})


def _model_config(content: dict[str, Any]) -> ModelConfig:
    """The config that the content of config.json describes; ValueError or a RatlipError names what is wrong in it."""
    own = {item.name for item in fields(ModelConfig)}
    check_keys(
        content,
        {"format_version", "library", "library_version", *own},
        own - {"training", "features", "text_encoder", "clip_computes"},
    )
    generator = content["generator"]
    variant = generator.get("variant") if isinstance(generator, dict) else None
    if variant not in list(FAMILIES):
        raise ValueError(f"'generator' is of no variant that this ratlip knows: {', '.join(FAMILIES)}.")
    sections = {
        "generator": FAMILIES[variant].generator_config,
        "discriminator": FAMILIES[variant].discriminator_config,
        "geometry": ClipGeometry,
    }
    texts = ("clip", "clip_fingerprint", "features", "clip_computes", "text_encoder")
    read: dict[str, Any] = {name: content[name] for name in texts if name in content}
    for name, text in read.items():
        if not isinstance(text, str) or not text.isprintable() or len(text) > 300:
            raise ValueError(f"'{name}' must be a text of one line, not {text!a:.60}.")
    for name, kind in sections.items():
        try:
            read[name] = from_json(kind, content[name], optional=kind is ClipGeometry)  # text_width came later
        except ValueError as error:
            raise ValueError(f"{name}: {error}.") from error
    return ModelConfig(**read, training=_training(content.get("training", {})))


def _training(record: object) -> dict[str, Any]:
    """What config.json says of the training, with those parts checked that this package reads."""
    if not isinstance(record, dict):
        raise ValueError("'training' must be an object.")
    for name, kind in (("data", dict[str, Any]), ("settings", dict[str, Any]), ("prompts", list[str])):
        if name in record and not is_of_kind(record[name], kind):
            raise ValueError(f"'training' has {name} of another kind than this package writes.")
    if not all(isinstance(prompt, str) for prompt in record.get("prompts", [])):
        raise ValueError("'training' has prompts that are no text.")
    return record


def _halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and kernels as float16, where its range holds them."""
    largest = torch.finfo(torch.float16).max
    return {
        name: tensor.half() if tensor.ndim >= 2 and tensor.abs().max() <= largest else tensor
        for name, tensor in tensors.items()
    }
