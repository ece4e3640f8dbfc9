"""The text encoder of DAMSM (Xu et al. 2018, AttnGAN), frozen, with its vocabulary.

Published AttnGAN, DF-GAN and RAT-GAN read captions by it. It was trained beside an image encoder on the captions of one
dataset and knows their words alone. Its tensors keep their published names. `damsm_files.py` reads and writes it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ratlip_cli.errors import UsageError
from ratlip_cli.tensor_files import fingerprint

END = "<end>"
"""Word 0 of every vocabulary: it stands in no caption, only behind its end."""

CONTEXT = 64
"""Words of a caption that are read, far above what captions of images have."""

_NAMED = 5  # Unknown words that a message lists.

logger = logging.getLogger(__name__)


def words_of(caption: str) -> list[str]:
    """The words of a caption, as they were counted when the vocabularies were made: "bird's" is "bird" and "s"."""
    found = re.findall(r"\w+", caption.replace("\ufffd\ufffd", " ").lower())
    return [word for word in (word.encode("ascii", "ignore").decode() for word in found) if word]


class DamsmTextEncoder(nn.Module):
    """A bidirectional LSTM over words, never trained here.

    Args:
        vocabulary: the words by their numbers; the first is `END`.
        width: numbers of a text vector, half from each direction.
        embedding: numbers of a word's embedding.
    """

    def __init__(self, vocabulary: Sequence[str], width: int = 256, embedding: int = 300) -> None:
        super().__init__()
        self.vocabulary = tuple(vocabulary)
        self.width = width
        self.encoder = nn.Embedding(len(self.vocabulary), embedding)
        self.rnn = nn.LSTM(embedding, width // 2, batch_first=True, bidirectional=True)
        self.eval().requires_grad_(False)
        self._numbers = {word: number for number, word in enumerate(self.vocabulary) if number > 0}
        self._told: set[str] = set()

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over the weights and the vocabulary."""
        return fingerprint(self.state_dict(), {"vocabulary": self.vocabulary})

    @property
    def context_length(self) -> int:
        """Words of a caption that are read; longer ones are cut."""
        return CONTEXT

    def known_words(self) -> list[str]:
        """The words that it reads, sorted."""
        return sorted(self._numbers)

    def unknown_words(self, caption: str) -> list[str]:
        """The words of a caption, each once, that the vocabulary lacks. `tokenizer` does not name them again."""
        unknown = list(dict.fromkeys(word for word in words_of(caption) if word not in self._numbers))
        self._told.update(unknown)
        return unknown

    def train(self, mode: bool = True) -> DamsmTextEncoder:
        """Stays in eval mode, whatever is asked of the module that holds it."""
        return super().train(False)

    def is_overlong(self, caption: str) -> bool:
        """Whether a caption has more known words than are read, so that its end is cut."""
        return bool(self.overlong([caption]))

    def overlong(self, captions: Sequence[str]) -> list[int]:
        """Which of the captions have more known words than are read."""
        known = (sum(word in self._numbers for word in words_of(caption)) for caption in captions)
        return [number for number, count in enumerate(known) if count > CONTEXT]

    def tokenizer(self, captions: Sequence[str]) -> Tensor:
        """The numbers (B,CONTEXT) of the captions' words, int64, 0 behind a caption's end.

        Words that the vocabulary lacks are left out, with a note that names them the first time. Raises UsageError for
        a caption of which no word is left.
        """
        tokens = torch.zeros(len(captions), CONTEXT, dtype=torch.long)
        unknown: dict[str, None] = {}  # a set in order
        for row, caption in zip(tokens, captions, strict=True):
            words = words_of(caption)
            unknown |= dict.fromkeys(word for word in words if word not in self._numbers)
            numbers = [self._numbers[word] for word in words if word in self._numbers][:CONTEXT]
            if not numbers:
                raise UsageError(
                    f"{caption!a:.80} has no word that the model's text encoder knows; it knows "
                    f"{len(self._numbers):,}, such as {', '.join(self.vocabulary[1:4])}: see vocabulary.json."
                )
            row[: len(numbers)] = torch.tensor(numbers)
        if new := [word for word in unknown if word not in self._told]:
            self._told.update(new)
            more = f" and {len(new) - _NAMED:,} more" if len(new) > _NAMED else ""
            logger.warning(
                "the model's text encoder does not know, and leaves out: %s%s", ", ".join(new[:_NAMED]), more
            )
        return tokens

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str]) -> Tensor:
        """Text vectors (B,width) of captions, float32. Raises UsageError like `tokenizer`."""
        return self.encode_words(self.tokenizer(captions))[1]

    @torch.no_grad()
    def encode_words(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Words (B,L,width), zero behind a caption's end, and text vectors (B,width) from `tokenizer`'s (B,L).

        A caption's do not depend on the others of the batch, nor on how many zeros are behind it.
        """
        lengths = (tokens != 0).sum(dim=1).cpu()
        embedded = self.encoder(tokens.to(self.encoder.weight.device))  # (B,L,embedding)
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        hidden, (last, _) = self.rnn(packed)  # last: (2,B,width/2), of the last word forward, of the first backward
        words, _ = pad_packed_sequence(hidden, batch_first=True, total_length=tokens.shape[1])
        return words, last.transpose(0, 1).flatten(1)
