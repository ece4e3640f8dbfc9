"""CLIP's byte-pair encoding (Radford et al. 2021) on the standard library and numpy.

It gives the ids of open_clip's tokenizer, but for texts with encoding accidents, which that one repairs with ftfy.
"""

from __future__ import annotations

import html
import itertools
import re
import sys
import unicodedata
from pathlib import Path

import numpy as np

_NUMBERS = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) in ("Nl", "No"))
_WORD = re.compile(rf"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_{_NUMBERS}]+|[\d{_NUMBERS}]|(?:[^\w\s]|_)+", re.IGNORECASE)
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_HIDDEN = [byte for byte in range(256) if byte not in _PRINTABLE]
_LETTERS = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + place) for place, byte in enumerate(_HIDDEN)}
END = "</w>"


class Tokenizer:
    """Prompts to token ids.

    Args:
        merges: a text file with one merge of two pieces a line, the most frequent first.
        context_length: tokens of a prompt, start and end included; longer ones are cut.
    """

    def __init__(self, merges: Path, context_length: int) -> None:
        pairs = [tuple(line.split(" ")) for line in merges.read_text(encoding="utf-8").splitlines()]
        letters = list(_LETTERS.values())
        tokens = [*letters, *(letter + END for letter in letters), *("".join(pair) for pair in pairs)]
        self.ids = {token: number for number, token in enumerate(tokens)}
        self.ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self.start, self.end = len(tokens), len(tokens) + 1
        self.context_length = context_length
        self._known: dict[str, tuple[str, ...]] = {}

    def __call__(self, prompts: list[str]) -> np.ndarray:
        """Token ids (B,context_length), int64, filled up with zeros."""
        batch = np.zeros((len(prompts), self.context_length), dtype=np.int64)
        for row, prompt in zip(batch, prompts, strict=True):
            text = " ".join(html.unescape(html.unescape(prompt)).split()).lower()
            ids = [self.ids[token] for word in _WORD.findall(text) for token in self._tokens(word)]
            ids = [self.start, *ids[: self.context_length - 2], self.end]
            row[: len(ids)] = ids
        return batch

    def _tokens(self, word: str) -> tuple[str, ...]:
        """A word as tokens: its bytes, joined pair by pair in the order of the merges."""
        if word not in self._known:
            tokens = [_LETTERS[byte] for byte in word.encode()]
            tokens[-1] += END
            while len(tokens) > 1:
                best = min(itertools.pairwise(tokens), key=lambda pair: self.ranks.get(pair, len(self.ranks)))
                if best not in self.ranks:
                    break
                joined: list[str] = []
                for token in tokens:
                    if joined and (joined[-1], token) == best:
                        joined[-1] += token
                    else:
                        joined.append(token)
                tokens = joined
            self._known[word] = tuple(tokens)
        return self._known[word]
