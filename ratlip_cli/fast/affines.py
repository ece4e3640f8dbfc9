"""Affines with their LeakyReLUs (Eqs. 1, 2) that keep less for the gradient and work in chunks that stay in cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ratlip_cli.fast.chunks import chunks
from ratlip_cli.model.rat import CATBLK, RATBLK, SLOPE, AffineState, Recurrence


class FastRATBLK(RATBLK):
    """RATBLK whose two affines are one operation."""

    def forward(
        self, c: Tensor, text: Tensor, state: AffineState, recurrence: Recurrence
    ) -> tuple[Tensor, AffineState]:
        if torch.compiler.is_compiling():
            return super().forward(c, text, state, recurrence)
        vectors: list[Tensor] = []
        for affine in self.affines:
            condition, state = recurrence(text, state)
            vectors += affine.vectors(condition)  # type: ignore[operator]
        return fused(c, vectors), state


class FastCATBLK(CATBLK):
    """CATBLK whose two affines are one operation."""

    def forward(self, c: Tensor, y: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return super().forward(c, y)
        return fused(c, [vector for affine in self.affines for vector in affine.vectors(y)])  # type: ignore[operator]


def fused(c: Tensor, vectors: Sequence[Tensor]) -> Tensor:
    """LReLU(gamma * c + beta), once for each pair of gamma and beta (B,C,1,1) in `vectors`: (B,C,H,W) -> (B,C,H,W)"""
    out: Tensor = _Fused.apply(c, *vectors)
    return out


class _Fused(torch.autograd.Function):
    """Keeps its input and its output for the gradient, and computes what lies between again."""

    @staticmethod
    def forward(ctx: Any, c: Tensor, *vectors: Tensor) -> Tensor:
        out = torch.empty_like(c, dtype=torch.result_type(c, vectors[0]))
        for chunk in chunks(c):
            x = c[chunk]
            for gamma, beta in _pairs(vectors):
                x = _affine(x, gamma[chunk], beta[chunk], out[chunk])
        ctx.save_for_backward(c, out, *vectors)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        c, out, *vectors = ctx.saved_tensors
        d_c, d_vectors = torch.empty_like(gradient), [torch.empty_like(vector) for vector in vectors]
        for chunk in chunks(c):
            xs = [c[chunk]]
            for gamma, beta in _pairs(vectors[:-2]):
                xs.append(_affine(xs[-1], gamma[chunk], beta[chunk], torch.empty_like(out[chunk])))
            d, after = gradient[chunk], out[chunk]
            for x, (gamma, _), (d_gamma, d_beta) in reversed(
                list(zip(xs, _pairs(vectors), _pairs(d_vectors), strict=True))
            ):
                d = torch.ops.aten.leaky_relu_backward.grad_input(d, after, SLOPE, True, grad_input=d_c[chunk])
                torch.sum(d * x, (2, 3), keepdim=True, out=d_gamma[chunk])
                torch.sum(d, (2, 3), keepdim=True, out=d_beta[chunk])
                d.mul_(gamma[chunk])
                after = x
        return d_c, *d_vectors


def _affine(c: Tensor, gamma: Tensor, beta: Tensor, out: Tensor) -> Tensor:
    """LReLU(gamma * c + beta), written into `out`. One `addcmul` would take several times as long on a CPU."""
    torch.mul(gamma, c, out=out).add_(beta)
    return F.leaky_relu(out, SLOPE, inplace=True)


def _pairs(vectors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """gamma and beta of each affine."""
    return list(zip(vectors[::2], vectors[1::2], strict=True))
