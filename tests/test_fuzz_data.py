"""Damaged files of every kind: nothing crashes, hangs, leaves its folder, or costs a record that is whole."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import signal
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import numpy as np
import official_archives as written
import pytest
from PIL import Image
from scipy.io import savemat

from ratlip_cli.data.archives import ArchiveError, Member, check_archive, members
from ratlip_cli.data.images import ImageError, read_image
from ratlip_cli.data.layout import Problem, read_split
from ratlip_cli.data.prepare import PrepareRequest, prepare
from ratlip_cli.data.sources import tables
from ratlip_cli.data.sources.oxford import read_labels
from ratlip_cli.errors import DataError, RatlipError

ALL = re.compile("")
MEMBERS = {f"{number}.bin": bytes([number]) * (300 * number) for number in range(12)}
SECONDS = 20
"""For one damaged file; a whole one takes milliseconds."""


@pytest.fixture(autouse=True)
def _no_hanging() -> Iterator[None]:
    """Let a case that takes longer than SECONDS fail; `rounds` winds the clock up again for each."""

    def fail(number: int, frame: FrameType | None) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, fail)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def one_line(kind: type[Exception]) -> Iterator[None]:
    """What may go wrong with a damaged file, and is told in one line."""
    try:
        yield
    except kind as error:
        if "\n" in str(error):
            raise AssertionError(str(error)) from error


def rounds(count: int) -> Iterator[np.random.Generator]:
    for seed in range(count):
        signal.alarm(SECONDS)
        yield np.random.default_rng(seed)


def damaged(whole: bytes, random: np.random.Generator) -> bytes:
    """`whole` with bytes changed, cut off, cut out, repeated or put in, mostly near the beginning."""
    data = bytearray(whole)
    for _ in range(random.integers(1, 4)):
        end = len(data) if random.random() < 0.5 else min(len(data), 600)
        at, length = int(random.integers(0, end + 1)), int(random.integers(1, 40))
        kind = random.integers(0, 6)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            data[at:at] = random.bytes(length)
        elif kind == 4:
            data[at : at + length] = bytes([random.choice([0, 255])]) * length
        else:
            data[at : at + 1] = random.bytes(1)
    return bytes(data)


def one_byte(whole: bytes, random: np.random.Generator, end: int) -> tuple[bytes, int]:
    """`whole` with another byte at one place before `end`, and that place."""
    at = int(random.integers(0, end))
    return whole[:at] + bytes([whole[at] ^ int(random.integers(1, 256))]) + whole[at + 1 :], at


def image(kind: str) -> bytes:
    random = np.random.default_rng(0)
    content = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(content, kind)
    return content.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM"])
def test_images(kind: str) -> None:
    whole = image(kind)
    for random in rounds(150):
        with one_line(ImageError):
            assert read_image(damaged(whole, random)).mode == "RGB"


def tar(mode: str) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        for name, data in MEMBERS.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


def zipped() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in MEMBERS.items():
            archive.writestr(name, data)
    return content.getvalue()


def read(file: Path) -> tuple[dict[str, bytes], bool]:
    """Return what is read of a damaged archive, and whether it is told that something is wrong with it."""
    found, told, ended = {}, False, False
    with one_line(ArchiveError):
        for item in members(file, ALL):
            if isinstance(item, Member):
                found[item.name] = item.read()
                assert not item.name.startswith("/")
                assert ".." not in item.name.split("/")
            else:
                told = True
        ended = True
    return found, told or not ended


@pytest.mark.parametrize(("name", "whole"), [("x.tar", tar("w")), ("x.tar.gz", tar("w:gz")), ("x.zip", zipped())])
def test_archives(tmp_path: Path, name: str, whole: bytes) -> None:
    for random in rounds(150):
        (tmp_path / name).write_bytes(damaged(whole, random))
        read(tmp_path / name)
        check_archive(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_changed_byte_of_a_tar_costs_one_member_at_most(tmp_path: Path) -> None:
    whole = tar("w")
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        starts = {info.offset: info.name for info in archive}
    for random in rounds(400):
        content, at = one_byte(whole, random, len(whole))
        (tmp_path / "x.tar").write_bytes(content)
        found, told = read(tmp_path / "x.tar")
        hit = starts[max(start for start in starts if start <= at)]
        others = {name: data for name, data in MEMBERS.items() if name != hit}
        assert {name: found.get(name) for name in others} == others
        assert told or hit in found or len(found) == len(MEMBERS)  # Its name may be what changed.


def test_a_changed_byte_of_a_zip_costs_one_member_at_most(tmp_path: Path) -> None:
    whole = zipped()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        starts = {info.header_offset: info.filename for info in archive.infolist()}
        directory = archive.start_dir
    for random in rounds(400):
        content, at = one_byte(whole, random, directory)
        (tmp_path / "x.zip").write_bytes(content)
        found, told = read(tmp_path / "x.zip")
        hit = starts[max(start for start in starts if start <= at)]
        assert {**found, hit: MEMBERS[hit]} == MEMBERS
        assert found.get(hit, MEMBERS[hit]) == MEMBERS[hit]
        assert told or hit in found


def test_labels(tmp_path: Path) -> None:
    for compressed in (False, True):
        content = io.BytesIO()
        savemat(content, {"labels": np.arange(1, 103, dtype=np.uint8)[None]}, do_compression=compressed)
        for random in rounds(150):
            (tmp_path / "imagelabels.mat").write_bytes(damaged(content.getvalue(), random))
            with one_line(DataError):
                assert all(1 <= label <= 102 for label in read_labels(tmp_path))


def table(kind: str) -> bytes:
    rows = [{"file_name": f"{number}.png", "text": f'a "{number}", or\ttwo — three'} for number in range(20)]
    content = io.StringIO()
    if kind == "csv":
        writer = csv.DictWriter(content, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    else:
        content.write("".join(f"{json.dumps(row)}\n" for row in rows))
    return content.getvalue().encode()


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_tables(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"x.{kind}"
    for random in rounds(250):
        file.write_bytes(damaged(table(kind), random))
        for row in tables.rows(file):
            assert isinstance(row, Problem) or (row.file_name and isinstance(row.captions, tuple))


def test_a_changed_byte_of_a_jsonl_costs_one_row_at_most(tmp_path: Path) -> None:
    whole = table("jsonl")
    for random in rounds(250):
        content, at = one_byte(whole, random, len(whole))
        (tmp_path / "x.jsonl").write_bytes(content)
        found = list(tables.rows(tmp_path / "x.jsonl"))
        hit = {whole[:at].count(b"\n"), whole[: at + 1].count(b"\n")}
        names = {row.file_name for row in found if isinstance(row, tables.Row)}
        assert {f"{number}.png" for number in range(20) if number not in hit} <= names
        assert len(found) >= 19


def photos(folder: Path) -> list[Path]:
    """Nine images, with captions in text files, a table and a shard; the files of captions and the images."""
    for place in ("texts", "table", "shard"):
        (folder / place).mkdir(parents=True)
    for number in range(3):
        (folder / "texts" / f"{number}.jpg").write_bytes(image("JPEG"))
        (folder / "texts" / f"{number}.txt").write_text(f"caption {number}")
        (folder / "table" / f"{number}.png").write_bytes(image("PNG"))
    rows = "".join(json.dumps({"file_name": f"{number}.png", "text": "a row"}) + "\n" for number in range(3))
    (folder / "table" / "metadata.jsonl").write_text(rows)
    with tarfile.open(folder / "shard" / "0.tar", "w") as archive:
        for number in range(3):
            for name, data in ((f"{number}.jpg", image("JPEG")), (f"{number}.txt", b"in a shard")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_folders_of_images(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    files = photos(folder)
    whole = {file: file.read_bytes() for file in files}
    for number, random in enumerate(rounds(60)):
        hit = files[random.integers(len(files))]
        hit.write_bytes(damaged(whole[hit], random))
        out = tmp_path / "data" / str(number)
        request = PrepareRequest(str(folder), out.parent, out.name, image_size=16, test_fraction=0, workers=1)
        info = prepare(request).info
        hit.write_bytes(whole[hit])
        names = {entry.file.stem for entry in read_split(out, "train")}
        others = {f"{place}_{n}" for place in ("texts", "table", "shard_0") for n in range(3)}
        others -= {f"texts_{hit.stem}"} if hit.parent.name == "texts" else set()
        others -= {f"table_{n}" for n in range(3) if hit.parent.name == "table" and hit.stem in (str(n), "metadata")}
        others -= {f"shard_0_{n}" for n in range(3) if hit.parent.name == "shard"}
        assert others <= names, (number, info.left_out)
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "data"}
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == files


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cub", "oxford", "celeba-tiny"])
def test_official_archives(tmp_path: Path, name: str) -> None:
    writers: dict[str, Callable[[Path], None]] = {
        "cub": written.write_cub,
        "oxford": written.write_oxford,
        "celeba-tiny": written.write_faces,
    }
    raw = tmp_path / "raw"
    writers[name](raw)
    files = sorted(raw.iterdir())
    whole = {file: file.read_bytes() for file in files}
    for number, random in enumerate(rounds(25)):
        hit = files[random.integers(len(files))]
        hit.write_bytes(damaged(whole[hit], random))
        with one_line(RatlipError):
            prepare(
                PrepareRequest(
                    name, tmp_path / "data", str(number), image_size=16, raw=raw, accept_license=True, workers=1
                )
            )
        hit.write_bytes(whole[hit])
    assert {path.name for path in tmp_path.iterdir()} <= {"raw", "data"}
