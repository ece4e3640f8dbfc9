"""Label maps as text, small enough to stand in an image's row of metadata.jsonl."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ratlip_cli.errors import DataError

LARGEST_SIDE = 4096
"""No label map is wider or higher than this; a row that says so is damaged."""


def encode_segments(labels: NDArray[np.uint8], names: Sequence[str]) -> dict[str, list[int] | list[str] | str]:
    """A label map (H,W) and the names of its labels 1, 2, ... as JSON: sizes, names, and the runs of equal labels.

    `runs` is base64 of deflated bytes, a pair (label, length 1...255) a run, row after row.
    """
    flat = labels.ravel()
    starts = np.concatenate(([0], np.flatnonzero(np.diff(flat)) + 1))
    lengths = np.diff(np.append(starts, flat.size))
    pieces = -(-lengths // 255)
    values = np.repeat(flat[starts], pieces)
    counts = np.full(values.size, 255, dtype=np.uint8)
    counts[np.cumsum(pieces) - 1] = lengths - 255 * (pieces - 1)
    packed = zlib.compress(np.stack((values, counts), axis=1).tobytes(), 6)
    return {"size": list(labels.shape), "names": list(names), "runs": base64.b64encode(packed).decode("ascii")}


def decode_segments(encoded: Mapping[str, object]) -> dict[str, NDArray[np.bool_]]:
    """Segment name -> mask (H,W), from what `encode_segments` made. Raises DataError where it is damaged."""
    size, names, runs = encoded.get("size"), encoded.get("names"), encoded.get("runs")
    if not (isinstance(size, Sequence) and isinstance(names, Sequence) and isinstance(runs, str)):
        raise _damaged("it needs size, names and runs")
    if len(size) != 2 or not all(isinstance(side, int) and 0 < side <= LARGEST_SIDE for side in size):
        raise _damaged(f"its size is {size}")
    height, width = size
    try:
        unpacked = zlib.decompressobj().decompress(base64.b64decode(runs, validate=True), 2 * height * width + 1)
    except (ValueError, zlib.error) as error:
        raise _damaged(str(error)) from error
    pairs = np.frombuffer(unpacked[: len(unpacked) // 2 * 2], dtype=np.uint8).reshape(-1, 2)
    if int(pairs[:, 1].sum(dtype=np.int64)) != height * width:
        raise _damaged("its runs do not fill its size")
    labels = np.repeat(pairs[:, 0], pairs[:, 1]).reshape(height, width)
    return {str(name): labels == number for number, name in enumerate(names, start=1)}


def _damaged(reason: str) -> DataError:
    return DataError(f"an image's segments cannot be read: {reason}. Prepare the dataset again.")
