"""Frames as one file: an MP4, a GIF or a WebP that moves, or a PNG with all of them side by side."""

from __future__ import annotations

import importlib.util
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path

from PIL import ExifTags, Image

from ratlip_cli.errors import RatlipError, UsageError, unknown_name
from ratlip_cli.files import printable, whole_file
from ratlip_cli.generation import ANIMATIONS, STRIP
from ratlip_cli.grids import captioned_grid
from ratlip_cli.outputs import png_text

_SIDE = 256
"""Smaller images are enlarged to about so many pixels: players blur what is small."""


MOST_PIXELS = 100_000_000
"""Of all frames of a file that is made in memory, which is each but an MP4: Pillow takes 4 bytes a pixel."""

LONGEST_GIF = 655
"""Seconds: a GIF counts those of an image in hundredths, of which it knows 65,535."""


def check_animation(path: Path) -> None:
    """Raise UsageError for a file of another format, RatlipError where what writes it is not installed."""
    kind = path.suffix[1:].lower()
    if kind not in (*ANIMATIONS, STRIP):
        raise unknown_name("format", kind, (*ANIMATIONS, STRIP))
    if kind == "mp4" and importlib.util.find_spec("av") is None:
        raise RatlipError(
            'MP4 files need the package av: `pip install "ratlip[video]"`, or choose .gif or .webp for --out.'
        )


def check_length(path: Path, frames: int, fps: int) -> None:
    """Raise UsageError for a GIF that is too long: of frames that look the same Pillow makes one, shown for so long."""
    if path.suffix.lower() == ".gif" and frames / fps > LONGEST_GIF:
        raise UsageError(
            f"{frames:,} frames at {fps} a second are too long for a GIF, in which one image is shown for at most "
            f"{LONGEST_GIF} seconds: raise --fps, or give an --out that ends in .webp or .mp4."
        )


def save_animation(path: Path, frames: Iterable[Image.Image], caption: str, record: Mapping[str, object]) -> None:
    """Write frames, all of one size, by the ending of `path`; it must be one of ANIMATIONS or STRIP.

    Args:
        caption: stands above a strip.
        record: how they were made, for the file's metadata; its `fps` is the frames a second, but for a strip, its
            `frames`, where it has that, their number.

    An animation repeats without end, but for MP4, where the player decides.

    Raises:
        UsageError: there are more pixels than MOST_PIXELS, which the first frame tells, or a GIF is longer than
        LONGEST_GIF. RatlipError: `path` cannot be written, or is there.
    """
    kind = path.suffix[1:].lower()
    fps, about = int(str(record.get("fps", 1))), json.dumps(record)
    if kind != "mp4":
        frames = _checked(frames, kind, int(str(record.get("frames", 1))))
    with whole_file(path, new=True) as partial:
        if kind == STRIP:
            captioned_grid([(caption, list(frames))]).save(partial, "PNG", pnginfo=png_text(record))
        elif kind == "mp4":
            _save_mp4(partial, enlarged(frames), fps, about)
        else:
            shown = list(enlarged(frames))
            check_length(path, len(shown), fps)
            exif = Image.Exif()
            exif[ExifTags.Base.ImageDescription] = about
            beside = {"comment": about.encode()} if kind == "gif" else {"exif": exif, "quality": 95}
            delays = _delays(len(shown), fps, 10 if kind == "gif" else 1)  # a GIF counts in hundredths of a second
            shown[0].save(partial, kind, save_all=True, append_images=shown[1:], duration=delays, loop=0, **beside)


def _checked(frames: Iterable[Image.Image], kind: str, count: int) -> Iterator[Image.Image]:
    """The frames, `count` of them; raises UsageError at the first where they are too large to be held in memory."""
    for number, frame in enumerate(frames):
        if number == 0:
            width, height = (side * _scale(frame.size) for side in frame.size)
            most = MOST_PIXELS // (width * height)
            if count > most:
                raise UsageError(
                    f"{count:,} frames of {width} x {height} pixels are too many for a .{kind}, made in memory: "
                    f"give at most {most:,} --frames, or an --out that ends in .mp4."
                )
        yield frame


def _delays(count: int, fps: int, unit: int) -> list[int]:
    """Milliseconds for which each frame is shown, whole units, so that all together have `fps` frames a second."""
    times = [round(1000 * frame / (fps * unit)) * unit for frame in range(count + 1)]
    return [end - start for start, end in itertools.pairwise(times)]


def enlarged(frames: Iterable[Image.Image]) -> Iterator[Image.Image]:
    """Frames by whole factors to about 256 pixels where they are smaller, and to an even side, which H.264 needs."""
    for frame in frames:
        scale = _scale(frame.size)
        size = (frame.width * scale, frame.height * scale)
        yield frame.resize(size, Image.Resampling.NEAREST) if scale > 1 else frame


def _scale(size: tuple[int, int]) -> int:
    scale = max(1, _SIDE // max(size))
    return scale * 2 if any(side * scale % 2 for side in size) else scale


def _save_mp4(path: Path, frames: Iterable[Image.Image], fps: int, about: str) -> None:
    """H.264, as every browser plays it."""
    import av

    with av.open(str(path), "w", format="mp4") as container:
        container.metadata["comment"] = printable(about)
        stream = None
        for frame in frames:
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "16"})
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        if stream is not None:
            container.mux(stream.encode())
