"""CLIP's two towers (Radford et al. 2021, Section 2.4): a vision transformer and a text transformer.

Parameters have the names of open_clip's, so that its weights load as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_T = TypeVar("_T")


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision transformer, by open_clip's names and with its defaults."""

    layers: int = 12
    width: int = 768
    head_width: int = 64
    mlp_ratio: float = 4.0
    patch_size: int = 16
    image_size: int = 224
    ls_init_value: float | None = None  # Where it is given, the blocks have layer scales.


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the text transformer, by open_clip's names and with its defaults."""

    context_length: int = 77
    vocab_size: int = 49408
    width: int = 512
    heads: int = 8
    layers: int = 12
    mlp_ratio: float = 4.0
    pool_type: str = (
        "argmax"  # The end-of-text token: `argmax`, the one of the highest id, or `eos`, the one of eos_id.
    )
    eos_id: int = 2


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), the activation of OpenAI's weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same"""
        return x * torch.sigmoid(1.702 * x)


class LayerNorm(nn.LayerNorm):
    """Layer norm that gives the type it is given, under autocast too."""

    def forward(self, x: Tensor) -> Tensor:
        """(...,W) -> the same"""
        return super().forward(x).to(x.dtype)


class LayerScale(nn.Module):
    """A learnt factor for every channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(...,W) -> the same"""
        return x * self.gamma


class SelfAttention(nn.Module):
    """Multi-head attention of tokens (B,N,W) among themselves."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def project(self, tokens: Tensor) -> Tensor:
        """(B,N,W) -> queries, keys and values (B,N,3W)"""
        return F.linear(tokens, self.in_proj_weight, self.in_proj_bias)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, queries: int | None = None) -> Tensor:
        """Tokens (B,N,W) -> (B,N,W), or those of the first `queries` tokens; `mask` (N,N) is added to the logits."""
        qkv = self.project(tokens).chunk(3, dim=2)
        q, k, v = (torch.unflatten(x, 2, (self.heads, -1)).transpose(1, 2) for x in qkv)  # (B, heads, N, W/heads)
        attended = F.scaled_dot_product_attention(q if queries is None else q[:, :, :queries], k, v, attn_mask=mask)
        result: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return result


class Mlp(nn.Module):
    """Two layers at every token."""

    def __init__(self, width: int, hidden: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.gelu = activation()
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(...,W) -> the same"""
        result: Tensor = self.c_proj(self.gelu(self.c_fc(x)))
        return result


class Block(nn.Module):
    """Attention and MLP, each before a residual connection and after a layer norm."""

    def __init__(
        self, width: int, heads: int, hidden: int, activation: Callable[[], nn.Module], scaled: bool = False
    ) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.ls_1 = LayerScale(width) if scaled else nn.Identity()
        self.ln_2 = LayerNorm(width)
        self.mlp = Mlp(width, hidden, activation)
        self.ls_2 = LayerScale(width) if scaled else nn.Identity()

    def forward(self, tokens: Tensor, mask: Tensor | None = None, queries: int | None = None) -> Tensor:
        """Tokens (B,N,W) -> (B,N,W), or the first `queries` of them, which see all N."""
        tokens = tokens[:, :queries] + self.ls_1(self.attn(self.ln_1(tokens), mask, queries))
        after: Tensor = tokens + self.ls_2(self.mlp(self.ln_2(tokens)))
        return after


class Transformer(nn.Module):
    """Blocks, one after the other."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(blocks)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B,N,W) -> the same"""
        for block in self.resblocks:
            tokens = block(tokens, mask)
        return tokens


class VisionTransformer(nn.Module):
    """The modules of the image tower; `FrozenCLIP` says in which order they are used."""

    def __init__(self, config: VisionConfig, embed_dim: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.grid = config.image_size // config.patch_size
        self.image_size = config.image_size
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.conv1 = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(self.grid**2 + 1, width))
        self.ln_pre = LayerNorm(width)
        heads, scaled = width // config.head_width, config.ls_init_value is not None
        self.transformer = Transformer([Block(width, heads, hidden, activation, scaled) for _ in range(config.layers)])
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, embed_dim))


class Words(NamedTuple):
    """What the text transformer makes of captions."""

    hidden: Tensor
    """Every token after the last block and its layer norm (B,context,width), start of text first."""
    text: Tensor
    """Text vectors T (B,d)."""
    end: Tensor
    """The place (B,) of each caption's end-of-text token; what is behind it is padding."""


def _known(kind: type[_T], values: Mapping[str, Any]) -> _T:
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in values.items() if name in names})


def _unusual(vision: VisionConfig, text: TextConfig, quick_gelu: bool) -> dict[str, object]:
    """Usual are GELU, heads of 64 channels, of 32 in small towers, and the end of a text by the highest id."""
    heads = [vision.width // vision.head_width, text.heads]
    usual_heads = [width // (64 if width >= 512 else 32) for width in (vision.width, text.width)]
    settings = {"quick_gelu": quick_gelu, "heads": heads, "eos_id": text.eos_id if text.pool_type == "eos" else None}
    usual = {"quick_gelu": False, "heads": usual_heads, "eos_id": None}
    return {name: value for name, value in settings.items() if value != usual[name]}


class CLIP(nn.Module):
    """The weights of a CLIP, by open_clip's names.

    Its parameters are uninitialised: weights are loaded into it.

    Args:
        model_cfg: as open_clip has it: `embed_dim`, `vision_cfg`, `text_cfg`, and `quick_gelu` where used. What the
            towers have no use for, such as the probability of a dropout, is passed over.
    """

    def __init__(self, model_cfg: Mapping[str, Any]) -> None:
        super().__init__()
        embed_dim, activation = model_cfg["embed_dim"], QuickGELU if model_cfg.get("quick_gelu") else nn.GELU
        text = self.text_config = _known(TextConfig, model_cfg["text_cfg"])
        vision = _known(VisionConfig, model_cfg["vision_cfg"])
        self.quick_gelu = activation is QuickGELU
        self.unusual = _unusual(vision, text, self.quick_gelu)
        """What its vectors depend on, no weight shows, and most CLIPs of these sizes have otherwise."""
        self.visual = VisionTransformer(vision, embed_dim, activation)
        hidden = int(text.width * text.mlp_ratio)
        self.token_embedding = nn.Embedding(text.vocab_size, text.width)
        self.positional_embedding = nn.Parameter(torch.empty(text.context_length, text.width))
        self.transformer = Transformer([Block(text.width, text.heads, hidden, activation) for _ in range(text.layers)])
        self.ln_final = LayerNorm(text.width)
        self.text_projection = nn.Parameter(torch.empty(text.width, embed_dim))
        self.logit_scale = nn.Parameter(torch.empty(()))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids (B,context) -> text vectors (B,d): the end-of-text token after the last block, projected."""
        return self.encode_words(tokens).text

    def encode_words(self, tokens: Tensor) -> Words:
        """Token ids (B,context) -> every token after the last block, and the text vectors."""
        length = tokens.shape[1]
        x = self.token_embedding(tokens) + self.positional_embedding[:length]
        mask = x.new_full((length, length), -torch.inf).triu(1)  # looks back alone
        x = self.ln_final(self.transformer(x, mask))
        end = self.end_of_text(tokens)
        place = end[:, None, None].expand(-1, 1, x.shape[2])  # (B, 1, width)
        return Words(x, x.gather(1, place)[:, 0] @ self.text_projection, end)

    def end_of_text(self, tokens: Tensor) -> Tensor:
        """Token ids (B,context) -> the place (B,) of each caption's first end-of-text token."""
        is_end = tokens == self.text_config.eos_id if self.text_config.pool_type == "eos" else tokens
        return is_end.int().argmax(dim=1)
