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

import open_clip
import torch
from torch import Tensor

from ratlip_cli import fast
from ratlip_cli.errors import UsageError, WeightsError, first_line, unknown_name
from ratlip_cli.files import write_text
from ratlip_cli.model.clip import DEFAULT_CLIP, FrozenCLIP
from ratlip_cli.tensor_files import load_into, load_tensors, load_weights, save_tensors

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


def _load(spec: str) -> FrozenCLIP:
    folder = BUNDLED.get(spec, Path(spec))
    if folder.is_dir():
        return _load_folder(folder)
    name, _, pretrained = spec.partition(":")
    pretrained = pretrained or DEFAULT_CLIP.partition(":")[2]
    model_cfg = _model_cfg(spec, name)
    if pretrained == "random":
        logger.warning("CLIP %s has random weights: fit for dry runs and benchmarks, not for images.", name)
        return _named(spec, name, pretrained=None)
    if Path(pretrained).suffix in WEIGHTS_SUFFIXES or Path(pretrained).is_file():
        return _from_file(spec, name, Path(pretrained), model_cfg)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in tags:
        raise unknown_name(f"pretrained tag of CLIP {name}", pretrained, [*tags, "random"])
    quick = f"{name}-quickgelu"
    if quick in open_clip.list_models() and pretrained in open_clip.list_pretrained_tags_by_model(quick):
        raise UsageError(
            f"the {pretrained} weights of CLIP {name} were trained with QuickGELU: use {quick}:{pretrained}."
        )
    return _named(spec, name, pretrained)


def clip_architecture(spec: str) -> FrozenCLIP:
    """The CLIP of `load_clip(spec)` on the meta device: all its sizes, no weights, nothing downloaded."""
    with torch.device("meta"):
        folder = BUNDLED.get(spec, Path(spec))
        if folder.is_dir():
            return build_clip(_read_config(folder), spec).to("meta")
        name = spec.partition(":")[0]
        model_cfg = _model_cfg(spec, name)
        kind = open_clip.CustomTextCLIP if model_cfg.pop("custom_text", False) else open_clip.CLIP
        mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
        return FrozenCLIP(kind(**model_cfg), open_clip.get_tokenizer(name), spec, mean, std)


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
    """A CLIP with open_clip's initial weights from the content of a CLIP folder's configuration."""
    model_cfg, pixels = dict(config["model_cfg"]), config["preprocess_cfg"]
    tokenizer = open_clip.SimpleTokenizer(context_length=model_cfg["text_cfg"]["context_length"])
    vocabulary = config.get("vocabulary")
    return FrozenCLIP(open_clip.CLIP(**model_cfg), tokenizer, spec, pixels["mean"], pixels["std"], vocabulary, config)


def _model_cfg(spec: str, name: str) -> dict[str, Any]:
    """open_clip's description of the CLIP of that name."""
    if name in BUNDLED:
        raise WeightsError(f"CLIP {name} is not bundled with this version; name another, such as {DEFAULT_CLIP}.")
    if name in open_clip.list_models():
        return dict(open_clip.get_model_config(name))
    if "/" in name or name.startswith("."):
        raise WeightsError(f"CLIP folder {spec} does not exist; give one with {CONFIG_FILE}, or NAME:PRETRAINED.")
    usable = [known for known in open_clip.list_models() if known.startswith("ViT-") and "SigLIP" not in known]
    raise unknown_name("CLIP", name, [*usable, *BUNDLED])


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        _ = config["model_cfg"]["text_cfg"]["context_length"], config["preprocess_cfg"]["mean"]
    except OSError as error:
        raise WeightsError(f"CLIP folder {folder} has no readable {CONFIG_FILE}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} does not describe a CLIP of open_clip: {error!r}.") from error
    return dict(config)


def _load_folder(folder: Path) -> FrozenCLIP:
    config = _read_config(folder)
    try:
        clip = build_clip(config, str(folder))
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise WeightsError(f"{folder / CONFIG_FILE} does not describe a CLIP of open_clip: {error!r}.") from error
    load_into(clip.model, load_tensors(folder / WEIGHTS_FILE), folder / WEIGHTS_FILE)
    return clip


def _from_file(spec: str, name: str, path: Path, model_cfg: Mapping[str, Any]) -> FrozenCLIP:
    clip = _named(spec, name, pretrained=None)
    weights = load_weights(path)
    for setting in ("input_resolution", "context_length", "vocab_size"):  # OpenAI's files carry them as tensors
        weights.pop(setting, None)
    load_into(clip.model, weights, path)
    if not model_cfg.get("custom_text"):
        preprocess_cfg = {"mean": clip.mean.flatten().tolist(), "std": clip.std.flatten().tolist()}
        clip.config = {"model_cfg": dict(model_cfg), "preprocess_cfg": preprocess_cfg}
    return clip


def _named(spec: str, name: str, pretrained: str | None) -> FrozenCLIP:
    try:
        with torch.random.fork_rng(devices=[]), quiet():
            torch.manual_seed(0)  # random weights are the same ones every time
            model = open_clip.create_model(name, pretrained=pretrained)
    except Exception as error:
        raise WeightsError(
            f"the weights of CLIP {spec} could not be downloaded ({first_line(error)}). Go online once, or give a "
            f"file: {name}:PATH."
        ) from error
    mean = getattr(model.visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
    std = getattr(model.visual, "image_std", None) or open_clip.OPENAI_DATASET_STD
    return FrozenCLIP(model, open_clip.get_tokenizer(name), spec, mean, std)


@contextmanager
def quiet() -> Iterator[None]:
    """Other libraries warn of what is meant here, such as a model without weights, and of their own internals."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
