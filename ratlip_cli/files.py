"""Files that appear whole or not at all: written under a temporary name beside the target, then renamed."""

from __future__ import annotations

import codecs
import contextlib
import functools
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ratlip_cli.errors import RatlipError, UsageError

PARTIAL = ".partial"
"""How temporary names end, so that a later run can recognise and remove what a kill left behind."""

_A_LOOK, _LOOKS = 0.02, 10
"""Seconds between two tries to have a lock, and how many more there are after the first."""

_TEMPORARY = re.compile(rf"\.(.+)\.[0-9a-f]{{8}}{re.escape(PARTIAL)}")
"""A temporary name; its group is that of the target."""


@contextlib.contextmanager
def writing(target: Path, remedy: str = "Choose another folder or free some space") -> Iterator[None]:
    """Raise RatlipError where `target` cannot be written inside: permission, a file in the way, a full disk."""
    try:
        yield
    except OSError as error:
        named = Path(*(_TEMPORARY.sub(r"\1", part) for part in target.parts))
        if in_the_way := next((above for above in named.parents if above.exists() and not above.is_dir()), None):
            raise RatlipError(f"cannot write {named}: {in_the_way} is a file. Choose another folder.") from error
        raise RatlipError(f"cannot write {named}: {error.strerror or error}. {remedy}.") from error


@contextlib.contextmanager
def whole_file(target: Path, durable: bool = True, new: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it replaces `target`, on any error nothing is left.

    Args:
        durable: not even a power failure leaves less; it costs a few milliseconds to wait for the disk.
        new: nothing is replaced, also where somebody else has written `target` meanwhile.

    Raises RatlipError where the folder cannot be written, the disk is full, or a file that is to be new is there.
    """
    if new and os.path.lexists(target):
        raise _written_by_another(target)
    with writing(target), _workplace(target) as folder:
        partial = folder / target.name
        yield partial
        if durable:
            _to_disk(partial)
        if new:
            _rename_new(partial, target)
        else:
            partial.replace(target)


def _rename_new(path: Path, target: Path) -> None:
    """Give a file the name `target`. Raises RatlipError where something has it."""
    try:
        target.hardlink_to(path)
    except FileExistsError:
        raise _written_by_another(target) from None
    except OSError:  # a file system without links: somebody may come between the next two lines
        if os.path.lexists(target):
            raise _written_by_another(target) from None
        path.replace(target)


def _written_by_another(target: Path) -> RatlipError:
    return RatlipError(f"{target} exists: another ratlip writes into this folder. Choose another --out.")


@contextlib.contextmanager
def whole_folder(target: Path, replaces: bool = False) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it becomes `target`.

    Args:
        replaces: whether there may be a `target`; what it alone holds goes on. Left out, it must not exist yet.

    Raises RatlipError where the folder cannot be written or the disk is full.
    """
    with writing(target), _workplace(target) as partial:
        yield partial
        for path in partial.rglob("*"):
            if path.is_file():
                _to_disk(path)
        if replaces and target.exists():
            _replace(target, partial)
        else:
            partial.rename(target)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a folder among the system's temporary ones, by its real path, for this user alone, that is gone in the end.

    One that a killed process left is removed by the next process that asks for one.
    """
    with _workplace(Path(tempfile.gettempdir()).resolve() / "ratlip") as folder:
        folder.chmod(0o700)
        yield folder


def _replace(target: Path, new: Path) -> None:
    """Let the folder `new` take the place of `target`, and of its files that the new one lacks."""
    with _workplace(target) as aside:
        before = target.rename(aside / target.name)
        try:
            new.rename(target)
        except BaseException:
            before.rename(target)
            raise
        for path in before.iterdir():
            if not (target / path.name).exists():
                path.rename(target / path.name)


@contextlib.contextmanager
def whole_files(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success its files move into `folder`, on any error none of them is there.

    Raises RatlipError where the folder cannot be written, the disk is full, or one of the files is there already.
    """
    is_new, moved = not folder.exists(), list[Path]()
    try:
        with writing(folder), _workplace(folder / "files") as partial:
            yield partial
            files = sorted(partial.iterdir())
            for path in files:
                _to_disk(path)
            for path in files:
                target = folder / path.name
                if target.exists():
                    raise _written_by_another(target)
                moved.append(target)
                path.rename(target)
    except BaseException:
        for target in moved:
            target.unlink(missing_ok=True)
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


@contextlib.contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target`, which is gone in the end; libraries leave their own temporary files in it.

    The first one that a process makes somewhere removes there what killed processes left.
    """
    mark = uuid.uuid4().hex
    made, folder = target.with_name(f".{mark}"), target.with_name(f".{target.name}.{mark[:8]}{PARTIAL}")
    target.parent.mkdir(parents=True, exist_ok=True)
    _tidy(target.parent.absolute())
    try:
        made.mkdir()
        with _claimed(made):  # before it has the name of something that could be removed
            made.rename(folder)
            yield folder
    finally:
        shutil.rmtree(made, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Hold `path` for this process, so that others leave it alone; yields whether it could be had.

    Windows has no lock on a folder: there, what is a day old can be had.
    """
    if sys.platform == "win32":
        yield time.time() - path.stat().st_mtime > 24 * 3600
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def held(folder: Path, with_others: bool = False) -> Iterator[bool]:
    """Hold `folder`, in which nothing is written, for this process; yields False where another process holds it.

    Where nothing can be held, on Windows and on some file systems of a network, nobody is kept from anything.

    Args:
        with_others: it is enough that none holds it without `with_others`; who does so is waited for a moment.
    """
    if sys.platform == "win32":
        yield True
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        for looks_left in reversed(range(_LOOKS + 1 if with_others else 1)):
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if with_others else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                is_held = True
            except OSError as error:
                is_held = not isinstance(error, BlockingIOError)
            if is_held or not looks_left:
                break
            time.sleep(_A_LOOK)
        yield is_held
    finally:
        os.close(descriptor)


def _to_disk(path: Path) -> None:
    with path.open("r+b") as written:
        os.fsync(written.fileno())


@contextlib.contextmanager
def locked(path: Path, removes: bool = False) -> Iterator[bool]:
    """Hold the lock file `path` for this process; yields whether it could be had. It ends with the process, however.

    Another process may hold it for a moment, only to see whether somebody has it: that is waited for.

    Args:
        removes: whether who had it removes the file in the end, which Windows does not let anybody do.
    """
    with lock_descriptor(path) as descriptor:
        try:
            yield descriptor is not None
        finally:
            if removes and descriptor is not None and sys.platform != "win32":
                with contextlib.suppress(OSError):
                    path.unlink()  # while it is held: `lock_descriptor` takes no file that is gone


@contextlib.contextmanager
def lock_descriptor(path: Path) -> Iterator[int | None]:
    """As `locked`; yields the descriptor of the lock file, None where the lock could not be had.

    Where a process of our own inherits the descriptor, the lock is held until both have ended.
    """
    for look in range(_LOOKS + 1):
        if look:
            time.sleep(_A_LOOK)
        with path.open("ab") as file:
            if _lock(file.fileno()) and _is_at(path, file.fileno()):
                yield file.fileno()
                return
    yield None


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is the one at `path`: who held the lock may have removed it since it was opened."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # of a file system that knows no locks, nobody is kept from anything
        return sys.platform != "win32" and not isinstance(error, BlockingIOError | PermissionError)
    return True


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's bytes, in hex digits."""
    return hash_of(file, hashlib.sha256())


def hash_of(file: Path, digest: Any) -> str:
    """The hash, in hex digits, that `digest` of hashlib makes of what it was given before and a file's bytes."""
    with file.open("rb") as content:
        while block := content.read(2**20):
            digest.update(block)
    return str(digest.hexdigest())


def check_out_folder(out: Path) -> None:
    """Raise RatlipError where nothing can be written into a folder, which may be there or not."""
    if os.path.lexists(out) and not out.is_dir():
        kind = "a link to nowhere" if out.is_symlink() else "a file"
        raise RatlipError(f"cannot write {out}: it is {kind}. Choose another folder.")
    check_place(out, [out, *out.absolute().parents])


def check_place(out: Path, places: Iterable[Path]) -> None:
    """Raise RatlipError where the first of `places` that is there is no folder that can be written into."""
    above = next(place for place in places if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        why = "may not be written" if above.is_dir() else "is a file"
        raise RatlipError(f"cannot write {out}: {above} {why}. Choose another --out.")


def write_text(target: Path, text: str, new: bool = False) -> None:
    """Write `text` as UTF-8, see `printable`, whole or not at all; `new`: see `whole_file`."""
    with whole_file(target, new=new) as partial:
        partial.write_bytes(printable(text).encode())


def printable(text: Path | str) -> str:
    """`text` as UTF-8 can hold it: a byte of a name that is no letter becomes \\udce9 or so, which JSON reads back."""
    return str(text).encode("utf-8", "backslashreplace").decode()


MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before that of UTF-16, with which it begins
    **{codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"},
    codecs.BOM_UTF8: "utf-8-sig",
}
"""How texts begin whose encoding is marked."""


def decoded(content: bytes, what: str) -> str:
    """The text of a file that a user wrote: UTF-8, or UTF-16 or 32 with its byte order mark; the mark is left out.

    Raises UsageError, which names `what` and the line, for anything else.
    """
    encoding = next((encoding for mark, encoding in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(f"{what}, line {line}, is not UTF-8 text; save it as UTF-8.") from error
    if "\0" in text:
        raise UsageError(f"{what} is not UTF-8 text: it has zero bytes, as UTF-16 has; save it as UTF-8.")
    return text


def remove_partials(folder: Path) -> None:
    """Remove what processes that were killed while writing left in `folder`; what one is writing now stays.

    A folder that was moved aside, and whose successor never came, is put back.
    """
    for path in folder.glob(f".*{PARTIAL}"):
        if (name := _TEMPORARY.fullmatch(path.name)) is None:
            continue
        with contextlib.suppress(OSError), _claimed(path) as abandoned:
            if abandoned and path.is_dir():
                _put_back(path / name[1], folder / name[1])
                shutil.rmtree(path, ignore_errors=True)
            elif abandoned:
                path.unlink()


def _put_back(aside: Path, target: Path) -> None:
    """Undo what `_replace` had begun, where it was killed between its two renames."""
    if aside.is_dir() and not target.exists() and list(aside.parent.iterdir()) == [aside]:
        aside.rename(target)


@functools.lru_cache(maxsize=256)
def _tidy(folder: Path) -> None:
    with contextlib.suppress(OSError):
        remove_partials(folder)
