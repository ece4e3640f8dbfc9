"""Features of many images on disk, so that memory does not grow with their number."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ratlip_cli.files import writing

CHUNK = 512
"""Rows in memory at a time."""


class FeatureFile:
    """Features (n,d), float32, in a file of NumPy's .npy format.

    Args:
        path: what a `feature_writer` wrote.

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
        """The rows, CHUNK at a time."""
        for start in range(0, self._count, CHUNK):
            yield slice(start, min(start + CHUNK, self._count))

    def _mapped(self) -> NDArray[np.float32]:
        """A view of the file. It is not kept: pages that were read count as memory for as long as it lives."""
        mapped: NDArray[np.float32] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return mapped


def kept_features(path: Path, count: int, dimensions: int, decisive: str) -> FeatureFile | None:
    """The features in `path` where it is, to the bit, what a `feature_writer` of these arguments wrote; else None.

    Raises OSError where it cannot be read.
    """
    header, digest, finite = _header(count, dimensions), hashlib.sha256(decisive.encode()), True
    row, end = 4 * dimensions, hashlib.sha256().digest_size
    if path.stat().st_size != len(header) + count * row + end:
        return None
    with path.open("rb") as file:
        if file.read(len(header)) != header:
            return None
        digest.update(header)
        for start in range(0, count, CHUNK):
            content = file.read(min(CHUNK, count - start) * row)
            digest.update(content)
            finite &= bool(np.isfinite(np.frombuffer(content, "<f4")).all())
        return FeatureFile(path) if finite and file.read() == digest.digest() else None


@contextmanager
def feature_writer(path: Path, count: int, dimensions: int, decisive: str = "") -> Iterator[Callable[[Tensor], None]]:
    """Write features (n,d) to `path`, a batch at a time: yields what takes the features (B,d) of the next B images.

    Behind them comes a SHA-256 of `decisive` and of all that stands before it, by which `kept_features` knows them.

    Args:
        count, dimensions: n and d.
        decisive: names all that decides the features.
    """
    remedy = "Free some space; TMPDIR names another folder for temporary files"
    digest = hashlib.sha256(decisive.encode())
    with path.open("wb", buffering=0) as file:  # without a buffer, what does not fit is told where it is written

        def write(content: bytes) -> None:
            digest.update(content)
            left = memoryview(content)
            with writing(path, remedy):
                while left:
                    left = left[file.write(left) :]

        write(_header(count, dimensions))
        yield lambda features: write(features.cpu().numpy().astype("<f4").tobytes())
        write(digest.digest())


def _header(count: int, dimensions: int) -> bytes:
    header = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": (count, dimensions)}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()
