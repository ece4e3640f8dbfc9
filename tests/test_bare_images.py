"""Images without captions: prepared, trained on by LAFITE, scored, and refused where captions are needed."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import ratlip
from PIL import Image
from test_lafite_training import SIZES
from torch.nn import functional as F

from ratlip_cli.data.dataset import CaptionedImages, training_batches
from ratlip_cli.data.layout import DatasetInfo, read_dataset, read_split
from ratlip_cli.data.prepare import PrepareRequest, prepare
from ratlip_cli.errors import DataError, UsageError
from ratlip_cli.evaluation.images import GeneratedImages
from ratlip_cli.evaluation.inputs import model_inputs
from ratlip_cli.evaluation.request import EvaluationRequest
from ratlip_cli.training.objectives.lafite import LafiteObjective
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.training.start import open_session
from ratlip_cli.weights.load import load_model


def bare(folder: Path, captioned: int = 0) -> Path:
    """Twelve images, two of them in the test split; the first `captioned` of the others with a caption."""
    for number in range(12):
        file = folder / ("test" if number > 9 else "train") / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (20 * number, 255 - 20 * number, 90)).save(file)
        if number < captioned:
            file.with_suffix(".txt").write_text(f"image {number}")
    return folder


def prepared(source: Path, data_dir: Path, keep: bool = True) -> DatasetInfo:
    return prepare(PrepareRequest(str(source), data_dir, image_size=32, workers=1, keep_uncaptioned=keep)).info


@pytest.fixture(scope="module")
def settings(tiny_settings: TrainSettings, tmp_path_factory: pytest.TempPathFactory) -> TrainSettings:
    """A run on a folder of bare images that nobody prepared."""
    folder = tmp_path_factory.mktemp("bare")
    source = {"dataset": str(bare(folder / "pictures")), "data_dir": str(folder / "data")}
    due = {"r1_every": 2, "path_length_every": 2}
    return tiny_settings.replaced(**source, variant="lafite", language_free=True, image_size=32, **SIZES, **due)


@pytest.fixture(scope="module")
def run(settings: TrainSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six steps, which prepared the images, showed samples and scored its model."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    list(open_session(settings.replaced(out=str(folder), sample_every=3, eval_every=6, eval_features="clip")).run())
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_model(str(run)).generator.state_dict()


@pytest.mark.parametrize("kind", ["texts", "table", "zip"])
def test_images_without_captions_are_kept_where_that_is_asked(tmp_path: Path, kind: str) -> None:
    source = bare(tmp_path / "pictures", captioned=3)
    if kind == "table":
        rows = [{"file_name": f"{number:02}.png", "text": f"image {number}"} for number in range(3)]
        (source / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        for text in source.rglob("*.txt"):
            text.unlink()
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
            for file in sorted(source.rglob("*.*")):
                archive.write(file, file.relative_to(source))
        shutil.rmtree(source)
        source = tmp_path / "pictures.zip"
    left = prepared(source, tmp_path / "data", keep=False)
    assert (left.counts, len(left.left_out)) == ({"train": 3}, 9)
    assert "keep_uncaptioned" not in left.options
    kept = prepared(source, tmp_path / "data")
    assert kept.counts == {"train": 10, "test": 2}
    assert kept.left_out == ()
    assert any("9 of 12 images have no caption" in note for note in kept.notes)
    entries = read_split(tmp_path / "data" / "pictures", "train")
    assert [entry.captions for entry in entries] == [(f"image {number}",) for number in range(3)] + [()] * 7
    assert ratlip("prepare", tmp_path / "data" / "pictures", "--check", "--quiet").code == 0


def test_what_cannot_be_trained_on_says_so(settings: TrainSettings, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    source = bare(tmp_path / "pictures", captioned=3)
    with pytest.raises(DataError, match=r"--variant lafite --language-free` needs no captions"):
        prepared(bare(tmp_path / "others"), data_dir, keep=False)
    prepared(source, data_dir)
    own = {"dataset": str(source), "data_dir": str(data_dir), "out": str(tmp_path / "run")}
    told = r"7 of the 10 train images of .* have no caption\. Prepare them with --caption, or train on images alone"
    with pytest.raises(DataError, match=told):
        open_session(settings.replaced(**own, language_free=False))
    assert not (tmp_path / "run").exists()


def test_that_images_were_left_out_before_is_told(settings: TrainSettings, tmp_path: Path) -> None:
    source = bare(tmp_path / "pictures", captioned=3)
    prepared(source, tmp_path / "data", keep=False)
    told: list[str] = []
    own = {"dataset": str(source), "data_dir": str(tmp_path / "data"), "out": str(tmp_path / "run")}
    open_session(settings.replaced(**own), told.append)
    assert any(line.startswith("9 more were left out for want of a caption") for line in told)


def test_a_run_on_bare_images(settings: TrainSettings, run: Path) -> None:
    info = read_dataset(Path(settings.data_dir) / "pictures")
    assert (info.counts, info.options["keep_uncaptioned"]) == ({"train": 10, "test": 2}, True)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert not any(line["skipped"] for line in lines)
    assert all(line["clip_similarity"] for line in lines)
    assert "fid_clip" in json.dumps(lines[-1])
    with Image.open(run / "samples" / "step_00000006.png") as grid:
        assert grid.width >= 5 * 32
    assert not (run / "model" / "samples.png").exists(), "the user's own images would be published with the model"
    training = json.loads((run / "model" / "config.json").read_text())["training"]
    assert (training["data"]["captions"], training["prompts"]) == ("none", [])


@pytest.mark.slow
def test_no_caption_is_looked_at(settings: TrainSettings, run: Path, tmp_path: Path) -> None:
    """Images with captions make the same measurements, samples and scores, and nothing of them is kept."""
    own = {"dataset": str(bare(tmp_path / "pictures", captioned=12)), "data_dir": str(tmp_path / "data")}
    told: list[str] = []
    out, due = tmp_path / "run", {"sample_every": 3, "eval_every": 6, "eval_features": "clip"}
    list(open_session(settings.replaced(**own, **due, out=str(out)), told.append).run())
    assert any(line == "10 images; no caption is looked at: CLIP's vectors of the images stand in" for line in told)
    logs = [[json.loads(line) for line in (one / "metrics.jsonl").read_text().splitlines()] for one in (out, run)]
    for ours, theirs in zip(*logs, strict=True):
        measured = theirs.keys() - {"images_per_second", "memory_mib", "evaluation"}  # the last names the dataset
        assert {name: ours[name] for name in measured} == {name: theirs[name] for name in measured}
        assert ours.keys() == theirs.keys()
    ours, theirs = (np.asarray(Image.open(one / "samples" / "step_00000006.png")) for one in (out, run))
    assert np.array_equal(ours, theirs)
    training = json.loads((out / "model" / "config.json").read_text())["training"]
    assert (training["data"]["captions"], training["prompts"]) == ("none", [])
    assert not list((tmp_path / "data").rglob(".text_vectors"))
    answer = ratlip(
        "train", "--config", out / "config.toml", "--out", tmp_path / "new", "--dry-run", "--json", "--quiet"
    )
    assert json.loads(answer.out)["captions"] == 0


def test_a_split_of_which_some_have_captions_is_scored_by_all_its_images(
    settings: TrainSettings, run: Path, tiny_settings: TrainSettings, tmp_path: Path
) -> None:
    """Not by few generated images against all real ones; a split of captions is scored by them, however it learnt."""
    request, models = EvaluationRequest(metrics=("fid",)), [load_model(str(run))]
    open_session(tiny_settings.replaced(out=str(tmp_path / "ratlip")))
    models.append(load_model(str(tmp_path / "ratlip")))
    counts = {}
    for captioned in (1, 10):
        prepared(bare(tmp_path / f"with-{captioned}", captioned), tmp_path / "data")
        split = CaptionedImages(tmp_path / "data" / f"with-{captioned}", "train", 32)
        for model in models:
            inputs = model_inputs(model, split, request)
            counts[captioned, model.family.name] = (len(inputs.fake), inputs.captions is not None)
            told = ["9 of 10 images have no caption: each" in note for note in inputs.notes]
            assert any(told) == (captioned == 1 and model.family.takes_images)
    assert counts == {
        (1, "lafite"): (10, False),
        (1, "ratlip"): (1, True),
        (10, "lafite"): (10, True),
        (10, "ratlip"): (10, True),
    }


def test_it_is_the_run_on_the_same_images_with_captions(settings: TrainSettings, run: Path, tmp_path: Path) -> None:
    source = bare(tmp_path / "pictures", captioned=10)
    own = {"dataset": str(source), "data_dir": str(tmp_path / "data"), "out": str(tmp_path / "run")}
    list(open_session(settings.replaced(**own)).run())
    expected, ours = weights(tmp_path / "run"), weights(run)
    assert all(torch.equal(ours[name], tensor) for name, tensor in expected.items())


def test_it_goes_on_as_if_it_had_never_stopped(settings: TrainSettings, run: Path, tmp_path: Path) -> None:
    half = settings.replaced(out=str(tmp_path / "half"))
    stopped = open_session(half)
    for _ in zip(range(3), stopped.run(lambda: stopped.trainer.steps_done == 3), strict=False):
        pass
    list(open_session(half.replaced(resume=half.out)).run())
    expected, ours = weights(run), weights(tmp_path / "half")
    assert all(torch.equal(ours[name], tensor) for name, tensor in expected.items())


def test_images_without_a_caption_among_others_are_told_by_their_own(settings: TrainSettings, tmp_path: Path) -> None:
    source = bare(tmp_path / "pictures", captioned=5)
    own = {"dataset": str(source), "data_dir": str(tmp_path / "data"), "out": str(tmp_path / "run")}
    trainer = open_session(settings.replaced(**own, language_free=False, mixing=1e-6, batch_size=8)).trainer
    dataset = CaptionedImages(tmp_path / "data" / "pictures", "train", 32)
    batch = next(training_batches(dataset, 8))
    assert 0 < int((batch.captions < 0).sum()) < 8
    [micro] = trainer._micro_batches(batch)
    assert isinstance(trainer.objective, LafiteObjective)
    told = trainer.objective.condition(micro, "d")
    noise = F.normalize(micro.draws["d_text"], dim=1)
    vectors = F.normalize(trainer.clip.encode_image(micro.images), dim=1)
    of_image, of_text = 0.25 * vectors + 0.75 * noise, 0.9 * micro.text + 0.1 * noise
    expected = torch.where((batch.captions < 0)[:, None], of_image, of_text)
    torch.testing.assert_close(told, F.normalize(expected, dim=1))


def test_it_is_scored_by_images_of_the_real_images_vectors(run: Path, settings: TrainSettings) -> None:
    model = load_model(str(run))
    dataset = CaptionedImages(Path(settings.data_dir) / "pictures", "train", 32)
    request = EvaluationRequest(metrics=("fid",))
    fakes = model_inputs(model, dataset, request).fake
    assert isinstance(fakes, GeneratedImages)
    assert len(fakes) == 10
    whole = torch.cat(list(fakes.batches(4)))
    assert torch.equal(torch.cat(list(fakes.batches(3, range(6, len(fakes), 3)))), whole[6:])
    answer = ratlip("evaluate", "--model", run, "--fid", "--features", "clip", "--device", "cpu", "--json")
    assert answer.code == 0, answer.err
    assert "CLIP's vector of a real one" in answer.out
    assert "CLIP's vector of a real one" in answer.err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("evaluate", "--clip-score"), 1, "need captions, and not every image here has one: ask for --fid"),
        (("latent-viz", "--split", "train"), 1, "10 of the 10 train images"),
        (("gradcam", "--dataset", "DATA"), 2, "has no caption: give it by --image, and a prompt"),
    ],
)
def test_what_needs_captions_says_so(
    run: Path, settings: TrainSettings, tmp_path: Path, arguments: tuple[str, ...], code: int, told: str
) -> None:
    folder = str(Path(settings.data_dir) / "pictures")
    command, *options = (folder if one == "DATA" else one for one in arguments)
    out = ("--out", tmp_path / "out") if command != "evaluate" else ()
    answer = ratlip(command, "--model", run, *options, "--device", "cpu", *out, "--quiet")
    assert answer.code == code
    assert told in answer.err


def test_a_model_of_captions_is_not_scored_on_bare_images(tiny_settings: TrainSettings, tmp_path: Path) -> None:
    open_session(tiny_settings.replaced(out=str(tmp_path / "run")))
    prepared(bare(tmp_path / "pictures"), tmp_path / "data")
    model, dataset = load_model(str(tmp_path / "run")), CaptionedImages(tmp_path / "data" / "pictures", "train", 32)
    with pytest.raises(UsageError, match="variant ratlip generates for captions, and these images have none"):
        model_inputs(model, dataset, EvaluationRequest(metrics=("fid",)))


def test_dry_run_and_generate(settings: TrainSettings, run: Path, tmp_path: Path) -> None:
    config = run / "config.toml"
    answer = ratlip("train", "--config", config, "--out", tmp_path / "new", "--dry-run", "--json", "--quiet")
    assert answer.code == 0, answer.err
    assert (json.loads(answer.out)["captions"], json.loads(answer.out)["seconds_for_text"]) == (0, 0)
    answer = ratlip("generate", "a red bird", "--model", run, "--out", tmp_path / "out", "--quiet")
    assert answer.code == 0, answer.err
