"""One setting, one place: a dataclass field that says all that the command line, TOML files, cards and checkpoints ask.

Standard library only: the command line reads settings before torch is imported.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeAlias

from ratlip_cli.errors import UsageError, unknown_name

Value: TypeAlias = str | int | float | bool  # What a setting can be in a TOML file and on the command line.

RUNS = Path("runs")
"""Where runs go without `--out`, and where `--resume auto` and `--model` look."""

EXPORT_FILE = "export.json"
"""What tells a folder of `ratlip export`."""

EXPORT_ENDINGS = {"onnx": "onnx", "openvino": "xml", "torch-export": "pt2"}
"""Of the files of each format that `ratlip export` writes."""

DEFAULT_CLIP = "ViT-B-32-quickgelu:openai"
"""The paper's, with the activation that OpenAI trained it with."""

DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps")

_KINDS: dict[str, tuple[type, tuple[type, ...], str]] = {
    "int": (int, (int,), "a whole number"),
    "float": (float, (int, float), "a number"),
    "bool": (bool, (bool,), "true or false"),
    "str": (str, (str,), "a text"),
    "Path": (Path, (str,), "a path"),
}


@dataclass(frozen=True)
class About:
    """What a field says of itself."""

    text: str  # One sentence: comment in TOML files, and help on the command line.
    group: str = "Model"  # Under which heading help shows it.
    name: str = ""  # The setting's name, where it is another one than the field's.
    choices: Collection[str] = ()  # The values it takes, where they are few.
    names: str = ""  # What it names, where names can be completed: dataset, model or device.
    option: str = ""  # Its option on the command line, where it is called otherwise there.
    formerly: str = ""  # What it was called once; files and the command line still take that name.
    metavar: str | None = None  # What help calls its value.
    envvar: str | None = None  # Environment variable that gives it on the command line.
    architecture: bool = False  # Whether it decides shapes of networks: a checkpoint of another value does not fit.
    free: bool = False  # Whether it may change when a run is resumed: it changes where and how fast it goes alone.
    recorded: bool = False  # Whether a model's config.json and card give it.
    repeated: bool = True  # Whether a run's config.toml gives it.
    advanced: bool = False  # Whether help shows it last.
    flag: bool = False  # Whether the command line can only switch it on.
    path: bool = False  # Whether its value may be a file or folder of this machine.


def setting(default: Any, about: str, **more: Any) -> Any:
    """A dataclass field with an `About`; `more` are About's other fields."""
    return field(default=default, metadata={"about": About(about, **more)})


@dataclass(frozen=True)
class Setting:
    """A field that says all of itself, with its type."""

    name: str
    field: Field[Any]
    about: About
    varies: bool = False  # Whether another family has another default.

    @property
    def default(self) -> Any:
        """Its default value, None where it has none."""
        return None if self.field.default is MISSING else self.field.default

    @property
    def kind(self) -> type:
        """int, float, bool, str or Path."""
        return _KINDS[self._kind][0]

    @property
    def _kind(self) -> str:
        kind: object = self.field.type  # a type where a module does not postpone its annotations
        return (kind.__name__ if isinstance(kind, type) else str(kind)).partition(" | ")[0]

    def check(self, where: str, value: object) -> None:
        """Raise UsageError where a value of a file is of another type, or none of the choices."""
        _, wanted, name = _KINDS[self._kind]
        if not isinstance(value, wanted) or (isinstance(value, bool) and self._kind != "bool"):
            raise UsageError(f"{where}: '{self.name}' must be {name}, not {value!r}.")
        if isinstance(value, str) and "\0" in value:
            raise UsageError(f"{where}: '{self.name}' has a zero byte, which no name and no text here has.")
        if self.about.choices and value not in self.about.choices:
            raise UsageError(f"{where}: {unknown_name(self.name, str(value), self.about.choices)}")


def settings_of(kind: type[Any]) -> dict[str, Setting]:
    """The settings among a dataclass's fields, by name and in order."""
    found = [(item, item.metadata["about"]) for item in fields(kind) if "about" in item.metadata]
    return {about.name or item.name: Setting(about.name or item.name, item, about) for item, about in found}


def last_name(path: str) -> str:
    """The last part of the path of a file or folder, of whatever system; an address, such as hf://owner/x, whole."""
    return path if "://" in path else re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def own_name(path: str | Path) -> str:
    """The name of a file or folder of this machine; of `.` and `..`, that of the folder they are."""
    name = Path(path).name
    return name if name not in ("", "..") else Path(path).resolve().name


def without_folders(values: Mapping[str, Any], settings: Mapping[str, Setting]) -> dict[str, Any]:
    """Values of settings by name; where they are files or folders, their last names alone."""
    paths = {name for name, one in settings.items() if one.about.path}
    return {name: last_name(str(value)) if value and name in paths else value for name, value in values.items()}


def check_choice(kind: str, value: object, choices: Collection[str]) -> None:
    """Raise UsageError, with the nearest right one, where `choices` are given and `value` is none of them."""
    if choices and value not in choices:
        raise unknown_name(kind, str(value), choices)


def check_choices(record: Any) -> None:
    """Raise UsageError where a setting of the dataclass `record` is none of its choices; None is no choice made."""
    for one in settings_of(type(record)).values():
        if (value := getattr(record, one.field.name)) is not None:
            check_choice(one.name, value, one.about.choices)


def is_export(model: str) -> bool:
    """Whether what a user calls a model is a folder of `ratlip export`."""
    return Path(model, EXPORT_FILE).is_file()


def check_export(device: str, precision: str) -> None:
    """Raise UsageError where an exported model cannot compute on a device, or in a precision."""
    if device not in ("auto", "cpu"):
        raise UsageError(f"an exported model computes on the CPU, not on {device}; leave --device out.")
    if precision not in ("auto", "fp32"):
        raise UsageError(
            f"an exported model computes in fp32, as it was exported, not in {precision}; leave --precision out."
        )


def check_device(name: str) -> None:
    """Raise UsageError where `name` is none of DEVICES, whether the device is there or not."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?|mps", name):
        raise UsageError(f"unknown device '{name}'; use {', '.join(DEVICES[:-1])} or {DEVICES[-1]}.")


MOST_COUNT = 1_000_000
"""Images, noise vectors and the like that one call is asked for, at most: what is beyond is a slip of the keyboard."""


def check_count(what: str, count: int | None, least: int = 1, most: int = MOST_COUNT) -> None:
    """Raise UsageError for a number of things that is out of range; None is none that was asked for."""
    if count is not None and count < least:
        raise UsageError(f"{what} is {count}; it must be at least {least}.")
    if count is not None and count > most:
        raise UsageError(f"{what} is {count}; it must be at most {most}.")


def check_seed(seed: int) -> None:
    """Raise UsageError where no noise vectors can be sampled from `seed`."""
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed is {seed}; it must not be negative, and below 2^63.")


def several(given: Any) -> tuple[Any, ...]:
    """What a request takes several of, as a tuple; a string, path or model given alone is one, never its letters."""
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
