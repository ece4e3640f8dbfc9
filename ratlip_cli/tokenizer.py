"""CLIP's byte-pair encoding (Radford et al. 2021) on the standard library and numpy.

It gives the ids of open_clip's tokenizer of texts that are `without_accidents`.
"""

from __future__ import annotations

import html
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

_SPECIAL = ("<start_of_text>", "<end_of_text>")
# U+0345, a mark whose lower case is a letter, is to CLIP's pattern neither a letter nor another sign: passed over.
_RUN = re.compile(rf"{'|'.join(_SPECIAL)}|'s|'t|'re|'ve|'m|'ll|'d|[^\W_]+|(?:[^\w\s\u0345]|_)+", re.IGNORECASE)
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_HIDDEN = [byte for byte in range(256) if byte not in _PRINTABLE]
_LETTERS = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + place) for place, byte in enumerate(_HIDDEN)}
END = "</w>"


class Tokenizer:
    """Prompts to token ids.

    Args:
        merges: lines with a merge of two pieces each, the most frequent first.
        context_length: tokens of a prompt, start and end included; longer ones are cut.
    """

    def __init__(self, merges: Iterable[str], context_length: int) -> None:
        pairs = list(merges)
        letters = list(_LETTERS.values())
        tokens = [
            *letters,
            *(letter + END for letter in letters),
            *(pair.replace(" ", "") for pair in pairs),
            *_SPECIAL,
        ]
        self.ids = {token: number for number, token in enumerate(tokens)}
        self.ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self.start, self.end = (self.ids[token] for token in _SPECIAL)
        self.context_length = context_length
        self._known: dict[str, tuple[str, ...]] = {token: (token,) for token in _SPECIAL}

    def __call__(self, prompts: Sequence[str], context_length: int | None = None) -> np.ndarray:
        """Token ids (B,context_length), int64, filled up with zeros."""
        length = context_length or self.context_length
        batch = np.zeros((len(prompts), length), dtype=np.int64)
        for row, prompt in zip(batch, prompts, strict=True):
            ids = [number for _, numbers in self.words(prompt) for number in numbers]
            ids = [self.start, *ids[: length - 2], self.end]
            row[: len(ids)] = ids
        return batch

    def words(self, prompt: str) -> Iterator[tuple[str, list[int]]]:
        """The words of a prompt, in lower case and in their order, and the token ids of each."""
        text = " ".join(html.unescape(html.unescape(prompt)).split()).lower()
        for word in _words(text):
            yield word, [self.ids[token] for token in self._tokens(word)]

    def token(self, number: int) -> str:
        """The token of an id; that of a word's end ends in END."""
        return next(token for token, own in self.ids.items() if own == number)

    def _rank(self, pair: tuple[str, str]) -> int:
        """How frequent a merge is, the most frequent 0; behind all of them where it is none."""
        return self.ranks.get(" ".join(pair), len(self.ranks))

    def _tokens(self, word: str) -> tuple[str, ...]:
        """A word as tokens: its bytes, joined pair by pair in the order of the merges."""
        if word not in self._known:
            tokens = [_LETTERS[byte] for byte in word.encode()]
            tokens[-1] += END
            while len(tokens) > 1:
                best = min(itertools.pairwise(tokens), key=self._rank)
                if self._rank(best) == len(self.ranks):
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


def without_accidents(text: str) -> str:
    """A text as CLIP's tokenizer takes it: accidents of encoding, which plain ASCII cannot have, are repaired."""
    if text.isascii() and text.isprintable() and "&" not in text:
        return text  # without the time that importing ftfy takes
    import ftfy

    return ftfy.fix_text(text)


def unknown_words(words: Iterable[tuple[str, list[int]]], vocabulary: Iterable[int]) -> list[str]:
    """Those words of a prompt, from `Tokenizer.words`, each once, that have token ids outside of a vocabulary."""
    known = {*vocabulary}
    are_known = {word: known.issuperset(numbers) for word, numbers in words}
    return [word for word, is_known in are_known.items() if not is_known and any(map(str.isalnum, word))]


def _words(text: str) -> Iterator[str]:
    """Contractions, runs of letters, single numbers of any kind, and runs of other signs."""
    for run in _RUN.findall(text):
        if run.isalpha() or not run.isalnum():
            yield run
            continue
        for is_number, group in itertools.groupby(run, lambda sign: unicodedata.category(sign).startswith("N")):
            signs = "".join(group)
            yield from signs if is_number else (signs,)
