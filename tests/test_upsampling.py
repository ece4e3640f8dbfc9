"""The convolution of an enlarged image equals enlarging it first, in values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ratlip_cli.fast.upsampling import ColourConv, UpsamplingConv, plus_enlarged


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("side", "size"), [(1, 2), (4, 8), (8, 16), (7, 8), (4, 7), (7, 14), (5, 5), (4, 12), (3, 7)])
def test_convolution_of_an_enlarged_image(side: int, size: int, bias: bool) -> None:
    conv = UpsamplingConv(6, 5, 3, padding=1, bias=bias).double()
    x = torch.randn(2, 6, side, side, requires_grad=True, dtype=torch.float64)
    inputs = (x, *conv.parameters())
    enlarged = F.interpolate(x, size=(size, size), mode="nearest")
    expected = F.conv2d(enlarged, conv.weight, conv.bias, padding=1)
    actual = conv(x, size)
    torch.testing.assert_close(actual, expected)
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad(actual, inputs, weights), torch.autograd.grad(expected, inputs, weights)
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain)


def test_only_weights_are_stored() -> None:
    assert UpsamplingConv(4, 4, 3, padding=1).state_dict().keys() == {"weight", "bias"}
    assert UpsamplingConv(4, 4, 3, padding=1, bias=False).state_dict().keys() == {"weight"}


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 3), (7, 5)])
def test_convolution_to_colours(size: tuple[int, int]) -> None:
    conv = ColourConv(4, 3, 3, padding=1).double()
    assert conv.state_dict().keys() == {"weight", "bias"}
    x = torch.randn(2, 4, *size, requires_grad=True, dtype=torch.float64)
    inputs = (x, *conv.parameters())
    actual, expected = conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(actual, expected)
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad(actual, inputs, weights), torch.autograd.grad(expected, inputs, weights)
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("side", "size"), [(1, 2), (4, 8), (7, 14), (7, 8), (5, 5), (4, 12)])
def test_sum_with_an_enlarged_image(side: int, size: int, layout: torch.memory_format) -> None:
    x = torch.randn(2, 3, size, size, requires_grad=True, dtype=torch.float64).contiguous(memory_format=layout)
    small = torch.randn(2, 3, side, side, requires_grad=True, dtype=torch.float64)
    expected = x + F.interpolate(small, size=(size, size), mode="nearest")
    copy = x.clone()
    actual = plus_enlarged(copy, small)
    torch.testing.assert_close(actual, expected)
    assert (actual.data_ptr() == copy.data_ptr()) is (size == 2 * side), "exactly twice as large it is added in place"
    weights = torch.randn_like(expected)
    gradients = (torch.autograd.grad(out, (x, small), weights) for out in (actual, expected))
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain)
