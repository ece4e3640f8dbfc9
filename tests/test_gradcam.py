"""Grad-CAM: equal to the grad-cam package, maps, words, insertion and deletion, segments and their baselines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from explain_model import clip_of_grid, model_of
from PIL import Image
from pytorch_grad_cam import GradCAM
from torch import Tensor, nn
from toy_family import ToyDiscriminator, ToyDiscriminatorConfig

from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.data.prepare import PrepareRequest, prepare
from ratlip_cli.demo.segments import decode_segments
from ratlip_cli.errors import DataError, UsageError, WeightsError
from ratlip_cli.explain.gradcam import words
from ratlip_cli.explain.gradcam.explanation import explain_image
from ratlip_cli.explain.gradcam.faithfulness import KINDS, RANDOM_ORDERS, STEPS, compare, curves
from ratlip_cli.explain.gradcam.gradcam import Target, gradcam, make_target, resolve_layer, upsample
from ratlip_cli.explain.gradcam.input_images import InputImage, from_dataset, from_file, generated
from ratlip_cli.explain.gradcam.run import gradcam as explain
from ratlip_cli.explain.gradcam.segments import (
    WHOLE,
    SegmentScore,
    centre_map,
    phrases_naming_segments,
    score_segment,
    segment_named,
    summarise,
)
from ratlip_cli.explain.gradcam.words import phrases_of
from ratlip_cli.explain.intervals import FEWEST, mean_interval
from ratlip_cli.explain.request import GradCamRequest
from ratlip_cli.pixels import from_image, to_images
from ratlip_cli.sampling import generate
from ratlip_cli.weights.model_folder import Model, load_folder

PROMPT = "a red bird with black wings"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("explain")
    return load_folder(model_of(folder / "model", clip_of_grid(folder / "clip", grid=4)))


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of rendered birds of 32 pixels with their segments."""
    data_dir = tmp_path_factory.mktemp("data")
    return prepare(PrepareRequest("demo-birds", data_dir, "birds", image_size=32, count=40, workers=1)).path


def random_images(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class _Scored(nn.Module):
    """A target as a network of one output, as the package wants it."""

    def __init__(self, target: Target, text: Tensor, without: Tensor | None) -> None:
        super().__init__()
        self.clip = target.clip
        self.target, self.text, self.without = target, text, without

    def forward(self, images: Tensor) -> Tensor:
        view = self.target.look(images)
        scores = self.target.score(view, self.text)
        return scores if self.without is None else scores - self.target.score(view, self.without)


@pytest.mark.parametrize("leave_out", [False, True])
@pytest.mark.parametrize("name", ["clip", "discriminator"])
@pytest.mark.parametrize(("grid", "size"), [(4, 32), (5, 64), (7, 56)])
def test_maps_equal_the_grad_cam_package(tmp_path: Path, grid: int, size: int, name: str, leave_out: bool) -> None:
    clip = clip_of_grid(tmp_path / "clip", grid)
    target = make_target(name, load_folder(model_of(tmp_path / "model", clip)))
    images = random_images(3, size)
    text = target.clip.encode_text([PROMPT, "a blue bird", "a face"])
    without = target.clip.encode_text(["a red bird with", "a bird", "face"]) if leave_out else None

    def patches(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, grid, grid)

    visual = target.clip.visual
    for layer in range(target.reads_after[-1] + 1):
        before = visual.transformer.resblocks[layer - 1] if layer else visual.ln_pre
        scored = _Scored(target, text, without)
        with GradCAM(scored, [before], reshape_transform=patches) as reference:
            expected = reference(images.clone().requires_grad_(), targets=[lambda score: score] * 3)
        maps = upsample(gradcam(target, images, text, layer, without).cells, size).numpy()
        assert maps.max() > 0 or (leave_out and name == "discriminator")  # a text only moves its kinks
        lowest, highest = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose((maps - lowest) / (highest - lowest).clip(1e-12), expected, atol=1e-4)


def test_maps_of_a_discriminators_own_feature_map_equal_the_grad_cam_package(model: Model) -> None:
    clip = model.clip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        discriminator = ToyDiscriminator(ToyDiscriminatorConfig(), clip.geometry.embed_dim)
    look, score = nn.Identity(), discriminator.__call__
    target = Target("discriminator", "", "", clip, clip, clip.encode_text, look, score, (4,), discriminator.conv)
    images, text = random_images(3, 32), clip.encode_text([PROMPT, "a blue bird", "a face"])
    assert resolve_layer(target, None) is None
    maps = gradcam(target, images, text, None).cells
    assert maps.shape == (3, 4, 4)
    scored = _Scored(target, text, None)
    with GradCAM(scored, [discriminator.conv]) as reference:
        expected = reference(images.clone(), targets=[lambda score: score] * 3)
    pixels = upsample(maps, 32).numpy()
    lowest, highest = pixels.min(axis=(1, 2), keepdims=True), pixels.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose((pixels - lowest) / (highest - lowest).clip(1e-12), expected, atol=1e-4)
    # Here the text is added to the logit, so no word changes where the discriminator looks: the gradients cancel.
    assert not gradcam(target, images, text, None, text.flip(0)).cells.any()
    with pytest.raises(UsageError, match="leave out --layer"):
        resolve_layer(target, 3)


def test_a_map_depends_on_its_own_image_alone_and_clip_stays_as_it_is(model: Model) -> None:
    target = make_target("discriminator", model)
    before = model.clip.fingerprint
    images, text = random_images(3, 32), model.clip.encode_text([PROMPT]).expand(3, -1)
    together = gradcam(target, images, text, 1)
    for k in range(3):
        alone = gradcam(target, images[k : k + 1], text[:1], 1)
        torch.testing.assert_close(alone.cells[0], together.cells[k])
    del model.clip.__dict__["fingerprint"]
    assert model.clip.fingerprint == before
    assert all(parameter.grad is None for parameter in model.clip.parameters())


def test_the_score_of_words_is_the_change_of_the_target(model: Model) -> None:
    target = make_target("clip", model)
    image, (full, less) = random_images(1, 32), model.clip.encode_text([PROMPT, "a red bird"]).split(1)
    change = gradcam(target, image, full, 2).scores - gradcam(target, image, less, 2).scores
    torch.testing.assert_close(gradcam(target, image, full, 2, less).scores, change)
    assert not gradcam(target, image, full, 2, full).cells.any()


def test_maps_are_scaled_to_their_own_maximum() -> None:
    cells = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 1e-5]).view(2, 1, 1)
    pixels = upsample(torch.cat((cells, torch.zeros(1, 4, 4))), 32)
    torch.testing.assert_close(pixels.amax(dim=(1, 2)), torch.tensor([1.0, 1.0, 0.0]))
    assert pixels.min() >= 0
    torch.testing.assert_close(upsample(cells * 7, 32), upsample(cells, 32))


def test_layers_that_the_target_does_not_depend_on_are_refused(model: Model) -> None:
    clip, discriminator = make_target("clip", model), make_target("discriminator", model)
    assert resolve_layer(clip, None) == 5
    assert resolve_layer(discriminator, None) == model.clip.geometry.feature_blocks[-1] == 4
    for layer in (-1, 6):
        with pytest.raises(UsageError, match=rf"layer {layer} does not exist: this CLIP has the blocks 0 to 5"):
            resolve_layer(clip, layer)
    with pytest.raises(UsageError, match="nothing that enters block 5 reaches the discriminator"):
        resolve_layer(discriminator, 5)
    with pytest.raises(UsageError, match=r"unknown target 'clp'\. Did you mean 'clip'"):
        make_target("clp", model)


def test_a_model_without_discriminator_says_so(tmp_path: Path) -> None:
    clip = clip_of_grid(tmp_path / "clip", grid=4)
    model = load_folder(model_of(tmp_path / "model", clip, discriminator=False))
    with pytest.raises(WeightsError, match="comes without its discriminator"):
        make_target("discriminator", model)


def test_words_and_phrases_of_a_prompt() -> None:
    prompt = "A Red bird, with an orange-winged friend and the red beak"
    assert [word.text for word in words.words(prompt)] == ["Red", "bird", "orange-winged", "friend", "red", "beak"]
    assert [phrase.text for phrase in words.phrases(prompt)] == ["Red bird", "orange-winged friend", "red beak"]
    assert all(prompt[word.start : word.end] == word.text for word in words.words(prompt))
    assert words.labels(words.find(prompt, "red")) == ["Red", "red"]
    assert words.labels(words.find("red and red", "red")) == ["red (1)", "red (2)"]
    assert [words.without(prompt, word) for word in words.find(prompt, "red  BIRD")] == [
        "A, with an orange-winged friend and the red beak"
    ]
    assert words.without("bird", words.words("bird")[0]) == ""
    assert [word.text for word in words.words("ein Vögelchen, gelbe Blüte")] == ["ein", "Vögelchen", "gelbe", "Blüte"]


def test_a_word_that_is_not_in_the_prompt_is_named() -> None:
    with pytest.raises(
        UsageError, match=r"unknown word of the prompt 'wigns'\. Did you mean 'wings'\? Known: bird, bl"
    ):
        phrases_of(PROMPT, False, ["wigns"])
    with pytest.raises(UsageError, match="'win'"):  # a piece of a word is none
        words.find(PROMPT, "win")
    with pytest.raises(UsageError, match="--word is empty"):
        words.find(PROMPT, "  ")
    chosen = phrases_of(PROMPT, True, ["black wings", "wings"])
    assert [phrase.text for phrase in chosen] == ["red", "bird", "black", "black wings", "wings"]


def lit_cell(images: Tensor) -> Tensor:
    """A target that depends on one cell of a grid of 4, the upper right one."""
    return images[:, :, :8, 24:].mean(dim=(1, 2, 3))


def test_the_right_map_beats_every_order_and_the_wrong_one_none() -> None:
    image = torch.full((3, 32, 32), -1.0)
    image[:, :8, 24:] = 1.0
    right = np.zeros((4, 4), dtype=np.float32)
    right[0, 3] = 1
    for cells, best in ((right, True), (1 - right, False)):
        for area in compare(curves(lit_cell, image, cells, np.random.default_rng(0))):
            assert area.better_than_random >= RANDOM_ORDERS - 2 if best else area.better_than_random <= 2
            assert area.better_than_centre is best
            higher = area.auc > area.random
            assert higher is (best if area.kind == "insertion" else not best)


def test_curves_begin_and_end_at_the_same_images() -> None:
    image = random_images(1, 32)[0]
    measured = curves(
        lambda images: images.mean(dim=(1, 2, 3)), image, np.eye(4, dtype=np.float32), np.random.default_rng(0)
    )
    assert len(measured) == len(KINDS) * (2 + RANDOM_ORDERS)
    for kind in KINDS:
        same = [curve for curve in measured if curve.kind == kind]
        assert len({(curve.scores[0], curve.scores[-1]) for curve in same}) == 1
        assert all((np.diff(curve.shares) > 0).all() and len(curve.shares) == STEPS + 1 for curve in same)
    whole = float(image.mean())
    assert {round(curve.scores[-1], 5) for curve in measured if curve.kind == "insertion"} == {round(whole, 5)}
    assert {round(curve.scores[0], 5) for curve in measured if curve.kind == "deletion"} == {round(whole, 5)}


def test_the_area_under_a_constant_is_the_constant() -> None:
    measured = curves(
        lambda images: torch.full((len(images),), 0.25), random_images(1, 32)[0], np.eye(4), np.random.default_rng(0)
    )
    np.testing.assert_allclose([curve.auc for curve in measured], 0.25)
    assert not any(result.better_than_random or result.better_than_centre for result in compare(measured))


def test_segment_scores_of_known_maps() -> None:
    mask = np.zeros((32, 32), dtype=bool)
    mask[4:12, 20:28] = True
    inside = score_segment("wings", "wings", mask.astype(float), mask)
    assert (inside.pointing, inside.energy, inside.chance) == (1.0, 1.0, 64 / 1024)
    flat = score_segment("wings", "wings", np.ones((32, 32)), mask)
    assert flat.energy == pytest.approx(flat.chance)
    nothing = score_segment("wings", "wings", np.zeros((32, 32)), mask)
    assert (nothing.pointing, nothing.energy) == (0.0, 0.0)
    centre = score_segment("wings", "wings", centre_map(32), mask)
    assert centre.energy == pytest.approx(centre.centre_energy)
    middle = np.zeros((32, 32), dtype=bool)
    middle[15:17, 15:17] = True
    assert score_segment("eye", "eye", mask.astype(float), middle).centre_pointing == 1.0
    middle[:, 16:] = False
    assert score_segment("eye", "eye", mask.astype(float), middle).centre_pointing == 0.5


def segment_scores(count: int, pointing: float, energy: float) -> list[SegmentScore]:
    return [SegmentScore("wings", "black wings", pointing, energy, 0.1, 0.6, 0.3)] * count


def test_a_map_that_is_no_better_than_the_centre_is_said_to_be_so() -> None:
    def verdict(scores: list[SegmentScore]) -> str:
        (summary,) = summarise(scores)
        assert summary.n == len(scores)
        return summary.verdict

    assert verdict(segment_scores(30, 1.0, 0.5)) == (
        "better than the centre baseline by pointing and energy; better than chance by pointing and energy"
    )
    assert verdict(segment_scores(30, 0.5, 0.5)) == (
        "better than the centre baseline by energy; better than chance by pointing and energy"
    )
    assert (
        verdict(segment_scores(30, 0.5, 0.3))
        == "no better than the centre baseline; better than chance by pointing and energy"
    )
    assert verdict(segment_scores(30, 0.0, 0.1)) == "no better than the centre baseline; no better than chance"
    assert verdict(segment_scores(FEWEST - 1, 1.0, 1.0)) == "9 images are too few to say"


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    for samples in (random.exponential(size=(400, 60)) - 1, random.normal(size=(400, 4))):
        held = [one.low <= 0 <= one.high for one in map(mean_interval, samples) if one.low is not None and one.high]
        assert 0.91 <= np.mean(held) <= 0.98
    constant = mean_interval([2.0, 2.0])
    assert (constant.mean, constant.low, constant.high, constant.n) == (2.0, 2.0, 2.0, 2)


def test_few_values_bear_no_verdict() -> None:
    words = ("below", "neither", "above")
    values = np.random.default_rng(0).normal(5, 1, FEWEST)
    assert [mean_interval(side * values).verdict(*words) for side in (-1, 0, 1)] == list(words)
    assert mean_interval(values[1:]).verdict(*words) == "too few to say"
    one = mean_interval([2.0])
    assert (one.low, one.high, str(one), one.side) == (None, None, "2", 0)


def test_words_name_segments() -> None:
    segments = ("wings", "beak", "belly", "perch", "leaves", "centre")
    assert segment_named("black wings", segments) == "wings"
    assert segment_named("orange-winged bird", segments) == "wings"
    assert segment_named("Wing", segments) == "wings"
    assert segment_named("long yellow bill", segments) == "beak"
    assert segment_named("one leaf", segments) == "leaves"
    assert segment_named("hat", segments) is None
    assert segment_named("wings", ()) is None


def test_generated_images_are_those_of_generate(model: Model) -> None:
    images = generated(model, PROMPT, 2, seed=3)
    expected = [one.image.tobytes() for one in generate(model, [PROMPT], 2, seed=3)]
    assert [image.tobytes() for one in images for image in to_images(one.image[None])] == expected


def test_masks_lie_where_the_segments_are(birds: Path) -> None:
    dataset = CaptionedImages(birds, "train", 32)
    images = from_dataset(dataset, 5)
    assert [one.name for one in images] == [str(dataset.entries[k].file) for k in (0, 6, 13, 20, 27)]
    for one, index in zip(images, (0, 6, 13, 20, 27), strict=True):
        assert torch.equal(one.image, dataset.centre_crop(index))
        captions = dataset.entries[index].captions
        named = [len(phrases_naming_segments(caption, one.masks)) for caption in captions]
        assert one.prompt == captions[named.index(max(named))]
        whole = decode_segments(dataset.entries[index].extra["parts"])
        assert {name for name, mask in whole.items() if mask[3:35, 3:35].any()} == set(one.masks)
        for name, mask in one.masks.items():
            np.testing.assert_array_equal(mask, whole[name][3:35, 3:35])


def test_masks_follow_images_to_another_size(birds: Path) -> None:
    small, large = (from_dataset(CaptionedImages(birds, "train", size), 1)[0] for size in (32, 64))
    assert large.image.shape[-1] == 64
    for name, mask in small.masks.items():
        larger = large.masks[name].reshape(32, 2, 32, 2).mean(axis=(1, 3)) > 0.5
        assert (larger == mask).mean() > 0.97


def test_a_file_of_a_dataset_brings_its_caption_and_segments(birds: Path, tmp_path: Path) -> None:
    dataset = CaptionedImages(birds, "test", 32)
    (expected,) = from_dataset(dataset, 1)
    result = from_file(dataset.entries[0].file, None, 32)
    assert torch.equal(result.image, expected.image)
    assert (result.prompt, set(result.masks)) == (expected.prompt, set(expected.masks))
    assert from_file(dataset.entries[0].file, PROMPT, 32).prompt == PROMPT
    elsewhere = tmp_path / "bird.png"
    elsewhere.write_bytes(dataset.entries[0].file.read_bytes())
    assert from_file(elsewhere, PROMPT, 32).masks == {}
    with pytest.raises(UsageError, match="has no caption: give a prompt"):
        from_file(elsewhere, None, 32)


def test_any_image_file_becomes_a_square(tmp_path: Path) -> None:
    wide = Image.new("RGB", (200, 100), "red")
    wide.paste("blue", (50, 0, 150, 100))
    wide.save(tmp_path / "wide.png")
    read = from_file(tmp_path / "wide.png", PROMPT, 32)
    blue = from_image(Image.new("RGB", (32, 32), "blue"))
    torch.testing.assert_close(read.image[:, :, 2:-2], blue[:, :, 2:-2], rtol=0, atol=0.02)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(DataError, match=r"broken\.png"):
        from_file(tmp_path / "broken.png", PROMPT, 32)
    with pytest.raises(DataError, match=r"none\.png: the image does not exist"):
        from_file(tmp_path / "none.png", PROMPT, 32)


def test_an_explanation_holds_maps_numbers_and_segments(model: Model, birds: Path) -> None:
    target = make_target("clip", model)
    (image,) = from_dataset(CaptionedImages(birds, "train", 32), 1)
    image = InputImage(image.name, "a bird with black wings and a red beak", image.image, image.masks)
    phrases = phrases_naming_segments(image.prompt, image.masks)
    assert [phrase.text for phrase in phrases] == ["black wings", "red beak"]
    result = explain_image(model, target, 5, image, phrases, seed=0)
    assert [score.segment for score in result.segment_scores] == [WHOLE, "wings", "beak"]
    assert [one.text for one in result.words] == ["black wings", "red beak"]
    for one in result.maps:
        assert one.cells.shape == (4, 4)
        assert one.pixels.shape == (32, 32)
        assert one.cells.max() == pytest.approx(1)
    wings = result.words[0]
    expected = score_segment("wings", "black wings", wings.pixels, image.masks["wings"])
    assert wings.segment == expected
    vectors = model.clip.encode_text(["a bird with black wings and a red beak", "a bird with and a red beak"])
    alone = gradcam(target, image.image[None], vectors[:1], 5, vectors[1:])
    assert wings.score == pytest.approx(float(alone.scores), abs=1e-6)
    np.testing.assert_allclose(wings.cells, (alone.cells / alone.cells.max())[0].numpy(), atol=1e-4)
    again = explain_image(model, target, 5, image, phrases, seed=0)
    assert again.record() == result.record()


def test_images_have_random_orders_of_their_own(model: Model, tmp_path: Path) -> None:
    """Orders that all images shared would err to the same side in all of them, and intervals would not know it."""
    files = [tmp_path / "one.png", tmp_path / "two.png"]
    for file in files:
        to_images(random_images(1, 32))[0].save(file)
    request = GradCamRequest("a red bird", images=tuple(files), models=(model, model))
    told = [[area.random for area in each.faithfulness] for each in explain(request).explanations]
    assert told[0] != told[1]
    assert told[2:] == told[:2], "another model's are the same, for a fair comparison"


def test_a_request_gives_a_result_that_shows_says_and_saves(model: Model, tmp_path: Path) -> None:
    reports: list[tuple[str, int, int | None, str]] = []
    request = GradCamRequest(PROMPT, models=(model,), words=("wings",), seed=2)
    result = explain(request, lambda *state: reports.append(state))
    assert reports == [("gradcam", 0, 1, "images"), ("gradcam", 1, 1, "images")]
    (one,) = result.explanations
    assert [each.text for each in one.maps] == [PROMPT, "wings"]
    assert (
        repr(result)
        == f"GradCamResult('{PROMPT}', model {model.name} ({model.fingerprint}) on cpu, target clip, layer 5)"
    )
    files = result.save(tmp_path)
    content = json.loads(files[-1].read_text(encoding="utf-8"))
    assert content == {**json.loads(json.dumps(result.record())), "files": [str(file) for file in files]}
    assert content["says"] == result.says
