"""Archives are read as far as they can be, and never trusted."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from peak import peak_of

from ratlip_cli.data import archives
from ratlip_cli.data.archives import ArchiveError, Member, check_archive, checksum, members
from ratlip_cli.data.layout import Problem
from ratlip_cli.errors import DataError

TEXTS = re.compile(r"\.txt$")
EVIL = ("../evil.txt", "/tmp/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:\\evil.txt", "C:/evil.txt")


def tar(file: Path, *entries: tuple[str, bytes] | tarfile.TarInfo) -> Path:
    """Write an archive of files and of other members; it is zipped where its name says so."""
    mode = "w:gz" if file.name.endswith("gz") else "w"
    with tarfile.open(file, mode) as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
    return file


def link(name: str, kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def read(place: Path, wanted: re.Pattern[str] = TEXTS) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return what is in `place` and what is refused."""
    found = list(members(place, wanted))
    good = {item.name: item.read() for item in found if isinstance(item, Member)}
    bad = {item.name: item.reason for item in found if isinstance(item, Problem)}
    return good, bad


def read_to_the_break(place: Path) -> tuple[list[tuple[str, bytes]], str]:
    """Return what is read before an archive turns out to be damaged, and what is said then."""
    found = []
    try:
        for item in members(place, TEXTS):
            found.append((item.name, item.read()))
    except ArchiveError as error:
        return found, str(error)
    raise AssertionError(f"{place} was read to its end")


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.TGZ"])
def test_wanted_files_of_a_tar_are_read(tmp_path: Path, name: str) -> None:
    content = [
        ("a.txt", b"a"),
        ("deep/er/b.txt", b"b" * 2000),
        ("c.jpg", b"c"),
        ("./._a.txt", b"macOS"),
        ("e.txt", b""),
    ]
    place = tar(tmp_path / name, *content)
    assert read(place) == ({"a.txt": b"a", "deep/er/b.txt": b"b" * 2000, "e.txt": b""}, {})
    assert check_archive(place) is None


def test_wanted_files_of_a_zip_and_of_a_folder_are_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("a.txt", "deep/b.txt", "c.jpg", "__MACOSX/a.txt"):
            archive.writestr(name, name)
    assert read(tmp_path / "x.zip") == ({"a.txt": b"a.txt", "deep/b.txt": b"deep/b.txt"}, {})
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        archive.extractall(tmp_path / "folder")
    (tmp_path / "folder" / "deep" / "round").symlink_to(tmp_path / "folder")
    assert read(tmp_path / "folder") == ({"a.txt": b"a.txt", "deep/b.txt": b"deep/b.txt"}, {})
    assert read(tmp_path / "folder" / "a.txt") == ({"a.txt": b"a.txt"}, {})
    before = checksum(tmp_path / "folder", TEXTS)
    (tmp_path / "folder" / "c.jpg").unlink()
    assert checksum(tmp_path / "folder", TEXTS) == before
    (tmp_path / "folder" / "a.txt").write_text("longer")
    assert checksum(tmp_path / "folder", TEXTS) != before


@pytest.mark.parametrize("name", EVIL)
def test_what_would_land_outside_is_refused(tmp_path: Path, name: str) -> None:
    tar(tmp_path / "x.tar", ("good.txt", b"good"), (name, b"evil"), ("more.txt", b"more"))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("good.txt", "good")
        archive.writestr(name, "evil")
        archive.writestr("more.txt", "more")
    for place in (tmp_path / "x.tar", tmp_path / "x.zip"):
        good, bad = read(place)
        assert good == {"good.txt": b"good", "more.txt": b"more"}
        assert list(bad.values()) == ["it would land outside its folder, and is refused"]


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    kinds = {
        "sym.txt": tarfile.SYMTYPE,
        "hard.txt": tarfile.LNKTYPE,
        "pipe.txt": tarfile.FIFOTYPE,
        "dev.txt": tarfile.CHRTYPE,
    }
    tar(tmp_path / "x.tar", *(link(name, kind) for name, kind in kinds.items()), ("good.txt", b"good"))
    assert read(tmp_path / "x.tar") == ({"good.txt": b"good"}, dict.fromkeys(kinds, "a link in an archive is refused"))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("sym.txt")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert read(tmp_path / "x.zip") == ({}, {"sym.txt": "a link in an archive is refused"})


def headers(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def grown_by(archive: Path) -> int:
    """MiB that reading an archive takes, in a process of its own: this one may have had as much at some time."""
    code = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from peak import peak\n"
        "from ratlip_cli.data import archives\n"
        "archives.ALWAYS_ALLOWED = 2**20\n"
        "before = peak()\n"
        "try:\n    list(archives.members(Path(sys.argv[1]), re.compile('')))\n"
        "except archives.ArchiveError:\n    pass\n"
        "print(peak() - before)\n"
    )
    return peak_of(code, archive)


def pax(size: int) -> bytes:
    """The beginning of an extended header that claims to be so long."""
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "begins", [headers("x.txt", 10**10), headers("x.jpg", 10**10), pax(10**10)], ids=["wanted", "unwanted", "header"]
)
def test_a_tar_that_expands_without_bound_is_given_up(
    tmp_path: Path, begins: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 2**20)
    with gzip.open(tmp_path / "x.tgz", "wb") as written:
        written.write(begins)
        for _ in range(64):
            written.write(bytes(2**20))
    with pytest.raises(ArchiveError, match=r"refused: it expands|damaged: a part of"):
        read(tmp_path / "x.tgz")
    assert grown_by(tmp_path / "x.tgz") < 32
    assert check_archive(tmp_path / "x.tgz") is not None


def test_a_zip_that_expands_without_bound_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 2**20)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.txt", bytes(2**24))
    with pytest.raises(ArchiveError, match="expands to more than 100 times its size"):
        read(tmp_path / "x.zip")


def test_an_enormous_member_is_refused_and_the_rest_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "LARGEST_MEMBER", 10_000)
    files = [
        ("good.txt", b"good"),
        ("large.txt", os.urandom(20_000)),
        ("large.jpg", os.urandom(20_000)),
        ("more.txt", b""),
    ]
    tar(tmp_path / "x.tgz", *files)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, content in files:
            archive.writestr(name, content)
    for place in (tmp_path / "x.tgz", tmp_path / "x.zip"):
        good, bad = read(place)
        assert list(good) == ["good.txt", "more.txt"]
        assert list(bad) == ["large.txt"]
    (tmp_path / "large.txt").write_bytes(bytes(10_001))
    with pytest.raises(DataError, match="larger than"):
        read(tmp_path / "large.txt")


def test_a_sparse_member_is_refused(tmp_path: Path) -> None:
    block = bytearray(headers("x.txt", 512))
    block[156:157] = tarfile.GNUTYPE_SPARSE
    block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:512]))
    (tmp_path / "x.tar").write_bytes(bytes(block) + bytes(512) + tar(tmp_path / "y.tar", ("y.txt", b"y")).read_bytes())
    good, bad = read(tmp_path / "x.tar")
    assert good == {"y.txt": b"y"}
    assert "x.txt" in bad


@pytest.mark.parametrize("name", ["x.tar", "x.tgz"])
def test_an_archive_that_is_cut_short_gives_what_is_before(tmp_path: Path, name: str) -> None:
    files = [(f"{number}.txt", os.urandom(700)) for number in range(20)]
    whole = tar(tmp_path / name, *files).read_bytes()
    for kept in (0.1, 0.5, 0.9):
        (tmp_path / name).write_bytes(whole[: int(len(whole.rstrip(b"\0")) * kept)])
        found, message = read_to_the_break(tmp_path / name)
        assert "\n" not in message
        assert found == files[: len(found)]
        assert len(found) >= int(20 * kept) - 2
        assert check_archive(tmp_path / name) is not None


def test_a_tar_without_its_end_is_cut_short(tmp_path: Path) -> None:
    place = tar(tmp_path / "x.tar", ("a.txt", b"a"), ("b.txt", b"b"))
    place.write_bytes(place.read_bytes()[:2048])
    found, message = read_to_the_break(place)
    assert found == [("a.txt", b"a"), ("b.txt", b"b")]
    assert message.endswith("cut short: it has no end. Remove it and get it again.")


def test_a_damaged_header_costs_its_own_file_alone(tmp_path: Path) -> None:
    place = tar(tmp_path / "x.tar", *((f"{number}.txt", b"x" * 600) for number in range(5)))
    content = bytearray(place.read_bytes())
    content[2 * 1536] ^= 1
    content[4 * 1536 + 150] ^= 1
    place.write_bytes(content)
    good, bad = read(place)
    assert list(good) == ["0.txt", "1.txt", "3.txt"]
    assert bad == {"a part of the archive": "damaged, and passed over"}


def test_a_tar_that_leads_back_into_itself_is_given_up(tmp_path: Path) -> None:
    block = bytearray(headers("x.jpg", 0))
    block[124:136] = b"\xff" * 10 + (-1024 & 0xFFFF).to_bytes(2, "big")
    block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:512]))
    (tmp_path / "x.tar").write_bytes(bytes(block) * 4 + bytes(1024))
    assert read(tmp_path / "x.tar") == ({}, {"a part of the archive": "damaged, and passed over"})
    info = tarfile.TarInfo("x.jpg")
    info.pax_headers = {"size": "-2048"}
    (tmp_path / "y.tar").write_bytes(info.tobuf(tarfile.PAX_FORMAT) + bytes(1024))
    with pytest.raises(ArchiveError):
        read(tmp_path / "y.tar")


def test_a_damaged_member_of_a_zip_costs_itself_alone(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}.txt", f"{number}" * 100)
    (tmp_path / "x.zip").write_bytes((tmp_path / "x.zip").read_bytes().replace(b"11111", b"12345", 1))
    good, bad = read(tmp_path / "x.zip")
    assert list(good) == ["0.txt", "2.txt"]
    assert list(bad) == ["1.txt"]
    assert check_archive(tmp_path / "x.zip") == "1.txt is damaged"


def whole_tar() -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    return written.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"<html></html>", b"PK\3\4", b"\x1f\x8b\x08", gzip.compress(b"text", mtime=0), bz2.compress(b"x")],
)
@pytest.mark.parametrize("name", ["x.tar.gz", "x.zip", "x.tar"])
def test_what_is_no_archive_is_one_clear_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    found, message = read_to_the_break(tmp_path / name)
    assert found == []
    assert message.startswith(str(tmp_path / name))
    assert "\n" not in message


@pytest.mark.parametrize("damage", [lambda data: data[:-4] + b"\0\0\0\0", lambda data: data[:-12]])
def test_a_gzip_whose_checksum_is_wrong_is_damaged(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    (tmp_path / "x.tgz").write_bytes(damage(gzip.compress(whole_tar())))
    with pytest.raises(ArchiveError, match=r"damaged or cut short"):
        read(tmp_path / "x.tgz")


def test_a_missing_archive_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="cannot be read"):
        read(tmp_path / "x.zip")


def with_size(whole: bytes, size: int) -> bytes:
    """A .tar whose first member claims to have `size` bytes, with a right checksum."""
    header = bytearray(whole[:512])
    header[124:136] = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + whole[512:]


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
@pytest.mark.parametrize(
    ("first", "size"),
    [
        *((first, size) for first in ("0.txt", "0.mp4") for size in (0, 1600, 2048, 10**5, 10**8, 2 * 10**8, 2**62)),
        *(("longer than a header has room for" * 9 + ".txt", size) for size in (0, 10**5, 10**8, 2**62)),
    ],
)
def test_a_wrong_size_costs_its_member_alone(tmp_path: Path, name: str, first: str, size: int) -> None:
    others = {f"{number}.txt": bytes([64 + number]) * 600 for number in range(1, 9)}
    whole = tar(tmp_path / "whole.tar", (first, b"@" * 600), *others.items()).read_bytes()
    damaged = with_size(whole, size)
    (tmp_path / name).write_bytes(gzip.compress(damaged) if name.endswith("gz") else damaged)
    found = list(members(tmp_path / name, TEXTS))
    assert {item.name: item.read() for item in found if isinstance(item, Member) and item.name in others} == others
    assert any(isinstance(item, Problem) for item in found) or first.endswith(".mp4")
