"""Affines and LeakyReLUs in one (Fig. 2): values, a gradient that keeps two tensors, and the chunks a CPU works in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ratlip_cli.fast import chunks
from ratlip_cli.fast.affines import fused


def _inputs(affines: int = 2, dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(0)
    c = torch.randn(3, 4, 5, 6, dtype=dtype, requires_grad=True)
    return c, [torch.randn(3, 4, 1, 1, dtype=dtype, requires_grad=True) for _ in range(2 * affines)]


def _plain(c: Tensor, vectors: list[Tensor]) -> Tensor:
    for gamma, beta in zip(vectors[::2], vectors[1::2], strict=True):
        c = F.leaky_relu(gamma * c + beta, 0.2)
    return c


@pytest.mark.parametrize("cache_bytes", [1, chunks.CACHE_BYTES])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("affines", [1, 2, 3])
def test_values_and_gradients_are_the_plain_ones(
    affines: int, layout: torch.memory_format, cache_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CACHE_BYTES", cache_bytes)
    c, vectors = _inputs(affines)
    actual, expected = fused(c.contiguous(memory_format=layout), vectors), _plain(c, vectors)
    torch.testing.assert_close(actual, expected)
    direction = torch.randn_like(expected)
    gradients = (torch.autograd.grad(out, (c, *vectors), direction) for out in (actual, expected))
    for own, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(own, plain)


def test_no_large_tensor_is_kept_but_input_and_output() -> None:
    c, vectors = _inputs()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = fused(c, vectors)
    large = {tensor.data_ptr() for tensor in kept if tensor.numel() == c.numel()}
    assert large == {c.data_ptr(), out.data_ptr()}


def test_half_precision_vectors_of_a_single_precision_feature() -> None:
    """As autocast has it after shuffle attention."""
    c, vectors = _inputs(dtype=torch.float32)
    halves = [vector.detach().bfloat16().requires_grad_() for vector in vectors]
    out = fused(c, halves)
    assert out.dtype == torch.float32
    expected = _plain(c, [half.detach().float().requires_grad_() for half in halves])
    torch.testing.assert_close(out, expected)
    gradients = torch.autograd.grad(out.sum(), (c, *halves))
    assert [gradient.dtype for gradient in gradients] == [torch.float32, *[torch.bfloat16] * 4]


def test_a_second_derivative_is_refused() -> None:
    c, vectors = _inputs()
    (gradient,) = torch.autograd.grad(fused(c, vectors).square().sum(), c, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("shape", "samples"),
    [
        ((1, 3, 4, 4), [1]),
        ((7, 3, 4, 4), [7]),
        ((24, 16, 64, 64), [16, 8]),
        ((3, 64, 256, 256), [1, 1, 1]),
        ((0, 3, 4, 4), []),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_are_the_batch_and_fit_the_cache(shape: tuple[int, ...], samples: list[int], dtype: torch.dtype) -> None:
    """Four tensors of a chunk, in float32 at least."""
    numbers, x = torch.arange(shape[0]), torch.empty(shape, dtype=dtype)
    taken = [numbers[chunk] for chunk in chunks.chunks(x)]
    assert [len(chunk) for chunk in taken] == samples
    assert [number for chunk in taken for number in chunk.tolist()] == numbers.tolist()


def test_another_device_takes_a_batch_whole() -> None:
    assert chunks.chunks(torch.empty(64, 16, 64, 64, device="meta")) == [slice(None)]
