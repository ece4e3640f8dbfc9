"""Shuffle attention, and the lean gradient that it has after BatchNorm and LeakyReLU: the plain module's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from ratlip_cli.distributed import GlobalBatchNorm2d
from ratlip_cli.fast.swaps import Swap, swap_generator
from ratlip_cli.model.shuffle_attention import SAConv

GROUPS = [(16, 8), (32, 8), (16, 2), (12, 3), (4, 2), (2, 1)]


def _plain(channels: int, groups: int) -> SAConv:
    torch.manual_seed(0)
    sa_conv = SAConv(channels, channels, groups)
    sa_conv.conv = nn.Identity()  # what comes after the convolution is looked at alone
    with torch.no_grad():
        for parameter in sa_conv.parameters():
            parameter.normal_()
        for statistic in (sa_conv.norm.running_mean, sa_conv.norm.running_var):
            statistic.uniform_(0.5, 2)
    return sa_conv


def _fast(plain: SAConv) -> SAConv:
    """The same with the swap, on weights and statistics of its own."""
    return swap_generator(copy.deepcopy(plain), frozenset({Swap.ATTENTION}))


@pytest.mark.parametrize(("channels", "groups"), GROUPS)
def test_attention_is_the_plain_one(channels: int, groups: int) -> None:
    plain = _plain(channels, groups).double()
    x = torch.randn(3, channels, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(_fast(plain).attention(x), plain.attention(x))


@pytest.mark.parametrize(("channels", "groups"), GROUPS)
def test_the_plain_one_is_written_out(channels: int, groups: int) -> None:
    """Section III-C, group by group and channel by channel."""
    attention = _plain(channels, groups).double().attention
    x = torch.randn(2, channels, 5, 6, dtype=torch.float64)
    half = channels // (2 * attention.groups)
    gated = torch.empty_like(x)
    for channel in range(channels):
        place, k = divmod(channel, half)
        c = x[:, channel]
        if place % 2 == 0:
            inner = attention.channel_weight[0, k] * c.mean((1, 2), keepdim=True) + attention.channel_bias[0, k]
        else:
            mean, var = c.mean((1, 2), keepdim=True), c.var((1, 2), keepdim=True, unbiased=False)
            normed = (c - mean) / (var + 1e-5).sqrt() * attention.norm.weight[k] + attention.norm.bias[k]
            inner = attention.spatial_weight[0, k] * normed + attention.spatial_bias[0, k]
        gated[:, channel] = c * inner.sigmoid()
    first, second = gated.chunk(2, dim=1)  # the shuffle takes one of each in turn
    torch.testing.assert_close(attention(x), torch.stack((first, second), dim=2).flatten(1, 2))


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("of_all", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("channels", "groups"), GROUPS)
def test_values_and_gradients_are_the_plain_ones(
    channels: int,
    groups: int,
    layout: torch.memory_format,
    training: bool,
    of_all: bool,
    parts: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the shuffle cuts a group in two, which it does with an odd number of them, and by global BatchNorm."""
    if parts > 1:
        monkeypatch.setattr("ratlip_cli.fast.chunks.CACHE_BYTES", 1)
    plain = _plain(channels, groups).double().train(training)
    swapped = _fast(plain)
    if of_all:
        swapped.norm.__class__ = GlobalBatchNorm2d
    x = torch.randn(3, channels, 5, 6, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    expected, actual = plain(x), swapped(x)
    torch.testing.assert_close(actual, expected)
    direction = torch.randn_like(expected)
    gradients = (
        torch.autograd.grad(out, (x, *network.parameters()), direction)
        for out, network in ((actual, swapped), (expected, plain))
    )
    for own, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(own, wanted)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, GlobalBatchNorm2d])
def test_running_statistics_are_those_of_batch_norm(kind: type[nn.BatchNorm2d]) -> None:
    swapped, norm = _fast(_plain(8, 2)), nn.BatchNorm2d(8)
    swapped.norm.__class__ = kind
    norm.load_state_dict(swapped.norm.state_dict())
    for _ in range(2):
        x = 3 + 2 * torch.randn(4, 8, 5, 5)
        swapped(x)
        norm(x)
    for own, expected in zip(swapped.norm.buffers(), norm.buffers(), strict=True):
        torch.testing.assert_close(own, expected)
    before = [buffer.clone() for buffer in swapped.norm.buffers()]
    swapped.eval()(x)
    assert all(torch.equal(*pair) for pair in zip(swapped.norm.buffers(), before, strict=True))


@pytest.mark.parametrize("training", [True, False])
def test_gradient_holds_up_against_finite_differences(training: bool) -> None:
    swapped = _fast(_plain(8, 2)).double().train(training)
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(swapped, x)


def test_no_large_tensor_is_kept_but_the_input() -> None:
    swapped, x = _fast(_plain(16, 2)), torch.randn(2, 16, 32, 32, requires_grad=True)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        swapped(x)
    large = [tensor for tensor in kept if tensor.numel() >= x.numel() // 2]
    assert [tensor.data_ptr() for tensor in large] == [x.data_ptr()]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_goes_in_and_single_comes_out(dtype: torch.dtype) -> None:
    """As autocast has it: the parameters, and what they multiply, are float32."""
    swapped = _fast(_plain(16, 2))
    x = torch.randn(2, 16, 8, 8).to(dtype).requires_grad_()
    out = swapped(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, swapped(x.detach().float()))
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    assert gradient.dtype == dtype
    exact = x.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad(swapped(exact).square().sum(), exact)
    torch.testing.assert_close(gradient.float(), expected, rtol=0.01, atol=0.01)


def test_a_second_derivative_is_refused() -> None:
    swapped, x = _fast(_plain(4, 2)), torch.randn(2, 4, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(swapped(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
