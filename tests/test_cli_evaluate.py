"""`ratlip evaluate` as CI scripts use it: exit codes, stdout, thresholds, files, and what it says of bad input."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from command_line import Answer, ratlip, ratlip_process
from formula_weights import write_inception
from PIL import Image

from ratlip_cli.cli.evaluate import _checks, _rounded
from ratlip_cli.data.layout import DatasetInfo, Record
from ratlip_cli.data.writer import write_dataset
from ratlip_cli.errors import RatlipError
from ratlip_cli.evaluation.images import GeneratedImages, SplitImages
from ratlip_cli.evaluation.inception import INCEPTION
from ratlip_cli.evaluation.journal import Journal
from ratlip_cli.evaluation.run import Evaluation, Score
from ratlip_cli.model.config import DiscriminatorConfig, GeneratorConfig
from ratlip_cli.model.generator import Generator
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.model_folder import create_model_folder, model_config, save_weights

EXAMPLES = Path(__file__).parents[1] / "examples"
GATE = EXAMPLES / "ci_gate.sh"
ACTION_KEYS = {"name", "description", "inputs", "outputs", "runs", "author", "branding"}
STEP_KEYS = {"name", "id", "if", "env", "continue-on-error"}
"""What GitHub's reference of metadata syntax knows of an action, and of every step of a composite one."""


@pytest.fixture(scope="module")
def model_folder(tiny_clip: Path, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights that names its own CLIP for its scores and `tiny_dataset` for its data."""
    clip = load_clip(str(tiny_clip))
    sizes = GeneratorConfig(
        image_size=32, noise_dim=6, hidden_size=4, base_channels=4, bridge_channels=8, bridge_blocks=1
    )
    folder = tmp_path_factory.mktemp("runs") / "random"
    config = model_config(sizes, DiscriminatorConfig(), clip, {"dataset": str(tiny_dataset)}, features="clip")
    create_model_folder(folder, config, clip)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_weights(folder, Generator(sizes, clip.geometry).state_dict())
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three captioned images of 24 pixels."""
    folder = tmp_path_factory.mktemp("images") / "theirs"
    folder.mkdir()
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (24, 24), colour).save(folder / f"{colour}.png")
        (folder / f"{colour}.txt").write_text(f"all of it is {colour}\n", encoding="utf-8")
    return folder


def test_json_says_how_every_number_was_made(model_folder: Path, tiny_dataset: Path) -> None:
    answer = ratlip("evaluate", "--model", model_folder, "--fid", "--clip-score", "--json", "--device", "cpu")
    assert answer.code == 0, answer.err
    result = json.loads(answer.out)
    assert (result["model"], result["dataset"], result["split"]) == (str(model_folder), str(tiny_dataset), "test")
    assert (result["protocol"], result["seed"], result["image_size"]) == ("standard", 0, [32, 32])
    assert len(result["fingerprint"]) == len(result["model_fingerprint"]) == 16
    assert set(result["metrics"]) == {"fid_clip", "clip_score"}
    for score in result["metrics"].values():
        assert set(score) == {"value", "interval", "features", "n_real", "n_fake", "seconds", "note"}
        assert score["features"] in result["networks"]
        assert score["n_fake"] == 4
    assert result["metrics"]["fid_clip"]["n_real"] == 2


def test_no_metric_named_means_fid_and_clip_score_and_two_runs_agree(model_folder: Path, tmp_path: Path) -> None:
    answers = [
        ratlip("evaluate", "--model", model_folder, "--json", *more)
        for more in ((), ("--fid", "--clip-score"), ("--batch-size", "3", "--out", tmp_path / "score.json"))
    ]
    scores = [{name: score["value"] for name, score in json.loads(answer.out)["metrics"].items()} for answer in answers]
    assert scores[0] == scores[1]
    assert scores[2] == pytest.approx(scores[0], rel=1e-4, abs=1e-6)
    assert json.loads((tmp_path / "score.json").read_text(encoding="utf-8")) == json.loads(answers[2].out)


def test_the_table_goes_to_stdout_and_all_else_to_stderr(model_folder: Path) -> None:
    answer = ratlip("evaluate", "--model", model_folder, "--fid", "--bootstrap", "40")
    assert answer.code == 0
    for shown in ("protocol: standard", "fingerprint: ", "fid_clip", " to ", "antialiased bicubic to 32", "fewer than"):
        assert shown in " ".join(answer.out.split())
    assert "generated images" in answer.err
    assert ratlip("evaluate", "--model", model_folder, "--fid", "--quiet").err == ""


def test_a_missed_threshold_exits_with_3_after_the_result(model_folder: Path) -> None:
    run = ("evaluate", "--model", model_folder, "--json")
    passed = ratlip(*run, "--max-fid", "1e9", "--min-clip-score", "0")
    assert passed.code == 0, passed.err
    assert [check["met"] for check in json.loads(passed.out)["thresholds"]] == [True, True]
    missed = ratlip(*run, "--max-fid", "1e-9", "--min-clip-score", "99")
    assert missed.code == 3
    assert [check["met"] for check in json.loads(missed.out)["thresholds"]] == [False, False]
    assert "fid_clip is " in missed.err
    assert "above the 1e-09 of --max-fid" in missed.err
    assert "clip_score is " in missed.err
    assert ", below the 99 of --min-clip-score" in missed.err
    alone = ratlip(*run, "--max-fid", "1e-9")  # the metric is measured because it has a threshold
    assert (alone.code, set(json.loads(alone.out)["metrics"])) == (3, {"fid_clip"})


def test_a_threshold_missed_by_less_than_is_shown_is_told_in_full() -> None:
    score = Score("fid", "fid", 15.00001, None, "Inception", 10, 10, 0.0, None)
    evaluation = cast(Evaluation, SimpleNamespace(score=lambda _: score))
    assert _checks(evaluation, {"--max-fid": 15})[1] == ["fid is 15.00001, above the 15 of --max-fid"]
    assert _checks(evaluation, {"--max-fid": 14})[1] == ["fid is 15.0000, above the 14 of --max-fid"]
    assert (_rounded(0.00004), _rounded(0.0), _rounded(1.23456)) == ("4e-05", "0.0000", "1.2346")


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """An environment in which `ratlip` is a command."""
    program = tmp_path / "bin" / "ratlip"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ratlip_cli "$@"\n')
    program.chmod(0o755)
    return os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("limits", "code"),
    [(("--max-fid", "1e9", "--min-clip-score", "0"), 0), (("--max-fid", "1e-9"), 3), (("--max-fid=x",), 2)],
)
def test_the_gate_passes_and_fails(
    model_folder: Path, tmp_path: Path, installed: dict[str, str], limits: tuple[str, ...], code: int
) -> None:
    (tmp_path / "evaluation.json").write_text("of the last time")
    command = [GATE, *limits, "--model", model_folder, "--quiet"]
    ran = subprocess.run(command, cwd=tmp_path, env=installed, capture_output=True, text=True)
    assert ran.returncode == code, ran.stderr
    assert {0: "gate: passed", 3: "gate: failed", 2: "gate: no verdict"}[code] in ran.stdout
    assert (tmp_path / "evaluation.json").exists() is (code != 2)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_gate_alone_stops_ratlip(
    model_folder: Path, tmp_path: Path, installed: dict[str, str], number: signal.Signals
) -> None:
    command = [GATE, "--max-fid", "1e9", "--model", model_folder, "--bootstrap", "1000000"]  # takes many minutes
    with subprocess.Popen(
        command, cwd=tmp_path, env=installed, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as gate:  # fmt: skip
        try:
            assert gate.stderr is not None
            assert any("images to generate" in line for line in gate.stderr)
            gate.send_signal(number)
            out, err = gate.communicate(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(gate.pid, signal.SIGKILL)
    code, said = (129, "the terminal was closed") if number == signal.SIGHUP else (143, "terminated")
    assert gate.returncode == code
    assert f"error: {said}." in err
    assert "gate: no verdict" in out


def test_a_gate_without_a_limit_is_refused(tmp_path: Path) -> None:
    report = tmp_path / "evaluation.json"
    report.write_text("of the last time")
    ran = subprocess.run([GATE, "--model", "ratlip-demo"], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "give a limit" in ran.stderr
    assert report.read_text() == "of the last time"


def test_the_action_is_one_by_githubs_reference() -> None:
    action = pytest.importorskip("yaml").safe_load((EXAMPLES / "action.yml").read_text(encoding="utf-8"))
    assert {"name", "description", "runs"} <= set(action) <= ACTION_KEYS
    for one in action["inputs"].values():
        assert "description" in one
        assert set(one) <= {"description", "required", "default", "deprecationMessage"}
        assert isinstance(one.get("default", ""), str)  # all inputs are text
    package = action["inputs"]["package"]  # no index has it
    assert (package["required"], package.get("default", "")) == (True, "")
    assert all(set(one) == {"description", "value"} for one in action["outputs"].values())
    assert set(action["runs"]) == {"using", "steps"}
    assert action["runs"]["using"] == "composite"
    for step in action["runs"]["steps"]:
        own = {"run", "shell", "working-directory"} if "run" in step else {"uses", "with"}
        assert set(step) <= STEP_KEYS | own
        assert "shell" in step if "run" in step else "@v" in step["uses"]
        assert "${{" not in step.get("run", "")  # what users give is no part of a script
    named = json.dumps(action["runs"])
    assert all(f"inputs.{name}" in named for name in action["inputs"])


def test_the_action_restores_nothing_of_the_repository() -> None:
    """Only what ratlip makes and knows by its content, under a key that changes with what decides it."""
    action = pytest.importorskip("yaml").safe_load((EXAMPLES / "action.yml").read_text(encoding="utf-8"))
    steps = action["runs"]["steps"]
    restore, save = (
        next(step for step in steps if f"cache/{which}@" in step.get("uses", "")) for which in ("restore", "save")
    )
    (score,) = (step for step in steps if step.get("id") == "gate")
    own, features, *downloaded = restore["with"]["path"].splitlines()
    assert save["with"]["path"] == restore["with"]["path"]
    assert own == score["env"]["RATLIP_DATA"] == "${{ runner.temp }}/ratlip-data"
    assert features == "${{ inputs.dataset && format('{0}/.features', inputs.dataset) }}"
    assert all(path.startswith("~/.cache/") for path in downloaded)
    key, prefixes = restore["with"]["key"], restore["with"]["restore-keys"].split("\n")
    assert "hashFiles(format('{0}/**', inputs.dataset)" in key
    assert all(key.startswith(prefix) and key != prefix for prefix in prefixes)
    (named,) = (step for step in steps if f"steps.{step.get('id')}.outputs.decisive" in key)
    assert all(f"inputs.{name} " in named["env"]["DECISIVE"] for name in ("model", "dataset", "options", "package"))
    assert steps.index(named) < steps.index(restore) < steps.index(score) < steps.index(save)


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "code"), [("0", 0), ("99", 3)])
def test_the_action_scores(
    model_folder: Path, tmp_path: Path, installed: dict[str, str], limit: str, code: int
) -> None:
    action = pytest.importorskip("yaml").safe_load((EXAMPLES / "action.yml").read_text(encoding="utf-8"))
    (script,) = [step["run"] for step in action["runs"]["steps"] if step.get("id") == "gate"]
    given = {"ACTION": EXAMPLES, "MODEL": model_folder, "DATASET": "", "MAX_FID": "", "MIN_CLIP_SCORE": limit}
    given |= {"OPTIONS": "--quiet --seed 3", "REPORT": "report.json", "GITHUB_OUTPUT": tmp_path / "output"}
    ran = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=installed | {name: str(value) for name, value in given.items()},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == code, ran.stderr
    first, *report, last = (tmp_path / "output").read_text(encoding="utf-8").splitlines()
    assert (first, last) == ("report<<END_OF_REPORT", "END_OF_REPORT")
    assert json.loads("\n".join(report))["seed"] == 3


def scores(answer: Answer) -> dict[str, float]:
    """The values of an answer in JSON."""
    assert answer.code == 0, answer.err
    return {name: score["value"] for name, score in json.loads(answer.out)["metrics"].items()}


@pytest.fixture
def gate(model_folder: Path, tiny_dataset: Path, tmp_path: Path) -> tuple[object, ...]:
    """A command that generates 20 images, for a copy of `tiny_dataset` that has nothing kept beside it."""
    data = shutil.copytree(tiny_dataset, tmp_path / "colours", ignore=shutil.ignore_patterns(".*"))
    options = ("--dataset", data, "--split", "train", "--batch-size", "1", "--device", "cpu", "--json")
    return ("evaluate", "--model", model_folder, *options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_call_goes_on_where_the_first_was_stopped(
    gate: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    whole = scores(ratlip(*gate))
    kept = tmp_path / "colours" / ".features"
    assert not list(kept.glob("*.unfinished"))
    shutil.rmtree(kept)
    adding = Journal.add

    def stop(self: Journal, features: list[torch.Tensor]) -> None:
        adding(self, features)
        if self.kept == 12:  # there are ten real images
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "add", stop)
        stopped = ratlip(*gate)
    assert (stopped.code, stopped.out) == (128 + number, "")
    said = "terminated" if number == signal.SIGTERM else "interrupted"
    told = "The features of 12 of 20 generated images are kept: run the same again to go on."
    assert stopped.err.splitlines()[-1] == f"error: {said}. {told}"
    made: list[int] = []
    generating = GeneratedImages.batches

    def batches(self: GeneratedImages, batch_size: int, starts: Sequence[int] = ()) -> Iterator[torch.Tensor]:
        made.extend(starts)
        return generating(self, batch_size, starts)

    monkeypatch.setattr(GeneratedImages, "batches", batches)
    again = ratlip(*gate)
    assert made == list(range(12, 20))
    assert "generated images: the features of 12 of 20 are kept from the last time" in again.err
    assert scores(again) == whole
    assert not list(kept.glob("*.unfinished"))


def test_what_the_time_was_told_by_is_kept(gate: tuple[object, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: GeneratedImages, batch_size: int, starts: Sequence[int] = ()) -> Iterator[torch.Tensor]:
        os.kill(os.getpid(), signal.SIGTERM)
        yield torch.zeros(0)

    with monkeypatch.context() as patched:
        patched.setattr(GeneratedImages, "batches", stop)
        answer = ratlip(*gate)
    told = "The features of 8 of 10 real images are kept: run the same again to go on."
    assert (answer.code, answer.err.splitlines()[-1]) == (143, f"error: terminated. {told}")
    again = ratlip(*gate)
    assert "real images: the features of 8 of 10 are kept from the last time" in again.err
    assert scores(again).keys() == {"fid_clip", "clip_score"}


def test_what_is_not_kept_is_not_promised(gate: tuple[object, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: SplitImages, batch_size: int, starts: Sequence[int] = ()) -> Iterator[torch.Tensor]:
        os.kill(os.getpid(), signal.SIGTERM)
        yield torch.zeros(0)

    monkeypatch.setattr(SplitImages, "batches", stop)
    answer = ratlip(*gate)
    assert (answer.code, answer.err.splitlines()[-1]) == (143, "error: terminated.")


def test_stopped_while_it_resamples_it_goes_on_with_the_features(
    gate: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr("ratlip_cli.evaluation.run.resamples", stop)
        answer = ratlip(*gate)
    told = "The features of 20 of 20 generated images are kept: run the same again to go on."
    assert (answer.code, answer.err.splitlines()[-1]) == (143, f"error: terminated. {told}")
    assert "generated images: the features of 20 of 20 are kept from the last time" in ratlip(*gate).err


def test_stopped_while_it_prepares_it_says_what_is_kept(
    model_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("ratlip_cli.data.prepare.processes", lambda asked: 1)
    monkeypatch.setattr(Image.Image, "resize", stop)
    asked = (
        "--model",
        model_folder,
        "--dataset",
        images,
        "--split",
        "train",
        "--data-dir",
        tmp_path,
        "--device",
        "cpu",
    )
    answer = ratlip("evaluate", *asked)
    told = "What is prepared so far is kept: run the same again to go on."
    assert (answer.code, answer.err.splitlines()[-1]) == (143, f"error: terminated. {told}")


@pytest.mark.slow
def test_a_second_call_goes_on_where_the_first_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    data = ("--data-dir", tmp_path / "data")
    prepared = ratlip("prepare", "demo", "--count", "1200", "--workers", "1", "--quiet", *data)
    assert prepared.code == 0, prepared.err
    gate = ("evaluate", "--model", "ratlip-demo", "--batch-size", "1", "--device", "cpu", "--json")
    kept = tmp_path / "data" / "demo" / ".features"
    with ratlip_process(*gate, cwd=tmp_path) as process:
        end = time.monotonic() + 600
        while not list(kept.glob("*.unfinished/0-0000008.npy")):
            assert process.poll() is None
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.005)
        process.kill()
    assert len(list(temporary.glob(".ratlip.*"))) == 1

    def again() -> Answer:
        with ratlip_process(*gate, cwd=tmp_path) as process:
            out, err = process.communicate(timeout=120)
        return Answer(process.returncode, out, err)

    second = again()
    assert "are kept from the last time" in second.err
    assert list(temporary.glob(".ratlip.*")) == []
    shutil.rmtree(kept)
    assert scores(again()) == scores(second)


def test_the_time_is_told_where_it_is_long(gate: tuple[object, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the first images took, however few there are in all; these are shown too."""
    monkeypatch.setattr("ratlip_cli.evaluation.extract._WARM", math.inf)  # however slow the machine is
    monkeypatch.setattr("ratlip_cli.evaluation.extract.SOON", math.inf)
    asked = (*gate, "--captions-per-image", "1")
    assert ": about " not in ratlip(*asked, "--seed", "1").err
    monkeypatch.setattr("ratlip_cli.evaluation.extract.SOON", 0.0)
    monkeypatch.setattr("ratlip_cli.cli.console.PLAIN_INTERVAL", 0.0)
    shutil.rmtree(Path(str(gate[4])) / ".features")
    lines = ratlip(*asked).err.splitlines()
    counts = lines.index("10 images to generate, 10 real images, 10 captions")
    assert not any(line.startswith(("captions ", "real images ", "generated images ")) for line in lines[:counts])
    (told,) = (number for number, line in enumerate(lines) if ": about " in line)
    assert lines[told].startswith("10 real images and 10 generated images on cpu: about ")
    for before, after in (
        ("real images 8/10", "real images 10/10"),
        ("generated images 8/10", "generated images 10/10"),
    ):
        assert any(line.startswith(before) for line in lines[:told])
        assert any(line.startswith(after) for line in lines[told:])


def test_a_limit_is_in_the_record_and_told(gate: tuple[object, ...], tmp_path: Path) -> None:
    every = json.loads(ratlip(*gate).out)
    answer = ratlip(*gate, "--limit", "4")
    some = json.loads(answer.out)
    assert (every["limit"], every["protocol"]) == (None, "standard")
    assert (some["limit"], some["protocol"]) == (4, "standard, 4 images of the split")
    assert some["fingerprint"] != every["fingerprint"]
    assert {score["n_fake"] for score in some["metrics"].values()} == {8}
    assert some["metrics"]["fid_clip"]["n_real"] == 4
    assert "4 of the 10 images of the split: compare with scores of the same --limit alone" in some["notes"]
    assert "warning: 4 of the 10 images" in answer.err
    assert "protocol: standard, 4 images of the split" in ratlip(*gate[:-1], "--limit", "4").out
    all_of_them = json.loads(ratlip(*gate, "--limit", "10").out)
    assert all_of_them["limit"] is None
    assert all_of_them["fingerprint"] == every["fingerprint"]
    for limit, code, said in (
        ("11", 1, "--limit is 11, but the split train"),
        ("0", 2, "limit is 0; it must be at least 1"),
        ("1", 1, "too few real images: 1; fid, clip-score take at least 2"),
    ):
        refused = ratlip(*gate, "--limit", limit, "--quiet")
        assert (refused.code, refused.out) == (code, "")
        assert said in refused.err
        assert len(refused.err.strip().splitlines()) == 1
    images = ratlip("evaluate", "--images", tmp_path / "colours", "--limit", "2")
    assert images.code == 2
    assert "--limit goes with a model" in images.err


def test_a_split_that_is_not_there_is_refused_before_anything_is_prepared(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RATLIP_DATA", raising=False)
    for dataset, splits in (("demo", "test, train, unseen"), ("cub", "test, train"), (images, "test, train")):
        answer = ratlip("evaluate", "--model", "ratlip-demo", "--dataset", dataset, "--split", "tset", "--quiet")
        assert (answer.code, answer.out) == (1, "")
        assert answer.err == f"error: {dataset} has no split 'tset'. Did you mean 'test'? It has: {splits}.\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_images_of_any_system_are_scored(images: Path, tiny_clip: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    inception = write_inception(tmp_path / "inception.pth")
    reference = shutil.copytree(images, tmp_path / "real")
    run = ("evaluate", "--images", images, "--reference", reference, "--fid", "--json")
    answer = ratlip(*run, "--clip-score", "--clip", tiny_clip, "--inception-weights", inception)
    assert answer.code == 0, answer.err
    result = json.loads(answer.out)
    assert (result["images"], result["reference"]) == (str(images), str(reference))
    assert set(result["metrics"]) == {"fid", "clip_score"}
    assert result["metrics"]["fid"]["value"] < 1e-6
    by_clip = ("--features", "clip", "--clip", tiny_clip)
    against = ratlip("evaluate", "--images", images, "--dataset", tiny_dataset, "--kid", "--json", *by_clip)
    assert against.code == 0, against.err
    assert set(json.loads(against.out)["metrics"]) == {"kid_clip"}
    alone = ratlip("evaluate", "--images", images, "--clip-score", "--json", "--clip", tiny_clip)
    assert alone.code == 0, alone.err


def test_bad_input_is_one_line_and_exit_1(
    model_folder: Path,
    images: Path,
    tiny_clip: Path,
    tiny_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    nowhere = INCEPTION._replace(url="http://127.0.0.1:9/inception-6726825d.pth")
    monkeypatch.setattr("ratlip_cli.evaluation.inception.INCEPTION", nowhere)
    larger = tmp_path / "larger"
    larger.mkdir()
    Image.new("RGB", (30, 30)).save(larger / "x.png")
    wrong = tmp_path / "wrong.pth"
    torch.save({"weight": torch.ones(1)}, wrong)
    by_clip = ("--features", "clip", "--clip", tiny_clip)
    for arguments, said in (
        (("--model", model_folder, "--split", "validation"), "has no split 'validation'. It has: test, train"),
        (("--model", model_folder, "--features", "inception", "--fid"), "--inception-weights FILE"),
        (("--model", model_folder, "--protocol", "released", "--fid", "--inception-weights", wrong), "wrong.pth"),
        (("--images", images, "--reference", larger, *by_clip), "24 x 24 pixels, those of"),
        (("--images", larger, "--reference", larger, "--fid", *by_clip), "too few real images: 1"),
        (("--images", larger, "--clip-score", *by_clip), "x.png: it has no caption"),
        (("--images", tmp_path / "none", "--fid"), "none does not exist; give a folder of images"),
        (("--images", images, "--fid", *by_clip), "give a --reference or --dataset"),
    ):
        answer = ratlip("evaluate", *arguments, "--quiet")
        assert (answer.code, answer.out) == (1, ""), arguments
        assert said in answer.err
        assert answer.err.startswith("error: ")
        assert len(answer.err.strip().splitlines()) == 1


def test_wrong_usage_exits_with_2(model_folder: Path, images: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.json"
    taken.touch()
    for arguments, said in (
        (("--model", model_folder, "--reference", images), "--reference goes with --images"),
        (("--images", images, "--model", model_folder), "--images takes no --model"),
        (("--images", images, "--seed", "1"), "--seed goes with a model"),
        (("--images", images, "--precision", "bf16"), "--precision goes with a model"),
        (("--protocol", "standart"), "Did you mean 'standard'?"),
        (("--model", model_folder, "--features", "inceptoin"), "Did you mean 'inception'?"),
        (("--max-fid", "nan"), "--max-fid is nan"),
        (("--model", model_folder, "--out", taken), "taken.json exists"),
        (("--bootstrap", "3"), "at least 40"),
    ):
        answer = ratlip("evaluate", *arguments)
        assert (answer.code, answer.out) == (2, ""), arguments
        assert said in answer.err
    answer = ratlip("evaluate", "--model", model_folder, "--out", taken / "score.json")
    assert (answer.code, answer.out) == (1, "")
    assert f"cannot write {taken / 'score.json'}: {taken} is a file" in answer.err


def test_scores_that_cannot_be_written_are_shown(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise RatlipError("cannot write score.json: the disk is full.")

    monkeypatch.setattr("ratlip_cli.files.write_text", full)
    answer = ratlip("evaluate", "--model", model_folder, "--fid", "--json", "--out", tmp_path / "score.json")
    assert answer.code == 1
    assert "the disk is full" in answer.err
    assert json.loads(answer.out)["metrics"]["fid_clip"]["value"] > 0


def test_the_bundled_model_is_scored_offline_without_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RATLIP_DATA", raising=False)
    monkeypatch.setattr("ratlip_cli.data.prepare.DEMO_COUNT", 120)

    def refuse(*arguments: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("ratlip_cli.data.prepare.processes", lambda asked: 1)
    answer = ratlip("evaluate", "--fid", "--clip-score", "--json")
    assert answer.code == 0, answer.err
    result = json.loads(answer.out)
    assert result["captions_per_image"] == 1
    prepared = {path.name for path in (tmp_path / "data" / "demo").iterdir()}
    assert prepared == {"dataset.json", "test", ".features", ".text_vectors"}
    assert scores(ratlip("evaluate", "--fid", "--clip-score", "--json")) == scores(answer)
    assert (result["model"], result["dataset"]) == ("ratlip-demo", "data/demo")
    assert {name: score["n_fake"] for name, score in result["metrics"].items()} == {"fid_clip": 12, "clip_score": 12}
    assert result["metrics"]["clip_score"]["value"] > 20


@pytest.mark.slow
def test_a_full_size_model_is_scored_by_the_standard_protocol(tmp_path: Path) -> None:
    colours = ("red", "green", "blue")
    records = [
        Record(name=colour, split="test", captions=(f"a {colour} bird",), image=Image.new("RGB", (304, 304), colour))
        for colour in colours
    ]
    description = {"name": "x", "source": "tests", "licence": "CC0", "split_rule": "none"}
    write_dataset(tmp_path / "data", records, DatasetInfo(**description, image_size=256))
    clip = load_clip("ViT-B-32-quickgelu:random")
    sizes = GeneratorConfig()
    create_model_folder(tmp_path / "model", model_config(sizes, DiscriminatorConfig(), clip), clip)
    save_weights(tmp_path / "model", Generator(sizes, clip.geometry).state_dict())
    inception = write_inception(tmp_path / "inception.pth")
    answer = ratlip(
        *("evaluate", "--model", tmp_path / "model", "--dataset", tmp_path / "data", "--fid", "--clip-score"),
        *("--inception-weights", inception, "--device", "cpu", "--json"),
    )
    assert answer.code == 0, answer.err
    metrics = json.loads(answer.out)["metrics"]
    assert {name: score["features"] for name, score in metrics.items()} == {
        "fid": "Inception 2015-12-05",
        "clip_score": "CLIP ViT-B-32-quickgelu:random",
    }
    assert metrics["fid"]["value"] > 0
