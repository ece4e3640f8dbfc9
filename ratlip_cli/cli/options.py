"""Options that several commands share, and those that are made from settings."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from ratlip_cli.setting import Setting, Value

Model = Annotated[
    str | None,
    typer.Option(help="Model folder, run folder, owner/name[@revision] on the Hugging Face Hub, or ratlip-demo."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No notes, no progress.")]


def with_options(settings: Iterable[Setting]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for every setting. What was typed comes as its argument `typed`.

    An option that is not given is left out, so that a settings file is not overwritten by a default.
    """
    names = {one.name: one for one in sorted(settings, key=lambda one: one.about.advanced)}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for name, one in own.items() if name != "typed"]
        parameters += [_parameter(one) for one in names.values()]

        @functools.wraps(command)
        def with_typed(**given: Any) -> None:
            typed = {name: given.pop(name) for name in names}
            command(typed={name: value for name, value in typed.items() if value is not None}, **given)

        with_typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_typed.__annotations__ = {one.name: one.annotation for one in parameters}
        return with_typed

    return decorate


def _parameter(setting: Setting) -> inspect.Parameter:
    about, default = setting.about, setting.default
    has_default = default is not None and default is not False and default != ""
    help_text = f"{about.text} Default: {default}." if has_default else about.text
    option = typer.Option(
        *([f"--{setting.name.replace('_', '-')}"] if about.flag else []),
        help=help_text,
        show_default=False,
        rich_help_panel=f"{about.group}, advanced" if about.advanced else about.group,
        metavar="|".join(about.choices) or about.metavar,
        envvar=about.envvar,
        autocompletion=_completion(about.choices) if about.choices else None,
    )
    annotation = Annotated[setting.kind | None, option]  # type: ignore[name-defined]
    return inspect.Parameter(setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _completion(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


Typed = dict[str, Value]
"""Settings that were typed, by flat name."""
