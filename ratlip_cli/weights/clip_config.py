"""What open_clip_config.json may say: sizes of a CLIP with its own two towers, and nothing that is fetched or opened.

open_clip itself takes names in this file: of networks of timm and transformers, of other repositories, of folders. Here
no key that names anything is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ratlip_cli.errors import UsageError
from ratlip_cli.json_files import from_json, is_of_kind
from ratlip_cli.model.clip import UNKNOWN
from ratlip_cli.model.config import LARGEST, ClipGeometry
from ratlip_cli.model.towers import TextConfig, VisionConfig

WORDS = 49408
"""Tokens that CLIP's own tokenizer knows."""


@dataclass(frozen=True)
class _Vision(VisionConfig):
    """`vision_cfg`: with what open_clip knows besides, of which the towers take the default alone."""

    patch_dropout: float = 0.0
    no_ln_pre: bool = False
    final_ln_after_pool: bool = False
    attentional_pool: bool = False
    pool_type: str = "tok"

    def __post_init__(self) -> None:
        _in_range("width", self.width, 1, LARGEST["width"])
        _in_range("head_width", self.head_width, 1, self.width)
        _divides("width", self.width, "heads", self.width // self.head_width)
        _in_range("mlp_ratio", self.mlp_ratio, 1 / self.width, 64)
        _in_range("image_size", self.image_size, 1, 4096)
        _in_range("patch_size", self.patch_size, 1, self.image_size)
        _in_range("patch_dropout", self.patch_dropout, 0, 0.99)
        if self.pool_type != "tok" or self.attentional_pool:
            raise ValueError("the image vector must be that of the class token, pool_type 'tok'")
        _as_usual(self, "no_ln_pre", "final_ln_after_pool")


@dataclass(frozen=True)
class _Text(TextConfig):
    """`text_cfg`: with what open_clip knows besides, of which the towers take the default alone."""

    ls_init_value: float | None = None
    pad_id: int = 0
    no_causal_mask: bool = False
    final_ln_after_pool: bool = False
    proj_bias: bool = False

    def __post_init__(self) -> None:
        _in_range("context_length", self.context_length, 3, 1024)
        _in_range("vocab_size", self.vocab_size, 1, 2**20)
        _in_range("width", self.width, 1, LARGEST["width"])
        _in_range("heads", self.heads, 1, self.width)
        _divides("width", self.width, "heads", self.heads)
        _in_range("layers", self.layers, 1, LARGEST["layers"])
        _in_range("mlp_ratio", self.mlp_ratio, 1 / self.width, 64)
        if self.pool_type not in ("argmax", "eos"):
            raise ValueError("the text vector must be that of the end-of-text token, pool_type 'argmax' or 'eos'")
        _as_usual(self, "ls_init_value", "no_causal_mask", "final_ln_after_pool", "proj_bias")


@dataclass(frozen=True)
class _Model:
    """`model_cfg`."""

    embed_dim: int
    vision_cfg: dict[str, Any]
    text_cfg: dict[str, Any]
    quick_gelu: bool = False
    init_logit_scale: float = 0.0
    init_logit_bias: float | None = None
    nonscalar_logit_scale: bool = False

    def __post_init__(self) -> None:
        _as_usual(self, "init_logit_bias", "nonscalar_logit_scale")


def _as_usual(section: Any, *names: str) -> None:
    """Raise ValueError where a field has another value than CLIP's own towers have."""
    usual = {field.name: field.default for field in fields(section)}
    for name in names:
        if getattr(section, name) != usual[name]:
            raise ValueError(f"'{name}' is {getattr(section, name)}; a CLIP of this kind cannot be used")


def checked_model_cfg(content: Any) -> dict[str, Any]:
    """The arguments of `open_clip.CLIP` in the content of open_clip_config.json, every value checked.

    Raises ValueError naming what is unknown, missing, of another type or out of range.
    """
    for key in ("model_cfg", "preprocess_cfg"):
        if not isinstance(content, dict) or not isinstance(content.get(key), dict):
            raise ValueError(f"it has no {key}")
    model_cfg = _given(content["model_cfg"])
    _section("model_cfg", _Model, model_cfg)
    model_cfg |= {key: _given(model_cfg[key]) for key in ("vision_cfg", "text_cfg")}
    vision = _section("vision_cfg", _Vision, model_cfg["vision_cfg"])
    text = _section("text_cfg", _Text, model_cfg["text_cfg"])
    try:
        grid = vision.image_size // vision.patch_size
        ClipGeometry(vision.width, grid, vision.layers, model_cfg["embed_dim"], vision.image_size)
    except UsageError as error:
        raise ValueError(str(error).rstrip(".")) from error
    for key in ("mean", "std"):
        values = content["preprocess_cfg"].get(key)
        if not (isinstance(values, list) and len(values) == 3 and all(is_of_kind(value, float) for value in values)):
            raise ValueError(f"preprocess_cfg: '{key}' must be three numbers")
        if not all(abs(value) < 1e6 and (value > 0 or key == "mean") for value in values):
            raise ValueError(f"preprocess_cfg: '{key}' is out of range")
    _check_vocabulary(content.get("vocabulary"), text)
    return model_cfg


def _section(name: str, kind: type[Any], values: dict[str, Any]) -> Any:
    try:
        return from_json(kind, values, optional=True)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _check_vocabulary(vocabulary: Any, text: TextConfig) -> None:
    """Raise ValueError where token ids would have no row of the embedding, or the end of a text not be found."""
    rows = text.vocab_size
    if vocabulary is None:
        if rows < WORDS:
            raise ValueError(f"text_cfg: vocab_size is {rows}, but CLIP's tokenizer has {WORDS} tokens")
        return
    if not isinstance(vocabulary, list) or not all(is_of_kind(token, int) for token in vocabulary):
        raise ValueError("'vocabulary' must be a list of whole numbers")
    if not all(UNKNOWN <= token < WORDS for token in vocabulary):
        raise ValueError(f"'vocabulary' must hold token ids below {WORDS} and one {UNKNOWN}")
    if vocabulary.count(UNKNOWN) != 1 or len(vocabulary) > rows:
        raise ValueError(f"'vocabulary' must hold one {UNKNOWN}, and not more ids than text_cfg has vocab_size")
    if WORDS - 1 not in vocabulary:
        raise ValueError(f"'vocabulary' must hold {WORDS - 1}, which ends every text")
    end = vocabulary.index(WORDS - 1)
    if text.pool_type == "argmax" and end != len(vocabulary) - 1:
        raise ValueError(f"'vocabulary' must have {WORDS - 1} last: pool_type 'argmax' finds a text's end so")
    if text.pool_type == "eos" and end != text.eos_id:
        raise ValueError(f"text_cfg: eos_id is {text.eos_id}, but 'vocabulary' has {WORDS - 1}, the end, at {end}")


def _divides(name: str, value: int, other: str, divisor: int) -> None:
    if value % divisor:
        raise ValueError(f"{divisor} '{other}' do not divide the '{name}' {value}")


def _in_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ValueError(f"'{name}' is {value}; it must be {least:g} to {most:g}")
