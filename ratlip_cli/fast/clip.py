"""The frozen CLIP (Section III) with less work for the same values: its weights are fixed, some outputs never read."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.fast.onednn import PackedLinear, fixed_linear
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.towers import CLIP, QuickGELU, SelfAttention

_LENGTHS = 8  # Captions are cut to a multiple of so many tokens: few lengths, few products of few rows.
_QUICK = 1.702  # The slope in QuickGELU, with which it is near GELU.


class FastCLIP(FrozenCLIP):
    """Patches by one matrix, and of the last block the class token alone where nothing else of it is read."""

    def _patch_embedding(self, pixels: Tensor) -> Tensor:
        side = self.visual.conv1.kernel_size[0]
        used = side * self.geometry.grid
        patches = F.pixel_unshuffle(pixels[:, :, :used, :used], side)  # (B, 3*side*side, g, g)
        return F.conv2d(patches, self.visual.conv1.weight.flatten(1)[:, :, None, None], self.visual.conv1.bias)

    def _image_vector(self, tokens: Tensor) -> Tensor:
        class_token = self.visual.transformer.resblocks[-1](tokens, queries=1)[:, 0]
        return fixed_linear(self.visual.ln_post(class_token), self.visual.proj.t(), None)


class CutCLIP(CLIP):
    """Captions up to their ends: the text transformer looks back alone, so that what follows changes no text vector.

    A caption's length decides what it is cut to, whatever stands beside it.
    """

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids (B,context) -> text vectors (B,d)"""
        if torch.compiler.is_compiling() or not len(tokens):
            return super().encode_text(tokens)
        lengths = (self.end_of_text(tokens) // _LENGTHS + 1) * _LENGTHS  # (B,)
        groups = {length: (lengths == length).nonzero()[:, 0] for length in sorted(set(lengths.tolist()))}
        vectors = [super(CutCLIP, self).encode_text(tokens[rows, :length]) for length, rows in groups.items()]
        return torch.cat(vectors)[torch.cat(list(groups.values())).argsort()]


class FixedSelfAttention(SelfAttention):
    """Its product by oneDNN, as its weights get no gradient."""

    def project(self, tokens: Tensor) -> Tensor:
        """(B,N,W) -> queries, keys and values (B,N,3W)"""
        return fixed_linear(tokens, self.in_proj_weight, self.in_proj_bias)


class FastQuickGELU(QuickGELU):
    """x sigmoid(1.702 x), as a SiLU: for a gradient it keeps one tensor, not two."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same"""
        return F.silu(_QUICK * x).div_(_QUICK)


class PackedSelfAttention(SelfAttention):
    """Its product in bfloat16."""

    in_proj: PackedLinear

    def project(self, tokens: Tensor) -> Tensor:
        """(B,N,W) -> queries, keys and values (B,N,3W)"""
        projected: Tensor = self.in_proj(tokens)
        return projected


def in_bf16(clip: FrozenCLIP) -> FrozenCLIP:
    """A CLIP whose vision transformer multiplies by its weights in bfloat16, on a CPU; `clip` stays as it is.

    Layer norms, softmax and residual connections are float32. All other weights are shared.
    """
    shared = {id(tensor): tensor for tensor in (*clip.parameters(), *clip.buffers())}
    half = copy.deepcopy(clip, {**shared, id(clip.tokenizer): clip.tokenizer})
    for module in list(half.visual.transformer.modules()):
        if isinstance(module, SelfAttention):
            module.__class__ = PackedSelfAttention
            module.in_proj = PackedLinear(module.in_proj_weight, module.in_proj_bias)
        for name, layer in module.named_children():
            if isinstance(layer, nn.Linear):
                setattr(module, name, PackedLinear(layer.weight, layer.bias))
    return half
