"""Sweeps: what a sweep file means, what a run folder says of its run, and that a run's scores are evaluation's."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from command_line import ratlip, ratlip_process
from safetensors.numpy import save_file

from ratlip_cli.cli.sweep import _by_another_commit, _tell_not_taken, check_whole, complete
from ratlip_cli.data.request import PrepareRequest
from ratlip_cli.environment import commit
from ratlip_cli.errors import DataError, Interrupted, RatlipError, UsageError
from ratlip_cli.evaluation.run import evaluate
from ratlip_cli.evaluation.statistics import frechet_distance
from ratlip_cli.experiments import estimate, ledger
from ratlip_cli.experiments.compare import CompareRequest, compare_runs
from ratlip_cli.experiments.ledger import BROKEN, CHANGED, DONE, FEATURES, SCENES, Entry, read_ledger, read_values
from ratlip_cli.experiments.one_run import make_run
from ratlip_cli.experiments.score import score_run, trained_by
from ratlip_cli.experiments.sweep import (
    BEGUN,
    LOCKS,
    LOGS,
    MISSING,
    UNSCORED,
    SweepFolder,
    SweepRequest,
    slots,
    unlike,
)
from ratlip_cli.experiments.sweep_file import read_sweep
from ratlip_cli.files import locked
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.training.start import open_session

CLASSIFIER = Path(__file__).parents[1] / "examples" / "demo" / "classifier.safetensors"
EXAMPLE = Path(__file__).parents[1] / "examples" / "sweep.toml"


@pytest.fixture
def content(tiny_settings: TrainSettings) -> dict[str, object]:
    """A sweep of two rows and two seeds, runs of milliseconds a step."""
    flat = tiny_settings.flat()
    stays = ("dataset", "clip", "image_size", "generator_channels", "discriminator_channels", "hidden_size")
    stays += ("noise_dim", "batch_size", "ema", "workers", "sample_every")
    return {
        "images_shown": 24,
        "seeds": 2,
        "settings": {name: flat[name] for name in stays},
        "rows": {"GALIP": {"variant": "galip"}, "with RAT": {"variant": "rat", "hidden_size": 6}},
        "evaluation": {"captions_per_image": 2, "features": "clip"},
    }


Write = Callable[[dict[str, object]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a sweep file."""

    def write(content: dict[str, object]) -> Path:
        file = tmp_path / "table.toml"
        file.write_text(tomli_w.dumps(content), encoding="utf-8")
        return file

    return write


def opened(file: Path, **more: object) -> SweepFolder:
    folder = SweepFolder(SweepRequest(file, file.parent / "sweep", "cpu", **more))  # type: ignore[arg-type]
    folder.open()
    return folder


@pytest.mark.parametrize(("variant", "name", "value"), [("lafite", "r1_gamma", 0.123), ("ratlip", "hidden_size", 12)])
def test_what_stays_holds_for_a_family_that_the_config_names(
    tmp_path: Path, write: Write, variant: str, name: str, value: float
) -> None:
    config = tmp_path / "base.toml"
    config.write_text(f'variant = "{variant}"\n', encoding="utf-8")
    rows = {"small": {"batch_size": 8}, "large": {"batch_size": 16}}
    settings = {"dataset": "demo", name: value}
    content = {"images_shown": 64, "seeds": 1, "config": str(config), "settings": settings, "rows": rows}
    own = [run.settings.flat() for run in read_sweep(write(content)).runs]
    assert [(one["variant"], one[name]) for one in own] == [(variant, value)] * 2


def test_runs_are_rows_times_seeds_with_steps_by_the_images_shown(write: Write, content: dict) -> None:
    content["rows"]["with RAT"]["batch_size"] = 6
    content["images_shown"] = 25
    sweep = read_sweep(write(content))
    assert [(run.name, run.settings.seed) for run in sweep.runs] == [
        ("GALIP-seed0", 0),
        ("GALIP-seed1", 1),
        ("with-RAT-seed0", 0),
        ("with-RAT-seed1", 1),
    ]
    assert [run.settings.steps for run in sweep.runs] == [6, 6, 4, 4]
    assert [run.settings.model["hidden_size"] for run in sweep.runs] == [4, 4, 6, 6]
    assert {run.settings.keep for run in sweep.runs} == {1}


def test_lists_multiply(write: Write, content: dict) -> None:
    del content["rows"]
    content["vary"] = {"variant": ["ratlip", "rat"], "hidden_size": [4, 8, 16]}
    content["seeds"] = [7]
    rows = [(run.settings.variant, run.settings.model["hidden_size"]) for run in read_sweep(write(content)).runs]
    assert rows == list(itertools.product(["ratlip", "rat"], [4, 8, 16]))
    assert read_sweep(write(content)).rows[4] == "variant=rat hidden_size=8"


def test_lists_of_what_a_variant_does_not_read_make_rows_that_are_the_same(write: Write, content: dict) -> None:
    del content["rows"]
    content["vary"] = {"variant": ["galip", "ratlip"], "hidden_size": [4, 16]}
    with pytest.raises(UsageError, match="'variant=galip hidden_size=4' and 'variant=galip hidden_size=16' are the sa"):
        read_sweep(write(content))


def test_what_stays_reaches_the_families_that_have_it(write: Write, content: dict) -> None:
    content["rows"]["DF-GAN"] = {"variant": "dfgan"}
    content["settings"]["similarity_weight"] = 3.0
    by_row = {run.row: run.settings for run in read_sweep(write(content)).runs}
    assert "hidden_size" not in by_row["DF-GAN"].model
    assert by_row["GALIP"].similarity_weight == 3.0
    assert by_row["DF-GAN"].lr_g == by_row["DF-GAN"].family.defaults.get("lr_g", TrainSettings.lr_g)  # its own


def _with(path: str, value: object) -> Callable[[dict], None]:
    def change(content: dict) -> None:
        *tables, name = path.split("/")
        for table in tables:
            content = content.setdefault(table, {})
        content[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_with("settings/hidden_sise", 4), "settings: unknown setting 'hidden_sise'. Did you mean 'hidden_size'?"),
        (_with("rows/GALIP/variant", "galipp"), "row 'GALIP': unknown variant 'galipp'. Did you mean 'galip'?"),
        (_with("rows/GALIP/lr_g", "fast"), "row 'GALIP': 'lr_g' must be a number"),
        (_with("rows/GALIP/lr_g", -1.0), "row 'GALIP': lr_g is -1.0"),
        (_with("rows/again", {"variant": "galip"}), "the rows 'GALIP' and 'again' are the same"),
        (_with("rows/again", {"variant": "galip", "hidden_size": 16}), "the rows 'GALIP' and 'again' are the same"),
        (_with("rows/with-RAT", {"variant": "ratlip"}), "the rows 'with RAT' and 'with-RAT' have the same folder"),
        (_with("rows/GALIP/image_size", 64), "image_size is 64 in row 'GALIP' and 32 in row 'with RAT'"),
        (_with("settings/steps", 5), "settings: 'steps' is not for a sweep file; what says it is images_shown"),
        (_with("rows/GALIP/seed", 5), "row 'GALIP': 'seed' is not for a sweep file; what says it is seeds"),
        (_with("settings/w_dim", 5), "no row has the setting 'w_dim'"),
        (_with("settings/dataset", ""), "give the dataset"),
        (_with("images_shown", 3), "images_shown is 3, less than one batch of 4"),
        (_with("images_shown", 1.5), "give images_shown"),
        (_with("seeds", [1, 1]), "seeds has a seed twice"),
        (_with("seeds", 0), "seeds must be how many"),
        (_with("image_shown", 3), "unknown key 'image_shown'. Did you mean 'images_shown'?"),
        (_with("vary", {"hidden_size": [4]}), "give either [rows.NAME] tables or a table [vary]"),
        (_with("evaluation/limits", 3), "evaluation: unknown setting 'limits'. Did you mean 'limit'?"),
        (_with("evaluation/metrics", ["fidd"]), "evaluation: unknown metric 'fidd'. Did you mean 'fid'?"),
        (_with("evaluation/limit", 0), "evaluation: limit is 0"),
        (
            _with("rows/GALIP/init_from", "ratlip-demo"),
            "init_from is 'ratlip-demo' in row 'GALIP' and '' in row 'with R",
        ),
        (_with("rows/again", {"variant": "galip", "workers": 2, "keep": 3}), "'GALIP' and 'again' are the same"),
        (_with("printed/GALIP", {"clip_score": 1}), "unknown metric 'clip_score'. Did you mean 'clip-score'?"),
        (_with("printed/GALIP", {"fid": float("nan")}), "row 'GALIP': 'fid' must be a finite number, not nan"),
        (_with("printed/GALIP", {"fid": 10**400}), "row 'GALIP': 'fid' must be a finite number"),
        (_with("printed/GALLIP", {"fid": 1}), "printed: unknown row 'GALLIP'. Did you mean 'GALIP'?"),
    ],
)
def test_what_cannot_be_swept_is_told_with_its_place(
    write: Write, content: dict, change: Callable[[dict], None], said: str
) -> None:
    change(content)
    file = write(content)
    with pytest.raises(UsageError) as told:
        read_sweep(file)
    assert said in str(told.value)
    assert str(told.value).startswith(str(file))
    assert "\n" not in str(told.value)


def test_rows_are_named_in_any_script(write: Write, content: dict) -> None:
    """With an accent as a letter of its own, and as many bytes as file systems take."""
    galip, rat = content["rows"].values()
    content["rows"] = {
        "红": galip,
        "蓝": rat,
        "हिन्दी": {**rat, "hidden_size": 9},
        "e\u0301 鸟": {**rat, "hidden_size": 7},
    }
    content["rows"]["鸟" * 200] = {**rat, "hidden_size": 8}
    *short, long = [run.name for run in read_sweep(write(content)).runs if run.seed == 0]
    assert short == ["红-seed0", "蓝-seed0", "हिन्दी-seed0", "é-鸟-seed0"]
    assert long == f"{'鸟' * 33}-seed0"
    content["rows"]["é-鸟"] = {**rat, "hidden_size": 10}
    with pytest.raises(UsageError, match="have the same folder"):
        read_sweep(write(content))


@pytest.mark.parametrize(
    ("evaluation", "said"),
    [
        ({"split": "tset"}, "tset"),
        ({"limit": 9}, "limit is 9, but the split test"),
        ({"metrics": ["precision-recall"]}, "too few real images: 2; precision-recall take at least 4"),
        ({"attribute_classifier": "none.safetensors"}, "none.safetensors"),
        ({"attribute_classifier": str(CLASSIFIER)}, "is not rendered by ratlip: leave out attribute_classifier"),
        ({"clip_score_clip": "no-such-clip"}, "no-such-clip"),
        ({"features": "inception", "inception_weights": "none.pth"}, "none.pth"),
    ],
)
def test_an_evaluation_that_cannot_be_is_told_before_training(
    write: Write, content: dict, evaluation: dict[str, object], said: str
) -> None:
    content["evaluation"] |= evaluation
    file = write(content)
    for more in ([], ["--dry-run"]):
        answer = ratlip("sweep", file, "--out", file.parent / "sweep", "--device", "cpu", *more)
        assert answer.code in (1, 2)
        assert answer.err.startswith(f"error: {file}, evaluation: ")
        assert said in answer.err
        assert len(answer.err.splitlines()) == 1
    assert not list((file.parent / "sweep").glob("*-seed*"))


def test_a_shard_discards_its_own_scores_alone_for_features_of_real_images(
    write: Write, content: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(content)
    shards = [opened(file, shard=f"{part}/2") for part in (1, 2)]
    states: dict[str, tuple[str, Entry | None]] = {}
    for run in shards[0].sweep.runs:
        flat = run.settings.flat()
        states[run.name] = DONE, Entry(run.row, run.seed, run.name, DONE, None, flat, "", scores={"fid": 1.0})
    monkeypatch.setattr(SweepFolder, "state", lambda _, run: states[run.name])
    for shard in shards:
        assert shard.score_again_for_real_features() == shard.ordered[0].name
    with locked(shards[0].lock_file(shards[0].ordered[0].name)):
        assert shards[1].score_again_for_real_features() is None, "another call makes it"
    states[shards[0].ordered[0].name] = UNSCORED, None
    assert [shard.score_again_for_real_features() for shard in shards] == [None, None]


def test_json_calls_a_run_what_its_entry_does(write: Write, content: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(content)
    run, flat = read_sweep(file).runs[0], read_sweep(file).runs[0].settings.flat()
    entry = Entry(run.row, run.seed, run.name, CHANGED, "its data is not that of the first", flat, "")
    monkeypatch.setattr("ratlip_cli.cli.sweep.complete", lambda folder: [entry])
    told = json.loads(ratlip("sweep", file, "--out", file.parent / "sweep", "--json").out)
    assert told["states"] == {one.name: CHANGED if one == run else "missing" for one in read_sweep(file).runs}


def test_the_example_can_be_swept() -> None:
    assert read_sweep(EXAMPLE).rows == ["GALIP", "RATLIP"]


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_shards_are_all_runs_once(write: Write, content: dict, parts: int) -> None:
    file = write(content)
    shards = [SweepFolder(SweepRequest(file, shard=f"{part}/{parts}")).ordered for part in range(1, parts + 1)]
    names = [run.name for shard in shards for run in shard]
    assert sorted(names) == sorted(run.name for run in read_sweep(file).runs)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "-1/2"])
def test_a_shard_that_cannot_be_is_told(shard: str) -> None:
    with pytest.raises(UsageError, match="--shard is"):
        SweepRequest(Path("x.toml"), shard=shard)


def test_processes_share_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    request = SweepRequest(Path("x.toml"), device="cpu")
    shares = {jobs: slots(dataclasses.replace(request, jobs=jobs), 10) for jobs in (1, 3, 8, 16)}
    assert {jobs: len(places) for jobs, places in shares.items()} == {1: 1, 3: 3, 8: 8, 16: 10}
    assert [places[0]["OMP_NUM_THREADS"] for places in shares.values()] == ["8", "2", "1", "1"]
    assert len(slots(request, 2)) == 2  # no more places than runs


@pytest.mark.slow
def test_a_run_is_what_train_and_evaluate_make_of_it(write: Write, content: dict) -> None:
    folder = opened(write(content))
    run = folder.run("GALIP-seed1")
    assert folder.state(run)[0] == MISSING
    stops = iter([False, False, True])
    with pytest.raises(Interrupted, match="stopped after step 2"):
        make_run(folder, run, lambda: next(stops))
    assert folder.state(run)[0] == BEGUN
    entry = make_run(folder, run)  # goes on
    assert folder.state(run) == (DONE, entry)
    assert (entry.row, entry.seed, entry.steps, entry.images_shown) == ("GALIP", 1, 6, 24)
    assert entry.commit is None or re.fullmatch("[0-9a-f]{40}(-dirty)?", entry.commit)

    request = folder.sweep.protocol.request(folder.path / run.name, Path("data"), "cpu")
    scores = {score.key: score.value for score in evaluate(request).metrics.values()}
    assert entry.scores == pytest.approx({"fid": scores["fid"], "clip-score": scores["clip_score"]}, rel=1e-6)
    assert folder.write_ledger() == [entry]
    places = {"data_dir", "out", "resume"}
    told = {name: value for name, value in entry.settings.items() if name not in places}
    assert len(told) == len(entry.settings) - 3, "where things lie on this machine is left out"
    assert read_ledger(folder.path) == [dataclasses.replace(entry, settings=told)]
    values, real = read_values(folder.path, entry), ledger.read_real_features(folder.path)
    assert values["clip-score"].shape == (4,)  # two captions of two images
    assert values["clip-score"].mean() == pytest.approx(entry.scores["clip-score"], rel=1e-6)
    assert values[FEATURES].shape == (4, real.shape[1])
    assert real.shape == (2, 16)
    assert values[SCENES].tolist() == [0, 0, 1, 1]
    assert (entry.version, entry.commit) == (entry.scored_by["version"], entry.scored_by["commit"])
    assert entry.machine == entry.scored_by["machine"] != ""

    assert entry.protocol["model"] == "EMA of the last checkpoint"
    unaveraged = run.settings.replaced(ema=0.0)
    last = make_run(folder, dataclasses.replace(run, name="no-EMA", settings=unaveraged))
    assert last.protocol["model"] == "the last checkpoint, without EMA"
    assert unlike(entry.protocol, last.protocol) == [], "a setting of the training, as any other"

    other = dataclasses.replace(run, name="undisturbed")
    again = make_run(folder, other)
    assert again.model_fingerprint == entry.model_fingerprint
    assert again.scores == entry.scores
    assert again.settings_digest == entry.settings_digest
    plain = score_run(folder.path / "undisturbed", folder.sweep.protocol, "cpu")
    assert (plain.row, plain.scores, plain.protocol) == ("undisturbed", entry.scores, entry.protocol)

    _check_what_is_changed_by_hand(folder, entry)


def test_a_scoring_that_fails_is_told_and_trains_nothing_again(
    write: Write, content: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = opened(write(content))
    run = folder.run("GALIP-seed0")
    place = folder.path / run.name
    made = make_run(folder, run)
    noted = json.loads((place / "environment.json").read_text())
    assert noted["commit"] == made.commit
    (place / "environment.json").write_text(json.dumps({**noted, "ratlip": "0.0.1", "commit": "of the training"}))

    content["evaluation"] = {"limit": 9, "metrics": ["clip-score"]}  # of two images
    other = opened(write(content))
    with pytest.raises(DataError, match="limit is 9"):
        make_run(other, run)
    other.set_broken(run, "--limit is 9", again=False)
    assert other.state(run)[0] == BROKEN
    assert run not in other.left()
    (entry,) = other.write_ledger()
    assert (entry.state, entry.reason) == (BROKEN, "--limit is 9")
    with pytest.raises(RatlipError, match=r"1 of 4 runs is broken \(GALIP-seed0: --limit is 9\)"):
        check_whole((other, [entry]))
    with pytest.raises(RatlipError, match=r"\(GALIP-seed0, x: --limit is 9; y: another\)"):
        check_whole(
            (other, [entry, dataclasses.replace(entry, run="x"), dataclasses.replace(entry, run="y", reason="another")])
        )

    content["evaluation"] = {"limit": 1, "captions_per_image": 2, "features": "clip", "metrics": ["clip-score"]}
    again = opened(write(content), retry_broken=True)
    assert run in again.left()
    trainings: list[object] = []
    monkeypatch.setattr("ratlip_cli.experiments.one_run._train", lambda *told: trainings.append(told))
    entry = make_run(again, run)
    assert trainings == []
    assert again.state(run) == (DONE, entry)
    assert (entry.version, entry.commit, entry.machine) == ("0.0.1", "of the training", made.machine)
    assert entry.scored_by == {"version": made.version, "commit": commit(), "machine": made.machine}
    assert read_values(again.path, entry)[SCENES].tolist() == [0, 0]  # the first of the real images that count

    ledger.write_entry(place, dataclasses.replace(entry, protocol={}))
    values = (place / "scores.safetensors").read_bytes()
    monkeypatch.setattr("ratlip_cli.experiments.score.write_entry", lambda *told: 1 / 0)  # a kill before the end
    content["evaluation"]["captions_per_image"] = 1
    killed = opened(write(content))
    with pytest.raises(ZeroDivisionError):
        make_run(killed, run)
    assert (place / "scores.safetensors").read_bytes() != values
    assert killed.state(run)[0] == BEGUN, "not changed by hand"


@pytest.mark.slow
def test_the_environment_is_that_of_the_training(settings: TrainSettings, tmp_path: Path) -> None:
    session = open_session(settings)
    for _ in session.run():
        pass
    file = tmp_path / "run" / "environment.json"
    assert json.loads(file.read_text())["machine"] == trained_by(file.parent)["machine"]
    file.write_text('{"mark": 1}')
    for _ in open_session(settings.replaced(resume=settings.out, out="")).run():
        pass
    assert file.read_text() == '{"mark": 1}', "no step was trained"
    assert set(trained_by(file.parent).values()) == {None}
    for _ in open_session(settings.replaced(resume=settings.out, out="", steps=8)).run():
        pass
    assert json.loads(file.read_text())["commit"] == commit()

    earlier = {"ratlip": "0.1.0", "commit": "c", "packages": {"torch": "2.9"}, "threads": {"torch": 1, "cores": 2}}
    file.write_text(json.dumps({**earlier, "devices": [{"device": "cpu", "name": "x86_64"}]}))
    machine = "x86_64, 2 cores, 1 of them used, PyTorch 2.9"
    assert trained_by(file.parent) == {"version": "0.1.0", "commit": "c", "machine": machine}
    assert _by_another_commit(file.parent) == f"; commit c trained it, and this is {commit() or 'unknown'}"
    file.write_text(json.dumps({**earlier, "devices": [], "commit": commit()}))
    assert _by_another_commit(file.parent) == ""


@pytest.mark.slow
def test_runs_that_another_sweep_has_are_taken_from_it(
    write: Write, content: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = opened(write(content))
    made = make_run(first, first.run("GALIP-seed1"))
    make_run(first, first.run("with-RAT-seed1"))
    first.write_ledger()

    content["rows"] = {"baseline": {"variant": "galip"}, "with RAT": {"variant": "rat", "hidden_size": 7}}
    content["evaluation"] = {"captions_per_image": 1, "metrics": ["clip-score"]}
    second = SweepFolder(SweepRequest(write(content), tmp_path / "second", "cpu", take=[first.path]))
    second.open()
    (second.path / "baseline-seed0").mkdir()  # as a kill leaves it
    (second.path / "baseline-seed1").mkdir()
    (second.path / "baseline-seed1" / ".lock").touch()
    shutil.rmtree(first.path / "GALIP-seed1" / "checkpoints")  # the finished model is enough
    assert second.to_take() == {"baseline-seed1": first.path / "GALIP-seed1"}
    told = estimate.estimate(second)
    assert [(row.row, row.trained) for row in told.rows] == [("baseline", (1,)), ("with RAT", ())]
    full = dataclasses.replace(second.request, take=())
    assert told.disk < estimate.estimate(SweepFolder(full)).disk
    by_row = {row.row: row for row in told.rows}
    each = [by_row["baseline"].seconds, by_row["baseline"].scoring, *[by_row["with RAT"].seconds] * 2]
    assert told.seconds == pytest.approx(max(max(each), sum(each) / told.jobs))
    assert by_row["baseline"].scoring < 0.5 * by_row["baseline"].seconds
    assert second.take() == {"baseline-seed1": first.path / "GALIP-seed1"}
    assert second.take() == {}, "it is there now"
    run = second.run("baseline-seed1")
    assert second.state(run)[0] == BEGUN
    entry = make_run(second, run)
    assert (entry.row, entry.seconds) == ("baseline", pytest.approx(made.seconds, abs=5))
    assert entry.model_fingerprint == made.model_fingerprint
    assert entry.files["model/generator.safetensors"] == made.files["model/generator.safetensors"], "not trained again"
    assert set(entry.scores) == {"clip-score"}

    (second.path / "real-features.safetensors").write_bytes(b"")
    assert second.score_again_for_real_features() is None, "none of its scores is of features"
    assert first.score_again_for_real_features() is None
    (first.path / "real-features.safetensors").write_bytes(b"")
    assert first.score_again_for_real_features() == "GALIP-seed1"
    assert first.state(first.run("GALIP-seed1"))[0] == BEGUN
    make_run(first, first.run("GALIP-seed1"))
    assert len(ledger.read_real_features(first.path)) == 2

    ledger.write_entry(first.path / "GALIP-seed1", dataclasses.replace(made, files={}))
    metadata = {"step": "5"}  # of 6
    save_file({"x": np.zeros(1)}, first.path / "GALIP-seed1" / "model" / "generator.safetensors", metadata)
    first.write_ledger()
    third = SweepFolder(SweepRequest(write(content), tmp_path / "third", "cpu", take=[first.path]))
    assert third.to_take() == {}, "it is not finished there"
    assert third.not_taken() == {"baseline-seed1": first.path / "GALIP-seed1"}
    _tell_not_taken(third)
    said = f"not taken from {first.path}, which lacks the finished models of GALIP-seed1"
    assert said in capsys.readouterr().err


def test_a_folder_that_has_nothing_to_take_is_named(write: Write, content: dict, tmp_path: Path) -> None:
    first = opened(write(content))
    done(first, "GALIP-seed1")
    first.write_ledger()
    file = write(content)
    assert SweepFolder(SweepRequest(file, tmp_path / "same", "cpu", take=[first.path])).nothing_in() == []
    content["seeds"] = [7]
    file = write(content)
    words = ("sweep", file, "--out", tmp_path / "other", "--take", first.path, "--device", "cpu", "--dry-run")
    assert f"--take {first.path}: no run was trained there as this file says" in ratlip(*words).err


def test_a_run_without_scores_is_scored_as_the_first_that_has(write: Write, content: dict, tmp_path: Path) -> None:
    """Whichever is named first; two captions an image are not what is usual."""
    folder = opened(write(content))
    entry = make_run(folder, folder.run("GALIP-seed0"))
    shutil.copytree(folder.path / "GALIP-seed0", tmp_path / "copy", ignore=shutil.ignore_patterns("scores.*"))
    config = tmp_path / "copy" / "config.toml"
    config.write_text(config.read_text().replace("seed = 0", "seed = 5"))
    (row,) = compare_runs(CompareRequest([tmp_path / "copy", folder.path / "GALIP-seed0"], device="cpu")).rows
    assert [run.entry.seed for run in row.runs] == [5, 0]
    assert row.runs[0].entry.protocol == entry.protocol


def _check_what_is_changed_by_hand(folder: SweepFolder, entry: Entry) -> None:
    run, place = folder.run(entry.run), folder.path / entry.run
    config = (place / "config.toml").read_text(encoding="utf-8")
    (place / "config.toml").write_text(config.replace("lr_g = 0.0001", "lr_g = 0.0002"), encoding="utf-8")
    state, changed = folder.state(run)
    assert state == CHANGED
    assert changed is not None
    assert changed.reason == "its settings were changed after it was scored: lr_g was 0.0001 and is 0.0002"
    assert folder.left() == [one for one in folder.ordered if one.name != run.name]  # neither trained nor scored again
    assert [one.state for one in read_ledger(folder.path)] == [CHANGED]
    (place / "config.toml").write_text(config, encoding="utf-8")
    assert folder.state(run)[0] == DONE

    ledger.write_entry(place, dataclasses.replace(entry, scores={**entry.scores, "clip-score": 90.5}))
    state, changed = folder.state(run)
    assert state == CHANGED
    assert changed is not None
    assert folder.remedy(changed, [changed]) == f"To score it again, remove {place / 'scores.json'}"
    ledger.write_entry(place, entry)

    weights = place / "model" / "generator.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    changed = folder.state(run)[1]
    assert changed is not None
    assert changed.reason == "model/generator.safetensors was changed after it was scored"
    assert folder.remedy(changed, [changed]) == f"To train it again, remove {place} and {folder.path / 'ledger.jsonl'}"
    weights.write_bytes(content)

    free = config.replace("workers = 0", "workers = 3").replace("save_every = 1000", "save_every = 7")
    assert free != config
    (place / "config.toml").write_text(free, encoding="utf-8")
    assert folder.state(run)[0] == DONE  # where and how fast it ran decides nothing
    (place / "config.toml").write_text(config, encoding="utf-8")


def done(folder: SweepFolder, name: str, **more: Any) -> Entry:
    """A run that is said to be done."""
    run = folder.run(name)
    protocol = json.loads(json.dumps(dataclasses.asdict(folder.sweep.protocol)))
    flat = run.settings.flat()
    entry = Entry(run.row, run.seed, name, DONE, None, flat, ledger.digest_of(flat), protocol=protocol)
    entry = dataclasses.replace(entry, **{"steps": run.settings.steps, **more})
    place = folder.path / name
    place.mkdir(exist_ok=True)
    (place / "config.toml").write_text(run.settings.to_toml(), encoding="utf-8")
    ledger.write_entry(place, entry)
    return entry


def test_a_changed_sweep_file_is_told_where_it_changes_what_is_trained(write: Write, content: dict) -> None:
    folder = opened(write(content))
    done(folder, "GALIP-seed0")
    content["seeds"] = 3
    content["rows"]["more"] = {"variant": "ratlip"}
    content["rows"]["with RAT"]["hidden_size"] = 12  # of which nothing is trained yet
    grown = opened(write(content))
    assert len(grown.sweep.runs) == 9
    assert "GALIP-seed0" not in [run.name for run in grown.left()]
    content["settings"]["lr_d"] = 0.5
    with pytest.raises(UsageError, match=r"GALIP-seed0 was begun: lr_d was 0.0004 and is 0.5. Choose another --out"):
        opened(write(content))


def test_another_protocol_scores_again_and_trains_nothing(write: Write, content: dict) -> None:
    folder = opened(write(content))
    done(folder, "GALIP-seed0")
    content["evaluation"]["seed"] = 4
    changed = opened(write(content))
    assert changed.state(changed.run("GALIP-seed0"))[0] == UNSCORED
    assert changed.run("GALIP-seed0") in changed.left()
    assert changed.entries() == []


def test_a_run_that_was_scored_before_its_last_step_goes_on(write: Write, content: dict) -> None:
    """As `compare` scores one that was stopped; the weights of later steps are no change by hand."""
    folder = opened(write(content))
    done(folder, "GALIP-seed0", steps=4, files={"config.toml": "of before"})
    assert folder.state(folder.run("GALIP-seed0")) == (BEGUN, None)
    assert folder.run("GALIP-seed0") in folder.left()


def test_a_ledger_has_what_can_be_compared(write: Write, content: dict) -> None:
    folder = opened(write(content))
    done(folder, "GALIP-seed0", data={"name": "x", "fingerprint": "1"})
    done(folder, "with-RAT-seed0", data={"name": "x", "fingerprint": "2"})
    folder.set_broken(folder.run("with-RAT-seed1"), "it diverged.", again=False)
    entries = folder.write_ledger()
    assert [(entry.run, entry.state) for entry in entries] == [
        ("GALIP-seed0", DONE),
        ("with-RAT-seed0", CHANGED),
        ("with-RAT-seed1", BROKEN),
    ]
    assert entries[1].reason == "its data is not that of GALIP-seed0: 1 there, 2 here"
    assert entries[2].reason == "it diverged."


def test_what_was_scored_in_another_way_is_named_with_what_mends_it(write: Write, content: dict) -> None:
    folder = opened(write(content))
    asked = json.loads(json.dumps(dataclasses.asdict(folder.sweep.protocol)))
    network = {"fingerprint": "1", "resize": "none"}
    protocols = [{**asked, "networks": {"CLIP a": network, "other": {**network, "fingerprint": n}}} for n in "23"]
    done(folder, "GALIP-seed0", protocol=protocols[0])
    done(folder, "GALIP-seed1", protocol=protocols[1])
    done(folder, "with-RAT-seed0", protocol=protocols[0], clip={"name": "c", "fingerprint": "x"})
    entries = folder.write_ledger()
    assert [entry.state for entry in entries] == [DONE, CHANGED, CHANGED]
    assert entries[1].reason == "it was not scored as GALIP-seed0 was: other differ"
    place = folder.path / "GALIP-seed1"
    assert folder.remedy(entries[1], entries).startswith(f"To score it again, remove {place / 'scores.json'}")
    assert folder.remedy(entries[2], entries) == f"To train it again, remove {folder.path / 'with-RAT-seed0'}"


def test_a_changed_settings_file_behind_a_sweep_file_is_told(write: Write, content: dict, tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    content = {"config": str(config), **content}  # before its tables
    config.write_text("lr_d = 0.125\n", encoding="utf-8")
    folder = opened(write(content))
    done(folder, "GALIP-seed0")
    config.write_text("lr_d = 0.25\n", encoding="utf-8")
    said = (
        r"mine.toml that it names as its config, was changed since .*GALIP-seed0 was begun: lr_d was 0.125 and is 0.25"
    )
    with pytest.raises(UsageError, match=said) as caught:
        opened(write(content))
    run, ledger = folder.path / "GALIP-seed0", folder.path / "ledger.jsonl"
    assert str(caught.value).endswith(f"or remove {run} and {ledger} to train it again.")
    config.unlink()
    kept = read_sweep(folder.path / "sweep.toml")
    assert {run.settings.lr_d for run in kept.runs} == {0.125}, "a process of the sweep reads what the sweep read"
    content["config"] = "demo"
    shutil.rmtree(folder.path / "GALIP-seed0")
    changed = SweepFolder(dataclasses.replace(folder.request, file=write(content)))
    changed.open()
    assert not (folder.path / "sweep-config.toml").exists()


def test_a_broken_run_is_tried_again_where_somebody_asks_or_it_was_killed(write: Write, content: dict) -> None:
    file = write(content)
    folder = opened(file)
    run = folder.run("GALIP-seed0")
    folder.set_broken(run, "it diverged.", again=False)
    assert run not in folder.left()
    assert run in opened(file, retry_broken=True).left()
    folder.set_broken(run, "killed.", again=True)
    assert run in folder.left()


def test_a_disk_that_will_not_hold_it_is_told_before(
    write: Write, content: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = SweepFolder(SweepRequest(write(content), device="cpu"))
    size = sum(estimate.bytes_of(run.settings) for run in folder.sweep.runs)
    usage = estimate.shutil.disk_usage
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda path: usage(path)._replace(free=size))
    estimate.check_disk(folder)
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda path: usage(path)._replace(free=size - 1))
    with pytest.raises(RatlipError, match=r"4 runs write about .* free some space"):
        estimate.check_disk(folder)


def test_another_folder_is_not_taken_for_a_sweep(write: Write, content: dict, tmp_path: Path) -> None:
    answer = ratlip("sweep", write(content), "--out", tmp_path)
    assert answer.code == 2
    assert "is no sweep folder" in answer.err
    assert ratlip("sweep", tmp_path / "none.toml").code == 1


def test_a_folder_that_a_sweep_has_only_begun_is_one(write: Write, content: dict, tmp_path: Path) -> None:
    """As a kill leaves it, and as array jobs that start together find it."""
    file, place = write(content), tmp_path / "sweep"
    for name in (LOCKS, LOGS, ".sweep.toml.0123abcd.partial", f".{'0a' * 16}"):
        (place / name).mkdir(parents=True, exist_ok=True)
        opened(file)
        (place / "sweep.toml").unlink()
    shutil.rmtree(place / LOGS)
    (place / LOGS).touch()
    with pytest.raises(RatlipError, match="cannot write"):
        opened(file)
    assert (place / "sweep.toml").is_file(), "it comes before all else"
    (place / "sweep.toml").unlink()
    (place / "notes.txt").touch()
    with pytest.raises(UsageError, match="is no sweep folder"):
        opened(file)
    with pytest.raises(RatlipError, match=r"notes\.txt: it is a file"):
        SweepFolder(SweepRequest(file, place / "notes.txt", "cpu"))


def test_a_dry_run_measures_with_the_threads_of_a_run(
    write: Write, content: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    threads: list[int] = []
    measure = estimate.dry_run

    def dry_run(*given: object) -> object:
        threads.append(torch.get_num_threads())
        return measure(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(estimate, "dry_run", dry_run)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert estimate.estimate(SweepFolder(SweepRequest(write(content), device="cpu", jobs=2))).jobs == 2
        assert threads == [1, 1]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_dry_run_tells_time_and_disk_and_writes_nothing(write: Write, content: dict, tmp_path: Path) -> None:
    answer = ratlip("sweep", write(content), "--out", tmp_path / "sweep", "--device", "cpu", "--dry-run", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert [(row["row"], row["seeds"], row["steps"]) for row in told["rows"]] == [
        ("GALIP", [0, 1], 6),
        ("with RAT", [0, 1], 6),
    ]
    assert told["seconds"] > 0
    assert told["disk"] == 2 * sum(row["disk"] for row in told["rows"])
    assert not (tmp_path / "sweep").exists()


def test_a_dry_run_names_what_was_changed_by_hand(
    write: Write, content: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a run is not left, and would look as if it were done."""
    file = write(content)
    runs = read_sweep(file).runs
    entries = {
        run.name: Entry(run.row, run.seed, run.name, CHANGED, "its settings were changed", run.settings.flat(), "")
        for run in runs
    }
    monkeypatch.setattr(SweepFolder, "state", lambda _, run: (CHANGED, entries[run.name]))
    answer = ratlip("sweep", file, "--out", tmp_path / "sweep", "--dry-run")
    assert f"runs: 0 left of {len(runs)}" in answer.out
    assert answer.err.count("is left out: its settings were changed") == len(runs)


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_is_no_place_for_a_sweep(write: Write, content: dict, tmp_path: Path, below: str) -> None:
    (tmp_path / "f").touch()
    for dry_run in ([], ["--dry-run"]):
        answer = ratlip("sweep", write(content), "--out", tmp_path / "f" / below, *dry_run)
        assert (answer.code, answer.out, answer.err.count("\n")) == (1, "", 1), answer.err
        assert "is a file. Choose another" in answer.err


# ---- of minutes: processes that are killed, share the work, fail and are stopped


def finished(*arguments: object) -> subprocess.CompletedProcess[str]:
    process = ratlip_process("sweep", *arguments)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def children(process: subprocess.Popen[str]) -> list[int]:
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def table(folder: Path) -> list[tuple[object, ...]]:
    """What a table is made of."""
    entries = read_ledger(folder)
    return [(one.run, one.state, one.reason, one.model_fingerprint, sorted(one.scores.items())) for one in entries]


@pytest.mark.slow
def test_killed_at_random_moments_it_comes_to_the_same_table(write: Write, content: dict, tmp_path: Path) -> None:
    """Two rows that are trained, one that diverges; undisturbed by two calls at once, killed, and stopped."""
    content["images_shown"] = 160
    content["settings"]["save_every"] = 10
    content["rows"] = {"GALIP": {"variant": "galip"}, "diverges": {"variant": "rat", "lr_g": 1e30, "lr_d": 1e30}}
    file = write(content)
    options = (file, "--device", "cpu", "--jobs", 2)
    together = [ratlip_process("sweep", *options, "--out", tmp_path / "calm") for _ in range(2)]
    said = [process.communicate(timeout=300) for process in together]
    assert [process.returncode for process in together] == [1, 1]
    begun = re.findall(r"(\S+) begins", said[0][1] + said[1][1])
    assert sorted(begun) == ["GALIP-seed0", "GALIP-seed1", "diverges-seed0", "diverges-seed1"]  # each by one of them
    calm = table(tmp_path / "calm")
    assert [row[1] for row in calm] == [DONE, DONE, BROKEN, BROKEN]
    assert "were not finite" in str(calm[2][2])

    chance = random.Random(0)
    killed = tmp_path / "killed"
    for turn in range(3):
        process = ratlip_process("sweep", *options, "--out", killed)
        time.sleep(chance.uniform(1, 12))
        theirs = children(process)
        process.kill()
        for pid in theirs if turn % 2 else ():  # else they see that it is gone, and save
            subprocess.run(["kill", "-9", str(pid)], check=False, stderr=subprocess.DEVNULL)
        process.communicate()
    last = finished(*options, "--out", killed)
    assert last.returncode == 1
    assert "2 of 4 runs are broken" in last.stderr
    assert _without_folder(table(killed), killed) == _without_folder(calm, tmp_path / "calm")
    retried = finished(*options, "--out", killed, "--retry-broken")
    assert sorted(re.findall(r"(\S+) begins", retried.stderr)) == [
        "diverges-seed0",
        "diverges-seed1",
    ]  # none that is done


def _without_folder(rows: list[tuple[object, ...]], folder: Path) -> list[tuple[object, ...]]:
    return [(run, state, str(reason).replace(str(folder), ""), *more) for run, state, reason, *more in rows]


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(write: Write, content: dict, tmp_path: Path) -> None:
    content["images_shown"] = 40_000
    process = ratlip_process("sweep", write(content), "--device", "cpu", "--jobs", 1, "--out", tmp_path / "sweep")
    metrics, deadline = tmp_path / "sweep" / "GALIP-seed0" / "metrics.jsonl", time.monotonic() + 600
    while time.monotonic() < deadline and not (metrics.is_file() and len(metrics.read_bytes().splitlines()) > 3):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGINT
    assert f"Go on with: ratlip sweep {tmp_path}" in err
    steps = len(metrics.read_bytes().splitlines())
    assert f"0 of 4 runs are done, GALIP-seed0 is saved up to step {steps}." in err
    assert (metrics.parent / "checkpoints" / f"step_{steps:08d}").is_dir()
    assert not (metrics.parent / "broken.json").exists()


@pytest.mark.slow
def test_what_is_done_is_told_with_whose_features_and_the_seconds_since_it_began(write: Write, content: dict) -> None:
    """Also those before its first step; the ledger has those of the steps and of the scoring."""
    content["seeds"] = 1
    file = write(content)
    began = time.monotonic()
    answer = ratlip("sweep", file, "--device", "cpu", "--jobs", 1, "--out", file.parent / "sweep")
    took = time.monotonic() - began
    told = re.findall(r"is done in (?:([0-9]+)m )?([0-9]+)s: .*fid_clip [0-9.]+, .* of ([0-9]+) images", answer.err)
    seconds = [60 * int(whole or 0) + int(rest) for whole, rest, _ in told]
    entries = read_ledger(file.parent / "sweep")
    assert [int(images) for *_, images in told] == [entry.protocol["images"] for entry in entries]
    assert "fid" in entries[0].scores
    assert sum(entry.seconds for entry in entries) - len(seconds) < sum(seconds) <= took + len(seconds)  # each rounded


@pytest.mark.slow
def test_a_second_ctrl_c_says_what_is_lost(write: Write, content: dict, tmp_path: Path) -> None:
    process = ratlip_process("sweep", write(content), "--device", "cpu", "--jobs", 1, "--out", tmp_path / "sweep")
    assert process.stderr is not None
    said = ""
    while "GALIP-seed0 begins" not in said:
        said += process.stderr.readline() or pytest.fail(said)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGINT
    assert "error: stopped; 0 of 4 runs are done, nothing of GALIP-seed0 is saved. Go on with: ratlip sweep" in err
    assert "is saved up to" not in err


@pytest.mark.slow
@pytest.mark.parametrize(("done", "said"), [(0, "0 of 4 runs are done"), (1, "1 of 4 runs is done")])
def test_a_stopped_sweep_says_with_what_it_goes_on(
    done: int, said: str, write: Write, content: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = opened(write(content))
    if done:
        make_run(folder, folder.run("GALIP-seed0"))
    stopped = folder.run("with-RAT-seed0")
    with pytest.raises(Interrupted, match=r"stopped before step 1 of 6, so there is nothing to save\."):
        make_run(folder, stopped, lambda: True)
    monkeypatch.setattr("ratlip_cli.cli.sweep._make_all", lambda *_: (signal.SIGINT, [stopped]))
    with pytest.raises(Interrupted, match=f"stopped; {said}, nothing of with-RAT-seed0 is saved. Go on with: "):
        complete(folder)
    turns = itertools.count()
    with pytest.raises(Interrupted, match=r"stopped after step 4 of 6; everything is saved\."):
        make_run(folder, stopped, lambda: next(turns) == 4)
    with pytest.raises(Interrupted, match=f"stopped; {said}, with-RAT-seed0 is saved up to step 4. Go on with: "):
        complete(folder)


@pytest.mark.slow
def test_a_process_of_a_run_leaves_sigusr1_to_the_one_that_started_it(write: Write, content: dict) -> None:
    """SLURM may send it to both; the other one closes stdin, and all is saved."""
    content["images_shown"] = 40_000
    folder = opened(write(content))
    command = [sys.executable, "-m", "ratlip_cli", "sweep", str(folder.path / "sweep.toml"), "--device", "cpu"]
    command += ["--out", str(folder.path), "--only", "GALIP-seed0"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    metrics, deadline = folder.path / "GALIP-seed0" / "metrics.jsonl", time.monotonic() + 600
    while time.monotonic() < deadline and not (metrics.is_file() and len(metrics.read_bytes().splitlines()) > 3):
        time.sleep(0.1)
    process.send_signal(signal.SIGUSR1)
    time.sleep(1)
    assert process.poll() is None
    process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM
    steps = len(metrics.read_bytes().splitlines())
    assert (metrics.parent / "checkpoints" / f"step_{steps:08d}").is_dir()


@pytest.mark.slow
def test_attributes_of_real_images_are_right_and_those_of_others_are_not(tmp_path: Path) -> None:
    import torch

    from ratlip_cli.data.dataset import CaptionedImages
    from ratlip_cli.data.prepare import prepare
    from ratlip_cli.evaluation.feature_file import FeatureFile, feature_writer
    from ratlip_cli.evaluation.images import Captions, SplitImages
    from ratlip_cli.experiments.score import AttributeNetwork, _attribute_accuracy

    prepare(PrepareRequest("demo", tmp_path, image_size=32, count=600, workers=1, splits=("test",)))
    split = CaptionedImages(tmp_path / "demo", "test", 32)
    captions = Captions.of_split(split, 1)
    network = AttributeNetwork(CLASSIFIER, torch.device("cpu"))
    vectors = network(torch.cat(list(SplitImages(split).batches(60))))
    shares = []
    for order in (
        vectors,
        vectors.roll(3, 0),
    ):  # three families in turn: an image of the same family, with other attributes
        with feature_writer(tmp_path / "features.npy", len(order), order.shape[1]) as append:
            append(order)
        shares.append(_attribute_accuracy(network, FeatureFile(tmp_path / "features.npy"), split, captions).mean())
    assert shares[0] > 0.85
    assert shares[1] < shares[0] - 0.3


def test_the_distance_of_the_kept_features_is_the_score(write: Write, content: dict) -> None:
    """What `compare` resamples is what was scored."""
    from ratlip_cli.evaluation.statistics import Moments

    folder = opened(write(content))
    entry = make_run(folder, folder.run("with-RAT-seed0"))
    fake, real = read_values(folder.path, entry)[FEATURES], ledger.read_real_features(folder.path)
    both = [Moments(rows.mean(0, np.float64), np.cov(rows.astype(np.float64), rowvar=False)) for rows in (fake, real)]
    assert frechet_distance(*both) == pytest.approx(entry.scores["fid"], rel=1e-5, abs=1e-8)
