"""`ratlip runs`: what a table of training runs says of each, and that nothing in a run folder is changed by it."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest
from command_line import ratlip

from ratlip_cli.files import locked
from ratlip_cli.training.runs import runs_in
from ratlip_cli.training.settings import TrainSettings


def make_run(path: Path, steps_saved: int, **changes: str | int | None) -> Path:
    """A run folder as `ratlip train` leaves it, without its weights."""
    given = {"dataset": "demo", "steps": 100, "batch_size": 4, **changes}
    settings = TrainSettings.of(**given)
    path.mkdir(parents=True)
    (path / "config.toml").write_text(settings.to_toml(), encoding="utf-8")
    lines = [{"step": step, "loss_d": 1.0} for step in range(1, steps_saved + 3)]
    lines[1] |= {"fid_clip": 12.5, "clip_score": 27.25, "evaluation": "0" * 16}
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (path / "metrics.jsonl").write_text(text + '{"step": 9', encoding="utf-8")  # the last line cut by a kill
    for step in {steps_saved // 2, steps_saved} - {0}:
        checkpoint = path / "checkpoints" / f"step_{step:08d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "checkpoint.json").write_text(json.dumps({"format": 1, "step": step}), encoding="utf-8")
    (path / "model").mkdir()
    (path / "model" / "config.json").write_text(json.dumps({"training": {"data": {"images": 40}}}), encoding="utf-8")
    (path / ".lock").touch()
    return path


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_state_is_told(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    make_run(runs / "done", 100)
    make_run(runs / "epochs", 20, steps=None, epochs=2)
    make_run(runs / "stopped", 60, variant="galip")
    make_run(runs / "begun", 0)
    make_run(runs / "going-on", 40)
    (make_run(runs / "no-settings", 10) / "config.toml").write_text("steps = ")
    newest = make_run(runs / "one-bad", 30) / "checkpoints" / "step_00000030" / "checkpoint.json"
    newest.write_text("{")
    shutil.copytree(runs / "one-bad", runs / "all-bad")
    (runs / "all-bad" / "checkpoints" / "step_00000015" / "checkpoint.json").unlink()
    (runs / "not-a-run").mkdir()
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    with locked(runs / "going-on" / ".lock") as alone:
        assert alone
        found = {one.run.name: one for one in runs_in(runs)}
    assert {name: (one.state, one.steps, one.total_steps) for name, one in found.items()} == {
        "done": ("finished", 100, 100),
        "epochs": ("finished", 20, 20),
        "stopped": ("interrupted", 60, 100),
        "begun": ("interrupted", 0, 100),
        "going-on": ("running", 42, 100),
        "no-settings": ("damaged", 0, None),
        "one-bad": ("interrupted", 15, 100),
        "all-bad": ("damaged", 0, 100),
    }
    assert (found["stopped"].dataset, found["stopped"].variant) == ("demo", "galip")
    assert found["done"].scores == {"fid_clip": 12.5, "clip_score": 27.25}
    assert "config.toml" in found["no-settings"].problem
    assert "step_00000030" in found["all-bad"].problem
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before


def test_the_table_and_its_json(tmp_path: Path) -> None:
    make_run(tmp_path / "elsewhere" / "[bold]a[bold]", 100)
    answer = ratlip("runs", "elsewhere")
    assert answer.code == 0
    (row,) = [line for line in answer.out.splitlines() if "finished" in line]
    assert all(words in row for words in ("elsewhere/[bold]a[bold]", "100 of 100", "fid_clip 12.5, clip_score 27.25"))
    (run,) = json.loads(ratlip("runs", "elsewhere", "--json").out)["runs"]
    assert (run["run"], run["state"], run["steps"]) == ("elsewhere/[bold]a[bold]", "finished", 100)


def test_names_that_differ_at_their_end_are_told_apart(tmp_path: Path) -> None:
    names = [f"elsewhere/{'a-very-long-name-' * 12}{number}" for number in (1, 2)]
    for name in names:
        make_run(tmp_path / name, 100)
    out = ratlip("runs", "elsewhere").out
    assert [name for name in names if name in out] == names


def test_no_runs_are_no_error_and_no_folder_is_one() -> None:
    none = ratlip("runs")
    assert (none.code, none.out) == (0, "")
    assert "no run in runs" in none.err
    assert json.loads(ratlip("runs", "--json").out) == {"runs": []}
    assert ratlip("runs", "missing").code == 1


def test_a_run_itself_is_listed(tmp_path: Path) -> None:
    (alone,) = runs_in(make_run(tmp_path / "runs" / "one", 100))
    assert (alone.run, alone.state) == (tmp_path / "runs" / "one", "finished")


def test_who_only_looks_keeps_nobody_from_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready, go = threading.Event(), threading.Event()

    def look() -> None:
        with locked(tmp_path / ".lock"):
            ready.set()
            go.wait(60)

    def looked_once(seconds: float) -> None:
        go.set()
        looking.join()

    monkeypatch.setattr("ratlip_cli.files.time.sleep", looked_once)
    looking = threading.Thread(target=look)
    looking.start()
    assert ready.wait(10)
    with locked(tmp_path / ".lock") as alone:
        assert alone
    looking.join()


@pytest.mark.parametrize("step", ["1e400", "NaN", "[]", '"x"', "null"])
def test_a_checkpoint_of_no_step_is_damaged(tmp_path: Path, step: str) -> None:
    run = make_run(tmp_path / "runs" / "odd", 1)
    (run / "checkpoints" / "step_00000001" / "checkpoint.json").write_text(f'{{"step": {step}}}')
    (run / "metrics.jsonl").write_text(f'{{"step": 3}}\n{{"step": {step}, "fid": 1e400, "evaluation": "x"}}\n')
    answer = ratlip("runs", tmp_path / "runs")
    assert answer.code == 0, answer.err
    assert "is damaged: " in answer.err
