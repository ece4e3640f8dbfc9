"""`ratlip train` as people and scripts meet it: exit codes, one line for each error, stdout and stderr, signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import ratlip, ratlip_process, ratlip_stopped
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from ratlip_cli.errors import RatlipError
from ratlip_cli.training.checkpoint import list_checkpoints, read_checkpoint
from ratlip_cli.training.run_folder import RunFolder
from ratlip_cli.training.runs import runs_in
from ratlip_cli.training.settings import TrainSettings, read_settings
from ratlip_cli.weights.model_folder import fingerprint_of


def options(settings: TrainSettings) -> list[str]:
    """The command line that gives these settings."""
    given = {name: value for name, value in settings.flat().items() if value not in (None, "") and value is not False}
    return [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RATLIP_DATA", raising=False)


def test_run_folder_holds_what_is_promised(settings: TrainSettings) -> None:
    found = ratlip("train", *options(settings), "--sample-every", "3")
    assert found.code == 0
    assert found.out == f"{settings.out}\n"
    run = Path(settings.out)
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock",
        "checkpoints",
        "config.toml",
        "data.json",
        "environment.json",
        "metrics.jsonl",
        "model",
        "samples",
        "tensorboard",
    ]
    records = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert set(records[0]) == {
        *("step", "epoch", "loss_d", "loss_g", "penalty_norm", "logit_real", "logit_fake", "logit_mismatched"),
        *("clip_similarity", "lr_g", "lr_d", "images_per_second", "memory_mib", "skipped"),
    }
    samples = sorted((run / "samples").iterdir())
    assert [path.name for path in samples] == ["step_00000003.png", "step_00000006.png"]
    assert {Image.open(path).size for path in samples} == {Image.open(samples[0]).size}
    last = Image.open(samples[-1])
    assert isinstance(last, PngImageFile)
    assert last.text == {"step": "6", "fingerprint": fingerprint_of(run / "model")}
    assert any((run / "tensorboard").iterdir())
    assert "6/6" in found.err
    (one,) = runs_in(run.parent)
    assert (one.state, one.steps, one.total_steps) == ("finished", 6, 6)


def test_resolved_settings_repeat_the_run(settings: TrainSettings) -> None:
    assert ratlip("train", *options(settings)).code == 0
    again = ratlip("train", "--config", f"{settings.out}/config.toml", "--out", "again", "--quiet")
    assert (again.code, again.out, again.err) == (0, "again\n", "")
    lines = [(Path(run) / "metrics.jsonl").read_text().splitlines() for run in (settings.out, "again")]
    assert [line.split('"images_per')[0] for line in lines[0]] == [line.split('"images_per')[0] for line in lines[1]]


def test_runs_are_numbered(settings: TrainSettings) -> None:
    arguments = ["train", *options(settings), "--out", "", "--steps", "1"]
    assert [ratlip(*arguments).out for _ in range(2)] == ["runs/colours-ratlip-1\n", "runs/colours-ratlip-2\n"]


NAMES = ["[a]", "[examples] of (mine)", "*star?", "birds.v1.2", "[!x]*", "100%_{done}", "it's $(so)", "x" * 240]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_a_dataset_is_no_pattern(settings: TrainSettings, name: str) -> None:
    wanted = settings.replaced(dataset=f"data/{name}", out="")
    made = [RunFolder.create(wanted).path for _ in range(3)]
    stem = f"runs/{name[:200]}-ratlip"
    assert [str(path) for path in made] == [f"{stem}-{number}" for number in (1, 2, 3)]


def test_a_run_folder_that_cannot_be_is_told(settings: TrainSettings, tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to("nowhere")
    with pytest.raises(RatlipError, match="cannot write runs: File exists"):
        RunFolder.create(settings.replaced(out=""))


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_prepared(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dry_run: list[str]
) -> None:
    monkeypatch.setattr("ratlip_cli.training.start.open_inputs", None)  # which nothing comes to
    (tmp_path / "f").touch()
    found = ratlip("train", *options(settings), "--out", tmp_path / "f" / "run", "--quiet", *dry_run)
    assert (found.code, found.err) == (
        1,
        f"error: cannot write {tmp_path / 'f' / 'run'}: {tmp_path / 'f'} is a file. Choose another --out.\n",
    )


def test_where_runs_cannot_be_is_told_before_anything_is_prepared(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ratlip_cli.training.start.open_inputs", None)  # which nothing comes to
    (tmp_path / "runs").symlink_to("nowhere")
    found = ratlip("train", *options(settings.replaced(out="")), "--quiet")
    assert (found.code, found.err) == (
        1,
        "error: cannot write runs: it is a link to nowhere. Choose another folder.\n",
    )


def test_what_is_told_to_be_typed_is_quoted(settings: TrainSettings, tmp_path: Path) -> None:
    (tmp_path / "my run").mkdir()
    found = ratlip("train", *options(settings), "--out", "my run", "--quiet")
    assert (found.code, "--resume 'my run'" in found.err) == (2, True)
    found = ratlip("train", *options(settings), "--out", "new run", "--max-time", "1s", "--steps", "100000")
    assert (found.code, "ratlip train --resume 'new run'" in found.err) == (0, True)


@pytest.mark.slow
def test_resume_goes_on_and_json_is_one_object(settings: TrainSettings) -> None:
    assert ratlip("train", *options(settings)).code == 0
    found = ratlip("train", "--resume", settings.out, "--steps", "8", "--json")
    assert found.code == 0
    result = json.loads(found.out)
    assert (result["run"], result["step"], result["total_steps"], result["finished"]) == (settings.out, 8, 8, True)
    assert result["last"]["step"] == 8
    done = ratlip("train", "--resume", settings.out)
    assert done.code == 0
    assert "finished after 8 steps" in done.err


def test_print_config_is_toml_and_does_nothing(tmp_path: Path) -> None:
    found = ratlip("train", "--dataset", "cub", "--hidden-size", "32", "--print-config")
    (tmp_path / "printed.toml").write_text(found.out)
    printed = read_settings(tmp_path / "printed.toml")
    assert (found.code, printed["hidden_size"], printed["epochs"]) == (0, 32, 300)
    assert not (tmp_path / "runs").exists()


def test_dry_run_says_what_it_would_be(settings: TrainSettings) -> None:
    found = ratlip("train", *options(settings), "--dry-run")
    assert found.code == 0
    for text in ("training images", "10", "peak memory", "time per step", "time of all steps", "6"):
        assert text in found.out
    result = json.loads(ratlip("train", *options(settings), "--dry-run", "--json").out)
    assert (result["images"], result["steps"]) == (10, 6)
    assert not Path(settings.out).exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--dataset", "no/such/folder"], 1, "no/such/folder does not exist"),
        (["--dataset", ""], 2, "--dataset"),
        (["--variant", "ratlop"], 2, "Did you mean 'ratlip'?"),
        (["--steps", "-5"], 2, "steps is -5"),
        (["--device", "cuda"], 1, "device 'cuda' is not there"),
        (["--device", "gpu"], 2, "unknown device 'gpu'"),
        (["--clip", "no/clip"], 1, "no/clip"),
        (["--out", "/dev/null/run"], 1, "cannot write /dev/null/run"),
        (["--out", "."], 2, "exists already; go on with --resume"),
        (["--resume", "runs/none"], 2, "runs/none is no run folder"),
        (["--config", "smal"], 2, "Did you mean 'small'?"),
        (["--steps", "2", "--epochs", "2"], 2, "either epochs or steps"),
        (["--max-time", "2 days"], 2, "not a duration"),
    ],
)
def test_bad_input_is_one_line_and_loses_nothing(
    settings: TrainSettings, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    found = ratlip("train", *options(settings), *arguments, "--quiet")
    assert found.code == code
    assert found.out == ""
    assert message in found.err
    assert len(found.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_image_that_cannot_be_read_stops_with_its_name_and_saves(settings: TrainSettings, tmp_path: Path) -> None:
    dataset = Path(shutil.copytree(settings.dataset, tmp_path / "broken"))
    image = sorted((dataset / "train").glob("*.png"))[0]
    image.write_bytes(image.read_bytes()[:40])
    found = ratlip("train", *options(settings), "--dataset", str(dataset), "--steps", "50", "--quiet")
    assert found.code == 1
    assert image.name in found.err
    assert len(found.err.strip().splitlines()) == 1
    done = len((Path(settings.out) / "metrics.jsonl").read_text().splitlines())
    assert [path.name for path in list_checkpoints(Path(settings.out) / "checkpoints")] == (
        [f"step_{done:08d}"] if done else []
    )


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder.mkdir(), "broken"),
        (lambda folder: (folder.mkdir(), (folder / "dataset.json").write_text("{")), "dataset.json is damaged"),
    ],
)
def test_the_dataset_is_opened_before_a_clip_is_loaded(
    settings: TrainSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], object],
    message: str,
    dry: tuple[str, ...],
) -> None:
    make(tmp_path / "broken")
    monkeypatch.setattr("ratlip_cli.training.start.load_clip", lambda *_: pytest.fail("the CLIP was loaded"))
    found = ratlip("train", "broken", *options(settings.replaced(dataset="")), *dry, "--quiet")
    assert (found.code, found.out) == (1, "")
    assert message in found.err


@pytest.mark.slow
@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_the_step_saves_and_says_how_to_go_on(
    settings: TrainSettings, tmp_path: Path, signal_number: int, code: int
) -> None:
    metrics = Path(settings.out) / "metrics.jsonl"
    training = ("train", *options(settings), "--steps", 100_000, "--workers", 1)

    def has_begun() -> bool:
        return metrics.is_file() and metrics.stat().st_size > 0

    if signal_number == signal.SIGTERM:
        stopped = ratlip_stopped(signal_number, has_begun, *training)
        returned, stderr = stopped.code, stopped.err
    else:
        process = ratlip_process(*training)
        deadline = time.monotonic() + 600
        while not has_begun() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal_number)  # as a terminal does: the workers get it too
        _, stderr = process.communicate(timeout=300)
        returned = process.returncode
    assert returned == code, stderr
    assert f"Go on with: ratlip train --resume {settings.out}" in stderr
    assert "Traceback" not in stderr
    done = len(metrics.read_text().splitlines())
    assert read_checkpoint(list_checkpoints(Path(settings.out) / "checkpoints")[0]).step == done
