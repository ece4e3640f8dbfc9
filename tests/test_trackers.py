"""Where curves and sample grids go besides the run folder; wandb and trackio by the real packages, where installed."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from command_line import ratlip, ratlip_process
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_cli_train import options

from ratlip_cli.training.run_folder import RunFolder
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.training.trackers import TRACKERS, Trackers, named
from ratlip_cli.training.trainer import StepRecord

RUN = ("--steps", "10", "--sample-every", "5")


def records(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run, "metrics.jsonl").open()]


@pytest.mark.slow
def test_tensorboard_gets_curves_and_sample_grids(settings: TrainSettings) -> None:
    assert ratlip("train", *options(settings), *RUN, "-q").code == 0
    events = EventAccumulator(f"{settings.out}/tensorboard", {"tensors": 0, "images": 0}).Reload()
    (point,) = events.Scalars("loss_g")
    assert (point.step, point.value) == (10, pytest.approx(records(settings.out)[-1]["loss_g"], rel=1e-6))
    shown = events.Images("samples")
    grids = [Path(settings.out, f"samples/step_{step:08d}.png") for step in (5, 10)]
    assert [image.step for image in shown] == [5, 10]
    for image, grid in zip(shown, grids, strict=True):
        assert (image.height, image.width) == np.asarray(Image.open(grid)).shape[:2]
        decoded = Image.open(io.BytesIO(image.encoded_image_string)).convert("RGB")
        assert np.array_equal(np.asarray(decoded), np.asarray(Image.open(grid).convert("RGB")))


def test_trackers_get_what_not_every_step_measures(settings: TrainSettings) -> None:
    """Every third step: the newest of ten."""
    folder = RunFolder.create(settings)
    folder.open(settings, 0)
    for step in range(1, 21):
        rare = {"r1": float(step)} if step % 3 == 0 else {}
        folder.log(StepRecord(step, 0.1, {"loss_g": float(step), **rare}, 1e-4, 1e-4, 1.0, 1.0, skipped=False))
    folder.close()
    events = EventAccumulator(f"{settings.out}/tensorboard").Reload()
    assert [(point.step, point.value) for point in events.Scalars("r1")] == [(10, 9), (20, 18)]
    assert [(point.step, point.value) for point in events.Scalars("loss_g")] == [(10, 10), (20, 20)]


def test_services_get_scores_that_are_made_up(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a step whose curves they have."""
    told: list[tuple[int, dict[str, float]]] = []

    class Service:
        def __init__(self, *arguments: object) -> None:
            pass

        def log(self, step: int, values: dict[str, float]) -> None:
            told.append((step, values))

    monkeypatch.setitem(TRACKERS, "wandb", Service)
    Path(settings.out).mkdir()
    for _ in range(2):
        trackers = Trackers(Path(settings.out), settings.replaced(log="wandb"), 10)
        trackers.log(10, {"loss_g": 1.0})
        trackers.log(10, {"fid": 5.0}, what="scores")
    assert told == [(10, {"loss_g": 1.0}), (10, {"fid": 5.0})]


def test_no_tracker_is_none(settings: TrainSettings) -> None:
    assert ratlip("train", *options(settings), "--log", "none", "--steps", "1", "-q").code == 0
    assert not {"tensorboard", "trackers.json"} & {path.name for path in Path(settings.out).iterdir()}


def test_a_tracker_that_is_unknown_or_missing_is_told_before_a_run_begins(
    settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = ratlip("train", *options(settings), "--log", "tensorboard,wnadb")
    assert (unknown.code, "unknown tracker 'wnadb'. Did you mean 'wandb'?" in unknown.err) == (2, True)
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
        missing = ratlip("train", *options(settings), "--log", f"tensorboard, {name}")
        assert (missing.code, f"pip install 'ratlip[{name}]'" in missing.err) == (2, True)
    assert not Path(settings.out).exists()


SLOW = [pytest.param(where, marks=pytest.mark.slow) for where in ("open", "log", "close")]


@pytest.mark.parametrize("where", ["image", *SLOW])
def test_a_tracker_that_fails_costs_one_line(
    settings: TrainSettings, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class Failing:
        def __init__(self, folder: Path, settings: TrainSettings, steps_done: int) -> None:
            self.fail("open")

        def log(self, step: int, values: Mapping[str, float]) -> None:
            print("not for stdout")
            self.fail("log")

        def image(self, step: int, name: str, image: Image.Image) -> None:
            self.fail("image")

        def close(self) -> None:
            self.fail("close")

        def fail(self, here: str) -> None:
            if here == where:
                raise ConnectionError("the service\nis gone")

    monkeypatch.setitem(TRACKERS, "wandb", Failing)
    monkeypatch.setitem(sys.modules, "wandb", json)  # anything that is there
    found = ratlip("train", *options(settings), "--log", "wandb,tensorboard", *RUN)
    assert (found.code, found.out) == (0, f"{settings.out}\n")
    told = "wandb is left out from here on, training goes on: the service is gone"
    assert found.err.count(told) == 1
    assert len(records(settings.out)) == 10
    assert any(Path(settings.out, "tensorboard").iterdir())


def test_a_run_keeps_its_name(tmp_path: Path) -> None:
    run = tmp_path / "birds-1"
    run.mkdir()
    first = named(run)
    moved = run.rename(tmp_path / "elsewhere")
    assert (named(moved), first.name) == (first, "birds-1")
    (moved / "trackers.json").write_text('{"name": 1}')
    again = named(moved)
    assert again.name == "elsewhere"
    assert named(moved) == again


class Recording:
    """A service that keeps all it is told."""

    told: ClassVar[list[tuple[str, int]]] = []

    def __init__(self, folder: Path, settings: TrainSettings, steps_done: int) -> None:
        self.steps_done = steps_done

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.told.append(("curves", step))

    def image(self, step: int, name: str, image: Image.Image) -> None:
        self.told.append((name, step))

    def close(self) -> None:
        pass


def test_a_service_is_not_told_again_what_a_killed_run_repeats(
    tmp_path: Path, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, grid = settings.replaced(log="trackio"), Image.new("RGB", (8, 8))
    told: dict[str, list[tuple[str, int]]] = {kind: [] for kind in ("trackio", "wandb", "tensorboard")}
    for kind, kept in told.items():
        monkeypatch.setitem(TRACKERS, kind, type(kind, (Recording,), {"told": kept}))
    first = Trackers(tmp_path, own, 0)
    for step in (10, 20, 30):
        first.log(step, {"loss_g": 1.0})
        if step < 30:  # the kill comes before the last image, and nothing is closed
            first.image(step, "samples", grid)
    again = Trackers(tmp_path, settings.replaced(log="trackio,wandb,tensorboard"), 10)
    for step in (20, 30, 40):
        again.log(step, {"loss_g": 1.0})
        again.image(step, "samples", grid)
    assert [step for what, step in told["trackio"] if what == "curves"] == [10, 20, 30, 40]
    assert [step for what, step in told["trackio"] if what == "samples"] == [10, 20, 30, 40]
    assert [step for _, step in told["wandb"]] == [20, 20, 30, 30, 40, 40]  # which is new to the run
    assert [step for _, step in told["tensorboard"]] == [20, 20, 30, 30, 40, 40]  # which drops what is ahead


def test_what_a_service_has_is_kept_with_the_runs_name(tmp_path: Path, settings: TrainSettings) -> None:
    (tmp_path / "trackers.json").write_text('{"name": "x", "id": "01234567"}')  # of an earlier version
    assert (named(tmp_path).id, named(tmp_path).logged) == ("01234567", {})
    (tmp_path / "trackers.json").write_text('{"name": "x", "id": "01234567", "logged": {"wandb curves": "9"}}')
    assert named(tmp_path).logged == {}


def set_back_and_resumed_under(settings: TrainSettings, tracker: str) -> None:
    """Twenty steps, whose last checkpoint is lost, and on from the one before, of step 15, to step 40."""
    given = ("--steps", "20", "--sample-every", "5", "--save-every", "15", "--log", tracker)
    begun = ratlip("train", *options(settings), *given)
    assert begun.code == 0, begun.err
    shutil.rmtree(Path(settings.out, "checkpoints", "step_00000020"))
    process = ratlip_process("train", "--resume", settings.out, "--steps", "40")
    _, err = process.communicate(timeout=240)
    assert (process.returncode, "steps 16 to 40" in err, "is left out" in err) == (0, True, False), err


def resumed_under(settings: TrainSettings, tracker: str) -> None:
    """Ten steps, and ten more after a resume, which says nothing of the tracker."""
    begun = ratlip("train", *options(settings), "--log", tracker, *RUN)
    assert (begun.code, begun.out, "is left out" in begun.err) == (0, f"{settings.out}\n", False), begun.err
    process = ratlip_process("train", "--resume", settings.out, "--steps", "20")  # also what is said as it ends
    out, err = process.communicate(timeout=240)
    assert (process.returncode, out, "is left out" in err) == (0, f"{settings.out}\n", False), err


def leveldb_log(content: bytes, block: int = 32768) -> Iterator[bytes]:
    """The records of a .wandb file: seven bytes, then LevelDB's log format."""
    place, record = 7, b""
    while place + 7 <= len(content):
        if block - place % block < 7:  # no room for a record's head: zeros
            place += block - place % block
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def wandb_points(run: str) -> list[dict[str, Any]]:
    """All that an offline run was told, in its order."""
    from wandb.proto.wandb_internal_pb2 import Record

    points = []
    for folder in sorted(Path(run, "wandb").glob("offline-run-*")):
        (file,) = folder.glob("*.wandb")
        for content in leveldb_log(file.read_bytes()):
            record = Record()
            record.ParseFromString(content)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                points.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in items})
    return points


@pytest.mark.slow
def test_wandb_has_no_step_twice(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is missing: pip install 'ratlip[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    set_back_and_resumed_under(settings, "wandb")
    points = wandb_points(settings.out)
    assert [point["step"] for point in points if "loss_g" in point] == [10, 20, 30, 40]
    assert [point["step"] for point in points if "samples" in point] == [*range(5, 41, 5)]


@pytest.mark.slow
def test_wandb_offline_has_one_run(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is missing: pip install 'ratlip[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    resumed_under(settings, "wandb")
    folders = sorted(Path(settings.out, "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert {folder.name.rpartition("-")[2] for folder in folders} == {named(Path(settings.out)).id}
    points = wandb_points(settings.out)
    assert [point["step"] for point in points if "samples" in point] == [5, 10, 15, 20]
    logged = records(settings.out)
    curves = [(point["step"], point["loss_g"]) for point in points if "loss_g" in point]
    assert curves == [(step, logged[step - 1]["loss_g"]) for step in (10, 20)]
    images = [Image.open(path).size for folder in folders for path in folder.glob("files/media/images/samples_*.png")]
    assert images == [Image.open(path).size for path in sorted(Path(settings.out, "samples").iterdir())]


def test_ci_has_both_for_these_tests() -> None:
    steps = Path(__file__).parents[1].joinpath(".ci", "run").read_text()
    assert steps.index('pip install --quiet ".[wandb,trackio]"') < steps.index("tests/test_trackers.py")


def trackio_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trackio's storage, in a folder of its own in every process, also where it was imported for another one."""
    monkeypatch.setenv("TRACKIO_DIR", str(folder))  # read when trackio is imported
    pytest.importorskip("trackio", reason="trackio is missing: pip install 'ratlip[trackio]'")
    from trackio import sqlite_storage

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "trackio":
            for place, below in (("TRACKIO_DIR", folder), ("MEDIA_DIR", folder / "media")):
                if hasattr(module, place):
                    monkeypatch.setattr(module, place, below)
    return sqlite_storage.SQLiteStorage


@pytest.mark.slow
def test_trackio_has_one_run(settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = trackio_in(tmp_path / "trackio", monkeypatch)
    resumed_under(settings, "trackio")
    name = named(Path(settings.out))
    assert storage.get_runs("ratlip") == [f"{name.name}-{name.id}"]
    logged, written = storage.get_logs("ratlip", f"{name.name}-{name.id}"), records(settings.out)
    curves = [(point["step"], point["loss_g"]) for point in logged if "loss_g" in point]
    assert curves == [(step, written[step - 1]["loss_g"]) for step in (10, 20)]
    assert sorted(point["step"] for point in logged if "samples" in point) == [5, 10, 15, 20]
    shown = {point["step"]: point["samples"] for point in logged if "samples" in point}
    assert sorted(shown) == [5, 10, 15, 20]
    for step, image in shown.items():
        (kept,) = (tmp_path / "trackio").rglob(Path(image["file_path"]).name)
        grid = Image.open(Path(settings.out, "samples", f"step_{step:08d}.png")).convert("RGB")
        assert np.array_equal(np.asarray(Image.open(kept).convert("RGB")), np.asarray(grid))


@pytest.mark.slow
def test_trackio_has_no_step_twice(settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = trackio_in(tmp_path / "trackio", monkeypatch)
    set_back_and_resumed_under(settings, "trackio")
    name = named(Path(settings.out))
    logged = storage.get_logs("ratlip", f"{name.name}-{name.id}")
    assert [point["step"] for point in logged if "loss_g" in point] == [10, 20, 30, 40]
    assert sorted(point["step"] for point in logged if "samples" in point) == [*range(5, 41, 5)]
