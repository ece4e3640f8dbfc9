"""oneDNN called directly, where a CPU is faster so: products and convolutions of fixed weights.

The operators are those of PyTorch's own compiler and not promised to stay. `is_usable` tries them; where they are not
as they were, the model does without.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_NOTHING_BEHIND: tuple[Any, ...] = ("none", [], "")  # The operators could do more to what comes out.


class FixedLinear(nn.Linear):
    """A linear layer whose weights get no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """(...,in) -> (...,out)"""
        return fixed_linear(x, self.weight, self.bias)


def fixed_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (...,in) times weight (out,in), plus bias (out,): weight and bias get no gradient."""
    if x.device.type == "cpu" and x.dtype is torch.float32 and not _is_transformed() and is_usable():
        product: Tensor = _Product.apply(x, weight, bias)
        return product
    return F.linear(x, weight, bias)


class PackedConv(nn.Module):
    """A convolution of stride 1 whose weights lie in memory as the kernel reads them, without a gradient.

    PyTorch's own brings them into that order in every call, which takes longer than the convolution itself where
    images are small and channels many.

    Args:
        weight: (out,in,k,k); the padding keeps the size. Or (in,out,4,4) of a transposed convolution that doubles it.
        bias: (out,).
        size: side of what it convolves, for which the order is chosen.
        doubles: whether it is such a transposed convolution.
        dtype: of what it multiplies, float32 or bfloat16. What it is given and gives is float32.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        size: int,
        doubles: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.bias, self.doubles, self.dtype = bias, doubles, dtype
        self.sizes: tuple[Any, ...]
        if doubles:
            self.sizes = ([1, 1], [0, 0], [2, 2], [1, 1], 1)  # padding, of the output too, stride, dilation, groups
            pack, in_channels = torch.ops.mkldnn._reorder_convolution_transpose_weight, weight.shape[0]
        else:
            self.sizes = ([weight.shape[-1] // 2] * 2, [1, 1], [1, 1], 1)  # padding, stride, dilation, groups
            pack, in_channels = torch.ops.mkldnn._reorder_convolution_weight, weight.shape[1]
        packed = pack(rounded(weight.detach(), dtype), *self.sizes, [1, in_channels, size, size])
        self.register_buffer("weight", packed, persistent=False)

    def forward(self, x: Tensor, size: int | None = None) -> Tensor:
        """(B,in,h,h) -> (B,out,h,h), or (B,out,size,size) of x enlarged to that size."""
        if size not in (None, x.shape[-1]) and not self.doubles:
            x = F.interpolate(x, size=(size, size), mode="nearest")
        x = rounded(x.contiguous(memory_format=torch.channels_last), self.dtype)
        mkldnn = torch.ops.mkldnn
        convolve = mkldnn._convolution_transpose_pointwise if self.doubles else mkldnn._convolution_pointwise
        out: Tensor = convolve(x, self.weight, self.bias, *self.sizes, *_NOTHING_BEHIND)
        return out.float()


class PackedLinear(nn.Module):
    """A linear layer that multiplies bfloat16 and is given and gives float32. Its weights have no gradient.

    Args:
        weight, bias: (out,in) and (out,), float32.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.bias = bias
        packed = torch.ops.mkldnn._reorder_linear_weight(rounded(weight.detach(), torch.bfloat16))
        self.register_buffer("weight", packed, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(...,in) -> (...,out)"""
        x = rounded(x, torch.bfloat16)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, *_NOTHING_BEHIND)
        return out.float()


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in `dtype`, or its values rounded to `dtype` in float32 where the CPU does not multiply that faster."""
    return x.to(dtype) if dtype is torch.float32 or multiplies_bf16() else x.to(dtype).float()


@functools.cache
def multiplies_bf16() -> bool:
    """Whether this CPU has instructions that multiply bfloat16, and oneDNN uses them: AVX-512 BF16, or AMX as well."""
    if hasattr(torch.cpu, "get_capabilities"):
        has = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    else:  # an older PyTorch
        has = torch.cpu._is_avx512_bf16_supported()
    mkldnn = torch.ops.mkldnn
    return has and hasattr(mkldnn, "_is_mkldnn_bf16_supported") and bool(mkldnn._is_mkldnn_bf16_supported())


@functools.cache
def is_usable() -> bool:
    """Whether this PyTorch has the operators, as they are called here."""
    x = torch.zeros(1, 1, 2, 2)
    try:
        PackedConv(torch.zeros(1, 1, 3, 3), None, 2)(x)
        PackedConv(torch.zeros(1, 1, 4, 4), None, 2, doubles=True)(x)
        PackedConv(torch.zeros(1, 1, 3, 3), None, 2, dtype=torch.bfloat16)(x)
        PackedLinear(torch.zeros(1, 2), None)(x)
        _Product.apply(x, torch.zeros(1, 2), None)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True


class _Product(torch.autograd.Function):
    """x (...,in) times the transpose of a fixed matrix (out,in), plus a fixed bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, *_NOTHING_BEHIND)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _Product.apply(gradients[0], weight.t(), None), None, None


def count_flops() -> None:
    """Let PyTorch's FlopCounterMode know the products of FixedLinear."""
    from torch.utils.flop_counter import flop_registry, register_flop_formula  # imports Triton, where that is

    if is_usable() and torch.ops.mkldnn._linear_pointwise not in flop_registry:
        register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_linear_flops)


def _linear_flops(x: torch.Size, weight: torch.Size, *others: object, **named: object) -> int:
    """Multiplications and additions of x (...,in) times weight (out,in)."""
    return 2 * x.numel() * weight[0]


def _is_transformed() -> bool:
    """Whether autocast chooses the arithmetic, or the compiler the operators."""
    return torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
