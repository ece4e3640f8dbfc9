"""Options that several commands share, and those that are made from settings."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from ratlip_cli.cli import console
from ratlip_cli.data.request import DATASETS, prepared_names
from ratlip_cli.errors import RatlipError, UsageError, no_such_model, unknown_name
from ratlip_cli.files import check_place
from ratlip_cli.generation import PRECISIONS
from ratlip_cli.setting import DEVICES, RUNS, Setting, Value, check_choice, check_device

ADVANCED = "Advanced"
"""The heading, the last one, of what few people need."""

_LONGEST_METAVAR = 40
"""Letters of choices that help shows beside the option; more stand in its sentence."""

ABOUT_MODEL = escape("Model folder, run folder, owner/name[@revision] on the Hugging Face Hub, or ratlip-demo.")


def complete_dataset(incomplete: str) -> list[str]:
    """Names of datasets that begin so: known ones, and those prepared in the data folder."""
    known = {*DATASETS, *prepared_names(Path(os.environ.get("RATLIP_DATA") or "data"))}
    return [name for name in sorted(known) if name.startswith(incomplete)]


def complete_model(incomplete: str) -> list[str]:
    """Models that begin so: the bundled one, and the runs in ./runs that have one."""
    return [name for name in _models() if name.startswith(incomplete)]


def _models() -> list[str]:
    runs = sorted(str(config.parent.parent) for config in RUNS.glob("*/model/config.json"))
    return ["ratlip-demo", *runs]


def _models_in(folder: Path) -> list[str]:
    """Models, runs and checkpoints in a folder."""
    inside = ("config.json", "model/config.json", "checkpoint.json")
    return [str(one) for one in folder.glob("*") if any((one / name).is_file() for name in inside)]


def complete_choice(choices: Iterable[str]) -> Callable[[str], list[str]]:
    """A function that gives those of `choices` that begin so."""
    known = tuple(choices)

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in known if choice.startswith(incomplete)]

    return complete


def choice(
    choices: Collection[str], help: str, kind: str, declarations: Sequence[str] = (), panel: str | None = None
) -> Any:
    """An option that takes one of `choices`: help lists them, completion completes them, and another one is told.

    A value of its own type would be told by Typer, without the nearest right one and in a box.

    Args:
        kind: what the choices are, for the message.
        declarations: the option, where it is called otherwise than its parameter.
        panel: the heading in help.
    """

    def parse(value: str) -> str:
        check_choice(kind, value, choices)
        return value

    metavar = "|".join(choices)
    if len(metavar) > _LONGEST_METAVAR:
        metavar, help = kind.upper(), f"{help} One of: {', '.join(choices)}."

    return typer.Option(
        *declarations,
        help=help,
        metavar=metavar,
        parser=parse,
        autocompletion=complete_choice(choices),
        rich_help_panel=panel,
    )


def _device(value: str) -> str:
    check_device(value)
    return value


_DEVICE: dict[str, Any] = {"metavar": "|".join(DEVICES), "parser": _device, "autocompletion": complete_choice(DEVICES)}
_NAMES: dict[str, dict[str, Any]] = {
    "dataset": {"autocompletion": complete_dataset},
    "model": {"autocompletion": complete_model},
    "device": _DEVICE,
}
"""What an option of a setting gets beside its help, by `About.names`."""

Model = Annotated[str | None, typer.Option(help=ABOUT_MODEL, autocompletion=complete_model)]
ModelNoun = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help="The same as --model.", show_default=False, autocompletion=complete_model),
]
Device = Annotated[str, typer.Option(help="Where to compute.", **_DEVICE)]
Precision = Annotated[
    str,
    choice(PRECISIONS, "Arithmetic of sampling; auto is fp32.", "precision"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")]
DataDir = Annotated[
    str, typer.Option(metavar="FOLDER", help="Folder that holds prepared datasets.", envvar="RATLIP_DATA")
]
RetryBroken = Annotated[
    bool, typer.Option("--retry-broken", help="Try again the runs that failed, each from its last checkpoint.")
]
Svg = Annotated[bool, typer.Option("--svg", help="Write figures as SVG besides PNG.")]
Half = Annotated[bool, typer.Option("--half", help="Store the weights as float16, in half the space.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No notes, no progress.")]


def check_model_name(name: str | None) -> None:
    """Raise UsageError for a model that cannot be: so a misspelled one is told before torch is imported.

    It can be where it is a file or folder, or has the form of a name on the Hub and no folder that is here before it.
    """
    if name is not None and not name.strip():
        raise UsageError("a name is empty: give that of a run or a model, or leave it out.")
    if name is None or name == "ratlip-demo" or Path(name).exists():
        return
    if Path(name).parent.is_dir() or Path(name).parts[:1] == RUNS.parts:
        known = {*_models(), *_models_in(Path(name).parent)}
        raise no_such_model(name, known) if len(Path(name).parts) > 1 else unknown_name("model", name, known)


def check_there(path: Path | None, problem: str = " does not exist") -> None:
    """Raise RatlipError, which tells the problem behind the path, where a file or folder to be read is not there."""
    if path is not None and not path.exists():
        raise RatlipError(f"{path}{problem}.")


def check_file(path: Path | None, problem: str = " does not exist") -> None:
    """As `check_there`, of what must be a file; raises UsageError for a folder."""
    check_there(path, problem)
    if path is not None and path.is_dir():
        raise UsageError(f"{path} is a folder; name the file in it.")


def check_no_file(prompts: Iterable[str], belongs: str) -> None:
    """Raise UsageError, which tells where it `belongs`, where a prompt is the name of a file that is there."""
    for prompt in prompts:
        if Path(prompt).suffix and os.path.isfile(prompt):  # noqa: PTH113 (False, not an error, of a long prompt)
            raise UsageError(f"{prompt} is a file, no prompt: give {belongs}.")


def check_new(out: Path) -> None:
    """Raise UsageError where `out`, which is to be made, is there, RatlipError where it cannot be made."""
    if os.path.lexists(out):  # a link to nowhere is there too
        raise UsageError(f"{out} exists; choose another --out.")
    check_place(out, out.absolute().parents)


def noun(name: str, argument: str | None, option: str | None) -> str | None:
    """What a command is about, which may be given as its argument or as the option --`name`."""
    if None not in (argument, option) and argument != option:
        raise UsageError(f"the {name} is given twice, as '{argument}' and by --{name} {option}; leave out one of them.")
    return option if argument is None else argument


def with_options(
    settings: Iterable[Setting], noun_of: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for every setting. What was typed comes as its argument `typed`.

    An option that is not given is left out, so that a settings file is not overwritten by a default. What a setting
    was called once is an option too, which help does not show.

    Args:
        noun_of: the setting that the command is about, which may be given without its option too.
    """
    ordered = sorted(settings, key=lambda one: one.about.advanced)
    renamed = {f"{one.about.formerly}_before": one for one in ordered if one.about.formerly}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for name, one in own.items() if name != "typed"]
        parameters += [_argument(one) for one in ordered if one.name == noun_of]
        parameters += [_parameter(one) for one in ordered]
        for name, one in renamed.items():
            parameters.append(_keyword(name, one.kind, typer.Option(_flag(one.about.formerly), hidden=True)))

        @functools.wraps(command)
        def with_typed(**given: Any) -> None:
            typed = {one.name: given.pop(one.name) for one in ordered}
            if noun_of is not None:
                typed[noun_of] = noun(noun_of, given.pop(f"{noun_of}_name"), typed[noun_of])
            for name, one in renamed.items():
                if (value := given.pop(name)) is not None:
                    old, new = _flag(one.about.formerly), _flag(one.about.option or one.name)
                    if typed[one.name] is not None:
                        raise UsageError(f"{old} is what {new} was called before; give one of them.")
                    console.set_up(given.get("quiet", False))
                    console.note(f"{old} is called {new} now")
                    typed[one.name] = value
            command(typed={name: value for name, value in typed.items() if value is not None}, **given)

        with_typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_typed.__annotations__ = {one.name: one.annotation for one in parameters}
        return with_typed

    return decorate


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _keyword(name: str, kind: Any, declared: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, declared]
    )


def _argument(setting: Setting) -> inspect.Parameter:
    named = _NAMES[setting.about.names]
    what = f": {', '.join(DATASETS)}, or a folder" if setting.about.names == "dataset" else ""
    help_text = f"The same as {_flag(setting.name)}{what}."
    argument = typer.Argument(metavar=setting.name.upper(), help=help_text, show_default=False, **named)
    return _keyword(f"{setting.name}_name", str, argument)


def _parameter(setting: Setting) -> inspect.Parameter:
    about, default = setting.about, setting.default
    has_default = default is not None and default is not False and default != ""
    others = ", or the variant's" if setting.varies else ""
    help_text = escape(f"{about.text} Default: {default}{others}." if has_default else about.text)
    panel = f"{about.group}, advanced" if about.advanced else about.group
    declared = [_flag(about.option or setting.name)] if about.flag or about.option else []
    if about.choices:
        option = choice(about.choices, help_text, setting.name, declared, panel)
    else:
        beside = {"metavar": about.metavar} | _NAMES.get(about.names, {})
        option = typer.Option(*declared, help=help_text, rich_help_panel=panel, envvar=about.envvar, **beside)
    option.show_default = False
    return _keyword(setting.name, setting.kind, option)


Typed = dict[str, Value]
"""Settings that were typed, by flat name."""
