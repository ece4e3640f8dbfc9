"""What the repository says of the bundled model is true of the weights that it holds: scores, figures, history."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ratlip_cli.training.settings import TrainSettings, resolve_settings
from ratlip_cli.training.start import open_session
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.load import find_model, load_model
from ratlip_cli.weights.model_folder import fingerprint_of, load_discriminator, read_model_config

sys.path.append(str(Path(__file__).parents[1] / "examples" / "demo"))
import bundle
import check_scores
import history

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "examples" / "demo"
SCORES = json.loads((DEMO / "scores.json").read_text(encoding="utf-8"))
HISTORY = json.loads((DEMO / "history.json").read_text(encoding="utf-8"))
LARGEST_PACKAGE = 16e6


@pytest.fixture(scope="module")
def fingerprints() -> dict[str, str]:
    """Of what the repository holds, by artefact."""
    found = {
        "generator": fingerprint_of(find_model("ratlip-demo")),
        "clip": load_clip("ratlip-demo").fingerprint,
        "classifier": history.fingerprint_of(DEMO / "classifier.safetensors"),
    }
    second = DEMO / "second-clip"
    return found | ({"second-clip": load_clip(str(second)).fingerprint} if second.is_dir() else {})


def test_the_scores_are_those_of_the_bundled_model(fingerprints: dict[str, str]) -> None:
    assert SCORES["models"][0]["fingerprint"] == fingerprints["generator"]
    assert SCORES["captions"] == 2000


def test_the_page_shows_the_recorded_scores() -> None:
    page = (ROOT / "docs" / "bundled-model.md").read_text(encoding="utf-8")
    assert f"{check_scores.BEGIN}\n{check_scores.markdown(SCORES)}\n{check_scores.END}" in page


@pytest.mark.parametrize("image", ["demo_grid.png", "red_birds.png"])
def test_the_images_of_the_pages_are_by_the_bundled_model(fingerprints: dict[str, str], image: str) -> None:
    with Image.open(ROOT / "examples" / image) as grid:
        assert grid.text["fingerprint"] == fingerprints["generator"]


@pytest.mark.parametrize("record", sorted((ROOT / "examples" / "explain").glob("*.json")), ids=lambda path: path.stem)
def test_the_figures_of_the_pages_are_of_the_bundled_model(fingerprints: dict[str, str], record: Path) -> None:
    text = record.read_text(encoding="utf-8")
    assert f'"fingerprint": "{fingerprints["generator"]}"' in text
    assert f'"clip_fingerprint": "{fingerprints["clip"]}"' in text


@pytest.mark.parametrize("artefact", HISTORY)
def test_the_history_is_of_what_is_here(fingerprints: dict[str, str], artefact: str) -> None:
    entry = HISTORY[artefact]
    assert entry["fingerprint"] == fingerprints[artefact]
    assert entry["seconds"] > 0
    assert {"commit", "machine", "torch", "settings"} <= entry.keys()


def test_the_package_is_small() -> None:
    files = [path for path in (ROOT / "ratlip_cli").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < LARGEST_PACKAGE


# The scripts


def scores(**changed: float) -> dict[str, Any]:
    """Recorded scores of one model that meets every goal, but for what is changed."""
    splits = {
        split: {name: {"model": changed.get(f"{split} {name}", 1.0), "real": 1.0, "chance": 0.1} for name in goals}
        for split, goals in check_scores.GOALS.items()
    }
    diversity = [{"caption": "a bird", "entropy_ratio": {"facing": 1.0, "perch": changed.get("perch", 0.9)}}]
    return {
        "models": [
            {
                "training_seed": 0,
                **splits,
                "diversity": diversity,
                "frechet": {"ratio": changed.get("distance", 1.0)},
            }
        ]
    }


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({}, []),
        ({"test bird body": 0.9799}, ["test: bird body"]),
        ({"test bird body": 0.98, "unseen bird wings": 0.8}, ["unseen: bird wings"]),
        ({"distance": 3.01}, ["Fréchet distance, times that of real halves"]),
        ({"perch": 0.65}, ["mean of them"]),
        ({"perch": 0.59}, ["lowest of 2 entropies", "mean of them", "entropy 0.59 of perch for 'a bird', seed 0"]),
    ],
)
def test_what_is_missed_is_named_and_ends_with_exit_code_3(
    changed: dict[str, float], named: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    recorded = scores(**changed)
    assert check_scores.missed(recorded) == named
    (tmp_path / "scores.json").write_text(json.dumps(recorded))
    monkeypatch.setattr("sys.argv", ["check_scores.py", str(tmp_path / "scores.json")])
    with pytest.raises(SystemExit) as ended:
        check_scores.main()
    assert ended.value.code == (3 if named else 0)
    assert all(name in capsys.readouterr().out for name in named[:1])


def test_two_training_seeds_have_to_agree() -> None:
    first, second = scores(), scores(**{"test face hair": 0.975})
    both = {"models": [*first["models"], {**second["models"][0], "training_seed": 1}]}
    assert check_scores.missed(both) == ["test: face hair", "test: face hair differs between the seeds"]
    assert "| goal | seed 0 | seed 1 | real | chance |" in check_scores.markdown(both)
    assert "| **test: face hair** | 98% | 100.0% | 97.5% |" in check_scores.markdown(both)


def test_a_run_and_its_clip_are_bundled_together(
    tiny_settings: TrainSettings, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip_run, other = tmp_path / "clip-run", tmp_path / "other"
    shutil.copytree(tiny_clip, clip_run / "clip")
    history.write_history(clip_run / "history.json", {"clip": history.here(ROOT) | {"seconds": 5}})
    shutil.copytree(clip_run, other)
    config = json.loads((other / "clip" / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["mean"] = [0.4, 0.5, 0.5]
    (other / "clip" / "open_clip_config.json").write_text(json.dumps(config))
    session = open_session(tiny_settings.replaced(steps=2, out=str(tmp_path / "run")))
    for _ in session.run():
        pass

    out, examples = tmp_path / "package" / "model", tmp_path / "examples"
    examples.mkdir()
    arguments = ["bundle.py", str(tmp_path / "run"), "--out", str(out), "--examples", str(examples)]
    monkeypatch.setattr("sys.argv", [*arguments, "--clip", str(other)])
    with pytest.raises(SystemExit):
        bundle.main()
    assert not out.exists()
    for _ in range(2):  # what was there is replaced
        monkeypatch.setattr("sys.argv", [*arguments, "--clip", str(clip_run), "--second-clip", str(other)])
        bundle.main()
    model = load_model(str(out))
    assert load_discriminator(model) is not None
    assert (out / "clip" / "open_clip_model.safetensors").read_bytes() == (
        tiny_clip / "open_clip_model.safetensors"
    ).read_bytes()
    recorded = json.loads((examples / "history.json").read_text())
    assert recorded["generator"]["fingerprint"] == model.fingerprint
    assert recorded["generator"]["steps"] == 2
    assert recorded["clip"]["fingerprint"] == model.clip.fingerprint
    assert recorded["second-clip"]["fingerprint"] == load_clip(str(examples / "second-clip")).fingerprint
    assert not list(out.parent.glob("*.new"))


@pytest.mark.skipif("generator" not in HISTORY, reason="the bundled model is older than its record")
def test_the_bundled_model_is_that_of_the_preset() -> None:
    """Its recorded settings are those of `ratlip train --dataset demo`, which may have newer ones besides."""
    recorded = read_model_config(find_model("ratlip-demo")).training["settings"]
    own = resolve_settings({"dataset": "demo"}).recorded
    assert recorded == {name: own[name] for name in recorded}


def test_every_step_of_the_script_is_known(tmp_path: Path) -> None:
    script = [shutil.which("bash") or "bash", str(DEMO / "make.sh"), "scoers"]
    answer = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path)
    assert (answer.returncode, answer.stderr) == (2, "unknown step scoers\n")


@pytest.mark.slow
def test_a_clip_that_was_stopped_goes_on(tmp_path: Path) -> None:
    """To the weights of one that was not."""

    def train(out: str, minutes: str) -> list[dict[str, Any]]:
        sizes = ("--images", "96", "--twins", "48", "--batch", "16", "--steps", "3")
        widths = ("--vision-width", "32", "--text-width", "32")
        script = (sys.executable, str(DEMO / "train_clip.py"), "--out", out, "--minutes", minutes)
        told = subprocess.run(
            [*script, *sizes, *widths], cwd=tmp_path, check=True, capture_output=True, text=True, env=env
        ).stdout
        return [json.loads(line) for line in told.splitlines()]

    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    whole = train("whole", "100")
    parts = [train("parts", minutes) for minutes in ("0", "0", "100")]
    assert [part[-1]["step"] for part in parts] == [1, 2, 3]
    assert parts[-1][-1] == whole[-1]
    fingerprints = [load_clip(str(tmp_path / out / "clip")).fingerprint for out in ("whole", "parts")]
    assert fingerprints[0] == fingerprints[1]
    record = json.loads((tmp_path / "parts" / "history.json").read_text(encoding="utf-8"))["clip"]
    assert record["steps"] == 3
