"""CLIP's own tokenizer, with the merges that come with open_clip and without the time that importing it takes."""

from __future__ import annotations

import functools
import gzip
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ratlip_cli.errors import WeightsError
from ratlip_cli.tokenizer import Tokenizer, without_accidents

DEFAULT_CONTEXT = 77
"""Tokens of a caption that OpenAI's CLIPs read, start and end included."""
_MERGES, _MERGES_FILE = 48_894, "bpe_simple_vocab_16e6.txt.gz"


class CLIPTokenizer:
    """Captions to token ids, the same ones as open_clip's."""

    def __init__(self, context_length: int = DEFAULT_CONTEXT) -> None:
        self.context_length = context_length

    def __call__(self, captions: Sequence[str], context_length: int | None = None) -> Tensor:
        """Token ids (B,context_length), filled up with zeros; longer captions are cut."""
        repaired = [without_accidents(caption) for caption in captions]
        return torch.from_numpy(_tokenizer()(repaired, context_length or self.context_length))

    def words(self, caption: str) -> Iterator[tuple[str, list[int]]]:
        """The words of a caption, in lower case and in their order, and the token ids of each."""
        return _tokenizer().words(without_accidents(caption))

    def token(self, number: int) -> str:
        """The token of an id; that of a word's end ends in `tokenizer.END`."""
        return _tokenizer().token(number)


@functools.cache
def merges() -> tuple[str, ...]:
    """The merges of CLIP's byte-pair encoding, each as a line of two pieces, the most frequent first."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        raise WeightsError("the package open_clip_torch is missing; install ratlip again.")
    with gzip.open(Path(package.origin).with_name(_MERGES_FILE), "rt", encoding="utf-8") as file:
        return tuple(file.read().split("\n", _MERGES + 1)[1:-1])


@functools.cache
def _tokenizer() -> Tokenizer:
    return Tokenizer(merges(), DEFAULT_CONTEXT)
