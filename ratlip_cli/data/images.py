"""Any image file to upright RGB: what cannot be read right is refused with a reason."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ratlip_cli.errors import one_line

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Pillow's decoders that are used. Others run foreign programs (EPS) or are not for photographs."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
"""File name endings, in lower case, by which a folder's images are told from its other files."""

MAX_ASPECT = 16
"""An image this many times longer than wide, or more, is refused: its resized copy could be of any length."""


class ImageError(Exception):
    """Why an image cannot be used, without its name: the caller knows which one it is."""


def is_image(file: Path) -> bool:
    """Whether `file` is to be read as an image: its ending says so, or it begins as one of :data:`FORMATS` does."""
    if file.suffix.lower() in SUFFIXES:
        return True
    try:
        with Image.open(file, formats=FORMATS):
            return True
    except Exception:  # Decoders meet other files with exceptions of every kind.
        return False


def read_image(file: Path | bytes) -> Image.Image:
    """Read `file`, or the bytes of one, as :func:`upright_rgb`; of an animation, the first frame.

    Raises ImageError where the file is missing, cut short, damaged, not of :data:`FORMATS`, or larger than
    Pillow's ``Image.MAX_IMAGE_PIXELS`` (89 million).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS) as image:
                image.load()
                return upright_rgb(image)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError("the image does not exist") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ImageError(f"more than {Image.MAX_IMAGE_PIXELS} pixels; make it smaller") from None
    except UnidentifiedImageError:
        raise ImageError(f"not an image that can be read ({', '.join(FORMATS)})") from None
    except Exception as error:  # Decoders meet damaged files with exceptions of every kind.
        raise ImageError(f"the image is damaged or cut short: {one_line(error)}") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return `image` as 8-bit RGB without metadata.

    It is turned as its EXIF orientation says; 16-bit grey levels are scaled to 8 bits; transparent parts are laid on
    white; grey, palette and CMYK pixels become RGB. Raises ImageError for pixels without a known range.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    elif image.mode == "F":
        raise ImageError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if "transparency" in image.info or image.mode in {"RGBA", "LA", "PA", "RGBa", "La"}:
        # Pillow does not convert premultiplied alpha to RGBA in one step for grey images.
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    image.info = {}
    return image


def resize_shorter_side(image: Image.Image, side: int) -> Image.Image:
    """Resize `image` (Lanczos) to a shorter side of `side` pixels, keeping its proportions to the nearest pixel."""
    if min(image.size) == side:
        return image
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)


def stored_image(image: Image.Image, crop: tuple[int, int, int, int] | None, side: int) -> Image.Image:
    """Return the RGB image to store: `crop` (left, upper, right, lower; clipped to the image), shorter side `side`.

    Raises ImageError where the crop lies outside the image or the image is too narrow.
    """
    if crop is not None:
        left, upper, right, lower = crop
        box = (max(left, 0), max(upper, 0), min(right, image.width), min(lower, image.height))
        if box[0] >= box[2] or box[1] >= box[3]:
            raise ImageError(f"the crop {crop} lies outside the image of {image.width} x {image.height}")
        image = image.crop(box)
    if max(image.size) >= MAX_ASPECT * min(image.size):
        raise ImageError(f"too narrow: {image.width} x {image.height}")
    return resize_shorter_side(image, side)


def _eight_bits(image: Image.Image) -> Image.Image:
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() > 65535:
        raise ImageError("32-bit pixels have no known range; save it with 8 or 16 bits")
    return Image.fromarray(np.round(levels / 257).astype(np.uint8))
