"""Xet storage (https://huggingface.co/docs/xet) on this machine: as much of it as the real hf_xet needs.

Only chunks that are stored as they are, which random bytes come in, can be put together again.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field

_ENTRY = 48
_END = b"\xff" * 32
_WITH_VERIFICATION, _WITH_SHA256 = 1 << 31, 1 << 30


@dataclass
class Term:
    """A range of chunks of a xorb, and how many bytes they are."""

    xorb: str
    length: int
    start: int
    end: int


@dataclass
class XetStorage:
    """Xorbs as they were uploaded, and files as terms."""

    xorbs: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, list[Term]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    """From a file's SHA-256 to its Xet hash."""

    def add_shard(self, shard: bytes) -> list[bytes]:
        """Register the files of an uploaded shard, and return their contents."""
        contents, position = [], _ENTRY
        while shard[position : position + 32] != _END:
            file_hash = _as_text(shard[position : position + 32])
            flags, count = struct.unpack_from("<II", shard, position + 32)
            position += _ENTRY
            terms = []
            for place in range(position, position + count * _ENTRY, _ENTRY):
                _, length, start, end = struct.unpack_from("<IIII", shard, place + 32)
                terms.append(Term(_as_text(shard[place : place + 32]), length, start, end))
            position += count * _ENTRY * (2 if flags & _WITH_VERIFICATION else 1)
            position += _ENTRY if flags & _WITH_SHA256 else 0
            content = b"".join(self._chunk(term.xorb, index) for term in terms for index in range(term.start, term.end))
            self.files[file_hash] = terms
            self.hashes[hashlib.sha256(content).hexdigest()] = file_hash
            contents.append(content)
        return contents

    def reconstruction(self, file_hash: str, address: str) -> dict[str, object]:
        """What the download of a whole file is told: its terms, and where their bytes are."""
        terms = self.files[file_hash]
        where: dict[str, list[dict[str, object]]] = {}
        for term in terms:
            offsets = self._offsets(term.xorb)
            chunks = {"start": term.start, "end": term.end}
            span = {"start": offsets[term.start], "end": offsets[term.end] - 1}
            where.setdefault(term.xorb, []).append(
                {"range": chunks, "url": f"{address}/xorb/{term.xorb}", "url_range": span}
            )
        told = [
            {"hash": term.xorb, "unpacked_length": term.length, "range": {"start": term.start, "end": term.end}}
            for term in terms
        ]
        return {"offset_into_first_range": 0, "terms": told, "fetch_info": where}

    def _offsets(self, xorb: str) -> list[int]:
        """Where each chunk begins, with its header, and where the last one ends."""
        content, offsets = self.xorbs[xorb], [0]
        last = max(term.end for terms in self.files.values() for term in terms if term.xorb == xorb)
        while len(offsets) <= last:
            offsets.append(offsets[-1] + 8 + int.from_bytes(content[offsets[-1] + 1 : offsets[-1] + 4], "little"))
        return offsets

    def _chunk(self, xorb: str, index: int) -> bytes:
        content, start = self.xorbs[xorb], 0
        for _ in range(index):
            start += 8 + int.from_bytes(content[start + 1 : start + 4], "little")
        assert content[start + 4] == 0, "a compressed chunk"
        return content[start + 8 : start + 8 + int.from_bytes(content[start + 1 : start + 4], "little")]


def _as_text(digest: bytes) -> str:
    """A hash as paths have it: four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", digest))
