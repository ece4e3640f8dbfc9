"""The commands printed in the README: every one is taken by the parser, and those that need no download are run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from command_line import ratlip
from PIL import Image

from ratlip_cli.cli.app import app

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
TINY = (
    *("--image-size", "32", "--generator-channels", "4", "--discriminator-channels", "2", "--steps", "2"),
    *("--batch-size", "2", "--device", "cpu", "--sample-every", "1"),
)


def printed_commands() -> list[str]:
    """Every `ratlip ...` in code of the README, without what stands behind && or #."""
    code = re.findall(r"^```sh\n(.*?)^```|^ {4}(.*)$", README, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in code for text in block for line in text.splitlines()]
    parts = [part.strip() for line in lines for part in re.split(r"&&|\s#\s", line)]
    return [part for part in parts if part.startswith("ratlip ")]


def test_the_readme_prints_commands() -> None:
    commands = printed_commands()
    assert len(commands) >= 10
    assert {shlex.split(command)[1] for command in commands} >= {"prepare", "train", "generate"}


@pytest.mark.parametrize("command", printed_commands())
def test_printed_commands_are_understood(command: str) -> None:
    program, name, *arguments = shlex.split(command)
    group = typer.main.get_command(app)
    group.commands[name].make_context(f"{program} {name}", arguments)  # raises where it is not understood


def test_the_test_command_is_printed() -> None:
    assert '    pip install ".[test]" && pytest' in README


def test_own_pictures_as_the_readme_says(tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The section on own pictures, with a CLIP that is here instead of the download, and two steps instead of 2,000."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my-pictures"
    folder.mkdir()
    for number, colour in enumerate(("red", "green", "blue", "black")):
        Image.new("RGB", (50, 40), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {colour} picture\n", encoding="utf-8")
    section = README.split("## Train on your own pictures")[1].split("\n## ")[0]
    commands = list(re.findall(r"^ratlip .*$", section, flags=re.MULTILINE))
    assert [shlex.split(command)[1] for command in commands] == ["prepare", "train", "train", "generate"]
    for command in commands:
        _, name, *arguments = shlex.split(command)
        shrunk = {"train": ("--clip", str(tiny_clip), *TINY), "generate": ("--device", "cpu"), "prepare": ()}
        answer = ratlip(name, *arguments, *shrunk[name], "--quiet")
        assert answer.code == 0, answer.err
    assert len(list((tmp_path / "generated").glob("0000_a-robin-on-a-branch_*.png"))) == 8


def test_the_python_example_runs(
    tiny_clip: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert code is not None
    run = re.search(r'load_model\("(.*?)"\)', code[1])
    assert run is not None
    answer = ratlip("train", "--dataset", tiny_dataset, "--clip", tiny_clip, *TINY, "--out", run[1], "--quiet")
    assert answer.code == 0, answer.err
    exec(compile(code[1], "README.md", "exec"), {})
    assert {path.name for path in tmp_path.glob("*.png")} == {"0.png", "1.png"}
