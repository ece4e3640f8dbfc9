"""Captioned images in shards, as img2dataset writes them, and in Parquet, as the `datasets` library does."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT = 48, 40


def colour(number: int) -> tuple[int, int, int]:
    """The colour of an image: another one for each number."""
    return number % 8 * 32, number // 8 % 8 * 32, number // 64 * 8


def jpeg(number: int, size: tuple[int, int] = (WIDTH, HEIGHT), kind: str = "PNG") -> bytes:
    """An image of one colour, which tells its number, brighter on its right: mirrored, it is another one."""
    image = Image.new("RGB", size, colour(number))
    image.paste(tuple(min(255, level + 20) for level in colour(number)), (size[0] // 2, 0, *size))
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def members(number: int, content: bytes | None = None) -> dict[str, bytes]:
    """The files of one sample by ending, in img2dataset's order."""
    caption = f"image {number}"
    told = {"url": f"http://x/{number}", "caption": caption, "key": f"{number:09d}", "status": "success"}
    return {
        "jpg": jpeg(number) if content is None else content,
        "json": json.dumps(told).encode(),
        "txt": caption.encode(),
    }


def write_shard(folder: Path, shard: int, samples: Mapping[int, Mapping[str, bytes]]) -> Path:
    """Write folder/00000.tar of samples by number, with its statistics beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{shard:05d}.tar"
    with tarfile.open(path, "w") as archive:
        for number, files in samples.items():
            for ending, content in files.items():
                header = tarfile.TarInfo(f"{number:09d}.{ending}")
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
    stats = {"count": len(samples), "successes": len(samples), "failed_to_download": 0}
    path.with_name(f"{shard:05d}_stats.json").write_text(json.dumps(stats))
    return path


def write_shards(folder: Path, shards: int, samples: int) -> Path:
    """Write so many whole shards of so many samples each, numbered on."""
    for shard in range(shards):
        write_shard(folder, shard, {n: members(n) for n in range(shard * samples, (shard + 1) * samples)})
    return folder


def write_parquet(path: Path, numbers: range, column: str = "caption") -> Path:
    """Write images and captions as `Dataset.to_parquet` does: a struct of bytes and path, and a text."""
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": jpeg(number), "path": f"{number}.png"} for number in numbers]
    table = pyarrow.table({"image": images, column: [f"image {number}" for number in numbers]})
    pyarrow.parquet.write_table(table, path, row_group_size=4)
    return path
