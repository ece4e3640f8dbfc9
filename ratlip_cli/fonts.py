"""Captions in any script: DejaVu Sans, which comes with matplotlib, and what it lacks from fonts of the system.

Plain ASCII is written in Pillow's own font, for which nothing is imported.
"""

from __future__ import annotations

import functools
import logging
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

STRIKES = (109, 136, 128, 160, 96, 64)
"""Sizes in pixels at which fonts of coloured images, such as Noto Color Emoji, have their letters."""

LIKELY = ("cjk", "unicode", "emoji", "noto", "wqy", "pingfang", "hiragino", "yahei", "gothic", "arial")
"""What the names of fonts with many letters have in them: these are looked into first."""

logger = logging.getLogger(__name__)


def fonts_for(text: str, scalable: bool = False) -> tuple[str, ...]:
    """Files of fonts that together have the letters of `text`, as few as were found, DejaVu Sans first.

    Letters that no font of this machine has are named in a note, once.

    Args:
        scalable: leave out fonts of coloured images, which have one size.
    """
    letters = frozenset(letter for letter in text if not _is_mark(letter) and not letter.isspace())
    files, missing = _fonts_of(letters, scalable)
    if missing:
        _tell(missing)
    return files


@functools.lru_cache(maxsize=64)
def _fonts_of(letters: frozenset[str], scalable: bool) -> tuple[tuple[str, ...], str]:
    """The fonts, and the letters that none has."""
    files = [_dejavu()]
    left = {ord(letter) for letter in letters} - _covered(files[0])
    for file in _system_fonts() if left else ():
        if not left:
            break
        if (here := _covered(file) & left) and not (scalable and not _is_scalable(file)):
            files.append(file)
            left -= here
    return tuple(files), "".join(sorted(map(chr, left)))


@functools.lru_cache(maxsize=64)
def _tell(missing: str) -> None:
    shown = missing if len(missing) <= 20 else f"{missing[:20]}..."
    logger.warning(
        "no font on this machine has '%s': boxes stand for it in grids and figures. Install one, such as Noto Sans CJK "
        "for Chinese, Japanese and Korean.",
        shown,
    )


def _is_mark(letter: str) -> bool:
    """Whether it joins the letter before it, or joins letters, and so is never a reason for another font."""
    return unicodedata.category(letter) in ("Mn", "Me", "Cf", "Cc", "Sk")


def _dejavu() -> str:
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@functools.cache
def _system_fonts() -> tuple[str, ...]:
    from matplotlib.font_manager import findSystemFonts

    def order(file: str) -> tuple[bool, str]:
        name = Path(file).name.lower()
        return not any(likely in name for likely in LIKELY), name

    return tuple(sorted(findSystemFonts(), key=order))


@functools.cache
def _covered(file: str) -> frozenset[int]:
    """The code points that a font has; none where it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


def _is_scalable(file: str) -> bool:
    from matplotlib.ft2font import FT2Font

    return bool(FT2Font(file).scalable)


_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Lettering:
    """How captions are written: each run of letters in the first font that has them.

    Args:
        size: of the letters, in pixels.
        text: all that is to be written; it decides the fonts.
    """

    def __init__(self, size: int, text: str) -> None:
        self._size = size
        self._files = () if text.isascii() else fonts_for(text)
        self._fonts: list[_Font] = [_load(file, size) for file in self._files] or [ImageFont.load_default(size)]
        self._ascent = self._fonts[0].getbbox("Ag", anchor="la")[3] - self._fonts[0].getbbox("g", anchor="ls")[3]

    def width(self, text: str) -> float:
        """Width in pixels of a line."""
        return sum(font.getlength(run) * self._scale(font) for font, run in self._runs(text))

    def write(self, image: Image.Image, place: tuple[int, int], text: str) -> None:
        """Write a line in black, its upper left corner at `place`."""
        draw, (left, top) = ImageDraw.Draw(image), place
        x, baseline = float(left), top + self._ascent
        for font, run in self._runs(text):
            scale = self._scale(font)
            if scale == 1:
                draw.text((x, baseline), run, fill="black", font=font, anchor="ls")
            else:
                _paste(image, (round(x), round(baseline)), run, font, scale)
            x += font.getlength(run) * scale

    def _scale(self, font: _Font) -> float:
        size = getattr(font, "size", self._size)
        return self._size / size

    def _runs(self, text: str) -> list[tuple[_Font, str]]:
        """The text in pieces of one font each, in its order."""
        runs: list[tuple[int, str]] = []
        for letter in text:
            last = runs[-1][0] if runs else 0
            if letter.isspace() and self._scale(self._fonts[last]) != 1:
                number = 0  # a space of a font of images is as wide as one
            else:
                stays = len(self._fonts) == 1 or _is_mark(letter) or letter.isspace()
                number = last if stays else self._first_with(letter)
            if runs and number == last:
                runs[-1] = (last, runs[-1][1] + letter)
            else:
                runs.append((number, letter))
        return [(self._fonts[number], run) for number, run in runs]

    def _first_with(self, letter: str) -> int:
        return next((number for number, file in enumerate(self._files) if ord(letter) in _covered(file)), 0)


def _load(file: str, size: int) -> ImageFont.FreeTypeFont:
    """The font in that size, or in the size that it has."""
    for one in (size, *STRIKES):
        try:
            return ImageFont.truetype(file, one)
        except OSError:  # a font of images has no such size
            continue
    return ImageFont.truetype(_dejavu(), size)


def _paste(image: Image.Image, place: tuple[int, int], run: str, font: _Font, scale: float) -> None:
    """Write letters that are coloured images, made smaller; `place` is on the baseline."""
    left, top, right, bottom = font.getbbox(run, anchor="ls")
    large = Image.new("RGBA", (int(right - left) + 1, int(bottom - top) + 1), (255, 255, 255, 0))
    ImageDraw.Draw(large).text((-left, -top), run, font=font, anchor="ls", embedded_color=True)
    small = large.resize((max(1, round(large.width * scale)), max(1, round(large.height * scale))))
    image.paste(small, (place[0] + round(left * scale), place[1] + round(top * scale)), small)


def wrap(text: str, width: float, lines: int, measure: Callable[[str], float]) -> list[str]:
    """`text` in at most so many lines of at most `width` as `measure` has it; what is cut off ends in " ...".

    Words that are too long for a line, as those of scripts without spaces, go on in the next.
    """
    longest = int(lines * width) + 1  # no letter is narrower than 1
    done: list[str] = []
    line = ""
    for word in text[:longest].split():
        joined = f"{line} {word}" if line else word
        if measure(joined) <= width:
            line = joined
            continue
        if line:
            done.append(line)
        while measure(word) > width and len(done) <= lines:
            fits = _fitting(word, width, measure)
            done.append(word[:fits])
            word = word[fits:]
        line = word
        if len(done) > lines:
            break
    done += [line] if line else []
    if len(done) <= lines and len(text) <= longest:
        return done
    last = "".join(done[lines - 1 : lines])
    fits = _fitting(last, width - measure(" ..."), measure)
    end = last[:fits]
    if last[fits:].strip() and not last[fits].isspace() and " " in end:  # no half of a word
        end = end.rpartition(" ")[0]
    return [*done[: lines - 1], f"{end.rstrip()} ..."]


def _fitting(word: str, width: float, measure: Callable[[str], float]) -> int:
    """How many letters of `word` fit, at least one; marks stay with their letter."""
    low, high = 1, len(word)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if measure(word[:middle]) <= width else (low, middle - 1)
    while 1 < low < len(word) and _is_mark(word[low]):
        low -= 1
    return low


def columns_of(text: str) -> int:
    """How many columns a line takes where letters are of one width: those of East Asian scripts take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else not _is_mark(letter) for letter in text)


def wrapped(text: str, width: int, lines: int) -> str:
    """`text` in at most so many lines of `width` columns."""
    return "\n".join(wrap(text, width, lines, columns_of))
