"""Features that were computed before somebody stopped the work, so that a second call goes on from there."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ratlip_cli.errors import RatlipError
from ratlip_cli.evaluation.feature_file import feature_writer, kept_features
from ratlip_cli.files import whole_file

_UNFINISHED = ".unfinished"

_OUTDATED = 7 * 24 * 3600
"""Seconds after which what nobody went on with is removed."""


class Journal:
    """Features (n,d) of the first images by several networks, in whole files of a few images each.

    A file that does not hold, to the bit, what was written ends what is read. From the first that cannot be written
    on, nothing is kept: it is a help alone.

    Args:
        folder: for features that are kept until they are used.
        decisive: names all that decides the features.
        dimensions: d of each network.
        piece: images a file.
    """

    def __init__(self, folder: Path, decisive: str, dimensions: Sequence[int], piece: int) -> None:
        digest = hashlib.sha256(f"{decisive} {piece}".encode()).hexdigest()
        self._folder = folder / f"{digest[:16]}{_UNFINISHED}"
        self._digest = digest
        self._dimensions = dimensions
        self._piece = piece
        self._waiting: list[list[Tensor]] = []
        self._writes = True
        self.kept = 0
        """Images whose features are in the files."""
        _remove_outdated(folder)

    def read(self) -> Iterator[list[Tensor]]:
        """Yield the features that are kept, a tensor (piece,d) for each network, from the first image on."""
        self.kept = 0
        while (features := self._read(self.kept)) is not None:
            self.kept += self._piece
            yield features

    def add(self, features: list[Tensor]) -> None:
        """Keep the features of the next batch, which `piece` is a multiple of; the last, if smaller, is not kept."""
        self._waiting.append(features)
        if sum(len(batch[0]) for batch in self._waiting) < self._piece:
            return
        whole, self._waiting = [torch.cat(batches) for batches in zip(*self._waiting, strict=True)], []
        try:
            for network, rows in enumerate(whole if self._writes else []):
                with (
                    whole_file(self._path(network, self.kept), durable=False) as partial,
                    feature_writer(partial, len(rows), rows.shape[1], self._named(self.kept)) as write,
                ):
                    write(rows)
        except RatlipError:
            self._writes = False
        self.kept += self._piece if self._writes else 0

    def remove(self) -> None:
        """Forget everything: it has been used. A folder of which nothing is left goes too."""
        self.kept = 0
        shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._folder.parent.rmdir()

    def _read(self, start: int) -> list[Tensor] | None:
        pieces = []
        for network, dimensions in enumerate(self._dimensions):
            try:
                features = kept_features(self._path(network, start), self._piece, dimensions, self._named(start))
            except OSError:
                return None
            if features is None:
                return None
            pieces.append(torch.from_numpy(features[:]))
        return pieces

    def _path(self, network: int, start: int) -> Path:
        return self._folder / f"{network}-{start:07d}.npy"

    def _named(self, start: int) -> str:
        return f"{self._digest} {start}"


def _remove_outdated(folder: Path) -> None:
    for unfinished in folder.glob(f"*{_UNFINISHED}"):
        with contextlib.suppress(OSError):
            if time.time() - unfinished.stat().st_mtime > _OUTDATED:
                shutil.rmtree(unfinished, ignore_errors=True)
