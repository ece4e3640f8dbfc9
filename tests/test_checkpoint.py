"""Checkpoints are whole or not there, whatever happens; damage and mismatch are told apart and named."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from ratlip_cli.data.dataset import CaptionedImages, text_vectors
from ratlip_cli.data.of_run import dataset_of_model
from ratlip_cli.errors import DataError, RatlipError, UsageError, WeightsError
from ratlip_cli.evaluation.request import EvaluationRequest
from ratlip_cli.evaluation.run import evaluate
from ratlip_cli.explain.latent.run import latent_view
from ratlip_cli.explain.request import LatentRequest
from ratlip_cli.files import PARTIAL
from ratlip_cli.publish import Publication, publish
from ratlip_cli.tensor_files import load_tensors, save_tensors
from ratlip_cli.training.checkpoint import list_checkpoints, newest_checkpoint, read_checkpoint
from ratlip_cli.training.run_folder import RunFolder, truncate_metrics
from ratlip_cli.training.settings import TrainSettings, check_beginning, resolve_settings
from ratlip_cli.training.start import open_session
from ratlip_cli.weights import clip_files
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.load import load_model
from ratlip_cli.weights.model_folder import fingerprint_of, load_discriminator, load_folder

FILES = ("generator.safetensors", "ema.safetensors", "discriminator.safetensors", "state.pt", "checkpoint.json")


def train(settings: TrainSettings) -> Path:
    """Run to the end; the run folder."""
    session = open_session(settings)
    for _ in session.run():
        pass
    return session.folder.path


def steps_saved(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in list_checkpoints(run / "checkpoints"))


def partials(run: Path) -> list[Path]:
    return [path for path in run.rglob("*") if path.name.endswith(PARTIAL)]


@pytest.fixture(scope="module")
def finished_run(tiny_settings: TrainSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps with checkpoints at 2, 4 and 6, to copy from."""
    return train(tiny_settings.replaced(save_every=2, out=str(tmp_path_factory.mktemp("finished") / "run")))


@pytest.fixture
def run(finished_run: Path, settings: TrainSettings) -> Path:
    """The same where `settings` says."""
    return Path(shutil.copytree(finished_run, settings.out))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def make_foreign(path: Path) -> None:
    path.write_bytes(b"this is something else")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
    "foreign": make_foreign,
}


def test_checkpoint_holds_what_is_promised(run: Path) -> None:
    assert steps_saved(run) == [2, 4, 6]
    newest = list_checkpoints(run / "checkpoints")[0]
    assert sorted(path.name for path in newest.iterdir()) == sorted(FILES)
    content = json.loads((newest / "checkpoint.json").read_text())
    assert content["step"] == 6
    assert content["torch"] == torch.__version__
    model = load_folder(run / "model")
    ema = read_checkpoint(newest).networks["ema"]
    assert all(torch.equal(value, ema[name]) for name, value in model.generator.state_dict().items())
    assert partials(run) == []


def test_the_newest_are_kept(settings: TrainSettings) -> None:
    assert steps_saved(train(settings.replaced(save_every=1, keep=2))) == [5, 6]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_damaged_newest_checkpoint_is_passed_over(run: Path, settings: TrainSettings, file: str, damage: str) -> None:
    newest = run / "checkpoints" / "step_00000006"
    DAMAGES[damage](newest / file)
    with pytest.raises(WeightsError, match=file):
        read_checkpoint(newest)
    checkpoint, lines = newest_checkpoint(list_checkpoints(run / "checkpoints"))
    assert checkpoint is not None
    assert checkpoint.step == 4
    assert len(lines) == 1
    assert "step_00000006" in lines[0]
    if damage == "cut":
        with pytest.raises(WeightsError, match=file):
            open_session(settings.replaced(resume=str(newest)))


def test_run_goes_on_from_the_checkpoint_before_a_damaged_one(run: Path, settings: TrainSettings) -> None:
    undamaged = read_checkpoint(run / "checkpoints" / "step_00000006")
    cut(run / "checkpoints" / "step_00000006" / "state.pt")
    told: list[str] = []
    session = open_session(settings.replaced(save_every=2, resume=str(run)), told.append)
    assert "step_00000006 is damaged" in told[0]
    assert session.trainer.steps_done == 4
    assert len(list(session.run())) == 2
    again = read_checkpoint(run / "checkpoints" / "step_00000006")
    for network, tensors in undamaged.networks.items():
        assert all(torch.equal(value, again.networks[network][name]) for name, value in tensors.items())
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()] == [1, 2, 3, 4, 5, 6]


def test_damaged_newer_checkpoint_does_not_push_out_a_good_one(run: Path, settings: TrainSettings) -> None:
    cut(run / "checkpoints" / "step_00000006" / "state.pt")
    session = open_session(settings.replaced(steps=5, keep=1, resume=str(run)))
    list(session.run())
    assert steps_saved(run) == [5, 6]
    checkpoint, _ = newest_checkpoint(list_checkpoints(run / "checkpoints"))
    assert checkpoint is not None
    assert checkpoint.step == 5


def test_nothing_readable_is_an_error(run: Path, settings: TrainSettings) -> None:
    for checkpoint in list_checkpoints(run / "checkpoints"):
        cut(checkpoint / "ema.safetensors")
    with pytest.raises(WeightsError, match=r"no checkpoint in .* can be read"):
        open_session(settings.replaced(resume=str(run)))


class Malicious:
    """A pickle that makes a file when it is read."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickle_is_never_executed(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    newest = list_checkpoints(run / "checkpoints")[0]
    for write in (lambda path: torch.save(Malicious(), path), lambda path: path.write_bytes(pickle.dumps(Malicious()))):
        write(newest / "state.pt")
        with pytest.raises(WeightsError, match=r"state\.pt"):
            read_checkpoint(newest)
    assert not (tmp_path / "executed").exists()


# What a checkpoint belongs to


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("variant", "galip"),
        ("image_size", 64),
        ("noise_dim", 9),
        ("discriminator_channels", 3),
    ],
)
def test_another_architecture_is_named(run: Path, settings: TrainSettings, name: str, value: str | int) -> None:
    other = settings.replaced(resume=str(run), **{name: value})
    if name == "image_size":
        shutil.copytree(settings.dataset, run.parent / "larger")
        info = run.parent / "larger" / "dataset.json"
        info.write_text(info.read_text().replace('"image_size": 32', '"image_size": 64'))
        other = replace(other, dataset=str(run.parent / "larger"))
    with pytest.raises(WeightsError, match=rf"trained with {name} = {settings.architecture[name]}, not {value}"):
        open_session(other)


def test_another_dataset_is_refused(run: Path, settings: TrainSettings) -> None:
    changed = run.parent / "changed"
    shutil.copytree(settings.dataset, changed)
    metadata = changed / "train" / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("a red", "a crimson"))
    with pytest.raises(DataError, match="the dataset has changed"):
        open_session(settings.replaced(dataset=str(changed), resume=str(run)))


def test_another_clip_is_refused(run: Path, settings: TrainSettings, tmp_path: Path) -> None:
    other = tmp_path / "other-clip"
    shutil.copytree(settings.clip, other)
    config = json.loads((other / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["mean"] = [0.4, 0.5, 0.5]
    (other / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"was trained on another CLIP, of fingerprint \w{16}, not ") as refused:
        open_session(settings.replaced(clip=str(other), resume=str(run)))
    (resume, clip) = re.fullmatch(r".*: --resume (.*) --clip (.*)\.", str(refused.value)).groups()
    assert open_session(resolve_settings({"resume": resume, "clip": clip})).finished


@pytest.fixture
def bundled(monkeypatch: pytest.MonkeyPatch, tiny_clip: Path, tmp_path: Path) -> Callable[[], None]:
    """The tiny CLIP is the bundled one, until this is called: then that of a later version is."""
    later = Path(shutil.copytree(tiny_clip, tmp_path / "later"))
    weights = load_tensors(later / "open_clip_model.safetensors")
    save_tensors(later / "open_clip_model.safetensors", {name: 2 * tensor for name, tensor in weights.items()})
    monkeypatch.setitem(clip_files.BUNDLED, "ratlip-demo", tiny_clip)
    return lambda: monkeypatch.setitem(clip_files.BUNDLED, "ratlip-demo", later)


@pytest.mark.parametrize("auto", [False, True])
def test_a_run_on_the_bundled_clip_of_another_version_goes_on_with_its_copy(
    settings: TrainSettings, bundled: Callable[[], None], auto: bool
) -> None:
    settings = settings.replaced(clip="ratlip-demo", steps=3, save_every=2)
    session = open_session(settings)
    for record in session.run(lambda: True):
        assert record.step == 1
    session.folder.close()
    run = session.folder.path
    before = load_model(str(run)).clip.fingerprint
    bundled()
    told: list[str] = []
    again = settings.replaced(resume="auto") if auto else resolve_settings({"resume": str(run)})
    session = open_session(again, told.append)
    assert f"this version's ratlip-demo is another CLIP: the run goes on with its own copy, {run}/model/clip" in told
    for _ in session.run():
        pass
    assert load_model(str(run)).clip.fingerprint == before
    assert load_clip("ratlip-demo").fingerprint != before


def test_text_vectors_of_the_bundled_clip_of_another_version_are_not_used(
    tiny_dataset: Path, bundled: Callable[[], None], tmp_path: Path
) -> None:
    dataset = CaptionedImages(Path(shutil.copytree(tiny_dataset, tmp_path / "colours")), "train", 32)
    before = text_vectors(dataset, load_clip("ratlip-demo"))
    bundled()
    clip = load_clip("ratlip-demo")
    assert torch.equal(text_vectors(dataset, clip), clip.encode_text(dataset.captions))
    assert not torch.equal(text_vectors(dataset, clip), before)


# Which run is resumed


def test_older_checkpoint_goes_on_in_a_new_run_only(run: Path, settings: TrainSettings, tmp_path: Path) -> None:
    older = str(run / "checkpoints" / "step_00000004")
    with pytest.raises(UsageError, match="step_00000006 is; give an --out"):
        open_session(settings.replaced(resume=older, out=""))
    branch = train(settings.replaced(resume=older, out=str(tmp_path / "branch"), save_every=2))
    assert steps_saved(run) == [2, 4, 6]
    assert steps_saved(branch) == [4, 6]


def test_auto_takes_the_newest_unfinished_run_of_the_same_settings(
    run: Path, settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, (last, rate) in enumerate([(2, 1e-4), (4, 1e-4), (6, 1e-4), (4, 3e-4)], start=1):
        copied = tmp_path / "runs" / f"colours-ratlip-{number}"
        shutil.copytree(run, copied)
        for step in range(last + 2, 8, 2):
            shutil.rmtree(copied / "checkpoints" / f"step_{step:08d}")
        (copied / "config.toml").write_text(settings.replaced(lr_g=rate).to_toml())
        os.utime(copied / "config.toml", (1000 + number,) * 2)
    auto = open_session(settings.replaced(out="", resume="auto", max_time="1h", keep=2))
    assert auto.folder.path.name == "colours-ratlip-2"
    assert auto.trainer.steps_done == 4
    told: list[str] = []
    fresh = open_session(settings.replaced(out="", resume="auto", seed=5), told.append)
    assert fresh.folder.path.name == "colours-ratlip-5"
    assert fresh.trainer.steps_done == 0
    assert any("new one begins" in line for line in told)


@pytest.mark.slow
def test_auto_goes_on_with_the_data_that_its_run_has(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the run's path, though the images that the data were made from have changed since."""
    monkeypatch.chdir(tmp_path)
    for number in range(12):
        own = tmp_path / "mine" / f"{number}.png"
        own.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (20 * number, 0, 0)).save(own)
        own.with_suffix(".txt").write_text(f"a red square {number}")
    settings = settings.replaced(dataset="mine", data_dir="data", steps=None, epochs=4, save_every=1)
    session = open_session(settings)
    next(session.run())
    session.folder.close()
    own.unlink()
    again = open_session(settings.replaced(resume="auto"))
    assert (again.trainer.steps_done, again.dataset.fingerprint) == (1, session.dataset.fingerprint)
    for _ in again.run():
        pass
    again.folder.close()
    assert open_session(settings.replaced(resume="auto", out="")).folder.path != session.folder.path  # it is finished


def test_auto_names_what_an_existing_folder_has_other_settings_of(run: Path, settings: TrainSettings) -> None:
    with pytest.raises(UsageError, match=rf"{run} exists already with other settings \(steps, lr_g\); go on with"):
        open_session(settings.replaced(resume="auto", steps=9, lr_g=3e-4))
    (run / "config.toml").unlink()
    with pytest.raises(UsageError, match=f"{run} exists already; go on with"):
        open_session(settings.replaced(resume="auto"))


def test_a_branch_that_is_killed_at_its_beginning_does_not_begin_with_step_1(
    run: Path, settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    branch = settings.replaced(resume=str(run / "checkpoints" / "step_00000004"), out=str(tmp_path / "branch"))
    left = tmp_path / "left"

    def killed(self: RunFolder, *arguments: object) -> None:
        shutil.copytree(self.path, left)
        opens(self, *arguments)
        shutil.copy(self.config, left)
        raise KeyboardInterrupt

    opens = RunFolder.open
    monkeypatch.setattr(RunFolder, "open", killed)
    with pytest.raises(KeyboardInterrupt):
        open_session(branch)
    monkeypatch.undo()
    assert open_session(settings.replaced(resume=str(left), out="")).trainer.steps_done == 4


def test_a_run_of_an_earlier_version_goes_on(run: Path, settings: TrainSettings, tmp_path: Path) -> None:
    """Its EMA was called the average, and its settings were flat."""
    for checkpoint in list_checkpoints(run / "checkpoints"):
        (checkpoint / "ema.safetensors").rename(checkpoint / "average.safetensors")
    config = run / "config.toml"
    config.write_text(config.read_text().replace("[model]\n", ""))
    again = open_session(resolve_settings({"resume": str(run), "steps": 8}))
    assert again.trainer.steps_done == 6
    assert len(list(again.run())) == 2
    newest, _ = newest_checkpoint(list_checkpoints(run / "checkpoints"))
    assert newest is not None
    assert (newest.path / "ema.safetensors").is_file()


def test_an_older_checkpoint_goes_on_in_another_folder_alone(run: Path) -> None:
    older = run / "checkpoints" / "step_00000004"
    assert older.is_dir()
    for out in (None, str(run), f"{run}/../{run.name}"):
        with pytest.raises(UsageError, match="step_00000004 is not the newest checkpoint of its run"):
            open_session(resolve_settings({"resume": str(older), "out": out}))


def test_an_old_checkpoint_that_cannot_be_removed_ends_nothing(
    settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where another machine reads a file of it."""

    def busy(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError("busy")

    session = open_session(settings.replaced(steps=3, save_every=1, keep=1))
    monkeypatch.setattr("ratlip_cli.training.checkpoint.shutil.rmtree", busy)
    assert [record.step for record in session.run()] == [1, 2, 3]


def test_a_run_is_gone_on_with_or_begins_from_a_model(run: Path) -> None:
    with pytest.raises(UsageError, match="--init-from begins a new run"):
        open_session(resolve_settings({"resume": str(run), "init_from": "ratlip-demo"}))


def test_existing_folder_is_not_overwritten(run: Path, settings: TrainSettings) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with pytest.raises(UsageError, match=f"{run} exists already; go on with --resume"):
        open_session(settings)
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_a_finished_run_stays_as_it_is(run: Path, settings: TrainSettings) -> None:
    """Whatever settings it is resumed with: they are of no step. Weights that a kill left behind it gets again."""

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    before = content()
    (run / "model" / "generator.safetensors").unlink()
    again = open_session(resolve_settings({"resume": str(run), "lr_g": 3e-4, "steps": 5, "save_every": 7}))
    assert (again.finished, list(again.run())) == (True, [])
    assert content() == before
    assert open_session(settings.replaced(resume="auto", save_every=2)).finished


def test_run_without_a_checkpoint_begins_again(settings: TrainSettings) -> None:
    session = open_session(settings)
    session.folder.close()
    assert len(list(open_session(settings.replaced(resume=settings.out)).run())) == 6


@pytest.mark.parametrize("content", ["", '{"step": 1}\n{"step": 2}\n', '{"step": 1}\n{"step": 2}\n{"st', "nonsense\n"])
@pytest.mark.parametrize("steps_done", [0, 1, 2, 3])
def test_metrics_are_cut_behind_the_resumed_step(tmp_path: Path, content: str, steps_done: int) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(content)
    truncate_metrics(path, steps_done)
    whole = [] if content.startswith("nonsense") else [line for line in content.splitlines() if line.endswith("}")]
    assert path.read_text().splitlines() == whole[:steps_done]


# Where a run and its dataset are


@pytest.fixture
def project(tiny_settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with a run and, under relative names, its dataset and its CLIP; it is the working directory."""
    folder = tmp_path / "old"
    shutil.copytree(tiny_settings.dataset, folder / "data" / "mine")
    shutil.copytree(tiny_settings.clip, folder / "clips" / "tiny")
    monkeypatch.chdir(folder)
    train(tiny_settings.replaced(dataset="mine", clip="clips/tiny", steps=2, out="runs/a"))
    return folder


def goes_on(run: Path, **changes: str) -> None:
    """Resume the run at `run` for a step more, as the command line does."""
    settings = resolve_settings({"resume": str(run), "steps": 3, **changes})
    check_beginning(settings)
    assert len(list(open_session(settings).run())) == 1


def test_a_moved_project_goes_on_from_anywhere(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = project.rename(project.with_name("new"))
    monkeypatch.chdir("/")
    goes_on(new / "runs" / "a")


def test_a_moved_renamed_run_goes_on_with_the_dataset_where_it_was(project: Path, tmp_path: Path) -> None:
    shutil.move("runs/a", tmp_path / "another" / "place" / "b")
    os.chdir(tmp_path)
    goes_on(tmp_path / "another" / "place" / "b")


@pytest.mark.parametrize("inner", ["", "checkpoints/step_00000002"])
def test_a_model_of_a_moved_project_is_scored_and_shown_on_what_it_learned(
    project: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch, inner: str
) -> None:
    new = project.rename(project.with_name("new"))
    (project.parent / "away").mkdir()
    monkeypatch.chdir(project.parent / "away")
    model, data = str(new / "runs" / "a" / inner), str((new / "data" / "mine").resolve())
    metrics = {"metrics": ("clip-score",), "clip": str(tiny_clip), "captions_per_image": 1}
    scored = evaluate(EvaluationRequest(model=model, split="train", **metrics))
    assert scored.source["dataset"] == data
    assert latent_view(LatentRequest(model=model, split="train", count=3)).record()["dataset"] == data
    monkeypatch.chdir(new)
    assert dataset_of_model(Path("runs/a") / (inner or "model")) == Path("data/mine")


def test_a_clip_that_is_gone_is_in_the_run(project: Path) -> None:
    shutil.rmtree("clips")
    goes_on(Path("runs/a"))
    assert 'clip = "clips/tiny"' in Path("runs/a/config.toml").read_text()


def test_a_dataset_that_is_gone_is_asked_for(project: Path, tmp_path: Path) -> None:
    elsewhere = shutil.move("data", tmp_path / "disk")
    with pytest.raises(DataError, match=r"dataset 'mine' of runs/a is not here nor at .*data/mine: say by --dataset"):
        goes_on(Path("runs/a"))
    goes_on(Path("runs/a"), dataset=f"{elsewhere}/mine")


def test_another_dataset_under_its_name_is_not_taken_for_it(project: Path) -> None:
    captions = Path("data/mine/train/metadata.jsonl")
    captions.write_text(captions.read_text().replace("a red", "a crimson"))
    with pytest.raises(DataError, match="is another one: name the one it was trained on by --dataset"):
        goes_on(Path("runs/a"))


def test_the_same_dataset_spelled_otherwise_is_the_same_run(settings: TrainSettings, tmp_path: Path) -> None:
    assert settings.replaced(dataset="a/b").same_run(settings.replaced(dataset="./a/../a/b/"))
    assert not settings.replaced(dataset="a").same_run(settings.replaced(dataset="b"))


def test_checkpoints_that_are_gone_are_no_beginning(run: Path, settings: TrainSettings) -> None:
    again = settings.replaced(save_every=2, resume=str(run))
    (run / "config.toml").write_text(again.to_toml())
    shutil.rmtree(run / "checkpoints")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(WeightsError, match=r"has done 6 steps, and its checkpoints are gone: .* --init-from"):
        open_session(again)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


# Which checkpoints are kept, and what they are


@pytest.mark.slow
def test_every_nth_is_kept_for_ever(settings: TrainSettings) -> None:
    run = train(settings.replaced(steps=9, save_every=2, keep=1, keep_every=3))
    assert steps_saved(run) == [3, 6, 9]


def test_copies_that_people_make_are_none_of_the_runs(run: Path, settings: TrainSettings) -> None:
    names = ["step_00000002 copy", "step_00000004_good", "step_x"]
    for name in names:
        shutil.copytree(run / "checkpoints" / "step_00000002", run / "checkpoints" / name)
    list(open_session(settings.replaced(steps=7, keep=1, resume=str(run))).run())
    assert steps_saved(run) == [7]
    assert all((run / "checkpoints" / name).is_dir() for name in names)


def test_more_than_eight_digits_are_newer(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000, 7):
        (tmp_path / f"step_{step:08d}").mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_100000000", "step_99999999", "step_00000007"]


@pytest.mark.parametrize("older", [False, True])
def test_a_checkpoint_is_a_model(run: Path, older: bool) -> None:
    newest = run / "checkpoints" / "step_00000006"
    if older:
        (newest / "ema.safetensors").rename(newest / "average.safetensors")
    whole, model = load_model(str(run)), load_model(str(newest))
    assert (model.name, model.fingerprint) == (str(newest), whole.fingerprint)
    assert model.fingerprint == fingerprint_of(newest)
    if older:
        return
    for name, value in whole.generator.state_dict().items():
        assert torch.equal(model.generator.state_dict()[name], value)
    for name, value in load_discriminator(whole).state_dict().items():
        assert torch.equal(load_discriminator(model).state_dict()[name], value)
    assert load_model(str(run / "checkpoints" / "step_00000004")).fingerprint != whole.fingerprint
    published = publish(Publication(str(newest), "me/it", dry_run=True))
    assert published.fingerprint == model.fingerprint
    assert "| steps done | 6 |" in published.card


def test_a_checkpoint_without_its_run_is_no_model(run: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(run / "checkpoints" / "step_00000006", tmp_path / "alone" / "checkpoints" / "step_00000006")
    with pytest.raises(WeightsError, match=r"step_00000006 .*run folder"):
        load_model(str(alone))


# A full disk and a kill


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MiB; skips where the tests may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("left_kib", [20, 11000])
def test_full_disk_keeps_the_checkpoint_before(settings: TrainSettings, small_disk: Path, left_kib: int) -> None:
    run = small_disk / "run"
    settings = settings.replaced(out=str(run), save_every=2, keep=9)
    session = open_session(settings)
    stream = session.run()
    for _ in range(3):
        next(stream)
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(bytes(max(0, free - left_kib * 1024)))
    with pytest.raises(RatlipError, match=r"cannot write .*[Ss]pace"):
        list(stream)
    checkpoint, damaged = newest_checkpoint(list_checkpoints(run / "checkpoints"))
    assert checkpoint is not None
    assert checkpoint.step >= 2
    assert damaged == []
    assert partials(run) == []
    load_folder(run / "model")
    (small_disk / "filler").unlink()
    assert len(list(open_session(settings.replaced(keep=1, resume=str(run))).run())) == 6 - checkpoint.step


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads in this process as in those that are killed: sums in another order have other last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train_until_killed(settings: TrainSettings) -> None:
    """What the killed process does."""
    torch.set_num_threads(1)
    train(settings.replaced(resume=settings.out) if Path(settings.out).exists() else settings)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("one_thread")
def test_kill_at_any_moment_leaves_the_checkpoint_before(settings: TrainSettings, tmp_path: Path, kills: int) -> None:
    settings = settings.replaced(steps=1_000_000, save_every=1, keep=2, sample_every=3, out=str(tmp_path / "killed"))
    run = Path(settings.out)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ratlip_cli.training.start"])
    moments = random.Random(kills)
    before = 0
    for _ in range(kills):
        process = context.Process(target=train_until_killed, args=(settings,))
        process.start()
        deadline = time.monotonic() + 600
        while max(steps_saved(run), default=0) <= before and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        checkpoint, damaged = newest_checkpoint(list_checkpoints(run / "checkpoints"))
        assert checkpoint is not None
        assert damaged == []
        assert checkpoint.step > before
        load_folder(run / "model")
        before = checkpoint.step

    settings = settings.replaced(steps=before + 1, save_every=1000, sample_every=0)
    train(settings.replaced(resume=settings.out))
    assert partials(run) == []
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()] == list(range(1, before + 2))
    through = read_checkpoint(
        list_checkpoints(train(settings.replaced(out=str(tmp_path / "through"))) / "checkpoints")[0]
    )
    killed = read_checkpoint(list_checkpoints(run / "checkpoints")[0])
    assert (killed.step, killed.identity) == (through.step, through.identity)
    for network, tensors in through.networks.items():
        assert all(torch.equal(value, killed.networks[network][name]) for name, value in tensors.items())
