"""One way each to show a result, a note, a table and progress. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ratlip_cli.errors import UsageError
from ratlip_cli.files import decoded
from ratlip_cli.progress import duration as duration

PLAIN_INTERVAL = 10.0
"""Seconds between progress lines where stderr is not a terminal."""

Advance = Callable[..., None]
"""advance(done=1, **figures): so many more are done; the figures are shown beside the bar."""

_quiet = False


def stderr() -> Console:
    """The console for notes and progress; it obeys NO_COLOR."""
    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def set_up(quiet: bool = False) -> None:
    """Say whether notes and progress are shown, and let what the library logs appear as notes."""
    global _quiet
    _quiet = quiet
    library = logging.getLogger("ratlip_cli")
    library.handlers = [_Notes()]
    library.setLevel(logging.INFO)
    library.propagate = False
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # read when huggingface_hub is imported; ours is the one line
    if quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


class _Notes(logging.Handler):
    """Shows what the library logs as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        note(f"{level}{record.getMessage()}")


def note(message: str) -> None:
    """Something worth knowing that is not a result."""
    if not _quiet:
        stderr().print(message, markup=False)


def error(message: str) -> None:
    """Why the command could not do it, in one line."""
    stderr().print("[bold red]error:[/] ", end="")
    stderr().print(" ".join(line.strip() for line in message.strip().splitlines()), markup=False)


def result(line: object) -> None:
    """One line of the result, at once. A path comes out as the bytes that it has on the disk, whatever the encoding."""
    if isinstance(line, Path) and os.name == "posix":
        _result_bytes(os.fsencode(line), str(line))
    else:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def result_toml(text: str) -> None:
    """The result as TOML, which is UTF-8 whatever the encoding of stdout."""
    _result_bytes(text.encode(), text)


def _result_bytes(content: bytes, shown: str) -> None:
    """A line of bytes; as the text `shown` on what takes text alone, such as a terminal."""
    stdout = sys.stdout
    if isinstance(stdout, io.TextIOWrapper) and not stdout.isatty():
        stdout.flush()
        stdout.buffer.write(content + b"\n")
    else:
        stdout.write(f"{shown}\n")
    stdout.flush()


def result_json(value: Any) -> None:
    """The result as one JSON object, which is one whatever the encoding of stdout."""
    result(as_json(value, sys.stdout.encoding))


def answer(json: bool, value: Any, *lines: object) -> None:
    """The result: `value` as one JSON object where `json` says so, else the lines."""
    if json:
        result_json(value)
    else:
        for line in lines:
            result(line)


def as_json(value: Any, encoding: str | None = "utf-8") -> str:
    """`value` as JSON for people and programs; what JSON does not know, such as a path, as its text.

    Where `encoding` (None: UTF-8) lacks a letter, or a name has a byte that is none, letters beyond ASCII are escaped.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, indent=2, default=str)
    return text


def result_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """The result as a table: the first column to the left, the others to the right."""
    table = Table(title=Text(title), title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    width = None if sys.stdout.isatty() else 10_000  # nothing is cut or broken where no window is
    Console(width=width, highlight=False).print(table)


def _is_on_terminal() -> bool:
    """Whether a bar can move where stderr goes. Rich takes FORCE_COLOR for one, which says only how logs look."""
    return stderr().is_terminal and ("FORCE_COLOR" not in os.environ or stderr().file.isatty())


@contextmanager
def progress(description: str, total: int | None, done: int = 0, unit: str = "images") -> Iterator[Advance]:
    """Show how far the work is: a bar on a terminal, an occasional plain line elsewhere, nothing when quiet.

    `total` is None where nobody knows it.

    Yields:
        A function to call with the number of further units done and figures to show, for example
        `advance(1, loss=0.5)`. The rate, the elapsed and the remaining time are shown by themselves.
    """
    if _quiet:
        yield lambda done=1, **figures: None
    elif _is_on_terminal():
        with _bar(unit) as bar:
            task = bar.add_task(description, total=total, completed=done, figures="", rate="")
            started, first = time.monotonic(), done

            def advance(done: int = 1, **figures: object) -> None:
                bar.advance(task, done)
                finished = bar.tasks[0].completed - first
                rate = finished / max(time.monotonic() - started, 1e-9)
                bar.update(task, figures=_figures(figures), rate=f"{rate:.3g} {unit}/s")

            yield advance
    else:
        yield _plain_progress(description, total, done, unit)


@contextmanager
def bars() -> Iterator[Callable[[str, int, int | None, str], None]]:
    """Yield a `ratlip_cli.progress.Progress`: a bar for each thing that is done, one after the other."""
    with ExitStack() as stack:
        shown, counted = "", 0
        advance: Advance

        def show(what: str, done: int, total: int | None, unit: str) -> None:
            nonlocal shown, counted, advance
            if what != shown:
                stack.close()
                advance = stack.enter_context(progress(what, total, done, unit))
                shown, counted = what, done
            elif done == counted:
                return
            advance(done - counted)
            counted = done

        yield show


def _bar(unit: str) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("<"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        console=stderr(),
        redirect_stdout=sys.stdout.isatty(),  # results that go to a file or a pipe stay on their way
    )


def _plain_progress(description: str, total: int | None, done: int, unit: str) -> Advance:
    started, first = time.monotonic(), done
    last_line, count = started, done

    def advance(done: int = 1, **figures: object) -> None:
        nonlocal last_line, count
        count += done
        now = time.monotonic()
        if now - last_line < PLAIN_INTERVAL and count != total:
            return
        last_line = now
        rate = (count - first) / max(now - started, 1e-9)
        if total is None:
            note(f"{description} {count}, {rate:.3g} {unit}/s {_figures(figures)}".rstrip())
            return
        left = (total - count) / rate if rate else 0.0
        note(f"{description} {count}/{total}, {rate:.3g} {unit}/s, {duration(left)} left {_figures(figures)}".rstrip())

    return advance


def typed(text: str) -> str:
    """Text of the command line, which is UTF-8 also where the locale, such as C, has no letters for it (PEP 538).

    Raises UsageError where it is not.
    """
    if text.isprintable():
        return text
    try:
        return re.sub("[\udc80-\udcff]+", lambda found: found[0].encode("utf-8", "surrogateescape").decode(), text)
    except UnicodeDecodeError as problem:
        raise UsageError(f"'{text}' is not UTF-8 text; type it as UTF-8.") from problem


def read_prompts(arguments: Sequence[str], file: Path | None) -> list[str]:
    """Prompts as typed, or a line each from a file or, for `-`, from stdin. Empty lines are passed over."""
    prompts: list[str] = []
    for argument in arguments:
        prompts += _lines(sys.stdin.buffer.read(), "stdin") if argument == "-" else [typed(argument)]
    if file is not None:
        try:
            content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        except OSError as problem:
            raise UsageError(f"--prompts {file} cannot be read: {problem.strerror}.") from problem
        prompts += _lines(content, f"the prompts file {file}")
    return prompts


def _lines(content: bytes, where: str) -> list[str]:
    lines = re.split(r"\r\n|\r|\n", decoded(content, where))
    return [line.strip() for line in lines if line.strip()]


def _figures(figures: dict[str, object]) -> str:
    return "  ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    )
