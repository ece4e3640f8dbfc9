"""Text that people wrote with whatever program: which encoding it has, and what to do where that cannot be known."""

from __future__ import annotations

from collections.abc import Iterable

from ratlip_cli.files import MARKS


def encoding_of(head: bytes) -> str:
    """Return the encoding of a text that begins with `head`: what its mark says, UTF-16 without one, else UTF-8."""
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            return encoding
    high, low = head[0::2], head[1::2]
    if len(low) > 1 and low.count(0) > 0.4 * len(low) and high.count(0) < 0.1 * len(high):
        return "utf-16-le"
    if len(low) > 1 and high.count(0) > 0.4 * len(high) and low.count(0) < 0.1 * len(low):
        return "utf-16-be"
    return "utf-8-sig"


def decoded(content: bytes, name: str) -> str:
    """Return the text of the file `name`; raises ValueError, with what to do, where it is neither UTF-8 nor UTF-16."""
    encoding = encoding_of(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        if encoding != "utf-8-sig":
            raise ValueError(f"{name} is not whole: it begins as {encoding.upper()}; save it as UTF-8") from None
        raise ValueError(_advice(f"{name} is", content, name)) from None


def unreadable(captions: Iterable[str], name: str) -> str | None:
    """Return why captions of the table `name`, in which surrogates stand for bytes that are not UTF-8, are no text."""
    for caption in captions:
        try:
            caption.encode()
        except UnicodeEncodeError:
            try:
                content = caption.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:
                return "its caption holds half a character (a lone surrogate); write it again"
            return _advice("its caption is", content, name)
    return None


def _advice(what: str, content: bytes, name: str) -> str:
    try:
        content.decode("cp1252")
    except UnicodeDecodeError:
        return f"{what} neither UTF-8 nor Windows-1252; save {name} as UTF-8"
    return f"{what} not UTF-8, by its looks Windows-1252; save {name} as UTF-8"
