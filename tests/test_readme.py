"""The commands printed in the README: every one is taken by the parser, and those that need no download are run."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import numpy as np
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
    code = re.findall(r"^```sh\n(.*?)^```|^ {4}([^\n]*)$", README, flags=re.DOTALL | re.MULTILINE)
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


def test_own_images_as_the_readme_says(tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The section on own images, with a CLIP that is here instead of the download, and two steps instead of 2,000."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my-images"
    folder.mkdir()
    for number, colour in enumerate(("red", "green", "blue", "black")):
        Image.new("RGB", (50, 40), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {colour} image\n", encoding="utf-8")
    section = README.split("## Train on your own images")[1].split("\n## ")[0]
    commands = list(re.findall(r"^ratlip .*$", section, flags=re.MULTILINE))
    assert [shlex.split(command)[1] for command in commands] == ["prepare", "train", "train", "generate"]
    for command in commands:
        _, name, *arguments = shlex.split(command)
        shrunk = {"train": ("--clip", str(tiny_clip), *TINY), "generate": ("--device", "cpu"), "prepare": ()}
        answer = ratlip(name, *arguments, *shrunk[name], "--quiet")
        assert answer.code == 0, answer.err
    assert len(list((tmp_path / "generated").glob("0000_a-robin-on-a-branch_*.png"))) == 8


def test_the_first_command_draws_without_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From an empty folder; a socket that is opened is an error."""
    monkeypatch.chdir(tmp_path)
    first = README.split("\n    ", 1)[1].split("\n", 1)[0]
    install, command = first.split(" && ")
    assert install == "pip install ."

    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)
    answer = ratlip(*shlex.split(command)[1:], "--device", "cpu", "--quiet")
    assert answer.code == 0, answer.err
    images = sorted((tmp_path / "generated").glob("0000_a-red-bird-with-black-wings_*.png"))
    assert len(images) == 8
    arrays = [np.asarray(Image.open(image)) for image in images]
    assert all(array.shape == (64, 64, 3) for array in arrays)
    assert not any(np.array_equal(one, other) for one, other in itertools.combinations(arrays, 2))


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert code is not None
    exec(compile(code[1], "README.md", "exec"), {})
    assert {path.name for path in tmp_path.glob("*.png")} == {"0.png", "1.png"}
