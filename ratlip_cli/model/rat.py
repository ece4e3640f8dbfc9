"""Section III-B: recurrent affine transformations (Fig. 2, Eqs. 1-7), and the conditional one (CAT) they replace.

An affine scales and shifts a feature map by vectors that two small MLPs read from a condition. What the condition is
makes the variants of the paper:

- `SharedLSTM`: the hidden state of one LSTM that every affine of the bridge shares and hands on (the paper);
- `LSTMPerAffine`: one step of an LSTM of the affine's own (the weights layout of the published code);
- `NoRecurrence`: noise and caption themselves (CAT, the baseline).

The state is handed on, not hidden: `condition, state = recurrence(text, state)`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.2
"""Of the LeakyReLU after every affine."""


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
        """The state before the first affine, from z (B,noise_dim) and T (B,d)."""
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
    """gamma * c + beta (Eq. 1), both read from a condition (Eq. 2). A new one is the identity.

    Args:
        condition_dim: length of the condition: D for RAT, noise_dim + d for CAT.
        channels: C of the feature map.
        hidden: units of the two MLPs' hidden layers; C where left out.
    """

    def __init__(self, condition_dim: int, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        self.gamma = _mlp(condition_dim, hidden or channels, channels, start=1.0)
        self.beta = _mlp(condition_dim, hidden or channels, channels, start=0.0)

    def forward(self, c: Tensor, condition: Tensor) -> Tensor:
        """c (B,C,H,W) and the condition (B,condition_dim) -> (B,C,H,W)"""
        gamma, beta = self.vectors(condition)
        return gamma * c + beta  # Eq. 1

    def vectors(self, condition: Tensor) -> tuple[Tensor, Tensor]:
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
        """c (B,C,H,W), T (B,d) and the state of the affine before -> c and the state for the affine after."""
        for affine in self.affines:
            condition, state = recurrence(text, state)
            c = F.leaky_relu(affine(c, condition), SLOPE)
        return c, state


class CATBLK(nn.Module):
    """CAT - LReLU - CAT - LReLU (Fig. 2a): the baseline's block, and image-G's in every variant."""

    def __init__(self, condition_dim: int, channels: int) -> None:
        super().__init__()
        self.affines = nn.ModuleList(Affine(condition_dim, channels) for _ in range(2))

    def forward(self, c: Tensor, y: Tensor) -> Tensor:
        """c (B,C,H,W) and y = [z;T] (B,noise_dim+d) -> (B,C,H,W)"""
        for affine in self.affines:
            c = F.leaky_relu(affine(c, y), SLOPE)
        return c


def _mlp(condition_dim: int, hidden: int, channels: int, start: float) -> nn.Sequential:
    last = nn.Linear(hidden, channels)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, start)
    return nn.Sequential(nn.Linear(condition_dim, hidden), nn.ReLU(), last)
