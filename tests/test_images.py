"""Images of every kind become upright RGB, or are refused with a reason."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ratlip_cli.data.images import ImageError, read_image, resize_shorter_side

WIDTH, HEIGHT = 6, 4
LEVELS = np.arange(WIDTH * HEIGHT, dtype=np.uint8).reshape(HEIGHT, WIDTH) * 10
COLOURS = np.stack([LEVELS, 255 - LEVELS, np.full_like(LEVELS, 77)], axis=-1)


def read_back(image: Image.Image, file: Path, **options: object) -> np.ndarray:
    image.save(file, **options)
    sample = read_image(file)
    assert sample.mode == "RGB"
    assert sample.info == {}
    return np.asarray(sample)


def test_colours_are_read_as_they_are(tmp_path: Path) -> None:
    for kind in ("png", "bmp", "tiff", "ppm"):
        assert np.array_equal(read_back(Image.fromarray(COLOURS), tmp_path / f"x.{kind}"), COLOURS)
    assert np.array_equal(read_back(Image.fromarray(COLOURS), tmp_path / "x.webp", lossless=True), COLOURS)


def test_grey_becomes_equal_red_green_and_blue(tmp_path: Path) -> None:
    read = read_back(Image.fromarray(LEVELS), tmp_path / "x.png")
    assert np.array_equal(read, np.stack([LEVELS] * 3, axis=-1))
    read = read_back(Image.fromarray(LEVELS > 100), tmp_path / "bits.png")
    assert np.array_equal(read[..., 1], np.where(LEVELS > 100, 255, 0))


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_16_bit_levels_are_scaled(tmp_path: Path, kind: str) -> None:
    read = read_back(Image.fromarray(LEVELS.astype(np.uint16) * 257), tmp_path / f"x.{kind}")
    assert np.array_equal(read, np.stack([LEVELS] * 3, axis=-1))


def test_palettes_are_looked_up(tmp_path: Path) -> None:
    few = COLOURS.copy()
    few[..., 0] = np.where(LEVELS > 100, 200, 30)
    few[..., 1] = 0
    palette = Image.fromarray(few).convert("P", palette=Image.Palette.ADAPTIVE)
    assert np.array_equal(read_back(palette, tmp_path / "x.png"), few)


def test_cmyk_is_converted(tmp_path: Path) -> None:
    cmyk = Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 255, 0))
    assert np.array_equal(read_back(cmyk, tmp_path / "x.tiff")[0, 0], (255, 0, 0))
    red, green, blue = read_back(cmyk, tmp_path / "x.jpg")[0, 0]
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, LEVELS),
        (2, LEVELS[:, ::-1]),
        (3, LEVELS[::-1, ::-1]),
        (4, LEVELS[::-1]),
        (5, LEVELS.T),
        (6, np.rot90(LEVELS, -1)),
        (7, LEVELS[::-1, ::-1].T),
        (8, np.rot90(LEVELS)),
    ],
)
def test_exif_orientation_is_followed(tmp_path: Path, orientation: int, upright: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = read_back(Image.fromarray(LEVELS), tmp_path / "x.png", exif=exif)
    assert np.array_equal(read[..., 0], upright)


def test_transparent_parts_are_laid_on_white(tmp_path: Path) -> None:
    alpha = np.where(LEVELS > 100, 255, 0).astype(np.uint8)
    expected = np.where(alpha[..., None] > 0, COLOURS, 255)
    rgba = Image.fromarray(np.dstack([COLOURS, alpha]))
    assert np.array_equal(read_back(rgba, tmp_path / "x.png"), expected)
    half = Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 128))
    assert np.array_equal(read_back(half, tmp_path / "half.png")[0, 0], (127, 127, 127))
    grey = Image.merge("LA", [Image.fromarray(LEVELS), Image.fromarray(alpha)])
    assert np.array_equal(read_back(grey, tmp_path / "grey.png")[..., 0], np.where(alpha > 0, LEVELS, 255))
    keyed = read_back(Image.fromarray(COLOURS), tmp_path / "key.png", transparency=tuple(COLOURS[1, 1].tolist()))
    assert np.array_equal(keyed[1, 1], (255, 255, 255))
    assert np.array_equal(keyed[0], COLOURS[0])
    palette = Image.new("P", (WIDTH, HEIGHT), 1)
    palette.putpalette([9, 9, 9, 50, 60, 70])
    assert np.array_equal(read_back(palette, tmp_path / "p.gif", transparency=1)[0, 0], (255, 255, 255))


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_read(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "white")]
    options = {"lossless": True} if kind == "webp" else {}
    read = read_back(frames[0], tmp_path / f"x.{kind}", save_all=True, append_images=frames[1:], **options)
    assert np.array_equal(read[0, 0], (255, 0, 0))


def noise_file(kind: str) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.1, 0.5, 0.9])
def test_a_truncated_image_is_refused(tmp_path: Path, kind: str, kept: float) -> None:
    data = noise_file(kind)
    (tmp_path / "x").write_bytes(data)
    assert read_image(tmp_path / "x").size == (64, 64)
    (tmp_path / "x").write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ImageError) as caught:
        read_image(tmp_path / "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mutation", range(40))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_a_damaged_image_is_read_or_refused(tmp_path: Path, kind: str, mutation: int) -> None:
    random = np.random.default_rng(mutation)
    data = bytearray(noise_file(kind))
    for position in random.integers(0, min(len(data), 400), 3):
        data[position] = random.integers(0, 256)
    (tmp_path / "x").write_bytes(data)
    with contextlib.suppress(ImageError):
        assert read_image(tmp_path / "x").mode == "RGB"


def test_an_enormous_image_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(ImageError, match="pixels; make it smaller"):
        read_image(tmp_path / "bomb.png")


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(ImageError, match="not an image"):
        read_image(tmp_path / "x.jpg")
    with pytest.raises(ImageError, match="does not exist"):
        read_image(tmp_path / "y.jpg")
    with pytest.raises(ImageError):
        read_image(tmp_path)
    Image.fromarray(LEVELS.astype(np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(ImageError, match="no known range"):
        read_image(tmp_path / "float.tiff")
    Image.fromarray(LEVELS.astype(np.int32) * 1_000_000).save(tmp_path / "int.tiff")
    with pytest.raises(ImageError, match="no known range"):
        read_image(tmp_path / "int.tiff")


def test_resizing_keeps_colours_and_brightness() -> None:
    for size in ((500, 375), (20, 31)):
        resized = resize_shorter_side(Image.new("RGB", size, (10, 128, 250)), 76)
        assert np.asarray(resized).reshape(-1, 3).min(axis=0).tolist() == [10, 128, 250]
        assert np.asarray(resized).reshape(-1, 3).max(axis=0).tolist() == [10, 128, 250]
    stripes = Image.fromarray(np.tile(np.array([[0, 255]], dtype=np.uint8), (600, 300)))
    assert np.abs(np.asarray(resize_shorter_side(stripes, 60), dtype=float) - 127.5).max() < 8
