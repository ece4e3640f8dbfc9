"""What a file is by its first bytes, whatever its name says, and what tensors are kept with. Imports no torch."""

from __future__ import annotations

import zipfile
from enum import Enum
from pathlib import Path


class TensorFile(Enum):
    """Files that hold tensors."""

    SAFETENSORS = "a safetensors file"
    TORCH = "a PyTorch file"  # What torch.save writes, as a zip archive or, before PyTorch 1.6, as pickles.
    TORCHSCRIPT = "a TorchScript archive"


_PICKLE = b"\x80"  # Of protocol 2 or newer.
_STARTS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull` in its repository"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"BZh", "a bzip2 archive: unpack it"),
    (b"\xfd7zXZ", "an xz archive: unpack it"),
    (b"(\xb5/\xfd", "a zstandard archive: unpack it"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"Rar!", "a rar archive: unpack it"),
    (b"\x89HDF", "an HDF5 file, of Keras for instance, which ratlip does not read"),
    (b"GGUF", "a GGUF file, which ratlip does not read"),
    (b"\x93NUMPY", "a NumPy file, which ratlip does not read"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"%PDF", "a PDF document"),
)
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body", b"<!--")


def tensor_file(path: Path) -> TensorFile | None:
    """Which of the files that hold tensors this is; None for anything else. Raises OSError where it cannot be read."""
    start = _start(path)
    if start[4:9] == b"\0\0\0\0{":  # first: the bytes before are the length of a header, and can be any
        return TensorFile.SAFETENSORS
    if start.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = {name.partition("/")[2] for name in archive.namelist()}
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            return TensorFile.TORCH if b"data.pkl" in start else None  # cut short
        if "data.pkl" not in names:
            return None
        return TensorFile.TORCHSCRIPT if "constants.pkl" in names else TensorFile.TORCH
    return TensorFile.TORCH if start.startswith(_PICKLE) else None


def other_file(path: Path) -> str | None:
    """What a file that holds no tensors is, and what to do about it; None for one of unknown kind."""
    start = _start(path)
    if not start.strip(b"\0"):
        return "an empty file: get it again" if not start else "a file of zeros, never written to its end: get it again"
    if start.startswith(b"PK"):
        return "a zip archive: unpack it"
    if start[257:262] == b"ustar":
        return "a tar archive: unpack it"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return "a web page, not the file itself: download the file that the page offers"
    return next((kind for first, kind in _STARTS if start.startswith(first)), None)


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def tensor_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without its tensors; empty where it has none or cannot be read."""
    from safetensors import SafetensorError, safe_open  # imports numpy

    try:
        with safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}
