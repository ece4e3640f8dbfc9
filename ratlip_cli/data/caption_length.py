"""How many captions are longer than CLIP reads, before any CLIP is chosen."""

from __future__ import annotations

import re
from pathlib import Path

from ratlip_cli.data.layout import read_dataset, read_split

CONTEXT = 77
"""Tokens that OpenAI's CLIPs and most others read, start and end included."""


def long_captions(path: Path) -> int:
    """How many captions of the dataset `path` have more than CONTEXT tokens.

    The tokenizer imports torch, which takes seconds: it is asked about captions that may be so long, and most datasets
    have none.
    """
    captions = [
        caption
        for split in read_dataset(path).counts
        for entry in read_split(path, split)
        for caption in entry.captions
        if _may_be_long(caption)
    ]
    if not captions:
        return 0
    from ratlip_cli.clip_tokenizer import CLIPTokenizer
    from ratlip_cli.model.clip import overlong

    return len(overlong(captions, CLIPTokenizer(), CONTEXT))


def _may_be_long(caption: str) -> bool:
    """Whether a caption may have more than CONTEXT tokens: two Latin letters are one token, or more of them are."""
    words = re.findall("[A-Za-z]+", caption)
    others = len(re.sub(r"[A-Za-z\s]", "", caption).encode())
    return sum((len(word) + 1) // 2 for word in words) + others > CONTEXT - 2
