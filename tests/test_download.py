"""Downloads complete whatever the server does, or say why not and what to do."""

from __future__ import annotations

import errno
import gzip
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from file_server import serve_file

from ratlip_cli import files
from ratlip_cli.data import download
from ratlip_cli.data.download import RemoteFile, fetch, google_drive
from ratlip_cli.errors import DataError, RatlipError
from ratlip_cli.files import locked

CONTENT = bytes(range(256)) * 4000


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(download, "BACK_OFF", 0.001)
    case = getattr(request.node, "callspec", None)
    stalls = case is not None and "stall" in case.params.get("misdeeds", ())
    monkeypatch.setattr(download, "TIMEOUT", 1.0 if stalls else 30.0)  # none is given up that only is slow
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def archive(content: bytes = CONTENT) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as tar:
        info = tarfile.TarInfo("text_c10/x.txt")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return written.getvalue()


@pytest.mark.parametrize(
    "misdeeds",
    [
        [],
        ["break"],
        ["break", "break", "break", "break", "break", "break", "break"],
        ["break", "no range"],
        ["break", "no range, break"],
        ["break", "other range"],
        ["break", "unknown size"],
        ["stall"],
        ["drop", "drop"],
        ["500", "503"],
        ["429"],
        ["break", "500", "break", "502"],
        ["wrong"],
        ["break", "wrong"],
        ["confirm"],
        ["break", "confirm"],
    ],
)
def test_one_call_gets_over_it(tmp_path: Path, misdeeds: Sequence[str]) -> None:
    with serve_file(CONTENT, *misdeeds) as served:
        path = fetch(RemoteFile("x.bin", (served.address,), "the page", served.md5), tmp_path / "downloads")
        assert served.misdeeds == []
    assert path == tmp_path / "downloads" / "x.bin"
    assert path.read_bytes() == CONTENT
    assert not list(path.parent.glob("*.part"))


@pytest.mark.parametrize(
    ("misdeeds", "said"),
    [
        (["403"], "answered 403 Forbidden"),
        (["404"], "answered 404 Not Found"),
        (["500"] * 4, "answered 500"),
        (["quota"], "answered with a web page ('Google Drive - Quota exceeded') instead of the file"),
        (["confirm", "confirm"], "Virus scan warning"),
        (["wrong"] * 2, "sent other bytes"),
        (["drop"] * 4, "closed connection"),
        (["stall", *["drop"] * 4], "closed connection"),
        (["no range, break"] * 5, "broke off after 512000 of 1024000 bytes"),
    ],
)
def test_what_one_address_says_is_told_and_the_next_attempt_completes(
    tmp_path: Path, misdeeds: Sequence[str], said: str
) -> None:
    with serve_file(CONTENT, *misdeeds) as served:
        file = RemoteFile("x.bin", (served.address,), "the page", served.md5)
        with pytest.raises(DataError) as caught:
            fetch(file, tmp_path)
        assert served.misdeeds == []
        message = str(caught.value)
        assert said in message
        assert message.startswith("cannot download x.bin (127.0.0.1:")
        assert message.endswith("): get it by hand from the page")
        assert "\n" not in message
        assert not (tmp_path / "x.bin").exists()
        assert fetch(file, tmp_path).read_bytes() == CONTENT


def test_the_next_address_is_tried_and_goes_on_where_the_last_one_broke_off(tmp_path: Path) -> None:
    half = "bytes=512000-"
    with serve_file(CONTENT, "break", "404") as dead, serve_file(CONTENT) as alive:
        addresses = (dead.address, "http://127.0.0.1:1/nobody", alive.address)
        fetch(RemoteFile("x.bin", addresses, "the page", alive.md5), tmp_path)
        assert alive.requests == [f"/file {half}"]
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


def test_the_confirmation_of_google_drive_is_sent_back(tmp_path: Path) -> None:
    with serve_file(CONTENT, "confirm") as served:
        fetch(RemoteFile("x.bin", (served.address,), "the page", served.md5), tmp_path)
        assert served.requests == ["/file", "/confirmed?id=abc&export=download&confirm=t&uuid=1-2%263"]
    assert google_drive("abc", "0-k")[0] == (
        "https://drive.usercontent.google.com/download?id=abc&export=download&confirm=t&resourcekey=0-k"
    )
    assert all("resourcekey" not in address for address in google_drive("abc"))


def test_what_has_arrived_is_kept_where_the_size_is_not_told(tmp_path: Path) -> None:
    with serve_file(CONTENT, "break", "unknown size") as served:
        fetch(RemoteFile("x.bin", (served.address,), "the page", served.md5), tmp_path)
        assert served.requests == ["/file", "/file bytes=512000-"]


def test_a_file_that_is_there_is_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"here")
    assert fetch(RemoteFile("x.bin", ("http://127.0.0.1:1/",), "the page"), tmp_path).read_bytes() == b"here"


def test_a_part_that_is_already_all_of_it_is_taken(tmp_path: Path) -> None:
    with serve_file(CONTENT) as served:
        (tmp_path / ".x.bin.part").write_bytes(CONTENT)
        fetch(RemoteFile("x.bin", (served.address,), "the page", served.md5), tmp_path)
        assert served.requests == [f"/file bytes={len(CONTENT)}-"]
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [CONTENT + b"more", CONTENT[:500] + b"\0" * 1000])
def test_a_part_of_something_else_is_given_up(tmp_path: Path, part: bytes) -> None:
    with serve_file(CONTENT) as served:
        (tmp_path / ".x.bin.part").write_bytes(part)
        fetch(RemoteFile("x.bin", (served.address,), "the page", served.md5), tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


def test_without_a_checksum_an_archive_must_be_readable_to_its_end(tmp_path: Path) -> None:
    whole = archive(os.urandom(10_000))
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as written:
        written.writestr("0.jpg", CONTENT)
    for name, bad, good in (
        ("x.tar.gz", whole[:-100], whole),
        ("y.tar.gz", bytes(damaged), whole),
        ("z.tar.gz", gzip.compress(b"no archive" * 1000), whole),
        ("z.zip", zipped.getvalue().replace(CONTENT[:50], CONTENT[1:51]), zipped.getvalue()),
        ("page.zip", b"<html>no archive</html>", zipped.getvalue()),
    ):
        with serve_file(bad) as served, pytest.raises(DataError, match="sent no whole archive"):
            fetch(RemoteFile(name, (served.address,), "the page"), tmp_path)
        with serve_file(good) as served:
            assert fetch(RemoteFile(name, (served.address,), "the page"), tmp_path).read_bytes() == good


def test_progress_counts_from_where_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MEGABYTE", 1)
    steps: list[tuple[str, int, int | None, str]] = []
    with serve_file(CONTENT, "break") as served:
        file = RemoteFile("x.bin", (served.address,), "the page", served.md5)
        fetch(file, tmp_path, lambda *step: steps.append(step))
    assert {(what, total, unit) for what, _, total, unit in steps} == {("download x.bin", len(CONTENT), "MB")}
    done = [done for _, done, _, _ in steps]
    assert done == sorted(done)
    assert done[-1] == len(CONTENT)


def test_two_at_once_the_second_says_so(tmp_path: Path) -> None:
    with locked(tmp_path / ".x.bin.lock") as free:
        assert free
        with pytest.raises(DataError, match="another ratlip is downloading"):
            fetch(RemoteFile("x.bin", ("http://127.0.0.1:1/",), "the page"), tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="flock is of Unix")
def test_where_a_file_system_knows_no_locks_nobody_is_kept_from_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def refused(number: int, *_given: int) -> None:
        raise OSError(number, os.strerror(number))

    for number, is_free in ((errno.ENOSYS, True), (errno.ENOLCK, True), (errno.EAGAIN, False), (errno.EACCES, False)):
        monkeypatch.setattr(fcntl, "flock", partial(refused, number))
        with locked(tmp_path / ".lock") as free:
            assert free is is_free


def test_a_lock_file_is_removed_by_who_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opened it before holds no file that others do not see."""
    with pytest.raises(DataError, match="cannot download"):
        fetch(RemoteFile("x.bin", ("http://127.0.0.1:1/",), "the page"), tmp_path)
    assert list(tmp_path.iterdir()) == []
    lock, own = tmp_path / ".lock", files._lock
    before = ExitStack()
    assert before.enter_context(locked(lock, removes=True))

    def ended_meanwhile(descriptor: int) -> bool:
        before.close()
        return own(descriptor)

    monkeypatch.setattr(files, "_lock", ended_meanwhile)
    with locked(lock) as had, locked(lock) as also:
        assert (had, also) == (True, False)
    assert lock.exists()


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RatlipError, match="cannot write"):
        fetch(RemoteFile("x.bin", ("http://127.0.0.1:1/",), "the page"), tmp_path / "file")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_it_goes_on_where_it_stopped(tmp_path: Path, number: int) -> None:
    with serve_file(CONTENT, "slow") as served:
        file = f"RemoteFile('x.bin', ({served.address!r},), 'the page', {served.md5!r})"
        code = (
            f"from pathlib import Path; from ratlip_cli.data.download import *; fetch({file}, Path({str(tmp_path)!r}))"
        )
        with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
            part = tmp_path / ".x.bin.part"
            end = time.monotonic() + 600
            while not (part.exists() and part.stat().st_size):
                assert time.monotonic() < end, "waited in vain"
                time.sleep(0.01)
            process.send_signal(number)
        arrived = part.stat().st_size
        assert 0 < arrived < len(CONTENT)
        fetch(RemoteFile("x.bin", (served.address,), "the page", served.md5), tmp_path)
        assert served.requests == ["/file", f"/file bytes={arrived}-"]
    assert (tmp_path / "x.bin").read_bytes() == CONTENT
