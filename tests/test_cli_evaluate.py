"""`ratlip evaluate` as CI scripts use it: exit codes, stdout, thresholds, files, and what it says of bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import ratlip
from formula_weights import write_inception
from PIL import Image

from ratlip_cli.data.layout import DatasetInfo, Record
from ratlip_cli.data.writer import write_dataset
from ratlip_cli.evaluation.inception import INCEPTION
from ratlip_cli.model.config import DiscriminatorConfig, GeneratorConfig
from ratlip_cli.model.generator import Generator
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.model_folder import create_model_folder, model_config, save_weights

GATE = Path(__file__).parents[1] / "examples" / "ci_gate.sh"


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


@pytest.mark.parametrize(("limits", "code"), [(("1e9", "0"), 0), (("1e-9", "0"), 3), (("x", "0"), 2)])
def test_the_gate_passes_and_fails(model_folder: Path, tmp_path: Path, limits: tuple[str, str], code: int) -> None:
    (tmp_path / "evaluation.json").write_text("of the last time")
    program = tmp_path / "ratlip"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ratlip_cli "$@"\n')
    program.chmod(0o755)
    ran = subprocess.run(
        [GATE, "--model", model_folder, "--quiet"],
        cwd=tmp_path,
        env=os.environ
        | {"MAX_FID": limits[0], "MIN_CLIP_SCORE": limits[1], "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == code, ran.stderr
    assert {0: "gate: passed", 3: "gate: failed", 2: "gate: no verdict"}[code] in ran.stdout
    assert (tmp_path / "evaluation.json").exists() is (code != 2)


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
        (("--protocol", "standart"), "Did you mean 'standard'?"),
        (("--model", model_folder, "--features", "inceptoin"), "Did you mean 'inception'?"),
        (("--max-fid", "nan"), "--max-fid is nan"),
        (("--model", model_folder, "--out", taken), "taken.json exists"),
        (("--bootstrap", "3"), "at least 40"),
    ):
        answer = ratlip("evaluate", *arguments)
        assert (answer.code, answer.out) == (2, ""), arguments
        assert said in answer.err


def test_the_bundled_model_is_scored_offline_without_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RATLIP_DATA", raising=False)
    prepared = ratlip("prepare", "demo", "--count", "120", "--workers", "1", "--quiet")
    assert prepared.code == 0, prepared.err

    def refuse(*arguments: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    answer = ratlip("evaluate", "--fid", "--clip-score", "--captions-per-image", "1", "--json")
    assert answer.code == 0, answer.err
    result = json.loads(answer.out)
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
