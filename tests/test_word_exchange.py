"""Captions with one word exchanged: which words can stand for which, and which are taken."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from ratlip_cli.training.word_exchange import WordExchange

CAPTIONS = [
    "A red bird with black wings.",
    "a blue bird with white wings.",
    "a Blue bird with white wings.",
    "a green fish with black fins",
    "one bird",
]
GRID = [(place / 40, word / 40) for place, word in itertools.product(range(40), repeat=2)]


def test_a_word_is_exchanged_for_one_between_the_same_neighbours() -> None:
    """Whatever case it is in, with the signs that stand between the words; at the ends too."""
    exchanged = Counter(WordExchange(CAPTIONS).exchanged("A red bird with black wings.", GRID))
    assert exchanged.keys() == {"a blue bird with black wings.", "a red bird with white wings."}
    assert len(set(exchanged.values())) == 1, "every word as often"
    fish = WordExchange(CAPTIONS).exchanged("a green fish with black fins", GRID)
    assert set(fish) == {"a green fish with black fins"}, "white fins there are none"


def test_every_other_word_is_taken_as_often() -> None:
    exchange = WordExchange([f"{colour} bird" for colour in ("red", "blue", "green", "grey", "blue")])
    found = Counter(exchange.exchanged("blue bird", GRID))
    assert found.keys() == {"red bird", "green bird", "grey bird"}
    assert max(found.values()) <= 1.1 * min(found.values())


@pytest.mark.parametrize("caption", ["", "...", "a word nobody says", "one"])
def test_a_caption_without_such_words_stays(caption: str) -> None:
    assert WordExchange(CAPTIONS).exchanged(caption, GRID[:3]) == [caption] * 3
    assert WordExchange(()).exchanged(caption, GRID[:3]) == [caption] * 3


def test_of_many_captions_some_from_all_of_them_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratlip_cli.training.word_exchange._ENOUGH", 10)
    captions = [f"a {number} bird" for number in range(100)]
    found = set(WordExchange(captions).exchanged("a red bird", GRID))
    assert found == {f"a {number} bird" for number in range(0, 100, 10)}
