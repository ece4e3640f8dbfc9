"""Where a CLIP comes from: a name of open_clip, a weights file, a folder, or the bundled one.

A folder has open_clip_config.json and open_clip_model.safetensors, as open_clip itself writes them on the Hub.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ratlip_cli import fast
from ratlip_cli.clip_tokenizer import DEFAULT_CONTEXT, CLIPTokenizer
from ratlip_cli.errors import UsageError, WeightsError, first_line, unknown_name
from ratlip_cli.file_kinds import TensorFile, other_file
from ratlip_cli.files import write_text
from ratlip_cli.json_files import read_json
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.towers import CLIP
from ratlip_cli.planned import planned
from ratlip_cli.setting import DEFAULT_CLIP
from ratlip_cli.tensor_files import check_kind, load_into, load_tensors, load_weights, save_tensors
from ratlip_cli.weights.clip_config import checked_model_cfg

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"

BUNDLED = {"ratlip-demo": Path(__file__).parents[1] / "demo" / "model" / "clip"}
"""CLIPs that ship inside the package, as folders of `save_clip`."""
WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")

logger = logging.getLogger(__name__)


def load_clip(spec: str, device: str | torch.device = "cpu", swaps: frozenset[fast.Swap] | None = None) -> FrozenCLIP:
    """Load a CLIP by what a user types, with the accelerated modules that pay on the device.

    Args:
        spec: `NAME[:PRETRAINED]` of open_clip (PRETRAINED is a tag, downloaded from the Hugging Face Hub; or a weights
            file; or `random`; left out, `openai`), a folder written by `save_clip`, or the bundled `ratlip-demo`.
        swaps: accelerated modules, see `fast`; left out, those that pay on the device.

    Raises UsageError for an unknown name or tag, WeightsError for weights that cannot be loaded or do not fit.
    """
    return fast.clip_for(_load(spec).to(device), swaps)


def public_name(spec: str) -> str | None:
    """`spec` with its tag where it is the bundled CLIP or one of open_clip with its weights by name; else None."""
    if spec in BUNDLED:
        return spec
    name, pretrained = _parts(spec)
    if isinstance(pretrained, Path):
        return None
    try:
        _check_tag(name, pretrained)
    except UsageError:
        return None
    return f"{name}:{pretrained}"


def _load(spec: str) -> FrozenCLIP:
    folder = BUNDLED.get(spec, Path(spec))
    if folder.is_dir():
        return _load_folder(folder)
    name, pretrained = _parts(spec)
    model_cfg = _model_cfg(spec, name)
    if pretrained == "random":
        logger.warning("CLIP %s has random weights: fit for dry runs and benchmarks, not for images.", name)
        return _named(spec, name, model_cfg, pretrained=None)
    if isinstance(pretrained, Path):
        return _from_file(spec, name, pretrained, model_cfg)
    _check_tag(name, pretrained)
    return _named(f"{name}:{pretrained}", name, model_cfg, pretrained)


def _parts(spec: str) -> tuple[str, str | Path]:
    """The name in NAME[:PRETRAINED], and the tag, `random` or weights file."""
    name, _, pretrained = spec.partition(":")
    pretrained = pretrained or DEFAULT_CLIP.partition(":")[2]
    path = Path(pretrained)
    return name, path if path.suffix in WEIGHTS_SUFFIXES or path.is_file() else pretrained


def _check_tag(name: str, pretrained: str) -> None:
    """Raise UsageError where the CLIP of that name has no such weights, or they need another one."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in tags:
        raise unknown_name(f"pretrained tag of CLIP {name}", pretrained, [*tags, "random"])
    quick = _twin(name)
    if quick is not None and pretrained in open_clip.list_pretrained_tags_by_model(quick):
        raise UsageError(
            f"the {pretrained} weights of CLIP {name} were trained with QuickGELU: use {quick}:{pretrained}."
        )


def _twin(name: str) -> str | None:
    """The CLIP of the same sizes with QuickGELU, where open_clip has one."""
    import open_clip

    quick = f"{name}-quickgelu"
    return quick if quick in open_clip.list_models() else None


def check_clip(spec: str) -> None:
    """Raise what `load_clip` raises for a CLIP that cannot be, by its name, tag, configuration or kind of file."""
    clip_architecture(spec)
    if BUNDLED.get(spec, Path(spec)).is_dir():
        return
    name, pretrained = _parts(spec)
    if isinstance(pretrained, Path):
        check_kind(pretrained, *TensorFile)
    elif pretrained != "random":
        _check_tag(name, pretrained)


def clip_architecture(spec: str) -> FrozenCLIP:
    """The CLIP of `load_clip(spec)` on the meta device: all its sizes, no weights, nothing downloaded."""
    folder = BUNDLED.get(spec, Path(spec))
    if folder.is_dir():
        return build_clip(_read_config(folder), str(folder)).to("meta")
    name = spec.partition(":")[0]
    return _without_weights(spec, name, _model_cfg(spec, name)).to("meta")


def save_clip(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write a CLIP of one's own as a folder that `load_clip` takes.

    Args:
        config: `model_cfg` as open_clip has it (`embed_dim`, `vision_cfg`, `text_cfg`, `quick_gelu` where used);
            `preprocess_cfg` with `mean` and `std` of pixels in [0,1], three values each; and `vocabulary`, see
            FrozenCLIP, where the token embedding is trimmed.
        weights: the state dict of `open_clip.CLIP(**model_cfg)`.
    """
    save_tensors(folder / WEIGHTS_FILE, weights)
    write_text(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")


def build_clip(config: Mapping[str, Any], spec: str) -> FrozenCLIP:
    """The CLIP that a CLIP folder's configuration describes; its towers are on the meta device, without weights."""
    model_cfg, pixels, vocabulary = config["model_cfg"], config["preprocess_cfg"], config.get("vocabulary")
    tokenizer = CLIPTokenizer(model_cfg["text_cfg"].get("context_length", DEFAULT_CONTEXT))
    return FrozenCLIP(_planned(model_cfg), tokenizer, spec, pixels["mean"], pixels["std"], vocabulary, config)


def _without_weights(spec: str, name: str, model_cfg: Mapping[str, Any]) -> FrozenCLIP:
    """A CLIP of open_clip whose towers are on the meta device."""
    import open_clip

    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return FrozenCLIP(_planned(model_cfg), _tokenizer(spec, name, model_cfg), spec, mean, std)


def _planned(model_cfg: Mapping[str, Any]) -> CLIP:
    with planned():
        return CLIP(model_cfg)


def _model_cfg(spec: str, name: str) -> dict[str, Any]:
    """open_clip's description of the CLIP of that name. Raises an error that says why, if it cannot be used."""
    if name in BUNDLED:
        raise WeightsError(f"CLIP {name} is not bundled with this version; name another, such as {DEFAULT_CLIP}.")
    import open_clip

    known = open_clip.list_models()
    if name in known:
        model_cfg = dict(open_clip.get_model_config(name))
        reason = _why_not(model_cfg)
        if reason is not None:
            raise WeightsError(f"CLIP {name} cannot be used: {reason}. Choose another, such as {DEFAULT_CLIP}.")
        return model_cfg
    same = [one for one in known if one.lower() == name.replace("/", "-").lower()]  # OpenAI writes ViT-B/32
    if same:
        raise unknown_name("CLIP", name, [*same, *BUNDLED])
    if Path(spec).is_file():
        raise UsageError(f"{spec} is a file; say of which CLIP it is, such as --clip ViT-B-32-quickgelu:{spec}.")
    if "/" in name or name.startswith(".") or name in ("hf-hub", "local-dir"):  # as open_clip names other places
        raise WeightsError(
            f"CLIP folder {spec} does not exist; give one with {CONFIG_FILE}, or NAME:PRETRAINED of open_clip, such as "
            f"{DEFAULT_CLIP}."
        )
    usable = [known_one for known_one in known if _why_not(open_clip.get_model_config(known_one)) is None]
    raise unknown_name("CLIP", name, [*usable, *BUNDLED])


def _why_not(model_cfg: Mapping[str, Any]) -> str | None:
    """Why a CLIP of open_clip cannot be used, if it cannot: it is built from two towers of CLIP's own kind alone."""
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    if vision.get("timm_model_name"):
        return f"its image encoder is {vision['timm_model_name']} of timm, no vision transformer of CLIP's kind"
    if isinstance(vision.get("layers"), list):
        return "its image encoder is a ResNet, no vision transformer"
    if vision.get("attentional_pool") or vision.get("pool_type", "tok") != "tok":
        return "its image encoder pools its patches and does not read its class token"
    if text.get("hf_model_name"):
        return f"its text encoder is {text['hf_model_name']} of transformers, not CLIP's"
    if model_cfg.get("custom_text") or "multimodal_cfg" in model_cfg:
        return "its text encoder is not CLIP's"
    return None


def _tokenizer(spec: str, name: str, model_cfg: Mapping[str, Any]) -> Any:
    if "hf_tokenizer_name" not in model_cfg["text_cfg"]:
        return CLIPTokenizer(model_cfg["text_cfg"].get("context_length", DEFAULT_CONTEXT))
    import open_clip

    try:
        with quiet():
            return open_clip.get_tokenizer(name)
    except (ImportError, OSError, ValueError) as error:
        raise WeightsError(
            f"the tokenizer of CLIP {spec}, which is not CLIP's own, could not be loaded ({first_line(error)}): it "
            f"needs the package transformers and a download. Choose another CLIP, such as {DEFAULT_CLIP}."
        ) from error


def _read_config(folder: Path) -> dict[str, Any]:
    """The content of a CLIP folder's configuration, every value checked."""
    path = folder / CONFIG_FILE
    try:
        config = read_json(path)
    except OSError as error:
        hint = _what_else(folder)
        raise WeightsError(f"CLIP folder {folder} has no readable {CONFIG_FILE}: {error.strerror}.{hint}") from error
    except ValueError as error:
        raise WeightsError(f"{path} does not describe a CLIP of open_clip: {other_file(path) or error}.") from error
    try:
        model_cfg = checked_model_cfg(config)
    except ValueError as error:
        raise WeightsError(f"{path} does not describe a CLIP that can be used: {error}.") from error
    return {**config, "model_cfg": model_cfg}


def _what_else(folder: Path) -> str:
    """What to name instead of a folder that is no CLIP folder, where that is plain to see."""
    for inner in (folder / "clip", folder / "model" / "clip"):
        if (inner / CONFIG_FILE).is_file():
            return f" It is a model; its CLIP is {inner}."
    files = sorted(path.name for path in folder.glob("*") if path.suffix in WEIGHTS_SUFFIXES)
    return f" Give its weights with the name of the CLIP: --clip NAME:{folder / files[0]}." if files else ""


def _load_folder(folder: Path) -> FrozenCLIP:
    path = folder / WEIGHTS_FILE
    clip = build_clip(_read_config(folder), str(folder))
    load_into(clip.model, load_tensors(path), path)
    return clip


def _from_file(spec: str, name: str, path: Path, model_cfg: Mapping[str, Any]) -> FrozenCLIP:
    clip, weights = _without_weights(spec, name, model_cfg), load_weights(path)
    quick = _twin(name)
    if quick is not None and "input_resolution" in weights:
        raise UsageError(f"{path} has weights of OpenAI, which were trained with QuickGELU: use {quick}:{path}.")
    if others := _normalised_otherwise(name):
        logger.warning(
            "CLIP %s: pixels are normalised as for OpenAI's CLIPs; if its weights are those of %s, which want others, "
            "name them instead: %s:%s",
            *(spec, " or ".join(others), name, others[0]),
        )
    for setting in ("input_resolution", "context_length", "vocab_size"):  # OpenAI's files carry them as tensors
        weights.pop(setting, None)
    load_into(clip.model, weights, path)
    if "hf_tokenizer_name" not in model_cfg["text_cfg"]:  # a folder has CLIP's own tokenizer
        preprocess_cfg = {"mean": clip.mean.flatten().tolist(), "std": clip.std.flatten().tolist()}
        clip.config = {"model_cfg": dict(model_cfg), "preprocess_cfg": preprocess_cfg}
    return clip


def _normalised_otherwise(name: str) -> list[str]:
    """The weights of open_clip for that CLIP whose pixels have another mean than those of OpenAI."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    means = {tag: (open_clip.get_pretrained_cfg(name, tag) or {}).get("mean") for tag in tags}
    return [tag for tag, mean in means.items() if mean and tuple(mean) != tuple(open_clip.OPENAI_DATASET_MEAN)]


def _named(spec: str, name: str, model_cfg: Mapping[str, Any], pretrained: str | None) -> FrozenCLIP:
    import open_clip

    from ratlip_cli.weights.hub import explained

    try:
        with explained(spec, f"the weights of CLIP {spec} could not be downloaded"), quiet():
            model = _created(name, pretrained)
    except WeightsError as error:
        or_file = (
            ""
            if pretrained in _normalised_otherwise(name)
            else f" Or give a file of them, where a command has --clip: {name}:PATH."
        )
        raise WeightsError(f"{error}{or_file}") from error
    mean = getattr(model.visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
    std = getattr(model.visual, "image_std", None) or open_clip.OPENAI_DATASET_STD
    towers = _planned(model_cfg)
    load_into(towers, model.state_dict(), spec)
    return FrozenCLIP(towers, _tokenizer(spec, name, model_cfg), spec, mean, std)


def _created(name: str, pretrained: str | None) -> Any:
    import open_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # random weights are the same ones every time
        return open_clip.create_model(name, pretrained=pretrained)


@contextmanager
def quiet() -> Iterator[None]:
    """Other libraries log what is meant here, such as a model without weights, and what is raised and told anyway."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
