"""Captions that differ from others in one word, to learn from as hard negatives.

Which words can stand for which is read from the captions themselves: those that stand between the same two neighbours.
Not in the paper. Captions that differ in a word alone teach CLIP what its contrastive training leaves out
(Yuksekgonul et al. 2023, "When and why vision-language models behave like bags-of-words, and what to do about it?").
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

_WORD = re.compile(r"\w+")

_ENOUGH = 50_000
"""Captions that show which words stand where; looking at as many takes seconds."""

Neighbours: TypeAlias = tuple[str, str]
"""What stands before a word, from its neighbour on, and what stands behind it."""


class WordExchange:
    """Exchanges words of captions for others of the same captions.

    Args:
        captions: where words are looked up, and between which neighbours they stand; of many, some from all of them.
    """

    def __init__(self, captions: Sequence[str]) -> None:
        found: defaultdict[Neighbours, set[str]] = defaultdict(set)
        for caption in {caption.lower() for caption in captions[:: max(1, len(captions) // _ENOUGH)]}:
            for start, end, neighbours in _places(caption):
                found[neighbours].add(caption[start:end])
        self._words = {neighbours: sorted(words) for neighbours, words in found.items() if len(words) > 1}

    def exchanged(self, caption: str, chances: Iterable[Sequence[float]]) -> list[str]:
        """The caption in lower case, with one of its words exchanged, once for each chance; as it is where none can be.

        Args:
            caption: what to exchange words of.
            chances: two numbers in [0,1) each: which of the words that can be exchanged, and which of the others that
                stand between the same neighbours elsewhere takes its place.
        """
        caption = caption.lower()
        choices = []
        for start, end, neighbours in _places(caption):
            if others := [word for word in self._words.get(neighbours, ()) if word != caption[start:end]]:
                choices.append((caption[:start], others, caption[end:]))
        if not choices:
            return [caption for _ in chances]
        found = []
        for place, word in chances:
            before, others, after = choices[int(place * len(choices))]
            found.append(before + others[int(word * len(others))] + after)
        return found


def _places(caption: str) -> Iterator[tuple[int, int, Neighbours]]:
    """Where the words of a caption begin and end, and their neighbours."""
    spans = [match.span() for match in _WORD.finditer(caption)]
    starts, ends = [0, *(start for start, _ in spans)], [*(end for _, end in spans), len(caption)]
    for number, (start, end) in enumerate(spans):
        yield start, end, (caption[starts[number] : start], caption[end : ends[number + 1]])
