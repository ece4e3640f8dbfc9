"""Section III-B: recurrent affine transformations (Fig. 2, Eqs. 1-7), and the conditional one (CAT) they replace.

An affine scales and shifts a feature map by vectors that two small MLPs read from a condition. What the condition is
makes the variants of the paper:

- `SharedLSTM`: the hidden state of one LSTM that every affine of the bridge shares and hands on (the paper);
- `LSTMPerAffine`: one step of an LSTM of the affine's own (the weights layout of the published code);
- `NoRecurrence`: noise and sentence themselves (CAT, the baseline).

The state is handed on, not hidden: `condition, state = recurrence(text, state)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ratlip_cli.model.cache import in_parts

_SLOPE = 0.2
"""Of the LeakyReLU behind every affine."""


class AffineState(NamedTuple):
    """What travels from one affine to the next."""

    affine: int
    """Index t of the affine that comes next."""
    hidden: Tensor
    """h_t (B,D), or the vector y = [z;T] where nothing recurs."""
    cell: Tensor
    """c_t (B,D), or an empty tensor where nothing recurs."""


class Recurrence(nn.Module):
    """How an affine comes by its condition. `condition_dim` is the condition's length."""

    condition_dim: int

    def initial_state(self, noise: Tensor, text: Tensor) -> AffineState:
        """The state in front of the first affine, from z (B,noise_dim) and T (B,d)."""
        raise NotImplementedError

    def forward(self, text: Tensor, state: AffineState) -> tuple[Tensor, AffineState]:
        """The condition (B,condition_dim) of affine t, and the state for affine t + 1."""
        raise NotImplementedError


class SharedLSTM(Recurrence):
    """The paper's recurrence: one LSTM cell for all affines. Text enters at every step, noise as the first state."""

    def __init__(self, noise_dim: int, text_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.condition_dim = hidden_size
        self.initial_hidden = nn.Linear(noise_dim, hidden_size)
        self.initial_cell = nn.Linear(noise_dim, hidden_size)
        self.gates = nn.Linear(text_dim + hidden_size, 4 * hidden_size)

    def initial_state(self, noise: Tensor, text: Tensor) -> AffineState:
        return AffineState(0, self.initial_hidden(noise), self.initial_cell(noise))  # Eq. 3

    def forward(self, text: Tensor, state: AffineState) -> tuple[Tensor, AffineState]:
        affine, hidden, cell = state
        i, f, o, u = self.gates(torch.cat((text, hidden), dim=1)).chunk(4, dim=1)  # Eq. 4
        cell = f.sigmoid() * cell + i.sigmoid() * u.tanh()  # Eqs. 5, 6
        hidden = o.sigmoid() * cell.tanh()  # Eq. 7
        return hidden, AffineState(affine + 1, hidden, cell)


class LSTMPerAffine(Recurrence):
    """The published code's recurrence: every affine has an LSTM of its own, one step from a zero state with input y.

    The published code hands its LSTM the batch as if it were a sequence, so that an image depends on its neighbours;
    here each sample is a sequence of one. At batch size 1 both are the same.
    """

    def __init__(self, noise_dim: int, text_dim: int, hidden_size: int, affines: int) -> None:
        super().__init__()
        self.condition_dim = hidden_size
        self.cells = nn.ModuleList(nn.LSTMCell(noise_dim + text_dim, hidden_size) for _ in range(affines))

    def initial_state(self, noise: Tensor, text: Tensor) -> AffineState:
        y = torch.cat((noise, text), dim=1)
        return AffineState(0, y, y.new_empty(0))

    def forward(self, text: Tensor, state: AffineState) -> tuple[Tensor, AffineState]:
        affine, y, _ = state
        hidden, _ = self.cells[affine](y)
        return hidden, state._replace(affine=affine + 1)


class NoRecurrence(Recurrence):
    """CAT: every affine reads y = [z;T] on its own."""

    def __init__(self, noise_dim: int, text_dim: int) -> None:
        super().__init__()
        self.condition_dim = noise_dim + text_dim

    def initial_state(self, noise: Tensor, text: Tensor) -> AffineState:
        y = torch.cat((noise, text), dim=1)
        return AffineState(0, y, y.new_empty(0))

    def forward(self, text: Tensor, state: AffineState) -> tuple[Tensor, AffineState]:
        return state.hidden, state._replace(affine=state.affine + 1)


class Affine(nn.Module):
    """What an affine reads from its condition (Eq. 2): gamma and beta. Those of a new one make it the identity.

    Args:
        condition_dim: length of the condition: D for RAT, noise_dim + d for CAT.
        channels: C of the feature map.
    """

    def __init__(self, condition_dim: int, channels: int) -> None:
        super().__init__()
        self.gamma = _mlp(condition_dim, channels, start=1.0)
        self.beta = _mlp(condition_dim, channels, start=0.0)

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """The condition (B,condition_dim) -> gamma and beta (B,C,1,1)"""
        gamma, beta = self.gamma(condition), self.beta(condition)  # Eq. 2
        return gamma[:, :, None, None], beta[:, :, None, None]


class RATBLK(nn.Module):
    """RAT - LReLU - RAT - LReLU (Fig. 2b)."""

    def __init__(self, condition_dim: int, channels: int) -> None:
        super().__init__()
        self.affines = nn.ModuleList(Affine(condition_dim, channels) for _ in range(2))

    def forward(
        self, c: Tensor, text: Tensor, state: AffineState, recurrence: Recurrence
    ) -> tuple[Tensor, AffineState]:
        """c (B,C,H,W), T (B,d) and the state of the affine before -> c and the state for the affine behind."""
        vectors: list[Tensor] = []
        for affine in self.affines:
            condition, state = recurrence(text, state)
            vectors += affine(condition)
        return fused(c, vectors), state


class CATBLK(nn.Module):
    """CAT - LReLU - CAT - LReLU (Fig. 2a): the baseline's block, and image-G's in every variant."""

    def __init__(self, condition_dim: int, channels: int) -> None:
        super().__init__()
        self.affines = nn.ModuleList(Affine(condition_dim, channels) for _ in range(2))

    def forward(self, c: Tensor, y: Tensor) -> Tensor:
        """c (B,C,H,W) and y = [z;T] (B,noise_dim+d) -> (B,C,H,W)"""
        return fused(c, [vector for affine in self.affines for vector in affine(y)])


def fused(c: Tensor, vectors: Sequence[Tensor]) -> Tensor:
    """LReLU(gamma * c + beta), once for each pair of gamma and beta (B,C,1,1) in `vectors`: (B,C,H,W) -> (B,C,H,W)"""
    if torch.compiler.is_compiling():  # it has interpolations of its own
        for gamma, beta in _pairs(vectors):
            c = F.leaky_relu(gamma * c + beta, _SLOPE)  # Eq. 1
        return c
    out: Tensor = _Fused.apply(c, *vectors)
    return out


class _Fused(torch.autograd.Function):
    """For the gradient it keeps what goes in and what comes out; what is between it computes anew."""

    @staticmethod
    def forward(ctx: Any, c: Tensor, *vectors: Tensor) -> Tensor:
        out = torch.empty_like(c, dtype=torch.result_type(c, vectors[0]))
        for part in in_parts(c):
            x = c[part]
            for gamma, beta in _pairs(vectors):
                x = _affine(x, gamma[part], beta[part], out[part])
        ctx.save_for_backward(c, out, *vectors)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        c, out, *vectors = ctx.saved_tensors
        d_c, d_vectors = torch.empty_like(gradient), [torch.empty_like(vector) for vector in vectors]
        for part in in_parts(c):
            xs = [c[part]]
            for gamma, beta in _pairs(vectors[:-2]):
                xs.append(_affine(xs[-1], gamma[part], beta[part], torch.empty_like(out[part])))
            d, behind = gradient[part], out[part]
            for x, (gamma, _), (d_gamma, d_beta) in reversed(
                list(zip(xs, _pairs(vectors), _pairs(d_vectors), strict=True))
            ):
                d = torch.ops.aten.leaky_relu_backward.grad_input(d, behind, _SLOPE, True, grad_input=d_c[part])
                torch.sum(d * x, (2, 3), keepdim=True, out=d_gamma[part])
                torch.sum(d, (2, 3), keepdim=True, out=d_beta[part])
                d.mul_(gamma[part])
                behind = x
        return d_c, *d_vectors


def _affine(c: Tensor, gamma: Tensor, beta: Tensor, out: Tensor) -> Tensor:
    """LReLU(gamma * c + beta), written into `out`. One `addcmul` would take several times as long on a CPU."""
    torch.mul(gamma, c, out=out).add_(beta)  # Eq. 1
    return F.leaky_relu(out, _SLOPE, inplace=True)


def _pairs(vectors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """gamma and beta of each affine."""
    return list(zip(vectors[::2], vectors[1::2], strict=True))


def _mlp(condition_dim: int, channels: int, start: float) -> nn.Sequential:
    last = nn.Linear(channels, channels)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, start)
    return nn.Sequential(nn.Linear(condition_dim, channels), nn.ReLU(), last)
