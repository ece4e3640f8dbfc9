"""The face for Python: what README and docs/api.md promise."""

from __future__ import annotations

import doctest
import io
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import ratlip_cli as ratlip
from ratlip_cli import api
from ratlip_cli.errors import UsageError
from ratlip_cli.evaluation import run as evaluation_run
from ratlip_cli.explain.gradcam import run as gradcam_run
from ratlip_cli.explain.latent import run as latent_run
from ratlip_cli.sampling import generate
from ratlip_cli.training.settings import TrainSettings


@pytest.fixture(scope="module")
def model() -> ratlip.Model:
    return ratlip.load_model("ratlip-demo")


def test_a_string_is_one_prompt(model: ratlip.Model) -> None:
    images = model.generate("a red bird", n=2, seed=3)
    assert [sample.prompt for sample in images] == ["a red bird"] * 2
    expected = [made.image.tobytes() for made in generate(model, ["a red bird"], 2, seed=3)]
    assert [sample.image.tobytes() for sample in images] == expected


def test_several_prompts_share_their_noise(model: ratlip.Model) -> None:
    images = model.generate(["a red bird", "a yellow flower"], n=2)
    assert [(sample.prompt, sample.index) for sample in images] == [
        ("a red bird", 0),
        ("a red bird", 1),
        ("a yellow flower", 0),
        ("a yellow flower", 1),
    ]
    assert images[2:][0].prompt == "a yellow flower"


def test_a_notebook_shows_a_grid(model: ratlip.Model) -> None:
    images = model.generate("a red bird", n=3)
    shown = images._repr_png_()
    assert shown is not None
    assert Image.open(io.BytesIO(shown)).size[0] >= 3 * 64
    assert images[:0]._repr_png_() is None
    one = images[0]._repr_png_()
    assert Image.open(io.BytesIO(one)).tobytes() == images[0].image.tobytes()


def test_representations_are_short(model: ratlip.Model) -> None:
    assert repr(model) == f"<Model ratlip-demo: ratlip, 64 pixels, {model.fingerprint}, on cpu>"
    images = model.generate(["a red bird", "a yellow flower"])
    assert repr(images) == "<2 images of 64 x 64 pixels by ratlip-demo: 'a red bird' and 1 more prompts>"
    assert repr(images[:0]) == "<0 images>"
    assert len(repr(images[0])) < 120


def test_images_are_saved_as_generate_does(model: ratlip.Model, tmp_path: Path) -> None:
    files = model.generate("a red bird", n=2).save(tmp_path)
    assert [file.name for file in files] == ["0000_a-red-bird_0.png", "0000_a-red-bird_1.png"]
    assert (tmp_path / "images.jsonl").is_file()


def test_bad_requests_are_told(model: ratlip.Model) -> None:
    for prompts in ("", [], ["a bird", " "]):
        with pytest.raises(UsageError):
            model.generate(prompts)


def test_training(settings: TrainSettings) -> None:
    steps: list[int] = []
    run = ratlip.train(settings, on_step=lambda record: steps.append(record.step))
    assert (run.steps, run.finished, steps) == (6, True, [1, 2, 3, 4, 5, 6])
    assert run.model().generate("a red image")[0].image.size == (32, 32)
    again = ratlip.train({"resume": str(run.folder), "steps": 8}, should_stop=lambda: False)
    assert (again.steps, again.folder) == (8, run.folder)


def test_importing_it_imports_no_torch() -> None:
    code = (
        "import sys, ratlip_cli; ratlip_cli.__version__; dir(ratlip_cli)\n"
        "[getattr(ratlip_cli, name) for name in ratlip_cli.__all__ if name.endswith('Request')]\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(ratlip.__all__) <= set(dir(ratlip))
    with pytest.raises(AttributeError, match="no attribute 'generate'"):
        _ = ratlip.generate
    assert (Path(ratlip.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize("module", [api, ratlip, gradcam_run, latent_run, evaluation_run])
def test_examples_in_docstrings_run(module: object) -> None:
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)  # type: ignore[arg-type]
    assert result.attempted > 0
    assert result.failed == 0


def test_the_analyses_take_a_request_and_give_a_result(model: ratlip.Model, tiny_dataset: Path, tmp_path: Path) -> None:
    scores = ratlip.evaluate(
        ratlip.EvaluationRequest(model=model, dataset=tiny_dataset, metrics=("clip-score",), captions_per_image=1)
    )
    assert scores.score("clip_score").n_fake == 2
    maps = ratlip.gradcam(ratlip.GradCamRequest("a red bird", models=(model,)))
    view = ratlip.latent_view(ratlip.LatentRequest(model=model, captions=("a red bird", "a blue bird"), count=2))
    for result in (maps, view):
        files = result.save(tmp_path)
        assert Image.open(io.BytesIO(result._repr_png_())).width > 100
        assert all(file.is_file() for file in files)
        assert len(repr(result)) < 300


def test_one_name_is_one_name_and_never_its_letters(model: ratlip.Model) -> None:
    assert ratlip.GradCamRequest("a red bird", models="ratlip-demo", words="red").models == ("ratlip-demo",)
    assert ratlip.GradCamRequest("a red bird", models=model, images=Path("x.png")).images == (Path("x.png"),)
    assert ratlip.EvaluationRequest(metrics="kid").metrics == ("kid",)
    assert ratlip.GradCamRequest("a red bird", images="x.png", data_dir="data").images == (Path("x.png"),)
    assert ratlip.EvaluationRequest(images="one", reference="other").reference == Path("other")
    assert ratlip.GradCamRequest("a bird", images=(Path(name) for name in "ab")).images == (Path("a"), Path("b"))
    with pytest.raises(UsageError, match="one --caption has nothing"):
        ratlip.LatentRequest(captions="a red bird")


def test_wrong_values_are_told_in_one_line(model: ratlip.Model, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown format 'jpeg'"):
        model.generate("a red bird").save(tmp_path, format="jpeg")
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        ratlip.load_model("ratlip-demo", device="gpu")
    for settings, message in (
        ({"batchsize": 4}, "unknown setting 'batchsize'. Did you mean 'batch_size'"),
        ({"steps": "10"}, "'steps' must be a whole number, not '10'"),
        ({"model": {"image_size": "64"}}, "'image_size' must be a whole number"),
        ({"image_size": 32, "model": {"image_size": 64}}, "stands in 'model' and beside it"),
    ):
        with pytest.raises(UsageError, match=message):
            ratlip.train(settings)
    with pytest.raises(UsageError, match="either TrainSettings or a config"):
        ratlip.train(TrainSettings(), config="small")
