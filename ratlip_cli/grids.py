"""Captioned grids of images."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from ratlip_cli.fonts import Lettering, wrap

_MARGIN = 4
_MOST_COLUMNS = 16
_MOST_LINES = 3


def captioned_grid(rows: Sequence[tuple[str, Sequence[Image.Image]]], scale: int | None = None) -> Image.Image:
    """One image of all images, a row a caption, the caption above its row.

    Long captions are shortened, and more than 16 images of one go on in the next row.

    Args:
        rows: caption and images; all images of one size.
        scale: how many pixels an image's pixel becomes; left out, small images grow to about 128.
    """
    rows = [
        (caption if start == 0 else "", images[start : start + _MOST_COLUMNS])
        for caption, images in rows
        for start in range(0, len(images), _MOST_COLUMNS)
    ]
    width, height = rows[0][1][0].size
    scale = scale or max(1, 128 // max(width, height))
    width, height = width * scale, height * scale
    columns = max(len(images) for _, images in rows)
    font_size = max(11, min(16, width // 8))
    lettering = Lettering(font_size, "".join(caption for caption, _ in rows))
    total_width = columns * (width + _MARGIN) + _MARGIN
    wrapped = [wrap(caption, total_width - 2 * _MARGIN, _MOST_LINES, lettering.width) for caption, _ in rows]
    line = font_size + 3
    heights = [line * max(1, len(lines)) + height + 2 * _MARGIN for lines in wrapped]

    grid = Image.new("RGB", (total_width, sum(heights) + _MARGIN), "white")
    top = _MARGIN
    for lines, row_height, (_, images) in zip(wrapped, heights, rows, strict=True):
        for number, text in enumerate(lines):
            lettering.write(grid, (_MARGIN, top + number * line), text)
        image_top = top + row_height - height - _MARGIN
        for column, image in enumerate(images):
            shown = image.resize((width, height), Image.Resampling.NEAREST) if scale > 1 else image
            grid.paste(shown, (_MARGIN + column * (width + _MARGIN), image_top))
        top += row_height
    return grid
