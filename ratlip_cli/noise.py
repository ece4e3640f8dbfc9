"""Noise vectors without torch: those of `sampling.noise_vectors`, which are `torch.randn`'s on a CPU, to rounding."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_TOGETHER = 16
"""torch.randn makes so many numbers at a time of a tensor that has as many, and two at a time of a shorter one."""


def noise_vectors(seed: int, indices: Iterable[int], noise_dim: int) -> NDArray[np.float32]:
    """z (n,noise_dim) ~ N(0,I), one row an index; each row depends on `seed` and its index alone."""
    twister, rows = np.random.RandomState(), []
    for index in indices:
        state = np.random.SeedSequence([seed, index]).generate_state(2)
        twister.seed(((int(state[0]) << 31) ^ int(state[1])) % 2**32)  # torch's engine takes 32 bits of a seed
        rows.append(_randn(twister, noise_dim))
    return np.stack(rows)


def _randn(twister: np.random.RandomState, count: int) -> NDArray[np.float32]:
    """torch.randn(count) on a CPU, to rounding: the words of the Mersenne Twister by Box and Muller's formula."""

    def words(n: int) -> NDArray[np.uint32]:
        return np.frombuffer(twister.bytes(4 * n), "<u4")

    if count < _TOGETHER:
        high, low = words(4 * ((count + 1) // 2)).astype(np.uint64).reshape(-1, 2).T
        turn, length = _uniform(high << 32 | low, 53).reshape(-1, 2).T
        pairs: NDArray[np.float32] = _normal(-np.log1p(-length), turn).T.flatten()
        return pairs[:count]
    uniform = _uniform(words(count), 24)
    whole = count // _TOGETHER * _TOGETHER
    normal = np.empty(count, np.float32)
    normal[:whole] = _by_sixteen(uniform[:whole])
    if whole < count:  # the last sixteen once more, the first of which overlap
        normal[-_TOGETHER:] = _by_sixteen(_uniform(words(_TOGETHER), 24))
    return normal


def _uniform(words: NDArray[np.uint32] | NDArray[np.uint64], bits: int) -> NDArray[np.float64]:
    """The last `bits` of words as numbers in [0,1)."""
    uniform: NDArray[np.float64] = (words & (2**bits - 1)).astype(np.float64) / 2.0**bits
    return uniform


def _by_sixteen(uniform: NDArray[np.float64]) -> NDArray[np.float32]:
    """(16n,) in [0,1) -> (16n,), of every sixteen the first eight with the cosine and the others with the sine."""
    length, turn = uniform.reshape(-1, 2, _TOGETHER // 2).swapaxes(0, 1)
    normal: NDArray[np.float32] = _normal(-np.log(1 - length), turn).swapaxes(0, 1).flatten()
    return normal


def _normal(exponent: NDArray[np.float64], turn: NDArray[np.float64]) -> NDArray[np.float32]:
    """Two normal numbers each (2,...), of a number of the exponential distribution and of a part of the circle."""
    radius, angle = np.sqrt(2 * exponent), 2 * np.pi * turn
    normal: NDArray[np.float32] = np.stack((radius * np.cos(angle), radius * np.sin(angle))).astype(np.float32)
    return normal
