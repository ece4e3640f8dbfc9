"""The benchmarks whose aims are of any machine: that they measure what they say, not how fast it is."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ratlip_cli.cli.waiting import users_environment
from ratlip_cli.environment import cpu_name

BENCHMARKS = Path(__file__).parent / "benchmarks"


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import busy

    return busy


@pytest.mark.parametrize(
    ("name", "threads", "expected", "left"),
    [("generate", 1, [2, 3], 1), ("generate", 4, [2, 3, 4, 5], 3), ("small", 1, [2], 1), ("one-idle", 2, [2, 3], 2)],
)
def test_a_busy_core_is_one_too_few(
    name: str,
    threads: int,
    expected: list[int],
    left: int,
    busy: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On a machine of many cores too: the loop and whatever is measured have as many as `threads`, two at least."""
    every = set(range(2, 18))
    bound: list[Iterable[int]] = []
    started: list[tuple[int, Iterable[int]]] = []

    class Contender:
        seconds = (1.0,)

        def __init__(self, what: str, threads: int, exported: str, waiting: str = "ours") -> None:
            started.append((threads, bound[-1]))

        def once(self) -> None: ...

        def end(self) -> None: ...

    monkeypatch.setattr(busy, "Contender", Contender)
    monkeypatch.setattr(busy.os, "sched_getaffinity", lambda process: every)
    monkeypatch.setattr(busy.os, "sched_setaffinity", lambda process, cores: bound.append(cores))
    assert busy.compare(name, threads, 1, "")
    assert started == [(left, expected), (threads, expected)]
    assert bound == [expected, every]
    told = json.loads(capsys.readouterr().out)
    assert (told["cpu"], told["cores"]) == (cpu_name(), expected)


def test_a_command_that_starts_too_slowly_fails_the_benchmark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Best against best of all rounds; what cannot be made here is left out and said."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import start

    limits = {"help": 0.25, "generate": 1.4}
    times = {"-c": [9.0, 2.0, 1.0], "help": [9.0, 0.25, 0.5], "generate": [9.0, 1.5, 1.6]}
    monkeypatch.setattr(start, "LIMITS", start.LIMITS | limits)
    monkeypatch.setattr(start, "EXPORTS_BY", ("no_such_package",))
    monkeypatch.setattr(start, "command", lambda row, folder: (row,))
    monkeypatch.setattr(start, "ran", lambda first, *others: (times[first].pop(0), 1.0))
    monkeypatch.setattr(start.sys, "argv", ["start.py", "help", "generate", "exported", "--rounds", "2"])
    assert start.main() == 1
    told = json.loads(capsys.readouterr().out)
    assert told["cpu"] == cpu_name()
    assert {row: one["share"] for row, one in told["rows"].items()} == {"help": 0.25, "generate": 1.5}
    assert {one["cpu_share"] for one in told["rows"].values()} == {1}
    assert told["left_out"] == {"exported": "not installed: no_such_package"}
    assert start.too_slow(told) == ["generate"]


def calls(path: Path) -> set[str]:
    """The names of all that a file calls."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}


def test_every_benchmark_says_which_machine_it_ran_on() -> None:
    """All but that of statistics."""
    silent = {path.name for path in BENCHMARKS.glob("*.py") if {"cpu_name", "machine"}.isdisjoint(calls(path))}
    assert silent == {"coverage.py"}


_WORK = """
import os, sys
import speed
from ratlip_cli.cli import waiting

choose = waiting._choose
def told(rounds):
    print("torch" in sys.modules)
    choose(rounds)

waiting._choose = told
waiting._is_busy = lambda: True
speed.prepared = lambda comparison, contender: lambda: print(os.environ.get("GOMP_SPINCOUNT"))
speed.work(*sys.argv[1:])
"""
"""Tells how threads wait instead of doing the work, and whether torch was there when that was chosen."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("comparison", "contender", "expected"),
    [
        ("one", "plain", ["None"]),
        ("one", "ours", ["False", "1000"]),
        ("demo-step", "ours", ["False", "False", "100"]),
    ],
)
def test_ours_waits_as_the_command_line_does(comparison: str, contender: str, expected: list[str]) -> None:
    told = subprocess.run(
        [sys.executable, "-c", _WORK, comparison, contender],
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**users_environment(), "PYTHONPATH": os.pathsep.join((str(BENCHMARKS), *sys.path))},
    ).stdout
    assert told.split() == [*expected, "prepared"]
