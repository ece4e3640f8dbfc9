"""Evaluation during training: the numbers of `ratlip evaluate`, the best model kept, everything in metrics.jsonl."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import ratlip
from PIL import Image

from ratlip_cli.data.layout import DatasetInfo, Record
from ratlip_cli.data.writer import write_dataset
from ratlip_cli.errors import DataError, RatlipError
from ratlip_cli.evaluation.run import Evaluation, Score
from ratlip_cli.tensor_files import load_tensors
from ratlip_cli.training.runs import runs_in
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.training.start import open_session
from ratlip_cli.training.validation import read_best


@pytest.fixture
def settings(settings: TrainSettings) -> TrainSettings:
    return settings.replaced(eval_every=2, eval_features="clip", eval_captions=1, keep=1, save_every=1)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def say(monkeypatch: pytest.MonkeyPatch, *distances: float) -> None:
    """Let evaluations result in these Fréchet distances, one after the other."""
    coming: Iterator[float] = iter(distances)

    def evaluation(*arguments: object) -> Evaluation:
        score = Score("fid", "fid_clip", next(coming), None, "CLIP", 2, 2, 0.1, None)
        return Evaluation({}, "cpu", "standard", 0, (32, 32), 1, {}, "0123456789abcdef", 0.1, {score.name: score})

    monkeypatch.setattr("ratlip_cli.training.validation.score_inputs", evaluation)


def test_scores_are_those_of_ratlip_evaluate(settings: TrainSettings) -> None:
    run = Path(settings.out)
    list(open_session(settings.replaced(steps=2)).run())
    first, second = lines(run)
    assert "fid_clip" not in first
    for folder in ("best", "model"):
        answer = ratlip("evaluate", "--model", run / folder, "--captions-per-image", "1", "--json", "--device", "cpu")
        result = json.loads(answer.out)
        assert {name: score["value"] for name, score in result["metrics"].items()} == {
            "fid_clip": second["fid_clip"],
            "clip_score": second["clip_score"],
        }
        assert result["fingerprint"] == second["evaluation"]
        chosen = [note for note in result["notes"] if "was chosen by fid_clip on the test split of its run" in note]
        assert len(chosen) == (folder == "best")


@pytest.mark.slow
def test_the_best_is_kept(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, 5.0, 3.0, 4.0)
    run = Path(settings.out)
    list(open_session(settings).run())
    assert [line.get("fid_clip") for line in lines(run)] == [None, 5.0, None, 3.0, None, 4.0]
    best = read_best(run / "best")
    assert best is not None
    assert (best.step, best.metric, best.value) == (4, "fid_clip", 3.0)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_00000004", "step_00000006"]
    kept = load_tensors(run / "best" / "generator.safetensors")
    ema = load_tensors(run / "checkpoints" / "step_00000004" / "ema.safetensors")
    newest = load_tensors(run / "model" / "generator.safetensors")
    assert all(torch.equal(tensor, ema[name]) for name, tensor in kept.items())
    assert any(not torch.equal(tensor, newest[name]) for name, tensor in kept.items())

    say(monkeypatch, 3.5, 2.0)  # the run goes on; the first of these is worse than the best before it
    list(open_session(settings.replaced(steps=10, resume=str(run))).run())
    best = read_best(run / "best")
    assert best is not None
    assert (best.step, best.value) == (10, 2.0)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_00000010"]


@pytest.mark.slow
def test_the_best_is_whole_at_any_moment(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where writing it ends half-way there is the one before, or none; what else lies in it stays."""
    run, best = Path(settings.out), Path(settings.out) / "best"

    def trained(steps: int, distance: float, ends: bool) -> dict[str, bytes]:
        """Train on, and the files of best/."""
        say(monkeypatch, distance)
        session = open_session(settings.replaced(steps=steps, **({"resume": str(run)} if run.exists() else {})))
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt) if ends else contextlib.nullcontext():
            if ends:
                patched.setattr("ratlip_cli.training.session.write_best", stop)
            list(session.run())
        return {str(path.relative_to(best)): path.read_bytes() for path in best.rglob("*") if path.is_file()}

    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    assert trained(2, 5.0, ends=True) == {}
    assert not best.exists()
    first = trained(4, 5.0, ends=False)
    (best / "mine.txt").write_text("kept")
    assert trained(6, 4.0, ends=True) == first | {"mine.txt": b"kept"}
    last = trained(8, 3.0, ends=False)
    assert last.keys() == first.keys() | {"mine.txt"}
    assert all(last[name] != first[name] for name in ("generator.safetensors", "evaluation.json"))
    assert not list(run.glob(".best*"))


@pytest.mark.slow
def test_evaluation_changes_nothing_in_training(settings: TrainSettings) -> None:
    weights = []
    for name, every in (("with", 1), ("without", 0)):
        run = Path(settings.out).with_name(name)
        list(open_session(settings.replaced(out=str(run), eval_every=every, steps=3)).run())
        weights.append(load_tensors(run / "model" / "generator.safetensors"))
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_stopping_during_an_evaluation_saves_without_scores(settings: TrainSettings) -> None:
    calls = []

    def stop_in_the_evaluation() -> bool:
        calls.append(1)
        return len(calls) > 2  # called before each of two steps, then by the evaluation

    list(open_session(settings).run(stop_in_the_evaluation))
    run = Path(settings.out)
    assert [("fid_clip" in line) for line in lines(run)] == [False, False]
    assert (run / "checkpoints" / "step_00000002").is_dir()
    assert not (run / "best").exists()


@pytest.mark.parametrize("steps", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_an_evaluation_that_was_cut_short_is_made_up(settings: TrainSettings, steps: int, tmp_path: Path) -> None:
    """Also that of the last step: a run is finished when that is scored."""
    settings = settings.replaced(steps=steps)
    through = Path(settings.replaced(out=str(tmp_path / "through")).out)
    list(open_session(settings.replaced(out=str(through))).run())
    calls = []
    session = open_session(settings)
    list(session.run(lambda: bool(calls.append(1) or len(calls) > 2)))
    assert (session.finished, "before it was scored" in session.stopped) == (False, True)
    again = open_session(settings.replaced(resume=settings.out))
    list(again.run())
    assert again.finished
    timed = {"seconds", "images_per_second", "memory_mib"}
    expected, found = (
        [{name: value for name, value in line.items() if name not in timed} for line in lines(run)]
        for run in (through, Path(settings.out))
    )
    assert found == expected
    assert read_best(Path(settings.out) / "best") == read_best(through / "best")


@pytest.mark.slow
def test_a_run_whose_last_step_is_unscored_is_found_and_not_changed(
    settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By --resume auto and `ratlip runs`; and one that was to be scored by nobody is finished."""
    settings, run = settings.replaced(steps=2), Path(settings.out)
    calls = []
    list(open_session(settings).run(lambda: bool(calls.append(1) or len(calls) > 2)))
    assert [one.state for one in runs_in(run)] == ["interrupted"]
    before = (run / "config.toml").read_bytes()
    found = open_session(settings.replaced(resume="auto"))
    found.folder.close()
    assert (found.folder.path, found.unscored, found.finished) == (run, True, False)
    say(monkeypatch, 5.0)
    list(open_session(settings.replaced(resume=str(run), lr_g=0.5)).run())
    assert (run / "config.toml").read_bytes() == before
    assert lines(run)[-1]["fid_clip"] == 5.0
    assert [one.state for one in runs_in(run)] == ["finished"]
    other = settings.replaced(out=f"{run}-2", eval_every=0)
    list(open_session(other).run())
    assert open_session(other.replaced(resume=other.out, eval_every=2)).finished


@pytest.mark.slow
def test_scores_that_cannot_be_made_up_end_nothing(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings.replaced(steps=4)
    calls = []
    list(open_session(settings).run(lambda: bool(calls.append(1) or len(calls) > 2)))

    def broken(*arguments: object) -> Evaluation:
        raise RatlipError("fid_clip is not a number")

    monkeypatch.setattr("ratlip_cli.training.validation.score_inputs", broken)
    session = open_session(settings.replaced(resume=settings.out))
    monkeypatch.setattr(session, "settings", session.settings.replaced(eval_every=0))
    assert [record.step for record in session.run()] == [3, 4]


@pytest.mark.slow
def test_scores_of_another_metric_are_not_compared(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, 5.0)
    run = Path(settings.out)
    list(open_session(settings.replaced(steps=2)).run())
    note = run / "best" / "evaluation.json"
    note.write_text(note.read_text().replace("fid_clip", "fid_inception"))
    say(monkeypatch, 30.0)
    list(open_session(settings.replaced(steps=4, resume=str(run))).run())
    best = read_best(run / "best")
    assert best is not None
    assert (best.step, best.metric, best.value) == (4, "fid_clip", 30.0)


def test_what_evaluation_lacks_is_said_before_the_run_begins(settings: TrainSettings, tmp_path: Path) -> None:
    no_test = tmp_path / "train-only"
    records = [
        Record(name=str(number), split="train", captions=("a",), image=Image.new("RGB", (40, 40)))
        for number in range(4)
    ]
    description = {"name": "x", "source": "tests", "licence": "CC0", "split_rule": "none"}
    write_dataset(no_test, records, DatasetInfo(**description, image_size=32))
    with pytest.raises(DataError, match="no split 'test'"):
        open_session(settings.replaced(dataset=str(no_test)))
    one = Record(name="4", split="test", captions=("a",), image=Image.new("RGB", (40, 40)))
    write_dataset(tmp_path / "one", [*records, one], DatasetInfo(**description, image_size=32))
    with pytest.raises(DataError, match=r"one test image, and scores take at least 2: .*--test-fraction"):
        open_session(settings.replaced(dataset=str(tmp_path / "one")))
    with pytest.raises(RatlipError, match=r"none\.pth does not exist"):
        open_session(settings.replaced(eval_features="inception", inception_weights=str(tmp_path / "none.pth")))
    assert not Path(settings.out).exists()


def test_features_follow_the_clip(settings: TrainSettings, tmp_path: Path) -> None:
    for given, features in (("auto", "inception"), ("clip", "clip")):
        run = tmp_path / given
        open_session(settings.replaced(out=str(run), eval_every=0, eval_features=given)).folder.close()
        assert json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))["features"] == features


def test_a_damaged_note_of_the_best_is_named(tmp_path: Path) -> None:
    assert read_best(tmp_path) is None
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(RatlipError, match=r"evaluation\.json is damaged"):
        read_best(tmp_path)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", '"x"', "null", "[1]"])
def test_a_best_score_that_is_no_number_is_named(tmp_path: Path, value: str) -> None:
    (tmp_path / "evaluation.json").write_text(
        f'{{"step": 4, "metric": "fid_clip", "value": {value}}}', encoding="utf-8"
    )
    with pytest.raises(RatlipError, match=r"evaluation\.json is damaged"):
        read_best(tmp_path)


def test_a_score_that_is_not_finite_is_none(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratlip_cli.evaluation.metrics.frechet_distance", lambda first, second: float("nan"))
    with pytest.raises(RatlipError, match="fid_clip is not a number"):
        list(open_session(settings.replaced(steps=2)).run())
