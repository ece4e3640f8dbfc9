"""Products of few rows in which a row's result depends neither on its place nor on the others, to the bit.

A library's kernels take several rows at once and those that are left in another way: of x (B,in) times one matrix, the
rows differ in their last bit by where they stand, and on which CPU. B products of one row each do not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RowLinear(nn.Linear):
    """A linear layer that multiplies row by row."""

    def forward(self, x: Tensor) -> Tensor:
        """(B,in) -> (B,out)"""
        return _row_by_row(x, self.weight, self.bias)


class RowLSTMCell(nn.LSTMCell):
    """One step of an LSTM from a zero state, row by row."""

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Input (B,in) -> hidden state and cell (B,D)"""
        if state is not None:
            raise ValueError("a RowLSTMCell begins with a zero state")
        i, _, g, o = _row_by_row(x, self.weight_ih, self.bias_ih + self.bias_hh).chunk(4, dim=1)
        cell = i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell


def _row_by_row(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (B,in) times weight (out,in), plus bias (out,) -> (B,out)"""
    return torch.baddbmm(bias, x.unsqueeze(1), weight.t().expand(len(x), -1, -1)).squeeze(1)
