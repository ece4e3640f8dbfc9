"""README and docs/: commands are understood by the parser, those that need no download run, links lead somewhere."""

from __future__ import annotations

import itertools
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from command_line import ratlip
from PIL import Image

from ratlip_cli.cli.app import app

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md")))
}
TINY = (
    *("--image-size", "32", "--generator-channels", "4", "--discriminator-channels", "2", "--steps", "2"),
    *("--batch-size", "2", "--device", "cpu", "--sample-every", "1"),
)


def printed_commands(text: str) -> list[str]:
    """Every `ratlip ...` in code of a page, without what follows && or #."""
    code = re.findall(r"^```sh\n(.*?)^```|^ {4}([^\n]*)$", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in code for text in block for line in text.splitlines()]
    pieces = [piece.strip() for line in lines for piece in re.split(r"&&|\s#\s", line)]
    return [piece for piece in pieces if piece.startswith("ratlip ")]


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def every(found: dict[str, list[str]]) -> list[object]:
    """One test for each item of each page."""
    return [pytest.param(page, item, id=f"{page}:{n}") for page, items in found.items() for n, item in enumerate(items)]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


PROGRAM = typer.main.get_command(app)
EXAMPLES = {
    f"{name} --help": [line.strip() for line in str(command.help).splitlines() if line.strip().startswith("ratlip ")]
    for name, command in PROGRAM.commands.items()
}
COMMANDS = {page: printed_commands(text) for page, text in PAGES.items()}
BLOCKS = {page: python_blocks(text) for page, text in PAGES.items()}
LINKS = {page: re.findall(r"\]\(((?!https?:)[^)]+)\)", text) for page, text in PAGES.items()}


def test_the_readme_prints_commands() -> None:
    commands = COMMANDS["README.md"]
    assert len(commands) >= 10
    assert {shlex.split(command)[1] for command in commands} >= {"prepare", "train", "generate"}


def test_every_command_is_documented() -> None:
    documented = {shlex.split(command)[1] for commands in COMMANDS.values() for command in commands}
    assert documented >= set(PROGRAM.commands)
    assert all(EXAMPLES.values())


@pytest.mark.parametrize(("page", "command"), every(COMMANDS | EXAMPLES))
def test_printed_commands_are_understood(page: str, command: str) -> None:
    program, name, *arguments = shlex.split(command.partition(" > ")[0])
    PROGRAM.commands[name].make_context(f"{program} {name}", arguments)  # raises where it is not understood


@pytest.mark.parametrize(("page", "link"), every(LINKS))
def test_links_lead_somewhere(page: str, link: str) -> None:
    file, _, anchor = link.partition("#")
    target = (ROOT / page).parent / file if file else ROOT / page
    name = str(target.resolve().relative_to(ROOT.resolve()))
    assert target.exists()
    assert not anchor or anchor in anchors(PAGES[name])


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    assert len(README.splitlines()) <= 250
    assert {page for page in PAGES if page.startswith("docs/")} <= set(LINKS["README.md"])


def test_lines_are_readable() -> None:
    """Tables, and what a program reads as one line, apart."""
    long = [
        f"{page}: {line}"
        for page, text in PAGES.items()
        for line in text.splitlines()
        if len(line) > 130 and not line.startswith("|")
    ]
    assert long == []


def test_tables_are_whole() -> None:
    """Every row of a table has the cells of its heading."""
    tables = [
        (page, table.splitlines())
        for page, text in PAGES.items()
        for table in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE)
    ]
    assert len(tables) > 20
    ragged = [f"{page}: {row}" for page, rows in tables for row in rows if row.count("|") != rows[0].count("|")]
    assert ragged == []


def test_the_test_command_is_printed() -> None:
    assert '    pip install ".[test]" && pytest' in README


@pytest.mark.slow
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


def test_the_first_command_generates_without_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_bundled_model_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page prints for `ratlip-demo` runs as it stands, on a CPU."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    commands = {command for commands in COMMANDS.values() for command in commands if "--model ratlip-demo" in command}
    assert commands
    for command in commands:
        answer = ratlip(*shlex.split(command)[1:], "--device", "cpu", "--quiet", "--no-grid")
        assert answer.code == 0, answer.err


@pytest.mark.slow
@pytest.mark.parametrize(("page", "block"), every(BLOCKS))
def test_python_blocks_run(page: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python blocks use the bundled model, so each runs without a download."""
    monkeypatch.chdir(tmp_path)
    exec(compile(block, page, "exec"), {})
    saved = sorted(tmp_path.rglob("*.png"))
    assert saved
    for path in saved:
        with Image.open(path) as image:
            image.load()


def test_a_space_installs_what_the_package_needs() -> None:
    """It cannot install the package itself, which lies beside the page."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {*project["dependencies"], *project["optional-dependencies"]["play"]}
    named = set((ROOT / "examples" / "space" / "requirements.txt").read_text(encoding="utf-8").splitlines())
    assert {one for one in needed if "python_version" not in one} - named == set()
