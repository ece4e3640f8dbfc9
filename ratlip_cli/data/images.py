"""Any image file to upright sRGB: what cannot be read right is refused with a reason."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import IO, Any

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError, features

from ratlip_cli.errors import one_line

_AVIF = "avif" in features.modules and features.check_module("avif")

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", *(("AVIF",) if _AVIF else ()))
"""Pillow's decoders that are used. Others run foreign programs (EPS) or are not for photographs."""

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"}
    | {".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
    | ({".avif"} if _AVIF else set())
)
"""File name endings, in lower case, of images of :data:`FORMATS`; see :func:`is_image`."""

_OTHER_IMAGES = (
    frozenset(
        (
            *(".heic", ".heif", ".hif", ".jxl", ".jxr", ".jp2", ".j2k", ".jpf", ".jpx", ".ico", ".icns", ".svg"),
            *(".psd", ".psb", ".xcf", ".eps", ".tga", ".dds", ".exr", ".hdr", ".pcx", ".qoi", ".sgi", ".wmf"),
            *(".emf", ".avif", ".pfm", ".xpm", ".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".srf", ".sr2"),
            *(".orf", ".rw2", ".raf", ".pef", ".srw", ".raw", ".3fr", ".erf", ".iiq", ".kdc", ".dcr", ".mef"),
            *(".mos", ".mrw", ".x3f"),
        )
    )
    - SUFFIXES
)
"""Endings of images that are not read. Many camera files begin as TIFF does, with a thumbnail in them."""

_NO_IMAGES = frozenset(
    {".txt", ".caption", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".part", ".partial", ".crdownload", ".download"}
    | {".tmp", ".bak", ".old", ".orig", ".swp"}
)
"""Endings of captions, and of copies that are not whole or not the newest: no image, whatever they begin with."""

_BEGINNING = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a|II\*\0|MM\0\*" + (rb"|....ftypavi[fs]" if _AVIF else b""),
    re.DOTALL,
)

NO_AVIF = "AVIF, which this Pillow cannot read; install Pillow 11.3 or later"
"""In the reason why an image is left out: with another Pillow it is to be had."""

_OTHERWISE = (
    (rb"$", "an empty file"),
    (rb"....ftyp(hei|hev|mif1|msf1)", "HEIC; convert it to PNG or JPEG"),
    (rb"....ftypavi[fs]", NO_AVIF),
    (rb"\0\0\0\x0cjP|\xff\x4f\xff\x51", "JPEG 2000; convert it to PNG or JPEG"),
    (rb"\0\0\0\x0cJXL|\xff\x0a", "JPEG XL; convert it to PNG or JPEG"),
    (rb"8BPS", "a Photoshop file; export it as PNG or JPEG"),
    (rb"%PDF", "a PDF; export its pages as PNG or JPEG"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<svg", "SVG, which is drawn and not made of pixels; export it as PNG"),
    (rb"\s*<(!doctype html|html|head)", "a web page, such as an error that was saved as it came; get the image again"),
    (rb"version https://git-lfs", "a pointer of Git LFS; get the image with `git lfs pull`"),
    (rb"PK\x03\x04|\x1f\x8b", "an archive; unpack it"),
)
"""How files begin that are taken for images, and what they are."""

MAX_ASPECT = 16
"""An image this many times longer than wide, or more, is refused: its resized copy could be of any length."""

PROFILE_UNUSED = "ratlip: profile"
"""Key in `info` of an image whose embedded colour profile was not used; its value says why."""

_HEAD = 256

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what undoes it."""


class ImageError(Exception):
    """Why an image cannot be used, without its name: the caller knows which one it is."""


def is_image(file: PurePath, opened: Callable[[], IO[bytes]] | None = None) -> bool:
    """Whether `file` is to be read as an image: it begins as one of :data:`FORMATS` does, or its ending says so.

    Files of a known ending are not opened; `opened` opens those that are not on the disk.
    """
    ending = file.suffix.lower()
    if ending in SUFFIXES:
        return True
    if ending in _OTHER_IMAGES or ending in _NO_IMAGES or file.name.endswith("~"):
        return False
    with contextlib.suppress(Exception), opened() if opened else Path(file).open("rb") as content:  # Told when read.
        head = content.read(_HEAD)
        is_bmp = head.startswith(b"BM") and head[2:6] == content.seek(0, io.SEEK_END).to_bytes(8, "little")[:4]
        return is_bmp or _BEGINNING.match(head) is not None
    return False


def is_other_image(file: PurePath) -> bool:
    """Whether the ending of `file` is that of an image of a kind that is not read, such as .heic."""
    return file.suffix.lower() in _OTHER_IMAGES


def why_not_read(file: PurePath) -> str:
    """Why an image is not read whose ending is not that of :data:`FORMATS`."""
    other = "not a kind of image that can be read; convert it to PNG or JPEG"
    return NO_AVIF if file.suffix.lower() == ".avif" else other


def read_image(file: Path | bytes) -> Image.Image:
    """Read `file`, or the bytes of one, as :func:`upright_rgb`; of an animation, the first frame.

    What cannot be read of its metadata is passed over. Raises ImageError where the file is missing, may not be read, is
    cut short, damaged, not of :data:`FORMATS`, or larger than Pillow's ``Image.MAX_IMAGE_PIXELS`` (89 million).
    """
    try:
        return _read(file)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError("the image does not exist") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ImageError(f"more than {Image.MAX_IMAGE_PIXELS} pixels; make it smaller") from None
    except Exception as error:  # Decoders meet damaged files with exceptions of every kind.
        if isinstance(error, OSError) and error.errno is not None:
            raise ImageError(f"the image cannot be read: {error.strerror}") from error
        for pixels in _without_metadata(file if isinstance(file, bytes) else file.read_bytes()):
            with contextlib.suppress(Exception):  # As above; the first error is the one that is told.
                return _read(pixels)
        if isinstance(error, UnidentifiedImageError):
            raise ImageError(_unidentified(file)) from None
        raise ImageError(f"the image is damaged or cut short: {one_line(error)}") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return `image` as 8-bit sRGB without metadata.

    It is turned as its EXIF orientation says; 16-bit grey levels are scaled to 8 bits; colours of an embedded profile
    become those of sRGB; transparent parts are laid on white; grey, palette, CMYK and Lab pixels become RGB. A profile
    that cannot be used costs nothing but itself: `info` of the result says why, under :data:`PROFILE_UNUSED`. Raises
    ImageError for pixels without a known range.
    """
    profile = image.info.get("icc_profile")
    image = _upright(image)
    alpha = None
    if image.mode.startswith("I"):
        image, alpha = _eight_bits(image)
    elif image.mode == "F":
        raise ImageError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if "transparency" in image.info or image.mode in {"RGBA", "LA", "PA", "RGBa", "La"}:
        is_grey = image.mode in {"1", "L", "LA", "La"}
        # Pillow does not convert premultiplied alpha to RGBA in one step for grey images.
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        alpha = image.getchannel("A")
        image = image.getchannel("R") if is_grey else image.convert("RGB")
    image, unused = _in_srgb(image, profile)
    if alpha is not None:
        image.putalpha(alpha)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    image.info = {PROFILE_UNUSED: unused} if unused else {}
    return image


def resize_shorter_side(image: Image.Image, side: int) -> Image.Image:
    """Resize `image` (Lanczos) to a shorter side of `side` pixels, keeping its proportions to the nearest pixel."""
    if min(image.size) == side:
        return image
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)


def stored_image(
    image: Image.Image, crop: tuple[int, int, int, int] | None, side: int
) -> tuple[Image.Image, tuple[int, int] | None]:
    """Return the RGB image to store: `crop` (left, upper, right, lower; clipped to the image), shorter side `side`.

    With it goes the size, width and height, that it was enlarged from: None where it was not. Raises ImageError where
    the crop lies outside the image or the image is too narrow.
    """
    if crop is not None:
        left, upper, right, lower = crop
        box = (max(left, 0), max(upper, 0), min(right, image.width), min(lower, image.height))
        if box[0] >= box[2] or box[1] >= box[3]:
            raise ImageError(f"the crop {crop} lies outside the image of {image.width} x {image.height}")
        image = image.crop(box)
    if max(image.size) >= MAX_ASPECT * min(image.size):
        raise ImageError(f"too narrow: {image.width} x {image.height}")
    return resize_shorter_side(image, side), image.size if min(image.size) < side else None


def _read(file: Path | bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS) as image:
            image.load()
            return upright_rgb(image)


def _upright(image: Image.Image) -> Image.Image:
    """Undo the EXIF orientation, where one can be read."""
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # Pillow meets damaged EXIF data with exceptions of every kind.
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _in_srgb(image: Image.Image, profile: Any) -> tuple[Image.Image, str | None]:
    """Return `image` as RGB with the colours of sRGB, and why `profile` was not used, where it could not be."""
    if image.mode == "LAB":
        if not features.check_module("littlecms2"):
            raise ImageError("Lab colours need a Pillow with littlecms; save it as RGB")
        image, profile = _lab_to_srgb().apply(image), None
    unused = None
    if isinstance(profile, bytes) and profile:
        try:
            mode, transform = _to_srgb(profile)
            if mode == "RGB" and image.mode != "CMYK":
                image = image.convert("RGB")
            if mode != image.mode:
                raise ValueError(f"it is for {mode}, not for {image.mode}")
            if transform is not None:
                image = transform.apply(image)
        except (OSError, ValueError, ImageCms.PyCMSError) as error:
            unused = one_line(error)
    return image.convert("RGB"), unused


@functools.lru_cache(maxsize=4)
def _to_srgb(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Return the mode of images for which `profile` is, and what makes them sRGB: None where they are already.

    Raises ValueError, OSError or PyCMSError where it cannot be used.
    """
    if not features.check_module("littlecms2"):
        raise ValueError("this Pillow has no littlecms")
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = opened.profile.xcolor_space.strip()
    mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space)
    if mode is None:
        raise ValueError(f"it is for {space}")
    transform = ImageCms.buildTransform(
        opened, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC, _BLACK_POINT
    )
    if mode == "CMYK":
        return mode, transform
    levels = np.arange(0, 256, 17 if mode == "RGB" else 1, dtype=np.uint8)
    probe = Image.fromarray(
        np.stack(np.meshgrid(*[levels] * 3), -1).reshape(-1, 16, 3) if mode == "RGB" else levels[None]
    )
    difference = np.asarray(transform.apply(probe), int) - np.asarray(probe.convert("RGB"), int)
    return mode, transform if np.abs(difference).max() > _ROUNDING else None


_BLACK_POINT: Any = 0x2000  # A plain number: Pillow 10.0 has no name for it.
"""littlecms: black becomes black, as in the programs that people look at photographs with."""

_ROUNDING = 2
"""Levels by which the many profiles that are called sRGB differ; their pixels are taken as they are."""


@functools.cache
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")


def _without_metadata(content: bytes) -> Iterator[bytes]:
    """Yield a JPEG or PNG with less and less of what is not pixels; nothing for other files."""
    if content.startswith(b"\x89PNG"):
        for kept in ((b"eXIf", b"iCCP"), (b"eXIf",), ()):
            yield content[:8] + b"".join(
                chunk for kind, chunk in _png_chunks(content) if kind[:1].isupper() or kind in (b"tRNS", *kept)
            )
    elif content.startswith(b"\xff\xd8"):
        for beginnings in ((b"Exif\0", b"ICC_PROFILE\0"), (b"Exif\0",), ()):
            yield (
                b"\xff\xd8"
                + b"".join(
                    segment
                    for marker, segment in _jpeg_segments(content)
                    if not (0xE1 <= marker <= 0xEF or marker == 0xFE)
                    or marker == 0xEE  # Adobe's, which says how colours are coded.
                    or segment[4:].startswith(beginnings)
                )
            )


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    start = 8
    while start + 8 <= len(content):
        (length,) = struct.unpack_from(">I", content, start)
        yield content[start + 4 : start + 8], content[start : start + 12 + length]
        start += 12 + length


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the segments up to the first scan; the rest, scan included, is the last."""
    start = 2
    while start + 4 <= len(content) and content[start] == 0xFF and content[start + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", content, start + 2)
        yield content[start + 1], content[start : start + 2 + length]
        start += 2 + length
    yield 0xDA, content[start:]


def _unidentified(file: Path | bytes) -> str:
    head = file[:_HEAD] if isinstance(file, bytes) else _head(file)
    for beginning, told in _OTHERWISE:
        is_read = told == NO_AVIF and "AVIF" in FORMATS  # and this one is damaged
        if re.match(beginning, head, re.DOTALL | re.IGNORECASE) and not is_read:
            return f"not an image that can be read, but {told}"
    return f"not an image that can be read ({', '.join(FORMATS)})"


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_HEAD)
    except OSError:
        return b""


def _eight_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """16-bit grey levels as 8-bit ones, and their alpha where one of the 16-bit levels is transparent."""
    levels, clear = np.asarray(image), image.info.get("transparency")
    if levels.min() < 0 or levels.max() > 65535:
        raise ImageError("32-bit pixels have no known range; save it with 8 or 16 bits")
    alpha = None if clear is None else Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8))
    return Image.fromarray(np.round(levels / 257).astype(np.uint8)), alpha
