"""Shuffle attention's own gradient: that of the plain transcription, from fewer tensors."""

from __future__ import annotations

import pytest
import torch
from plain import shuffle_attention, weights_of
from torch import Tensor

from ratlip_cli.model.shuffle_attention import ShuffleAttention


def _attention(channels: int, groups: int) -> ShuffleAttention:
    torch.manual_seed(0)
    attention = ShuffleAttention(channels, groups)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_()
    return attention


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("channels", "groups"), [(16, 8), (32, 8), (16, 2), (12, 3), (4, 2), (2, 1)])
def test_values_and_gradients_are_the_plain_ones(channels: int, groups: int, layout: torch.memory_format) -> None:
    """Also where the shuffle cuts a group in two, which it does with an odd number of them."""
    attention = _attention(channels, groups).double()
    x = torch.randn(3, channels, 5, 6, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    inputs = (x, *attention.parameters())
    actual, expected = attention(x), shuffle_attention(weights_of(attention), x, groups)
    torch.testing.assert_close(actual, expected)
    direction = torch.randn_like(expected)
    gradients = torch.autograd.grad(actual, inputs, direction), torch.autograd.grad(expected, inputs, direction)
    for own, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(own, plain)


def test_gradient_holds_up_against_finite_differences() -> None:
    attention = _attention(8, 2).double()
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attention, x)


def test_no_large_tensor_is_kept_but_the_input() -> None:
    attention, x = _attention(16, 2), torch.randn(2, 16, 32, 32, requires_grad=True)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attention(x)
    large = [tensor for tensor in kept if tensor.numel() >= x.numel() // 2]
    assert [tensor.data_ptr() for tensor in large] == [x.data_ptr()]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_goes_in_and_single_comes_out(dtype: torch.dtype) -> None:
    """As autocast has it: the parameters, and what they multiply, are float32."""
    attention = _attention(16, 2)
    x = torch.randn(2, 16, 8, 8).to(dtype).requires_grad_()
    out = attention(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, attention(x.detach().float()))
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    assert gradient.dtype == dtype
    exact = x.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad(attention(exact).square().sum(), exact)
    torch.testing.assert_close(gradient.float(), expected, rtol=0.01, atol=0.01)


def test_a_second_derivative_is_refused() -> None:
    attention, x = _attention(4, 2), torch.randn(1, 4, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(attention(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
