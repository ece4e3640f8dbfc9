"""Captions in letters of any script: what is written, in which font, and what is said where no font has a letter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.figure import Figure
from PIL import Image

from ratlip_cli import fonts
from ratlip_cli.explain.figures import save_figure
from ratlip_cli.fonts import Lettering, columns_of, fonts_for, wrap, wrapped
from ratlip_cli.grids import captioned_grid

NOWHERE = "\U000f0000"  # A private letter that no font of any machine should have: a box.


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make some files the fonts of this system."""

    def have(*files: Path | str) -> None:
        monkeypatch.setattr(fonts, "_system_fonts", lambda: tuple(map(str, files)))
        for cached in (fonts._fonts_of, fonts._tell):
            cached.cache_clear()

    have()
    return have


def font_of(path: Path, letters: str) -> Path:
    """A font in which every one of `letters` is a full square."""
    pen = TTGlyphPen(None)
    for number, point in enumerate([(0, 0), (0, 900), (900, 900), (900, 0)]):
        (pen.lineTo if number else pen.moveTo)(point)
    pen.closePath()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(letter): "square" for letter in letters})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


def written(text: str, all_text: str = "") -> bytes:
    image = Image.new("RGB", (200, 24), "white")
    Lettering(16, all_text or text).write(image, (0, 0), text)
    return image.tobytes()


@pytest.mark.parametrize("letter", [*"éñüßąőйжшςλאעح→☺−“”…", "\u1ebf"])
def test_letters_beyond_ascii_are_no_boxes(letter: str, system: Callable[..., None]) -> None:
    text = f"{letter}{NOWHERE}"
    assert written(letter, text) not in (written(NOWHERE, text), written(" ", text))


@pytest.mark.parametrize("text", ["un pájaro rojo", "красная птица", "طائر أحمر", "ציפור"])
def test_grids_write_captions(text: str, system: Callable[..., None]) -> None:
    images = [Image.new("RGB", (64, 64), "red")] * 3
    grids = [captioned_grid([(caption, images)]).tobytes() for caption in (text, NOWHERE * len(text), "")]
    assert len(set(grids)) == 3


def test_a_font_of_the_system_has_what_dejavu_lacks(tmp_path: Path, system: Callable[..., None]) -> None:
    unreadable = tmp_path / "broken.ttf"
    unreadable.write_bytes(b"no font")
    chinese, korean = font_of(tmp_path / "chinese.ttf", "红色鸟"), font_of(tmp_path / "korean.ttf", "새")
    system(unreadable, font_of(tmp_path / "other.ttf", "x"), chinese, korean)
    assert [Path(file).name for file in fonts_for("红色 é")] == ["DejaVuSans.ttf", "chinese.ttf"]
    assert len(fonts_for("é")) == 1
    assert fonts_for("红새")[1:] == (str(chinese), str(korean))
    square = Image.frombytes("RGB", (200, 24), written("红"))
    assert square.getpixel((6, 8)) == (0, 0, 0)
    assert written("é红") != written("é" + NOWHERE)


@pytest.mark.parametrize("write", ["grid", "figure"])
def test_letters_without_a_font_are_said_once(
    write: str, tmp_path: Path, system: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(fonts.logger, "warning", lambda text, *values: said.append(text % values))
    for _ in range(2):
        if write == "grid":
            captioned_grid([(f"a {NOWHERE} bird é", [Image.new("RGB", (64, 64))])])
        else:
            figure = Figure()
            figure.text(0.5, 0.5, f"a {NOWHERE} bird é")
            save_figure(figure, tmp_path / "figure.png", "png")
    (line,) = said
    assert f"no font on this machine has '{NOWHERE}'" in line


def test_figures_use_a_font_of_the_system_too(tmp_path: Path, system: Callable[..., None]) -> None:
    def figure(text: str) -> bytes:
        one = Figure(figsize=(2, 0.5))
        one.text(0.1, 0.3, text, style="italic")
        save_figure(one, tmp_path / "figure.png", "png")
        return (tmp_path / "figure.png").read_bytes()

    boxes = figure("红色")
    system(font_of(tmp_path / "chinese figures.ttf", "红色鸟"))
    assert figure("红色") != boxes
    assert figure("طائر") != figure("حمرط")  # the oblique DejaVu Sans has boxes for both


def test_plain_captions_need_no_font_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "fonts_for", lambda text: pytest.fail("a font was looked for"))
    captioned_grid([("a red bird", [Image.new("RGB", (64, 64))])])


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a red bird", ["a red bird"]),
        ("a red bird with wings", ["a red bird", "with wings"]),
        ("aaaa bbbb cccc dddd eeee ffff gggg", ["aaaa bbbb", "cccc ..."]),
        ("红色的鸟有黑色翅膀", ["红色的鸟有", "黑色翅膀"]),
        ("红色的鸟有黑色翅膀红色的鸟", ["红色的鸟有", "黑色翅 ..."]),
        ("b" * 15, ["b" * 10, "b" * 5]),
        ("b" * 5000, ["b" * 10, "b" * 6 + " ..."]),
        ("  \n a  \t b ", ["a b"]),
        ("", []),
    ],
)
def test_lines_are_filled_by_their_width(text: str, lines: list[str]) -> None:
    assert wrap(text, 10, 2, columns_of) == lines
    assert wrapped(text, 10, 2) == "\n".join(lines)
    assert all(columns_of(line) <= 10 for line in lines)
