"""Features of many images on disk, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

CHUNK = 512
"""Rows in memory at a time."""


class FeatureFile:
    """Features (n,d), float32, in a file of NumPy's .npy format.

    Args:
        path: what a FeatureWriter wrote.

    Raises ValueError where it is anything else or was cut short.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        features = self._mapped()
        if features.ndim != 2 or features.dtype != np.float32:
            raise ValueError(f"{path} does not hold features")
        self._count: int
        self.dimensions: int
        self._count, self.dimensions = features.shape

    def __len__(self) -> int:
        """Number of images."""
        return self._count

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """The features (k,d) of some images, read from the disk at this moment."""
        return np.array(self._mapped()[rows])

    def chunks(self) -> Iterator[slice]:
        """The rows in pieces of CHUNK."""
        for start in range(0, self._count, CHUNK):
            yield slice(start, min(start + CHUNK, self._count))

    def _mapped(self) -> NDArray[np.float32]:
        """A view of the file. It is not kept: pages that were read count as memory for as long as it lives."""
        mapped: NDArray[np.float32] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return mapped


class FeatureWriter:
    """Writes features (n,d) a batch at a time. A context manager.

    Args:
        path: the file to write.
        count, dimensions: n and d.
    """

    def __init__(self, path: Path, count: int, dimensions: int) -> None:
        self.path = path
        self._shape = (count, dimensions)
        self._file: Any = None

    def __enter__(self) -> FeatureWriter:
        self._file = self.path.open("wb")
        header = {"descr": "<f4", "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        return self

    def append(self, features: Tensor) -> None:
        """Write the features (B,d) of the next B images."""
        self._file.write(features.cpu().numpy().astype("<f4").tobytes())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
