"""Latent views: projections, angles, interpolations between captions, pairs of real and generated images."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from explain_model import clip_of_grid, model_of
from sklearn.decomposition import PCA

from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.errors import RatlipError, UsageError
from ratlip_cli.explain.latent.run import latent_view
from ratlip_cli.explain.latent.space import angles, check_sizes, make_space, project, unit
from ratlip_cli.explain.latent.views import (
    caption_view,
    generated_images,
    interpolate,
    pair_view,
    real_images,
    slerp,
)
from ratlip_cli.explain.request import METHODS, LatentRequest, check_method
from ratlip_cli.model.losses import clip_similarity
from ratlip_cli.pixels import to_images
from ratlip_cli.sampling import generate, noise_vectors
from ratlip_cli.weights.model_folder import Model, load_discriminator, load_folder

CAPTIONS = ("a red bird", "a blue bird at sunset")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("latent")
    return load_folder(model_of(folder / "model", clip_of_grid(folder / "clip", grid=4)))


def points(count: int, dim: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.standard_normal((count, dim)) * np.geomspace(3, 0.1, dim)


def test_pca_shows_the_largest_variance_first() -> None:
    vectors = points(50, 8)
    result, expected = project(vectors, "pca"), PCA(2).fit(vectors)
    assert result.explained == pytest.approx(expected.explained_variance_ratio_)
    assert result.explained[0] > result.explained[1]
    np.testing.assert_allclose(np.abs(result.points), np.abs(expected.transform(vectors)), atol=1e-8)


def test_pca_keeps_sign_and_order() -> None:
    vectors = points(40, 6)
    shuffled = np.random.default_rng(1).permutation(40)
    result = project(vectors, "pca").points
    np.testing.assert_allclose(project(vectors[shuffled], "pca").points, result[shuffled], atol=1e-8)
    np.testing.assert_allclose(project(vectors + 5, "pca").points, result, atol=1e-8)
    np.testing.assert_allclose(project(2 * vectors, "pca").points, 2 * result, atol=1e-8)
    for axis in range(2):  # the largest loading of each axis is positive
        loadings = (vectors - vectors.mean(axis=0)).T @ result[:, axis]
        assert loadings[np.abs(loadings).argmax()] > 0


def test_pca_of_few_and_flat_points() -> None:
    line = project(np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [3.0, 0.0, 0.0]]), "pca")
    np.testing.assert_allclose(line.points[:, 0], [-4 / 3, -1 / 3, 5 / 3])
    assert line.explained == pytest.approx((1.0, 0.0))
    same = project(np.ones((3, 4)), "pca")
    assert not same.points.any()
    assert same.explained == (0.0, 0.0)


EVERY_METHOD = [pytest.param(m, marks=[pytest.mark.slow] if m == "umap" else []) for m in METHODS]
"""UMAP compiles itself for half a minute."""


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_methods_repeat_themselves_and_keep_neighbours_together(method: str) -> None:
    random = np.random.default_rng(0)
    vectors = unit(np.concatenate([random.normal(side, 0.1, (20, 10)) for side in (np.eye(10)[0], np.eye(10)[1])]))
    result = project(vectors, method, seed=3)
    np.testing.assert_array_equal(result.points, project(vectors, method, seed=3).points)
    assert (result.explained is None) is (method != "pca")
    distances = np.linalg.norm(result.points[:, None] - result.points[None], axis=2) + 1e9 * np.eye(40)
    assert np.mean((distances.argmin(axis=1) < 20) == (np.arange(40) < 20)) > 0.95


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_three_points_are_enough_and_two_are_not(method: str) -> None:
    assert project(points(3, 5), method).points.shape == (3, 2)
    with pytest.raises(UsageError, match=r"points: 2, but a plane needs 3\. Raise --count"):
        project(points(2, 5), method)


def test_methods_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"unknown method 'tsnee'\. Did you mean 'tsne'"):
        check_method("tsnee")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RatlipError, match="UMAP is not installed: `pip install umap-learn`"):
        check_method("umap")


def test_angles_are_those_of_the_arc_cosine() -> None:
    first, second = unit(points(100, 5)), unit(points(100, 5, seed=1))
    cosines = np.clip((first * second).sum(axis=1), -1, 1)
    np.testing.assert_allclose(angles(first, second), np.degrees(np.arccos(cosines)), atol=1e-6)
    np.testing.assert_allclose(angles(first, first), 0)
    np.testing.assert_allclose(angles(first, -first), 180)
    tiny = np.array([[np.cos(1e-9), np.sin(1e-9)]])
    assert angles(np.array([[1.0, 0.0]]), tiny)[0] == pytest.approx(np.degrees(1e-9))


def test_slerp_stays_on_the_sphere() -> None:
    start, end = noise_vectors(0, [0, 1], 64)
    torch.testing.assert_close(slerp(start, end, 0.0), start)
    torch.testing.assert_close(slerp(start, end, 1.0), end)
    one, other = start / start.norm(), end / end.norm()
    whole = torch.arccos(one @ other)
    for share in (0.25, 0.5, 0.8):
        between = slerp(one, other, share)
        assert float(between.norm()) == pytest.approx(1, abs=1e-5)
        assert float(torch.arccos(between @ one)) == pytest.approx(share * float(whole), abs=1e-4)
        assert float(torch.lerp(one, other, share).norm()) < 0.95  # a straight line leaves the sphere
    torch.testing.assert_close(slerp(start, start, 0.3), start)
    torch.testing.assert_close(slerp(start, 2 * start, 0.5), 1.5 * start)


def test_an_interpolation_begins_and_ends_at_images_of_generate(model: Model) -> None:
    space = make_space("clip", model)
    result = interpolate(model, space, CAPTIONS, 4, (0, 1), seed=5)
    expected = [one.image.tobytes() for one in generate(model, CAPTIONS, 2, seed=5)]
    pixels = [image.tobytes() for image in to_images(result.images)]
    assert (pixels[0], pixels[-1]) == (expected[0], expected[3])
    assert len(set(pixels)) == 4
    text = model.clip.encode_text([CAPTIONS[1]])
    similarity = clip_similarity(model.clip.encode_image(result.images), text.expand(4, -1))
    np.testing.assert_allclose(result.to_end, similarity.numpy(), atol=1e-6)
    same = interpolate(model, space, CAPTIONS, 2, (0, 0), seed=5)
    assert to_images(same.images)[-1].tobytes() == expected[2]


def test_captions_that_are_the_same_to_the_model_are_refused_and_their_words_named(
    model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    space = make_space("clip", model)
    monkeypatch.setattr(type(model), "unknown_words", lambda self, caption: f"it does not know '{caption}'")
    with pytest.raises(UsageError, match="reads 'a bird' and 'a  bird' as the same"):
        interpolate(model, space, ("a bird", "a  bird"), 3, (0, 0), seed=0)
    assert caplog.messages == ["it does not know 'a bird'", "it does not know 'a  bird'"]
    assert len(interpolate(model, space, ("a bird", "a  bird"), 3, (0, 1), seed=0).images) == 3


def test_a_discriminator_is_shown_images_of_its_own_size_alone(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """But one that looks through CLIP."""
    larger = replace(model, config=replace(model.config, generator=replace(model.config.generator, image_size=64)))
    space = make_space("discriminator", model)
    check_sizes(space, [model, larger])
    check_sizes(make_space("clip", model), [model, larger])
    monkeypatch.setattr(type(model.family), "feature_map", lambda self, discriminator: discriminator)
    check_sizes(space, [model])
    with pytest.raises(
        UsageError, match=r"generates images of 64 pixels, .* sees those of 32 alone: take --space clip"
    ):
        check_sizes(space, [model, larger])


def test_text_goes_straight_from_one_caption_to_the_other(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def sample(model: Model, noise: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        inputs.append((noise[0], text[0]))
        return torch.zeros(1, 3, 32, 32)

    monkeypatch.setattr("ratlip_cli.explain.latent.views.sample", sample)
    interpolate(model, make_space("clip", model), CAPTIONS, 3, (0, 1), seed=0)
    first, last = model.clip.encode_text(CAPTIONS)
    torch.testing.assert_close(inputs[1][1], (first + last) / 2)
    start, end = noise_vectors(0, [0, 1], 6)
    torch.testing.assert_close(inputs[1][0], slerp(start, end, 0.5))


def test_pairs_compare_each_image_with_its_own(model: Model, tiny_dataset: Path) -> None:
    dataset, space = CaptionedImages(tiny_dataset, "train", 32), make_space("clip", model)
    real = real_images(space, dataset, 4)
    assert real.files == [str(dataset.entries[k].file) for k in (0, 2, 5, 7)]
    assert real.captions == [dataset.entries[k].captions[0] for k in (0, 2, 5, 7)]
    pairs = pair_view(space, model, real, seed=2)
    assert len(real_images(space, dataset, 99).files) == len(dataset)
    for k, caption in enumerate(real.captions):
        expected = list(generate(model, [caption], k + 1, seed=2))[k]
        fake = next(iter(generated_images(model, [caption], [k], seed=2)))
        assert to_images(fake[None])[0].tobytes() == expected.image.tobytes()
        cosine = clip_similarity(
            model.clip.encode_image(dataset.centre_crop((0, 2, 5, 7)[k])[None]), model.clip.encode_image(fake[None])
        )
        assert pairs.angles[k] == pytest.approx(np.degrees(np.arccos(float(cosine))), abs=0.05)
    np.testing.assert_allclose(pairs.mismatched, angles(real.vectors, pairs.vectors[[1, 2, 3, 0]]))
    means = unit(np.stack([real.vectors.mean(axis=0), pairs.vectors.mean(axis=0)]))
    assert pairs.mean_angle == pytest.approx(angles(means[:1], means[1:])[0])


def test_captions_share_their_noise_vectors(model: Model) -> None:
    captions = caption_view(make_space("clip", model), model, CAPTIONS, 3, seed=1)
    expected = [one.image.tobytes() for one in generate(model, CAPTIONS, 3, seed=1)]
    for noise in range(3):
        for number, image in enumerate(to_images(captions.images[noise])):
            assert image.tobytes() == expected[3 * number + noise]
    np.testing.assert_allclose(np.linalg.norm(captions.vectors, axis=-1), 1)
    expected_angles = [np.mean(angles(*captions.vectors[k : k + 2])) for k in range(2)]  # captions are not samples
    np.testing.assert_allclose(captions.noise_angles, expected_angles)


def test_the_discriminators_space_is_its_extractor(model: Model) -> None:
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    result = make_space("discriminator", model).vectors(images)
    extracted = load_discriminator(model).extractor(model.clip.features(images).patches).mean(dim=(2, 3))
    np.testing.assert_allclose(result, unit(extracted.detach().numpy()), atol=1e-6)
    with pytest.raises(UsageError, match="unknown space 'pixels'"):
        make_space("pixels", model)


def test_a_request_gives_a_result_that_shows_says_and_saves(model: Model, tmp_path: Path) -> None:
    reports: list[tuple[str, int, int | None, str]] = []
    result = latent_view(LatentRequest(model=model, captions=CAPTIONS, count=2), lambda *state: reports.append(state))
    assert reports == [(f"captions by {model.name}", done, 4, "images") for done in (1, 2, 3, 4)]
    assert (
        repr(result) == f"LatentResult('{' against '.join(CAPTIONS)}', model {model.name} ({model.fingerprint}) on cpu)"
    )
    files = result.save(tmp_path)
    content = json.loads(files[-1].read_text(encoding="utf-8"))
    assert content == {**json.loads(json.dumps(result.record())), "files": [str(file) for file in files]}
    assert content["says"] == result.says
