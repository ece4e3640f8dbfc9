"""The one exception tree. Every message says what is wrong, where, and what to do about it, in one line."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePath


class RatlipError(Exception):
    """Something the user can fix. The command line prints the message as one line and exits with `exit_code`."""

    exit_code = 1


class UsageError(RatlipError):
    """An option or argument has a value that cannot be used (exit code 2)."""

    exit_code = 2


class DataError(RatlipError):
    """A dataset, image or caption cannot be used."""


class WeightsError(RatlipError):
    """A model, checkpoint or CLIP file is missing, damaged or of another architecture."""


class DeviceError(RatlipError):
    """The device asked for is not there."""


class TrainingError(RatlipError):
    """Training cannot start or cannot go on."""


class DistributedError(RatlipError):
    """Another of the processes that train together has ended, hangs or cannot be reached."""


class ThresholdError(RatlipError):
    """The work is done, but a threshold that the caller set was missed (exit code 3)."""

    exit_code = 3


class Interrupted(BaseException):
    """A signal asked to stop. The exit code is 128 + signal number.

    Like KeyboardInterrupt it is no Exception, so that nobody who meets damaged files with exceptions of every kind
    takes it for one of them.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


@contextlib.contextmanager
def keeping(what: str | Callable[[], str]) -> Iterator[None]:
    """Add to Interrupted, where it is raised inside, the sentence `what`, or what it gives then, about what is kept.

    "" adds nothing.
    """
    try:
        yield
    except Interrupted as error:
        sentence = what if isinstance(what, str) else what()
        raise Interrupted(f"{error} {sentence}" if sentence else str(error), error.exit_code - 128) from None


READER_KILLED = (
    "a process that reads images was killed (out of memory?). What is saved is kept: go on with fewer --workers."
)
"""What is said where a DataLoader's process has gone, which PyTorch notices in whatever is done at that moment."""


def is_of_readers(error: Exception) -> bool:
    """Whether PyTorch says by it that a DataLoader's process has gone."""
    return str(error).startswith(("DataLoader worker", "Pin memory thread exited"))


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a misspelled name: it gives the nearest right one and the whole list."""
    choices = sorted(known)
    lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    hint = f" Did you mean '{lower[near[0]]}'?" if near else ""
    return UsageError(f"unknown {kind} '{name}'.{hint} Known: {', '.join(choices)}.")


def no_such_model(name: str, models: Iterable[str]) -> UsageError:
    """The error for a path of a model where nothing is: it gives the nearest of the paths of those that are there."""
    paths = sorted(model for model in models if len(PurePath(model).parts) > 1)
    near = difflib.get_close_matches(name, paths, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    known = f"Known: {', '.join(paths)}." if paths else "No run is here yet; `ratlip-demo` is bundled."
    return UsageError(f"unknown model '{name}': there is no such folder.{hint} {known}")


def one_line(error: Exception) -> str:
    """What an exception of another library says, in one line; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: Exception) -> str:
    """The first line of what an exception of another library says; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
