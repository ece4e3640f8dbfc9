"""Words and phrases of a prompt, and the prompt without them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ratlip_cli.errors import UsageError, unknown_name

_FUNCTION_WORD = re.compile(
    "a|an|the|this|that|these|those|and|or|but|with|without|of|in|on|at|to|for|from|by|as|into|its|it|his|her|their|"
    "he|she|they|is|are|was|were|be|been|has|have|had|who|which|whose|there",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(frozen=True)
class Phrase:
    """A stretch of a prompt."""

    text: str
    start: int
    end: int


def words(prompt: str) -> list[Phrase]:
    """Every word of `prompt` that is not a function word, in its order."""
    every_word = (Phrase(match[0], *match.span()) for match in _WORD.finditer(prompt))
    return [word for word in every_word if not _FUNCTION_WORD.fullmatch(word.text)]


def phrases(prompt: str) -> list[Phrase]:
    """Words that stand side by side, cut at function words and punctuation: "red bird" and "black wings"."""
    joined: list[Phrase] = []
    for word in words(prompt):
        before = joined[-1] if joined else None
        if before is not None and prompt[before.end : word.start].isspace():
            joined[-1] = Phrase(prompt[before.start : word.end], before.start, word.end)
        else:
            joined.append(word)
    return joined


def find(prompt: str, wanted: str) -> list[Phrase]:
    """Every place where the word or phrase `wanted` stands in `prompt`, whatever the case of its letters.

    Raises UsageError where it is empty or not there.
    """
    pieces = wanted.split()
    if not pieces:
        raise UsageError("--word is empty; give a word or a phrase of the prompt.")
    pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, pieces)) + r"(?!\w)"
    places = [Phrase(match[0], *match.span()) for match in re.finditer(pattern, prompt, re.IGNORECASE)]
    if not places:
        raise unknown_name("word of the prompt", wanted, {word.text for word in words(prompt)})
    return places


def phrases_of(prompt: str, every_word: bool, chosen: Sequence[str]) -> list[Phrase]:
    """The words to explain: those `chosen`, and every one where `every_word` says so; in the order of the prompt.

    Raises UsageError for a chosen word that is not in the prompt.
    """
    wanted = {phrase for text in chosen for phrase in find(prompt, text)} | set(words(prompt) if every_word else ())
    return sorted(wanted, key=lambda phrase: (phrase.start, phrase.end))


def without(prompt: str, phrase: Phrase) -> str:
    """The prompt with `phrase` left out."""
    rest = " ".join((prompt[: phrase.start] + prompt[phrase.end :]).split())
    return re.sub(r"\s+(?=[,.;:!?])", "", rest)


def labels(some: Sequence[Phrase]) -> list[str]:
    """The texts of phrases, numbered where one comes more than once: "red (1)", "red (2)"."""
    texts = [phrase.text for phrase in some]
    return [
        f"{text} ({texts[: place + 1].count(text)})" if texts.count(text) > 1 else text
        for place, text in enumerate(texts)
    ]
