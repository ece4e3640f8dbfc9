"""Images of every kind become upright RGB, or are refused with a reason."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from ratlip_cli.data.images import (
    FORMATS,
    PROFILE_UNUSED,
    ImageError,
    is_image,
    read_image,
    resize_shorter_side,
    upright_rgb,
)
from ratlip_cli.errors import Interrupted

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
    levels = LEVELS.astype(np.uint16) * 257
    deep = read_back(Image.fromarray(levels), tmp_path / "deep.png", transparency=int(levels[1, 1]))
    assert np.array_equal(deep[..., 0], np.where(LEVELS[1, 1] == LEVELS, 255, LEVELS))
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


def profile(space: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr", connection: bytes = b"XYZ ") -> bytes:
    """An ICC profile, version 2, of these tags."""
    table, content, start = b"", b"", 132 + 12 * len(tags)
    for name, tag in tags.items():
        table += struct.pack(">4sII", name, start + len(content), len(tag))
        content += tag + bytes(-len(tag) % 4)
    head = struct.pack(
        ">I4sI4s4s4s12s4s", start + len(content), b"", 0x02400000, kind, space.ljust(4), connection, b"", b"acsp"
    )
    return (head.ljust(68, b"\0") + xyz(D50)[8:]).ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + content


D50 = (0.9642, 1.0, 0.8249)

TO_XYZ = {
    "sRGB": [[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]],
    "Adobe RGB": [[0.6097, 0.2053, 0.1492], [0.3111, 0.6257, 0.0632], [0.0195, 0.0609, 0.7446]],
    "Display P3": [[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]],
    "ProPhoto": [[0.7977, 0.1352, 0.0313], [0.2880, 0.7119, 0.0001], [0.0, 0.0, 0.8249]],
}
"""Linear red, green and blue to XYZ under D50, as these spaces' profiles have it."""


def xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def gamma(exponent: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(exponent * 256))


def rgb_profile(space: str, exponent: float) -> bytes:
    columns = np.array(TO_XYZ[space]).T
    tags = {name + b"XYZ": xyz(tuple(column)) for name, column in zip((b"r", b"g", b"b"), columns, strict=True)}
    curves = {name + b"TRC": gamma(exponent) for name in (b"r", b"g", b"b")}
    return profile(b"RGB", {b"wtpt": xyz(D50), **tags, **curves})


def encoded(linear: np.ndarray) -> np.ndarray:
    """Levels of sRGB of linear light."""
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(("kind", "options"), [("png", {}), ("tiff", {}), ("webp", {"lossless": True})])
@pytest.mark.parametrize(("space", "exponent"), [("Adobe RGB", 2.2), ("Display P3", 2.2), ("ProPhoto", 1.8)])
def test_colours_of_a_profile_become_those_of_srgb(
    tmp_path: Path, space: str, exponent: float, kind: str, options: dict[str, object]
) -> None:
    read = read_back(
        Image.fromarray(COLOURS), tmp_path / f"x.{kind}", icc_profile=rgb_profile(space, exponent), **options
    )
    linear = (COLOURS / 255) ** (round(exponent * 256) / 256)
    expected = encoded(linear @ np.array(TO_XYZ[space]).T @ np.linalg.inv(TO_XYZ["sRGB"]).T)
    assert np.abs(read - expected).max() < 3
    assert np.abs(read - COLOURS.astype(float)).max() > 20


def test_colours_under_transparency_and_in_palettes_follow_the_profile(tmp_path: Path) -> None:
    adobe = rgb_profile("Adobe RGB", 2.2)
    flat = Image.new("RGB", (4, 4), (40, 200, 90))
    expected = read_back(flat, tmp_path / "flat.png", icc_profile=adobe)
    assert np.array_equal(read_back(flat.convert("RGBA"), tmp_path / "alpha.png", icc_profile=adobe), expected)
    assert np.array_equal(read_back(flat.quantize(4), tmp_path / "palette.png", icc_profile=adobe), expected)
    assert not np.array_equal(expected, np.asarray(flat))


def test_grey_levels_of_a_profile_become_those_of_srgb(tmp_path: Path) -> None:
    linear = profile(b"GRAY", {b"wtpt": xyz(D50), b"kTRC": gamma(1.0)})
    for name, image in {
        "grey.png": Image.fromarray(LEVELS),
        "sixteen.png": Image.fromarray(LEVELS.astype(np.uint16) * 257),
        "alpha.png": Image.merge("LA", [Image.fromarray(LEVELS), Image.new("L", (WIDTH, HEIGHT), 255)]),
    }.items():
        read = read_back(image, tmp_path / name, icc_profile=linear)
        assert np.abs(read - encoded(LEVELS / 255)[..., None]).max() < 3


def test_inks_are_those_of_the_profile(tmp_path: Path) -> None:
    """The profile: each ink takes its share of lightness alone, and the paper is white."""
    corners = [(1 - np.mean(inks)) * 255 for inks in np.ndindex(2, 2, 2, 2)]
    lab = bytes(value for light in corners for value in (round(light), 128, 128))
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 if n % 4 == 0 else 0 for n in range(9)))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + lab + ramp * 3
    inks = profile(b"CMYK", {b"wtpt": xyz(D50), b"A2B0": table}, b"prtr", b"Lab ")
    for colour in ((0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 255, 0)):
        file = tmp_path / f"{sum(colour)}.tiff"
        read = read_back(Image.new("CMYK", (4, 4), colour), file, icc_profile=inks).astype(int)
        assert np.ptp(read[0, 0]) <= 2  # grey, whichever ink it is
        lightness = 100 * (1 - sum(colour) / 255 / 4)
        assert np.abs(read[0, 0] - encoded(np.array(((lightness + 16) / 116) ** 3))).max() < 6


def test_lab_becomes_srgb(tmp_path: Path) -> None:
    lab = Image.merge("LAB", [Image.new("L", (4, 4), 255), Image.new("L", (4, 4), 128), Image.new("L", (4, 4), 128)])
    assert read_back(lab, tmp_path / "x.tiff").min() > 250


@pytest.mark.parametrize(
    "broken",
    [
        b"no profile",
        rgb_profile("Adobe RGB", 2.2)[:200],
        rgb_profile("Adobe RGB", 2.2)[:36] + b"xxxx" + rgb_profile("Adobe RGB", 2.2)[40:],
        profile(b"GRAY", {b"wtpt": xyz(D50), b"kTRC": gamma(1.0)}),
        profile(b"CMYK", {b"wtpt": xyz(D50)}, b"prtr"),
        profile(b"XYZ", {b"wtpt": xyz(D50)}),
    ],
)
def test_a_profile_that_cannot_be_used_costs_no_pixel(tmp_path: Path, broken: bytes) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "x.png", icc_profile=broken)
    read = read_image(tmp_path / "x.png")
    assert np.array_equal(np.asarray(read), COLOURS)
    assert read.info[PROFILE_UNUSED]


def test_pixels_of_an_srgb_profile_are_kept_to_the_bit(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(read_back(Image.fromarray(COLOURS), tmp_path / "x.png", icc_profile=srgb), COLOURS)


def test_without_littlecms_colours_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "x.png", icc_profile=rgb_profile("Adobe RGB", 2.1))
    monkeypatch.setattr("PIL.features.check_module", lambda _: False)
    read = read_image(tmp_path / "x.png")
    assert np.array_equal(np.asarray(read), COLOURS)
    assert "littlecms" in read.info[PROFILE_UNUSED]


def png_chunk(kind: bytes, content: bytes, checksum: int = 0) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) ^ checksum)


HUGE = zlib.compress(bytes(2_000_000))

PNG_METADATA = {
    "zTXt": png_chunk(b"zTXt", b"comment\0\0" + HUGE),
    "iTXt": png_chunk(b"iTXt", b"comment\0\1\0\0\0" + HUGE),
    "iCCP": png_chunk(b"iCCP", b"name\0\0" + HUGE),
    "checksum": png_chunk(b"tEXt", b"comment\0text", checksum=1),
    "eXIf": png_chunk(b"eXIf", b"\0\x08\0\2\1\x12\0\3"),
    "unpacked": png_chunk(b"zTXt", b"comment\0\0no zlib"),
}


@pytest.mark.parametrize("kind", PNG_METADATA)
@pytest.mark.parametrize("at_end", [False, True])
def test_metadata_of_a_png_cost_no_pixel(tmp_path: Path, kind: str, at_end: bool) -> None:
    turned = Image.Exif()
    turned[0x0112] = 3
    Image.fromarray(COLOURS).save(tmp_path / "x.png", exif=turned if kind != "eXIf" else b"")
    whole = (tmp_path / "x.png").read_bytes()
    place = len(whole) - 12 if at_end else 33
    (tmp_path / "x.png").write_bytes(whole[:place] + PNG_METADATA[kind] + whole[place:])
    expected = COLOURS if kind == "eXIf" else COLOURS[::-1, ::-1]
    assert np.array_equal(np.asarray(read_image(tmp_path / "x.png")), expected)


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def exif(field: int, kind: int, value: bytes) -> bytes:
    entries = struct.pack("<HHI", 0x0112, 3, 1) + struct.pack("<HH", 3, 0) + struct.pack("<HHI", field, kind, 1) + value
    return b"Exif\0\0II*\0\x08\0\0\0\2\0" + entries + bytes(4) + bytes(64)


JPEG_METADATA = {
    "blank": segment(0xE1, b""),
    "garbage": segment(0xE1, b"Exif\0\0" + bytes(range(200, 250))),
    "rational": segment(0xE1, exif(0x011A, 5, struct.pack("<I", 38))),
    "signed rational": segment(0xE1, exif(0x9201, 10, struct.pack("<i", -1))),
    "text where a number belongs": segment(0xE1, exif(0x0128, 2, b"abc\0")),
    "far away": segment(0xE1, exif(0x010F, 2, struct.pack("<I", 2**31))),
    "several images": segment(0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff" + bytes(50)),
    "profile": segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(30)),
    "photoshop": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("kind", JPEG_METADATA)
def test_metadata_of_a_jpeg_cost_no_pixel(tmp_path: Path, kind: str) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "x.jpg")
    whole = (tmp_path / "x.jpg").read_bytes()
    expected = np.asarray(read_image(tmp_path / "x.jpg"))
    (tmp_path / "x.jpg").write_bytes(whole[:2] + JPEG_METADATA[kind] + whole[2:])
    read = np.asarray(read_image(tmp_path / "x.jpg"))
    is_turned = b"II*\0\x08" in JPEG_METADATA[kind] and "Exif" in repr(JPEG_METADATA[kind])
    assert np.array_equal(read, expected[::-1, ::-1] if is_turned else expected)


@pytest.mark.parametrize("orientation", [0, 9, 99, "6", (6, 6)])
def test_an_impossible_orientation_turns_nothing(orientation: object) -> None:
    image = Image.fromarray(COLOURS)
    image.getexif()[0x0112] = orientation
    assert np.array_equal(np.asarray(upright_rgb(image)), COLOURS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_images_are_told_by_their_content(tmp_path: Path, kind: str) -> None:
    if kind not in FORMATS:
        pytest.skip("Pillow without it")
    for name in ("no ending", "x.jpg!d", "x.unknown", "0123abcd", "x.png"):
        Image.fromarray(COLOURS).save(tmp_path / name, kind)
        assert is_image(tmp_path / name)
        assert read_image(tmp_path / name).size == (WIDTH, HEIGHT)
    for name in ("x.cr2", "x.part", "x.png~", "x.heic"):
        (tmp_path / "no ending").rename(tmp_path / name)
        assert not is_image(tmp_path / name)
        (tmp_path / name).rename(tmp_path / "no ending")


@pytest.mark.parametrize(
    "content",
    [b"", b"BMW on the road", b"P3 and P4 are names", b"Python", b"GIF", b"RIFF\0\0\0\0WAVE", b"\x28\0\0\0" * 9],
)
def test_other_files_are_no_images(tmp_path: Path, content: bytes) -> None:
    for name in ("x", "x.md", "x.unknown"):
        (tmp_path / name).write_bytes(content)
        assert not is_image(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "an empty file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x0a\0\0", "JPEG XL"),
        (b"8BPS\0\1", "Photoshop"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (b"PK\3\4", "an archive"),
        (b"%PDF-1.7", "a PDF"),
    ],
)
def test_what_is_called_an_image_and_is_none_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=told) as caught:
        read_image(tmp_path / "x.jpg")
    assert "not an image" in str(caught.value)


def test_an_image_that_may_not_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read: File name too long"):
        read_image(tmp_path / ("x" * 300))
    with pytest.raises(ImageError, match="cannot be read: Is a directory"):
        read_image(tmp_path)


@pytest.mark.parametrize("stopped", [KeyboardInterrupt(), Interrupted("terminated", 15)])
def test_an_interruption_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: BaseException) -> None:
    def stop(*_: object) -> None:
        raise stopped

    Image.fromarray(COLOURS).save(tmp_path / "x.png", icc_profile=rgb_profile("Adobe RGB", 2.3))
    for place in ("PIL.PngImagePlugin.PngImageFile.load", "PIL.Image.Image.getexif", "PIL.ImageCms.buildTransform"):
        with monkeypatch.context() as patch:
            patch.setattr(place, stop)
            with pytest.raises(type(stopped)):
                read_image(tmp_path / "x.png")


@pytest.mark.skipif("AVIF" not in FORMATS, reason="this Pillow reads no AVIF")
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_damaged_avif_is_damaged_and_asks_for_no_other_pillow(share: float) -> None:
    content = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(content, "AVIF")
    with pytest.raises(ImageError) as told:
        read_image(content.getvalue()[: int(share * len(content.getvalue()))])
    assert "Pillow" not in str(told.value)
