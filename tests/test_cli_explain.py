"""`ratlip gradcam` and `ratlip latent-viz` as people and scripts call them."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from command_line import Answer, ratlip
from explain_model import clip_of_grid, model_of
from PIL import Image

from ratlip_cli.data.prepare import PrepareRequest, prepare

PROMPT = "a red bird with black wings"
GREEN, ORANGE = (0, 158, 115), (230, 159, 0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models of one CLIP, one of another, and one without its discriminator."""
    folder = tmp_path_factory.mktemp("models")
    clip, other = clip_of_grid(folder / "clip", grid=4), clip_of_grid(folder / "other-clip", grid=5, seed=1)
    return {
        "first": model_of(folder / "first", clip),
        "second": model_of(folder / "second", clip, seed=1),
        "other": model_of(folder / "other", other, seed=2),
        "no-discriminator": model_of(folder / "no-discriminator", clip, discriminator=False),
    }


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("data")
    return prepare(PrepareRequest("demo-birds", data_dir, "birds", image_size=32, count=120, workers=1)).path


def content_of(answer: Answer) -> dict:
    """The JSON that a command printed, all of whose files exist, the JSON file with the same content."""
    assert answer.code == 0, answer.err
    content = json.loads(answer.out)
    assert all(Path(file).is_file() for file in content["files"])
    assert json.loads(Path(content["files"][-1]).read_text(encoding="utf-8")) == content
    return content


def rows(content: dict, suffix: str) -> list[dict[str, str]]:
    (file,) = [file for file in content["files"] if file.endswith(f"_{suffix}.csv")]
    with Path(file).open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in numbers(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in numbers(inner)]
    return [value] if isinstance(value, float) else []


def colours(file: str) -> set[tuple[int, ...]]:
    with Image.open(file) as image:
        return {colour for _, colour in image.convert("RGB").getcolors(maxcolors=1 << 24)}


def test_gradcam_leaves_a_figure_and_its_numbers(models: dict[str, Path], tmp_path: Path) -> None:
    command = ("gradcam", PROMPT, "--words", "--model", models["first"], "--out", tmp_path / "out", "--quiet")
    answer = ratlip(*command)
    assert answer.code == 0, answer.err
    assert answer.err == ""
    written = [Path(line) for line in answer.out.splitlines()]
    stem = "0000_a-red-bird-with-black-wings"
    assert [path.name for path in written] == [f"{stem}{end}" for end in (".png", "_maps.csv", "_curves.csv", ".json")]
    assert sorted(written) == sorted((tmp_path / "out").iterdir())

    again = content_of(ratlip(*command, "--json"))
    assert Path(again["files"][0]).name == f"0001{stem[4:]}.png"
    assert Path(again["files"][0]).read_bytes() == written[0].read_bytes()
    assert [Path(file).read_text() for file in again["files"][1:3]] == [path.read_text() for path in written[1:3]]

    (image,) = again["images"]
    assert [word["text"] for word in image["words"]] == ["red", "bird", "black", "wings"]
    assert all(math.isfinite(number) for number in numbers(again))
    cells = rows(again, "maps")
    assert len(cells) == 16 * 5
    for text in ("whole prompt", "wings"):
        values = np.array([float(row["value"]) for row in cells if row["map"] == text])
        assert values.max() in (0.0, 1.0)
    curve = [row for row in rows(again, "curves") if row["kind"] == "insertion" and row["order"] == "map"]
    shares, scores = (np.array([float(row[name]) for row in curve]) for name in ("share", "score"))
    area = float((np.diff(shares) * (scores[1:] + scores[:-1]) / 2).sum())
    assert image["insertion"]["auc"] == pytest.approx(area, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["costs $5_ or ${6}$", "红色的鸟 🐦 " * 9])
def test_any_prompt_can_stand_in_figures(models: dict[str, Path], tmp_path: Path, prompt: str) -> None:
    options = ("--model", models["first"], "--out", tmp_path, "--quiet")
    for command in (
        ("gradcam", prompt, "--words"),
        ("latent-viz", "--caption", prompt, "--caption", "a bird", "--count", 2),
        ("latent-viz", "--from", prompt, "--to", "a bird", "--steps", 2),
    ):
        answer = ratlip(*command, *options)
        assert (answer.code, answer.err) == (0, "")


def test_gradcam_of_several_models_and_layers(models: dict[str, Path], tmp_path: Path) -> None:
    content = content_of(
        ratlip(
            *("gradcam", PROMPT, "-n", 2, "--target", "discriminator", "--layer", 2, "--json", "--svg"),
            *("--model", models["first"], "--model", models["other"], "--out", tmp_path),
        )
    )
    assert [(model["grid"], model["layer"], model["images"]) for model in content["models"]] == [(4, 2, 2), (5, 2, 2)]
    assert [image["image"] for image in content["images"]] == ["noise 0", "noise 1"] * 2
    assert content["unit"] == "logit of Mate-D"
    svg = next(Path(file) for file in content["files"] if file.endswith(".svg"))
    assert svg.read_text(encoding="utf-8").startswith("<?xml")
    with Image.open(content["files"][0]) as image:
        assert image.width <= 7.3 * 200
        assert image.height > 400


@pytest.mark.slow
def test_gradcam_of_a_dataset_holds_words_against_segments(
    models: dict[str, Path], birds: Path, tmp_path: Path
) -> None:
    content = content_of(
        ratlip(
            *("gradcam", "--dataset", birds, "--split", "train", "--count", 24, "--json"),
            *("--model", models["first"], "--out", tmp_path),
        )
    )
    (model,) = content["models"]
    assert model["images"] == len(content["images"]) == 24
    assert model["segments"]["all segments"]["n"] == 24
    assert "wings" in model["segments"]
    for segment, values in model["segments"].items():
        scored = [
            one["segment"]
            for image in content["images"]
            for one in (image["whole_prompt"], *image["words"])
            if one["segment"] and one["segment"]["segment"] == segment
        ]
        assert values["n"] == len(scored)
        assert values["energy"]["map"]["mean"] == pytest.approx(np.mean([one["energy"] for one in scored]))
        centre = np.mean([one["pointing"] - one["centre_pointing"] for one in scored])
        assert values["pointing"]["over_centre"]["mean"] == pytest.approx(centre)
        assert any(values["verdict"] in line and f": {segment} (" in line for line in content["says"])
    assert any(file.endswith("_segments.png") for file in content["files"])


@pytest.mark.slow
def test_gradcam_of_given_images(models: dict[str, Path], birds: Path, tmp_path: Path) -> None:
    files = sorted((birds / "train").glob("*.png"))[:2]
    command = ("gradcam", "a bird with black wings", "--model", models["no-discriminator"], "--json", "--out", tmp_path)
    content = content_of(ratlip(*command, "--image", files[0], "--image", files[1]))
    assert [image["image"] for image in content["images"]] == [str(path) for path in files]
    assert all(image["words"][0]["segment"]["segment"] == "wings" for image in content["images"])
    own = content_of(
        ratlip("gradcam", "--image", files[0], "--model", models["no-discriminator"], "--json", "--out", tmp_path)
    )
    assert own["images"][0]["prompt"] != "a bird with black wings"


def test_latent_viz_of_pairs_and_two_models(models: dict[str, Path], birds: Path, tmp_path: Path) -> None:
    content = content_of(
        ratlip(
            *("latent-viz", "--model", models["first"], "--against", models["second"], "--json"),
            *("--dataset", birds, "--split", "train", "--count", 12, "--out", tmp_path),
        )
    )
    points = rows(content, "points")
    assert [sum(row["group"] == group for row in points) for group in ("real", "generated")] == [12, 24]
    assert {GREEN, ORANGE} <= colours(content["files"][0])
    means = []
    for model in content["models"]:
        of_model = [float(row["angle"]) for row in points if row["model"] == model["model"]]
        assert model["angle"]["mean"] == pytest.approx(np.mean(of_model), abs=1e-3)
        assert model["angle"]["low"] <= model["angle"]["mean"] <= model["angle"]["high"]
        means.append(np.mean(of_model))
    assert content["difference"]["mean"] == pytest.approx(means[1] - means[0], abs=1e-3)
    assert not any("different CLIPs" in line for line in content["says"])
    assert 0 < sum(content["explained_variance"]) <= 1


@pytest.mark.slow
def test_models_of_different_clips_are_measured_by_the_firsts(
    models: dict[str, Path], tiny_dataset: Path, tmp_path: Path
) -> None:
    options = ("--dataset", tiny_dataset, "--split", "train", "--json", "--out", tmp_path)
    content = content_of(ratlip("latent-viz", "--model", models["first"], "--against", models["other"], *options))
    assert content["says"][-1] == (
        f"the models have different CLIPs: both are measured in the space of {models['first']}'s"
    )
    clips = [model["clip_fingerprint"] for model in content["models"]]
    assert clips[0] != clips[1]
    assert content["space"]["clip_fingerprint"] == clips[0]
    alone = content_of(ratlip("latent-viz", "--model", models["first"], *options))
    assert alone["models"][0]["angle"] == content["models"][0]["angle"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_latent_viz_of_captions(models: dict[str, Path], birds: Path, tmp_path: Path, method: str) -> None:
    captions = ("he is young, receding hairline", "he is old, receding hairline", "a hat")
    command = ["latent-viz", "--model", models["first"], "--count", 4, "--json", "--out", tmp_path, "--method", method]
    command += [word for caption in captions for word in ("--caption", caption)]
    content = content_of(ratlip(*command))
    (model,) = content["models"]
    assert [(swap["from"], swap["to"]) for swap in model["swaps"]] == [
        (captions[0], captions[1]),
        (captions[0], captions[2]),
        (captions[1], captions[2]),
    ]
    assert all(0 < swap["angle_of_texts"] < 180 for swap in model["swaps"])
    points = rows(content, "points")
    assert len(points) == 12
    assert {row["caption"] for row in points} == set(captions)
    if method == "pca":
        with_dataset = content_of(ratlip(*command, "--dataset", birds, "--split", "train"))
        assert {row["group"] for row in rows(with_dataset, "points")} == {"real", "generated", "caption"}
        assert with_dataset["models"][0]["swaps"] == model["swaps"]


def test_latent_viz_of_an_interpolation(models: dict[str, Path], tmp_path: Path) -> None:
    content = content_of(
        ratlip(
            *("latent-viz", "--model", models["first"], "--against", models["second"], "--json", "--out", tmp_path),
            *("--from", "a red bird", "--to", "a blue bird", "--steps", 5),
        )
    )
    assert (content["steps"], content["noise_vectors"]) == (5, [0, 1])
    with Image.open(next(file for file in content["files"] if file.endswith(".gif"))) as frames:
        assert frames.n_frames == 8  # forth and back
        assert frames.size == (2 * 128 + 4, 128)
        assert frames.info["loop"] == 0
    points = rows(content, "points")
    assert len(points) == 10
    for model in content["models"]:
        steps = [float(row["angle_from_last"]) for row in points if row["model"] == model["model"]]
        assert model["sum_of_angles"] == pytest.approx(sum(steps), abs=1e-2)
        assert model["angle_between_ends"] <= model["sum_of_angles"] + 1e-6


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["gradcam"], 2, "there is no prompt"),
        (["gradcam", "  "], 2, "the prompt is empty"),
        (["gradcam", PROMPT, "--word", "wigns"], 2, "Did you mean 'wings'?"),
        (["gradcam", PROMPT, "--layer", "6"], 2, "layer 6 does not exist: this CLIP has the blocks 0 to 5."),
        (["gradcam", PROMPT, "--target", "discriminator", "--layer", "5"], 2, "choose a layer from 0 to 4"),
        (["gradcam", PROMPT, "--target", "clipp"], 2, "Did you mean 'clip'?"),
        (["gradcam", PROMPT, "--image", "none.png"], 1, "none.png: the image does not exist"),
        (["gradcam", PROMPT, "--image", "text.png"], 1, "text.png: not an image that can be read"),
        (["gradcam", PROMPT, "--dataset", "demo"], 2, "leave out the prompt"),
        (["gradcam", PROMPT, "--image", "a.png", "-n", "2"], 2, "leave it out with --image"),
        (["gradcam", PROMPT, "-n", "0"], 2, "at least 1"),
        (["gradcam", PROMPT, "--seed", "-1"], 2, "seed is -1"),
        (["latent-viz", "--caption", "a", "--caption", "b", "--count", "1"], 2, "points: 2, but a plane needs 3"),
        (["latent-viz", "--caption", "a"], 2, "give two or more"),
        (["latent-viz", "--caption", "a", "--caption", " "], 2, "a caption is empty"),
        (["latent-viz", "--from", "a"], 2, "both --from and --to"),
        (["latent-viz", "--from", "a", "--to", "b", "--steps", "1"], 2, "at least 2"),
        (["latent-viz", "--from", "a", "--to", "b", "--caption", "c"], 2, "leave out --caption"),
        (["latent-viz", "--steps", "4"], 2, "belong to an interpolation"),
        (["latent-viz", "--from", "a", "--to", "b", "--method", "tsne"], 2, "--method is of a plane"),
        (["latent-viz", "--from", "a", "--to", "b", "--split", "train"], 2, "none is looked at here: leave it out"),
        (["latent-viz", "--caption", "a", "--caption", "b", "--split", "train"], 2, "none is looked at here"),
        (["gradcam", "a bird", "--split", "train"], 2, "give --dataset with it"),
        (["latent-viz", "--method", "pcaa"], 2, "Did you mean 'pca'?"),
        (["latent-viz", "--space", "clp"], 2, "Did you mean 'clip'?"),
        (["latent-viz"], 2, "name a --dataset"),
        (["latent-viz", "--caption", "a", "--caption", "b", "--seed", "-1"], 2, "seed is -1"),
    ],
)
def test_bad_input_is_one_line(
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    answer = ratlip(*arguments, "--model", models["first"], "--quiet")
    assert (answer.code, answer.out) == (code, "")
    assert message in answer.err
    assert len(answer.err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["text.png"]


def test_a_dataset_of_two_images_is_too_small(models: dict[str, Path], tiny_dataset: Path, tmp_path: Path) -> None:
    answer = ratlip("latent-viz", "--model", models["first"], "--dataset", tiny_dataset, "--out", tmp_path)
    assert answer.code == 2
    assert "points: 2, but a plane needs 3" in answer.err


def test_a_model_without_discriminator(models: dict[str, Path], tmp_path: Path) -> None:
    for command in (["gradcam", PROMPT, "--target"], ["latent-viz", "--caption", "a", "--caption", "b", "--space"]):
        answer = ratlip(*command, "discriminator", "--model", models["no-discriminator"], "--out", tmp_path)
        assert answer.code == 1
        assert "comes without its discriminator" in answer.err
