"""Products and convolutions by oneDNN called directly: the same functions as PyTorch's own, or PyTorch's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ratlip_cli.fast.onednn import FixedLinear, PackedConv, fixed_linear, is_usable
from ratlip_cli.training.benchmark import _FlopCounter

SHAPES = [(3, 5, 7), (2, 1, 4), (6, 8)]


class _Called(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The names of the operators that were called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def _fixed(linear: nn.Linear) -> FixedLinear:
    """The same layer with the swap."""
    fixed = copy.copy(linear)
    fixed.__class__ = FixedLinear
    return fixed


def _linear(in_features: int, out_features: int = 9, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(in_features, out_features, bias).requires_grad_(False)


def test_is_used_where_pytorch_has_onednn() -> None:
    assert is_usable() is torch.backends.mkldnn.is_available()


@pytest.mark.parametrize("name", ["_linear_pointwise", "_convolution_pointwise", "_reorder_convolution_weight"])
@pytest.mark.parametrize("error", [AttributeError, TypeError, RuntimeError])
def test_operators_that_changed_are_not_used(
    name: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(*arguments: object) -> Tensor:
        raise error("other arguments")

    monkeypatch.setattr(torch.ops.mkldnn, name, changed, raising=False)
    assert not is_usable.__wrapped__()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_is_pytorchs_with_derivatives_of_both_orders(shape: tuple[int, ...], bias: bool) -> None:
    linear = _linear(shape[-1], bias=bias)
    found = []
    for product in (_fixed(linear), linear):
        x = torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape).requires_grad_()
        out = product(x)
        first = torch.autograd.grad(out.pow(3).sum(), x, create_graph=True)[0]
        found.append((out, first, torch.autograd.grad(first.square().sum(), x)[0]))
    for own, expected in zip(*found, strict=True):
        torch.testing.assert_close(own, expected)


def test_a_product_takes_any_layout() -> None:
    linear = _linear(6)
    x = torch.randn(5, 6, 4)
    for tensor in (x.transpose(1, 2), x[::2, :, 1], torch.randn(6).expand(3, 2, 6), x[:0, :, 0]):
        tensor = tensor.detach().requires_grad_()
        out = fixed_linear(tensor, linear.weight, linear.bias)
        torch.testing.assert_close(out, linear(tensor))
        gradients = torch.autograd.grad(out.sum(), tensor)  # one value, expanded
        torch.testing.assert_close(gradients, torch.autograd.grad(linear(tensor).sum(), tensor))


def test_a_product_does_not_depend_on_the_rows_beside_it() -> None:
    linear = _fixed(_linear(128, 384))
    x = torch.randn(6, 51, 128)
    together = linear(x)
    for count in (1, 2, 5):
        assert torch.equal(linear(x[:count]), together[:count])


def test_weights_are_those_of_the_layer_it_replaces() -> None:
    linear = _linear(4)
    fixed = _fixed(linear)
    assert fixed.weight is linear.weight
    assert fixed.bias is linear.bias
    assert fixed.state_dict().keys() == linear.state_dict().keys()


def test_pytorch_chooses_under_autocast_and_for_other_types() -> None:
    fixed = _fixed(_linear(4))
    with torch.autocast("cpu", torch.bfloat16):
        assert fixed(torch.randn(2, 4)).dtype is torch.bfloat16
    with _Called() as called:
        assert fixed.double()(torch.randn(2, 4, dtype=torch.float64)).dtype is torch.float64
        assert fixed.to("meta")(torch.empty(2, 4, device="meta")).device.type == "meta"
    assert not any(name.startswith("mkldnn") for name in called.names)


@pytest.mark.skipif(not is_usable(), reason="this PyTorch has no oneDNN")
def test_arithmetic_is_counted() -> None:
    """The operator that PyTorch has no formula for, too."""
    linear, x = _linear(7), torch.randn(3, 5, 7, requires_grad=True)
    counts = []
    for product in (_fixed(linear), linear):
        with _FlopCounter() as counter:
            product(x).sum().backward()
        counts.append(counter.flops)
    with _Called() as called:
        _fixed(linear)(x)
    assert "mkldnn::_linear_pointwise" in called.names
    assert counts[0] == counts[1] == 2 * 2 * 3 * 5 * 7 * 9


@pytest.mark.skipif(not is_usable(), reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("met", [6, 9])
def test_a_packed_convolution_is_pytorchs(kernel: int, met: int) -> None:
    """Packed for 6 pixels a side, it takes other sizes too, and enlarges."""
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 4, kernel, padding=kernel // 2).requires_grad_(False)
    packed = PackedConv(conv.weight, conv.bias, 6)
    x = torch.randn(2, 5, met, met)
    torch.testing.assert_close(packed(x), conv(x))
    torch.testing.assert_close(packed(x, 9), conv(F.interpolate(x, size=(9, 9))))


@pytest.mark.skipif(not is_usable(), reason="this PyTorch has no oneDNN")
def test_a_packed_transposed_convolution_is_pytorchs() -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(5, 4, 4, 4), torch.randn(4), torch.randn(2, 5, 6, 6)
    expected = F.conv_transpose2d(x, weight, bias, stride=2, padding=1)
    torch.testing.assert_close(PackedConv(weight, bias, 6, doubles=True)(x, 12), expected)
