"""Files that appear whole or not at all: written under a temporary name beside the target, then renamed."""

from __future__ import annotations

import codecs
import contextlib
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from ratlip_cli.errors import RatlipError, UsageError

PARTIAL = ".partial"
"""How temporary names end, so that a later run can recognise and remove what a kill left behind."""


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Raise RatlipError where `target` cannot be written inside: permission, a file in the way, a full disk."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RatlipError(f"cannot write {target}: {reason}. Choose another folder or free some space.") from error


def _partial_name(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")


@contextlib.contextmanager
def whole_file(target: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it replaces `target`, on any error nothing is left.

    Where it is `durable`, not even a power failure leaves less; it costs a few milliseconds to wait for the disk.

    Raises RatlipError where the folder cannot be written or the disk is full.
    """
    partial = _partial_name(target)
    try:
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            if durable:
                _to_disk(partial)
            partial.replace(target)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it becomes `target`, which must not exist yet.

    Raises RatlipError where the folder cannot be written or the disk is full.
    """
    partial = _partial_name(target)
    try:
        with writing(target):
            partial.mkdir(parents=True)
            yield partial
            for path in partial.rglob("*"):
                if path.is_file():
                    _to_disk(path)
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _to_disk(path: Path) -> None:
    with path.open("r+b") as written:
        os.fsync(written.fileno())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock file `path` for this process; yields whether it could be had. It ends with the process, however."""
    with path.open("ab") as file:
        yield _lock(file.fileno())


def _lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_text(target: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with whole_file(target) as partial:
        partial.write_text(text, encoding="utf-8")


_MARKS = {
    **{codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"},  # before those of UTF-16, with which they begin
    **{codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", b"": "utf-8-sig"},
}


def decoded(content: bytes, what: str) -> str:
    """The text of a file that a user wrote: UTF-8, or UTF-16 or 32 with its byte order mark; the mark is left out.

    Raises UsageError, which names `what` and the line, for anything else.
    """
    encoding = next(encoding for mark, encoding in _MARKS.items() if content.startswith(mark))
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(f"{what}, line {line}, is not UTF-8 text; save it as UTF-8.") from error
    if "\0" in text:
        raise UsageError(f"{what} is not UTF-8 text: it has zero bytes, as UTF-16 has; save it as UTF-8.")
    return text


def remove_partials(folder: Path) -> None:
    """Remove what an earlier run, killed while writing, left in `folder`."""
    for path in folder.glob(f".*{PARTIAL}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
