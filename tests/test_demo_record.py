"""What the repository says of the bundled model is true of the weights that it holds: scores, figures, history."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ratlip_cli.errors import UsageError
from ratlip_cli.training.settings import TrainSettings, resolve_settings
from ratlip_cli.training.start import open_session
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.load import find_model, load_model
from ratlip_cli.weights.model_folder import fingerprint_of, load_discriminator, read_model_config

sys.path.append(str(Path(__file__).parents[1] / "examples" / "demo"))
import bundle
import check_scores
import history
import train_clip

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "examples" / "demo"
SCORES = json.loads((DEMO / "scores.json").read_text(encoding="utf-8"))
HISTORY = json.loads((DEMO / "history.json").read_text(encoding="utf-8"))
LARGEST_PACKAGE = 16e6
NAN = float("nan")


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


def test_the_bundled_model_has_not_seen_the_second_clip(fingerprints: dict[str, str]) -> None:
    assert fingerprints.get("second-clip") != fingerprints["clip"]


@pytest.mark.parametrize("image", ["demo_grid.png", "red_birds.png"])
def test_the_images_of_the_pages_are_by_the_bundled_model(fingerprints: dict[str, str], image: str) -> None:
    with Image.open(ROOT / "examples" / image) as grid:
        assert grid.text["fingerprint"] == fingerprints["generator"]


@pytest.mark.parametrize("record", sorted((ROOT / "examples" / "explain").glob("*.json")), ids=lambda path: path.stem)
def test_the_figures_of_the_pages_are_of_the_bundled_model(fingerprints: dict[str, str], record: Path) -> None:
    text = record.read_text(encoding="utf-8")
    assert f'"fingerprint": "{fingerprints["generator"]}"' in text
    assert f'"clip_fingerprint": "{fingerprints["clip"]}"' in text


def test_the_history_is_of_what_is_here(fingerprints: dict[str, str]) -> None:
    """Of nothing as long as nothing that is here was made by the scripts alone."""
    assert HISTORY.keys() <= fingerprints.keys()
    for artefact, entry in HISTORY.items():
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
        ({"test bird body": NAN, "distance": NAN}, ["test: bird body", "Fréchet distance, times that of real halves"]),
        ({"perch": NAN}, ["mean of them", "entropy nan of perch for 'a bird', seed 0"]),
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


def test_what_is_two_points_apart_agrees() -> None:
    both = {"models": [*scores()["models"], *scores(**{"test face hair": 0.98})["models"]]}
    assert check_scores.missed(both) == []
    assert "agree within 2% in the attributes; the other rows are not compared" in check_scores.markdown(both)


MARKS = (check_scores.BEGIN, check_scores.END)


@pytest.mark.parametrize("marks", [(), MARKS[:1], MARKS[1:], MARKS[::-1], MARKS * 2, (*MARKS, MARKS[1])])
def test_a_page_without_its_two_marks_is_left_alone(marks: tuple[str, ...], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text := "before\n" + "between\n".join(marks) + "after\n")
    with pytest.raises(UsageError, match=r"page\.md must have <!-- scores --> and then <!-- end of scores --> once"):
        check_scores.put_into(page, scores())
    assert page.read_text() == text


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("bundle", ["nowhere", "--clip", "nowhere"], 2),
        ("check_clip", ["nowhere"], 2),
        ("check_scores", ["nowhere.json"], 1),
        ("history", ["nowhere"], 2),
        ("score", ["ratlip-demo", "nowhere"], 2),
    ],
)
def test_what_is_not_there_is_told_in_a_line(
    name: str, arguments: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Also where another one before it is there, which takes long."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [f"{name}.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(DEMO / f"{name}.py"), run_name="__main__")
    (line,) = capsys.readouterr().err.splitlines()
    assert (ended.value.code, line.startswith(f"{name}.py: "), "nowhere" in line) == (code, True, True)


def test_a_classifier_that_is_there_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "classifier.safetensors"
    weights.write_bytes(b"")
    monkeypatch.setattr("sys.argv", ["classifier.py", "--out", str(weights), "--images", "30", "--steps", "0"])
    runpy.run_path(str(DEMO / "classifier.py"), run_name="__main__")
    assert "left alone" in capsys.readouterr().out
    assert weights.read_bytes() == b""


@pytest.mark.parametrize(
    ("changed", "refused"),
    [({}, ""), ({"steps": 9}, ""), ({"steps": 7}, "with steps 8:"), ({"lr": 0.1, "seed": 2}, "with lr 0.001, seed 1:")],
)
def test_a_clip_goes_on_with_its_own_settings(changed: dict[str, float], refused: str, tmp_path: Path) -> None:
    settings = {"steps": 8, "lr": 0.001, "seed": 1}
    assert train_clip.saved_state(tmp_path, settings) is None
    torch.save({"record": {"settings": settings}}, tmp_path / "state.pt")
    if refused:
        with pytest.raises(UsageError, match=refused):
            train_clip.saved_state(tmp_path, settings | changed)
    else:
        assert train_clip.saved_state(tmp_path, settings | changed) is not None


def test_a_run_and_its_clip_are_bundled_together(
    tiny_settings: TrainSettings, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip_run, other = tmp_path / "clip-run", tmp_path / "other"
    shutil.copytree(tiny_clip, clip_run / "clip")
    record = history.here(ROOT) | {"seconds": 5, "steps": 3, "settings": {"steps": 3}}
    history.write_history(clip_run / "history.json", {"clip": record})
    shutil.copytree(clip_run, other)
    config = json.loads((other / "clip" / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["mean"] = [0.4, 0.5, 0.5]
    (other / "clip" / "open_clip_config.json").write_text(json.dumps(config))
    run = tmp_path / "run"
    session = open_session(tiny_settings.replaced(steps=2, out=str(run)))
    for _ in session.run():
        pass
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(environment | {"commit": "of the training"}))

    out, examples = tmp_path / "package" / "model", tmp_path / "examples"
    examples.mkdir()

    def bundled(clip: Path, second: Path) -> None:
        folders = ["--clip", str(clip), "--second-clip", str(second), "--out", str(out), "--examples", str(examples)]
        monkeypatch.setattr("sys.argv", ["bundle.py", str(run), *folders])
        bundle.main()

    def unfinished(file: Path, whole: str, part: str) -> Path:
        """A copy of the folder of a file that says that its training is not done."""
        copy = Path(shutil.copytree(file.parent, tmp_path / "unfinished", dirs_exist_ok=True))
        (copy / file.name).write_text(file.read_text().replace(whole, part))
        return copy

    half = unfinished(clip_run / "history.json", '"steps": 3,', '"steps": 2,')
    for clip, second, refused in (
        (other, clip_run, "trained with another CLIP"),
        (half, other, "2 of its 3 steps"),
        (clip_run, half, "2 of its 3 steps"),
        (clip_run, clip_run, "has not seen"),
    ):
        with pytest.raises(UsageError, match=refused):
            bundled(clip, second)
    whole, run = run, unfinished(run / "config.toml", "\nsteps = 2\n", "\nsteps = 3\n")
    with pytest.raises(UsageError, match="is no finished run"):
        bundled(clip_run, other)
    run = whole
    assert not out.exists()
    bundled(clip_run, other)
    out.rename(out.with_name("model.old"))  # as one that was interrupted leaves it
    out.with_name("model.new").mkdir()
    for _ in range(2):  # what was there is replaced
        bundled(clip_run, other)
    model = load_model(str(out))
    assert load_discriminator(model) is not None
    assert (out / "clip" / "open_clip_model.safetensors").read_bytes() == (
        tiny_clip / "open_clip_model.safetensors"
    ).read_bytes()
    recorded = json.loads((examples / "history.json").read_text())
    assert recorded["generator"]["fingerprint"] == model.fingerprint
    assert (recorded["generator"]["steps"], recorded["generator"]["commit"]) == (2, "of the training")
    assert recorded["clip"]["fingerprint"] == model.clip.fingerprint
    assert recorded["second-clip"]["fingerprint"] == load_clip(str(examples / "second-clip")).fingerprint
    assert [path.name for path in out.parent.iterdir()] == ["model"]


@pytest.mark.skipif("generator" not in HISTORY, reason="the bundled model is older than its record")
def test_the_bundled_model_is_that_of_its_settings() -> None:
    """Its recorded settings are those that `make.sh` names, which may have newer ones besides."""
    recorded = read_model_config(find_model("ratlip-demo")).training["settings"]
    own = resolve_settings({"dataset": "demo"}, str(DEMO / "generator.toml")).recorded
    assert recorded == {name: own[name] for name in recorded}


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["bundle", "scoers"], 2, "unknown step scoers; the steps are: clip "),
        (["bundle scores"], 2, "unknown step bundle scores; the steps are: clip "),
        (
            ["--help"],
            0,
            "all if none is named: clip second-clip classifier generator second-seed bundle scores figures\n",
        ),
    ],
)
def test_every_step_is_known_before_the_first_is_done(words: list[str], code: int, told: str, tmp_path: Path) -> None:
    script = [shutil.which("bash") or "bash", str(DEMO / "make.sh"), *words]
    answer = subprocess.run(script, capture_output=True, text=True, env={**os.environ, "RUN": str(tmp_path / "none")})
    assert (answer.returncode, told in answer.stdout + answer.stderr) == (code, True)
    assert len((answer.stdout + answer.stderr).splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("count", [2000, 200000])
def test_another_demo_is_no_data_of_the_generator(count: int, tmp_path: Path) -> None:
    """Nor is a CLIP that is not trained to its end."""
    clip, data = tmp_path / "a clip", tmp_path / "some data"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"CLIP": str(clip), "RATLIP_DATA": str(data), "RUN": str(tmp_path / "run")}
    script = [shutil.which("bash") or "bash", str(DEMO / "make.sh"), "generator"]
    clip.mkdir()
    (data / "demo").mkdir(parents=True)
    (data / "demo" / "dataset.json").write_text(json.dumps({"options": {"count": count, "seed": 0}}, indent=2))
    for steps, told in ((2, f"history.py: {clip} has done 2 of its 3 steps"), (3, f"{data}/demo is not the set of")):
        history.write_history(clip / "history.json", {"clip": {"steps": steps, "settings": {"steps": 3}}})
        answer = subprocess.run(script, capture_output=True, text=True, env=environment)
        assert (answer.returncode, answer.stderr.startswith(told)) == (2, True), answer.stderr
    assert not (tmp_path / "run").exists()


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
