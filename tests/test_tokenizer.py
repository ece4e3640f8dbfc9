"""CLIP's tokenizer gives open_clip's ids, without importing it."""

from __future__ import annotations

import open_clip
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratlip_cli.clip_tokenizer import CLIPTokenizer

OURS, THEIRS = CLIPTokenizer(), open_clip.SimpleTokenizer()


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "A Red BIRD  with\tblack wings.",
        "it's the bird's; they've, we'll, I'd, you're, I'm, don't",
        "1st, 2nd, 300 birds, x² + ½ = Ⅷ, snake_case and __init__",
        "ein grünes Bild, une fleur d'été, ñandú, naïve café",
        "красная птица, 赤い鳥, 🐦 bird 🐦‍⬛, عصفور",
        "&lt;b&gt;bold &amp;amp; beautiful&lt;/b&gt;",
        "word " * 100,
        "!?...,,, --- ((()))",
        "schÃ¶ne VÃ¶gel, l\u2019oiseau",
        "<start_of_text> a bird <END_OF_TEXT> a cat",
        "ⅷ²½三3भ4 a1b2_c3",
        "\u0345 a\u0345b !\u0345! 1\u03452",
    ],
)
def test_the_tokenizer_gives_the_same_ids(prompt: str) -> None:
    assert OURS([prompt]).tolist() == THEIRS([prompt]).tolist()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.text(st.characters(codec="ascii", min_codepoint=32, max_codepoint=126), max_size=60), min_size=1, max_size=3
    )
)
def test_the_tokenizer_gives_the_same_ids_for_any_ascii(
    prompts: list[str],
) -> None:
    assert OURS(prompts).tolist() == THEIRS(prompts).tolist()


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cn", "Co", "Cs"]), max_size=40))
def test_the_tokenizer_gives_the_same_ids_for_any_text(prompt: str) -> None:
    assert OURS([prompt]).tolist() == THEIRS([prompt]).tolist()


@pytest.mark.parametrize("context_length", [5, 16])
def test_longer_captions_are_cut_to_the_context(context_length: int) -> None:
    captions = ["a red bird with black wings on a branch", "a bird"]
    assert CLIPTokenizer(context_length)(captions).tolist() == THEIRS(captions, context_length).tolist()
