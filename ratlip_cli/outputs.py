"""What is written of generated images: files with their records, grids, metadata."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from ratlip_cli.errors import RatlipError, unknown_name
from ratlip_cli.files import printable, remove_partials, whole_file, writing
from ratlip_cli.generation import FORMATS
from ratlip_cli.grids import captioned_grid
from ratlip_cli.samples import Sample

RECORDS_FILE = "images.jsonl"
_SLUG_BYTES = 60
_LARGEST_EXIF = 65533  # Bytes of a segment of a JPEG.


class ImageFolder:
    """A folder of images: files named by number, prompt and noise, images.jsonl, and grids. Nothing is replaced.

    Prompts are numbered on from what the folder holds already.

    Args:
        folder: made where it does not exist.
        format: one of `generation.FORMATS`.
    """

    def __init__(self, folder: Path, format: str = "png") -> None:
        if format not in FORMATS:
            raise unknown_name("format", format, FORMATS)
        self.folder = folder
        self.format = format
        remove_partials(folder)
        self.first = next_number(folder)

    def save(self, image: Sample) -> Path:
        """Write one image, its record in the file's metadata, and add its line to images.jsonl."""
        path = self.write(image)
        self.note(image)
        return path

    def path_of(self, image: Sample) -> Path:
        """The file of an image."""
        name = f"{self.first + image.prompt_index:04d}_{slug(image.prompt)}_{image.index}.{self.format}"
        return self.folder / name

    def write(self, image: Sample) -> Path:
        """Write one image, its record in the file's metadata. Raises RatlipError where a JPEG has no room for that."""
        path = self.path_of(image)
        with whole_file(path, new=True) as partial:
            if self.format == "png":
                image.image.save(partial, "PNG", pnginfo=png_text(image.record()))
            else:
                exif = Image.Exif()
                exif[ExifTags.Base.ImageDescription] = json.dumps(image.record())
                if self.format == "jpg" and len(exif.tobytes()) > _LARGEST_EXIF:
                    raise RatlipError(
                        f"the prompt, of {len(image.prompt):,} letters, is too long for the metadata of a JPEG: use "
                        "--format png or webp."
                    )
                image.image.save(partial, {"jpg": "JPEG", "webp": "WEBP"}[self.format], quality=95, exif=exif)
        return path

    def note(self, image: Sample) -> None:
        """Add the line of an image that is written to images.jsonl."""
        lines, named = self.folder / RECORDS_FILE, {"file_name": self.path_of(image).name}
        line = json.dumps({**named, **image.record()}, ensure_ascii=False)
        with writing(lines), lines.open("ab", buffering=0) as records:
            records.write(printable(line).encode() + b"\n")  # one write: whole or not at all

    def save_grid(self, images: Sequence[Sample]) -> Path:
        """Write the grid of all `images`, see the function `save_grid`."""
        path = self.folder / f"{self.first:04d}_grid.png"
        save_grid(path, images)
        return path


def save_grid(path: Path, images: Sequence[Sample]) -> None:
    """Write one image of all `images`, a row a prompt, the prompt above its row; the model is in its metadata."""
    rows: dict[int, tuple[str, list[Image.Image]]] = {}
    for image in images:
        rows.setdefault(image.prompt_index, (image.prompt, []))[1].append(image.image)
    record, of_all = images[0].record(), ("model", "fingerprint", "seed", "truncation", "precision", "model_format")
    shared = {name: record[name] for name in of_all if name in record}
    with whole_file(path, new=True) as partial:
        captioned_grid(list(rows.values())).save(partial, "PNG", pnginfo=png_text(shared))


def png_text(record: Mapping[str, object]) -> PngInfo:
    """A record as the text chunks of a PNG file."""
    info = PngInfo()
    for key, value in record.items():
        info.add_itxt(key, printable(str(value)))
    return info


def next_number(folder: Path) -> int:
    """The first number after those with which the names of files in `folder` begin, as in 0007_a-red-bird_0.png."""
    numbered = (re.match(r"(\d{4,})_", path.name) for path in folder.glob("*_*"))
    return max((int(match[1]) for match in numbered if match), default=-1) + 1


def slug(prompt: str) -> str:
    """A prompt as a part of a file name: lower-case letters and digits of any script, joined by hyphens.

    Letters that the file names of this locale cannot have are left out.
    """
    names = sys.getfilesystemencoding()
    prompt = prompt.encode(names, "ignore").decode(names)
    words = re.sub(r"[\W_]+", "-", unicodedata.normalize("NFKC", prompt).lower()).strip("-")
    return words.encode()[:_SLUG_BYTES].decode(errors="ignore").strip("-") or "prompt"
