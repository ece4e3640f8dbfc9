"""The frozen CLIP (Section III) with less work for the same values: its weights are fixed, some outputs never read."""

from __future__ import annotations

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.fast.onednn import fixed_linear
from ratlip_cli.model.clip import FrozenCLIP

_QUICK = 1.702  # The slope in QuickGELU, with which it is near GELU.


class FastCLIP(FrozenCLIP):
    """Patches by one matrix, and of the last block the class token alone where nothing else of it is read."""

    def _patch_embedding(self, pixels: Tensor) -> Tensor:
        side = self.visual.conv1.kernel_size[0]
        used = side * self.geometry.grid
        patches = F.pixel_unshuffle(pixels[:, :, :used, :used], side)  # (B, 3*side*side, g, g)
        return F.conv2d(patches, self.visual.conv1.weight.flatten(1)[:, :, None, None], self.visual.conv1.bias)

    def _image_vector(self, tokens: Tensor) -> Tensor:
        block = self.visual.transformer.resblocks[-1]
        if not isinstance(block, ResidualAttentionBlock):
            return super()._image_vector(tokens)
        normed = block.ln_1(tokens)
        token = tokens[:, :1] + block.ls_1(block.attention(normed[:, :1], normed, normed))  # (B, 1, W)
        token = token + block.ls_2(block.mlp(block.ln_2(token)))
        vector: Tensor = self.visual.ln_post(token[:, 0]) @ self.visual.proj
        return vector


class FastSelfAttention(nn.MultiheadAttention):
    """All positions in one product: PyTorch's multiplies each position's tokens by themselves."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **_: object) -> tuple[Tensor, None]:  # type: ignore[override]
        """Tokens (B,N,W), the same for key and value, and the first n of them for the query -> (B,n,W)"""
        qkv = fixed_linear(key, self.in_proj_weight, self.in_proj_bias)
        heads = (torch.unflatten(x, 2, (self.num_heads, -1)) for x in qkv.chunk(3, dim=2))
        q, k, v = (x.transpose(1, 2) for x in heads)  # (B, heads, N, W/heads) each
        attended = F.scaled_dot_product_attention(q[:, :, : query.shape[1]], k, v)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None


class FastQuickGELU(nn.Module):
    """x sigmoid(1.702 x), as a SiLU: for a gradient it keeps one tensor, not two."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same"""
        return F.silu(_QUICK * x).div_(_QUICK)
