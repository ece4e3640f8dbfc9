"""Shuffle attention, and the lean gradient that it has behind BatchNorm and LeakyReLU: the plain transcription's."""

from __future__ import annotations

import pytest
import torch
from plain import shuffle_attention, weights_of
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.model.shuffle_attention import SAConv

GROUPS = [(16, 8), (32, 8), (16, 2), (12, 3), (4, 2), (2, 1)]


class Unconvolved(nn.Module):
    """Stands for the convolution, so that what is behind it can be looked at alone."""

    def forward(self, x: Tensor, size: int | None) -> Tensor:
        return x


def _review(channels: int, groups: int) -> SAConv:
    torch.manual_seed(0)
    review = SAConv(channels, channels, groups)
    review.conv = Unconvolved()
    with torch.no_grad():
        for parameter in review.parameters():
            parameter.normal_()
        for statistic in (review.norm.running_mean, review.norm.running_var):
            statistic.uniform_(0.5, 2)
    return review


def _plain(review: SAConv, x: Tensor) -> Tensor:
    """What the plain transcription makes of it, on statistics of its own."""
    norm = review.norm
    statistics = norm.running_mean.clone(), norm.running_var.clone()
    x = F.batch_norm(x, *statistics, norm.weight, norm.bias, training=norm.training, momentum=0.1)
    return shuffle_attention(weights_of(review.attention), F.leaky_relu(x, 0.01), review.attention.groups)


@pytest.mark.parametrize(("channels", "groups"), GROUPS)
def test_attention_is_the_plain_one(channels: int, groups: int) -> None:
    attention = _review(channels, groups).double().attention
    x = torch.randn(3, channels, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(attention(x), shuffle_attention(weights_of(attention), x, attention.groups))


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("channels", "groups"), GROUPS)
def test_values_and_gradients_are_the_plain_ones(
    channels: int, groups: int, layout: torch.memory_format, training: bool, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the shuffle cuts a group in two, which it does with an odd number of them."""
    if parts > 1:
        monkeypatch.setattr("ratlip_cli.fast.chunks.CACHE_BYTES", 1)
    review = _review(channels, groups).double().train(training)
    x = torch.randn(3, channels, 5, 6, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    inputs = (x, *review.parameters())
    expected, actual = _plain(review, x), review(x)
    torch.testing.assert_close(actual, expected)
    direction = torch.randn_like(expected)
    gradients = torch.autograd.grad(actual, inputs, direction), torch.autograd.grad(expected, inputs, direction)
    for own, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(own, plain)


def test_running_statistics_are_those_of_batch_norm() -> None:
    review, norm = _review(8, 2), nn.BatchNorm2d(8)
    norm.load_state_dict(review.norm.state_dict())
    for _ in range(2):
        x = 3 + 2 * torch.randn(4, 8, 5, 5)
        review(x)
        norm(x)
    for own, expected in zip(review.norm.buffers(), norm.buffers(), strict=True):
        torch.testing.assert_close(own, expected)
    before = [buffer.clone() for buffer in review.norm.buffers()]
    review.eval()(x)
    assert all(torch.equal(*pair) for pair in zip(review.norm.buffers(), before, strict=True))


@pytest.mark.parametrize("training", [True, False])
def test_gradient_holds_up_against_finite_differences(training: bool) -> None:
    review = _review(8, 2).double().train(training)
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(review, x)


def test_no_large_tensor_is_kept_but_the_input() -> None:
    review, x = _review(16, 2), torch.randn(2, 16, 32, 32, requires_grad=True)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        review(x)
    large = [tensor for tensor in kept if tensor.numel() >= x.numel() // 2]
    assert [tensor.data_ptr() for tensor in large] == [x.data_ptr()]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_goes_in_and_single_comes_out(dtype: torch.dtype) -> None:
    """As autocast has it: the parameters, and what they multiply, are float32."""
    review = _review(16, 2)
    x = torch.randn(2, 16, 8, 8).to(dtype).requires_grad_()
    out = review(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, review(x.detach().float()))
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    assert gradient.dtype == dtype
    exact = x.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad(review(exact).square().sum(), exact)
    torch.testing.assert_close(gradient.float(), expected, rtol=0.01, atol=0.01)


def test_a_second_derivative_is_refused() -> None:
    review, x = _review(4, 2), torch.randn(2, 4, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(review(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
