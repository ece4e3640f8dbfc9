"""Editing by words: inversion, the move between captions, what is written, and images in the place of a prompt."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import ratlip, ratlip_stopped
from explain_model import clip_of_grid, model_of, model_of_variant
from PIL import Image
from torch import nn
from torch.nn import functional as F

from ratlip_cli.editing.edit import edit, moved
from ratlip_cli.editing.inversion import SETTLING, STARTS, Inversion, Weights, invert, settle
from ratlip_cli.editing.request import EditRequest
from ratlip_cli.errors import RatlipError, UsageError
from ratlip_cli.generation import InterpolationRequest, LikeRequest
from ratlip_cli.like import GAP_IMAGES, LikeModel, _gap
from ratlip_cli.pixels import from_image, to_images
from ratlip_cli.samples import generate as generate_by
from ratlip_cli.samples import interpolate
from ratlip_cli.sampling import TorchModel, generate, noise_vectors, read_square, sample
from ratlip_cli.weights.model_folder import Model, load_folder

RED, BLUE = "a red bird", "a blue bird"
LONG = "a bird " * 40
"""Longer than any text encoder here reads."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("editing")
    return load_folder(model_of(folder / "model", clip_of_grid(folder / "clip", grid=4)))


@pytest.fixture(scope="module")
def lafite(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    sizes = {"noise_dim": 6, "w_dim": 5, "mapping_layers": 2, "text_width": 7, "channel_base": 256, "channel_max": 8}
    return load_folder(model_of_variant(tmp_path_factory.mktemp("lafite") / "model", model.clip, "lafite", sizes))


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("photo") / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((60, 40), Image.Resampling.BICUBIC).save(file)
    return file


def target_of(photo: Path) -> torch.Tensor:
    return from_image(read_square(photo, 32))[None]


# ------------------------------------------------------------------------------------------------------------ inversion


def test_what_the_model_made_of_the_caption_is_found_at_once(model: Model) -> None:
    text = model.encode([RED])
    with torch.no_grad():  # not `sample`, which clamps the pixels of these random weights
        made = model.generator(noise_vectors(3, [STARTS - 5], 6), text, model.clip)
    found = invert(model, made, text, steps=0, seed=3)
    assert torch.equal(found.noise, noise_vectors(3, [STARTS - 5], 6))
    assert torch.equal(found.text, text)
    for term in ("pixel", "perceptual", "identity", "text"):
        assert float(found.losses[term]) == pytest.approx(0, abs=1e-5)


def test_steps_lower_the_loss(model: Model, photo: Path) -> None:
    losses: list[float] = []
    text, weights = model.encode([RED]), Weights()
    start = invert(model, target_of(photo), text, steps=0)
    found = invert(model, target_of(photo), text, 12, on_step=losses.append)

    def total(one: Inversion) -> float:
        return sum(float(value) * getattr(weights, name, 1.0) for name, value in one.losses.items())

    assert len(losses) == 12
    assert losses[0] == pytest.approx(total(start), rel=1e-3)
    assert total(found) < 0.97 * total(start)
    assert not torch.equal(found.noise, start.noise)
    assert not torch.equal(found.text, text)


def test_images_are_inverted_each_by_itself(model: Model, photo: Path) -> None:
    images = torch.cat((target_of(photo), target_of(photo).flip(3)))
    text = model.encode([RED, "a rose"])
    both = invert(model, images, text, 3)
    for row in range(2):
        one = invert(model, images[row : row + 1], text[row : row + 1], 3)
        torch.testing.assert_close(both.noise[row : row + 1], one.noise, rtol=0, atol=2e-2)  # T's rate: of both texts


def test_the_losses_terms_are_those_of_the_formula(model: Model, photo: Path) -> None:
    text = model.encode([RED])
    found = invert(model, target_of(photo), text, 2)
    with torch.no_grad():
        generated = model.generator(found.noise, found.text, model.clip)
        real, fake = model.clip.encode_image(target_of(photo)), model.clip.encode_image(generated)
    expected = {
        "pixel": F.mse_loss(generated, target_of(photo)),
        "identity": 1 - F.cosine_similarity(real, fake)[0],
        "text": (found.text - text).norm() ** 2 / text.norm() ** 2,
        "noise": (found.noise.norm() ** 2 / 6 - 1) ** 2,
    }
    for name, value in expected.items():
        torch.testing.assert_close(found.losses[name][0], value, rtol=1e-3, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- the move


def test_the_move_leads_from_caption_to_caption(model: Model, photo: Path) -> None:
    start = model.encode([RED])
    noise = noise_vectors(0, [0], 6)
    found, strengths = Inversion(noise, start, {}), torch.tensor([0.0, 1.0, 0.5])
    images = moved(model, target_of(photo), found, (RED, BLUE), strengths, 0)
    (red,), (blue,) = ([one.image for one in generate(model, [prompt])] for prompt in (RED, BLUE))
    assert to_images(images)[0].tobytes() == red.tobytes()
    difference = np.asarray(to_images(images)[1]).astype(int) - np.asarray(blue)
    assert np.abs(difference).max() <= 1  # start + (end - start) is end to rounding
    assert not torch.equal(images[2], images[0])


@pytest.mark.slow
def test_after_the_move_images_settle(model: Model, photo: Path) -> None:
    """Near the image's vector moved by the captions, and near the image; the reconstruction stays as it is."""
    image, start, end = target_of(photo), model.encode([RED]), model.encode([BLUE])
    found, strengths = invert(model, image, start, 12), torch.tensor([0.0, 1.0, -0.5])
    losses: list[float] = []
    before, after = (moved(model, image, found, (RED, BLUE), strengths, n, losses.append) for n in (0, 20))
    assert torch.equal(after[0], before[0])
    assert len(losses) == 2 * 20
    own = F.normalize(model.clip.encode_image(image), dim=1)
    told = F.normalize(model.clip.encode_text([RED, BLUE]), dim=1)
    for row, strength in enumerate((1.0, -0.5)):
        with torch.no_grad():
            text = found.text + strength * (end - start)
            generated = model.generator(found.noise, text, model.clip)
            terms = {
                "pixel": F.mse_loss(generated, image)[None],
                "perceptual": 1 - F.cosine_similarity(patches(model, generated), patches(model, image), dim=2).mean(),
                "identity": 1
                - F.cosine_similarity(model.clip.encode_image(generated), own + strength * (told[1:] - told[:1])),
                "text": torch.zeros(1),
                "noise": (found.noise.norm(dim=1) ** 2 / 6 - 1) ** 2,
            }
        assert losses[20 * row] == pytest.approx(float(SETTLING.loss(terms)), rel=1e-3)
        assert losses[20 * row + 19] < 0.97 * losses[20 * row]


def patches(model: Model, images: torch.Tensor) -> torch.Tensor:
    return model.clip.features(images).patches


def test_settling_is_the_inversions_search_for_another_vector(model: Model, photo: Path) -> None:
    """For the image's own vector and by the inversion's weights it is the inversion, from where it is told to begin."""
    text = model.encode([RED])
    start = invert(model, target_of(photo), text, steps=0)
    with torch.no_grad():
        own = model.clip.encode_image(target_of(photo))
    again, found = settle(model, target_of(photo), own, start, 4, Weights()), invert(model, target_of(photo), text, 4)
    assert torch.equal(again.noise, found.noise)
    assert torch.equal(again.text, found.text)


def test_lafites_text_stays_of_unit_length(lafite: Model, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the inversion and in the move: the generator has learnt nothing else."""
    lengths: list[torch.Tensor] = []
    plain = type(lafite.generator).forward

    def noted(self: nn.Module, noise: torch.Tensor, text: torch.Tensor, *more: object) -> torch.Tensor:
        lengths.append(text.norm(dim=1).detach())
        return plain(self, noise, text, *more)

    monkeypatch.setattr(type(lafite.generator), "forward", noted)
    found = invert(lafite, target_of(photo), lafite.encode([RED]), 3)
    moved(lafite, target_of(photo), found, (RED, BLUE), torch.tensor([0.0, 1.0, 2.0]), 2)
    torch.testing.assert_close(torch.cat(lengths), torch.ones(len(torch.cat(lengths))))
    torch.testing.assert_close(found.text.norm(dim=1), torch.ones(1))


def test_an_edit_is_written_with_its_record(model: Model, photo: Path, tmp_path: Path) -> None:
    given = ("--from", RED, "--to", BLUE, "--steps", 3, "--strength", 0.5, "--strength", 2, "--model", model.folder)
    answer = ratlip("edit", photo, *given, "--out", tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    names = ["0000_a-red-bird-to-a-blue-bird" + end for end in ("_strip.png", "_0.5.png", "_2.png", ".json")]
    assert [Path(file).name for file in told.pop("files")] == names
    assert json.loads((tmp_path / "out" / names[-1]).read_text()) == told
    assert (told["from"], told["to"], told["strengths"], told["steps"]) == (RED, BLUE, [0.5, 2.0], 3)
    assert told["fingerprint"] == model.fingerprint
    assert all(len(row) == 4 for row in told["clip_similarity"].values())
    levels, cosine = (f"{answer.err.split(end)[0].split()[-1]}" for end in (" of 255 levels off", ";"))
    assert float(levels) == pytest.approx(127.5 * told["reconstruction"]["pixel"] ** 0.5, abs=1)
    assert float(cosine) == pytest.approx(1 - told["reconstruction"]["identity"], abs=0.01)
    weighted = {name: value * getattr(Weights(), name, 1.0) for name, value in told["reconstruction"].items()}
    assert told["loss"] == pytest.approx(sum(weighted.values()), abs=1e-3)
    assert f"loss {told['loss']:.3f} after 3 steps in {told['seconds']} s" in answer.err
    with Image.open(tmp_path / "out" / names[0]) as strip:
        assert strip.width > 4 * 128
        assert strip.text["from"] == RED
        assert "strength" not in strip.text
    for name, strength in zip(names[1:3], told["strengths"], strict=True):
        with Image.open(tmp_path / "out" / name) as image:
            assert float(image.text["strength"]) == strength
    assert edit(EditRequest(photo, RED, BLUE, (0.5, 2), 3, model)).save(tmp_path / "out")[0].name.startswith("0001_")
    first, again = (
        np.asarray(Image.open(tmp_path / "out" / f"000{k}_a-red-bird-to-a-blue-bird_2.png")) for k in (0, 1)
    )
    assert np.array_equal(first, again)


FAMILIES = {
    "galip": {"noise_dim": 6, "generator_channels": 4, "hidden_size": 4},
    "dfgan": {"noise_dim": 6, "generator_channels": 4},
    "ratgan": {"noise_dim": 6, "generator_channels": 4, "hidden_size": 4},
}


@pytest.mark.parametrize("variant", ["lafite", *(pytest.param(one, marks=pytest.mark.slow) for one in FAMILIES)])
def test_families_of_sentence_vectors_edit_and_interpolate(
    variant: str, model: Model, lafite: Model, photo: Path, tmp_path: Path
) -> None:
    if variant == "lafite":
        one = lafite
    else:
        one = load_folder(model_of_variant(tmp_path / "model", model.clip, variant, FAMILIES[variant]))
    start, found = one.encode([RED]), invert(one, target_of(photo), one.encode([RED]), 2)
    assert not torch.equal(found.text, start)  # T has a gradient
    assert not torch.equal(found.noise, invert(one, target_of(photo), start, 0).noise)  # and z
    result = edit(EditRequest(photo, RED, BLUE, (1.0,), 1, one))
    assert len(result.edited) == 1
    request = InterpolationRequest((RED, BLUE), 3)
    frames = [image.tobytes() for image in interpolate(TorchModel(one), request)]
    (red,), (blue,) = ([made.image.tobytes() for made in generate(one, [prompt])] for prompt in (RED, BLUE))
    assert (frames[0], frames[2]) == (red, blue)


def test_what_is_no_image_is_told_before_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    monkeypatch.setattr("ratlip_cli.editing.edit.load_model", lambda *_: pytest.fail("a model was loaded"))
    answer = ratlip("edit", tmp_path / "notes.txt", "--from", RED, "--to", BLUE, "--out", tmp_path / "out")
    assert (answer.code, answer.out) == (1, "")
    assert "notes.txt" in answer.err


def test_an_interrupted_edit_leaves_nothing(
    model: Model, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = threading.Event()

    def slow(*given: object, on_step: object, **named: object) -> Inversion:
        running.set()
        return invert(*given, on_step=on_step, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("ratlip_cli.editing.edit.invert", slow)
    given = ("--from", RED, "--to", BLUE, "--steps", 10_000, "--model", model.folder, "--out", tmp_path / "out")
    answer = ratlip_stopped(signal.SIGINT, running.is_set, "edit", photo, *given)
    assert answer.code == 130, answer.err
    assert "interrupted. Nothing was written." in answer.err
    assert not (tmp_path / "out").exists()


def test_an_edit_is_written_whole_or_not_at_all(
    model: Model, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever file it fails at, and also where Ctrl-C comes while they get their names."""
    result = edit(EditRequest(photo, RED, BLUE, (0.5, 1.0), 1, model))
    writes, wrote, renamed = count(), Image.Image.save, Path.rename

    def full(image: Image.Image, *given: object, **named: object) -> None:
        if next(writes) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        wrote(image, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(RatlipError, match=r"out: No space left on device"):
        result.save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    renames = count()

    def stopped(path: Path, target: Path) -> Path:
        if path.suffix == ".png" and next(renames) == 1:
            raise KeyboardInterrupt
        return renamed(path, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt):
        result.save(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    assert [file.exists() for file in result.save(tmp_path / "out")] == [True] * 4


def test_an_edit_interrupted_while_it_is_written_leaves_nothing(
    model: Model, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, wrote = threading.Event(), Image.Image.save

    def slow(image: Image.Image, *given: object, **named: object) -> None:
        wrote(image, *given, **named)  # type: ignore[arg-type]
        writing.set()
        time.sleep(30)

    monkeypatch.setattr(Image.Image, "save", slow)
    given = ("--from", RED, "--to", BLUE, "--steps", 1, "--model", model.folder, "--out", tmp_path / "out")
    answer = ratlip_stopped(signal.SIGINT, writing.is_set, "edit", photo, *given)
    assert answer.code == 130, answer.err
    assert "interrupted. Nothing was written." in answer.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("strengths", [(1.0, 0.5, 1.0), (0.1, 0.1000000001), (0.0, -0.0)])
def test_equal_strengths_are_refused(photo: Path, strengths: tuple[float, ...]) -> None:
    """Their files would have one name."""
    with pytest.raises(UsageError, match="is given twice; give each one once"):
        EditRequest(photo, RED, BLUE, strengths)


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        ({"--to": RED}, 2, "both say 'a red bird'"),
        ({"--to": " "}, 2, "prompt 2 is empty"),
        ({"--to": "A RED BIRD"}, 2, "as the same: it does not know the words that differ."),
        ({"--from": LONG + "red", "--to": LONG + "blue"}, 2, "or they come after the 16 tokens that it reads."),
        ({"--from": LONG + "red", "--to": LONG + "blue"}, 2, "prompt 2: the prompt is as long as the 16 tokens"),
        ({"--steps": 0}, 2, "--steps is 0; it must be 1 to"),
        ({"--strength": "nan"}, 2, "--strength is nan"),
        ({"image": "none.png"}, 1, "none.png: the image does not exist"),
        ({"image": __file__}, 1, "test_editing.py: "),
    ],
)
def test_what_cannot_be_edited_is_told(
    model: Model, photo: Path, tmp_path: Path, given: dict[str, object], code: int, says: str
) -> None:
    options = {"image": photo, "--from": RED, "--to": BLUE, "--model": model.folder, "--out": tmp_path, **given}
    image = options.pop("image")
    answer = ratlip("edit", image, *(text for option in options.items() for text in option))
    assert (answer.code, says in answer.err) == (code, True), answer.err
    assert list(tmp_path.iterdir()) == []


def test_models_that_cannot_edit_are_told(model: Model, photo: Path, tmp_path: Path) -> None:
    sizes = {"base_size": 8, "generator_channels": 4, "discriminator_channels": 2, "residual_blocks": 0}
    words = model_of_variant(tmp_path / "attngan", model.clip, "attngan", sizes)
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "export.json").touch()
    given = ("--from", RED, "--to", BLUE, "--out", tmp_path / "out", "--model")
    answer = ratlip("edit", photo, *given, words)
    assert (answer.code, "reads the words of a prompt one by one" in answer.err) == (2, True), answer.err
    answer = ratlip("edit", photo, *given, tmp_path / "exported")
    assert (answer.code, "has no gradients" in answer.err) == (2, True), answer.err
    for more in (("--like", photo), ("--like", photo, "a rose")):
        answer = ratlip("generate", *more, "--model", words, "--out", tmp_path / "out")
        assert (answer.code, "does not read CLIP's vectors" in answer.err) == (2, True), answer.err
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------------------------- like an image


def test_lafite_takes_the_image_vector_as_in_training(lafite: Model, photo: Path) -> None:
    request = LikeRequest(photo, noise=0.0)
    made = next(generate_by(LikeModel(lafite, request), [request.label], seed=4))
    text = lafite.family.of_images(lafite.clip, target_of(photo))
    noise = noise_vectors(4, [0], lafite.config.generator.noise_dim)
    expected = to_images(sample(lafite, noise, text))[0]
    assert np.abs(np.asarray(made.image).astype(int) - np.asarray(expected)).max() <= 1  # unit length twice
    assert made.record() | {"like": str(photo), "like_weight": 1.0, "like_noise": 0.0} == made.record()


@pytest.mark.parametrize("name", ["model", "lafite"])
def test_without_weight_the_prompt_alone_counts(name: str, photo: Path, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    mixed = LikeModel(model, LikeRequest(photo, weight=0.0, noise=0.5))
    made = [one.image for one in generate_by(mixed, [RED], 3, seed=1)]
    plain = [one.image for one in generate(model, [RED], 3, seed=1)]
    for one, other in zip(made, plain, strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1
    assert "like" not in next(generate(model, [RED])).record()


def test_each_image_has_noise_of_its_own(model: Model, photo: Path) -> None:
    like = LikeModel(model, LikeRequest(photo, noise=0.75))

    def pixels(count: int, **options: object) -> list[bytes]:
        return [one.image.tobytes() for one in generate_by(like, [RED], count, 1, **options)]  # type: ignore[arg-type]

    assert len(set(pixels(3))) == 3
    assert pixels(5)[:3] == pixels(3)
    assert pixels(1, indices=[2]) == pixels(3)[2:]
    # The perturbation is no part of the noise that --truncation scales.
    assert len(set(pixels(3, truncation=1e-6))) == 3


def test_the_similarity_is_that_with_the_image(model: Model, photo: Path) -> None:
    like = LikeModel(model, LikeRequest(photo))
    made = list(generate_by(like, [RED], 6))
    images = torch.stack([from_image(one.image) for one in made])
    with torch.no_grad():
        vectors, own = model.clip.encode_image(images), model.clip.encode_image(target_of(photo))
    expected = F.cosine_similarity(vectors, own)
    for one, value in zip(made, expected.tolist(), strict=True):
        assert one.clip_similarity == pytest.approx(value, abs=0.02)  # of 8-bit pixels
    best = next(generate_by(like, [RED], 1, best_of=6))
    assert best.clip_similarity == max(one.clip_similarity for one in made)


def test_the_gap_is_the_difference_of_means(model: Model, photo: Path) -> None:
    prompts = [RED, "a rose"]
    gap, length = _gap(model, prompts)
    noise = noise_vectors(0, range(GAP_IMAGES), 6)
    vectors = []
    for prompt in prompts:
        images = sample(model, noise, model.encode([prompt]).expand(GAP_IMAGES, -1))
        with torch.no_grad():
            vectors.append(F.normalize(model.clip.encode_image(images), dim=1))
    texts = model.encode(prompts)
    expected = F.normalize(texts, dim=1).mean(0) - torch.cat(vectors).mean(0)
    torch.testing.assert_close(gap[0], expected, rtol=0, atol=1e-4)
    assert length == pytest.approx(float(texts.norm(dim=1).mean()))
    named, like = replace(model, config=replace(model.config, training={"prompts": prompts})), LikeRequest(photo)
    (moved,), (alone,) = LikeModel(named, like).encoded(like.label)[1], LikeModel(named, like).encoded(RED)[1]
    assert torch.equal(moved, alone)
    vector = F.normalize(model.clip.encode_image(target_of(photo)), dim=1)
    torch.testing.assert_close(moved, length * F.normalize(vector + expected, dim=1)[0], rtol=0, atol=1e-4)
    with pytest.raises(UsageError, match="names no prompts that it knows: give one beside --like"):
        LikeModel(model, like).encoded(like.label)


def test_other_prompts_do_not_change_an_image_like_another(model: Model, photo: Path) -> None:
    """Of a model that names no prompts either, such as a converted one."""
    like = LikeModel(model, LikeRequest(photo))
    alone, beside = (next(generate_by(like, prompts)) for prompts in ([RED], [RED, "a rose", "a house"]))
    assert alone.image.tobytes() == beside.image.tobytes()
    assert alone.record() == beside.record()
    texts = [like.encoded(prompt)[1] for prompt in (RED, "a rose")]
    assert not torch.equal(*texts)


def test_the_command_generates_like_an_image(lafite: Model, photo: Path, tmp_path: Path) -> None:
    given = ("--model", lafite.folder, "--out", tmp_path, "--like", photo)
    answer = ratlip("generate", *given, "-n", 2, "--json")
    assert answer.code == 0, answer.err
    assert "experimental" not in answer.err
    told = json.loads(answer.out)["images"]
    assert [(one["like"], one["like_weight"], one["like_noise"]) for one in told] == [(str(photo), 1.0, 0.1)] * 2
    assert Path(told[0]["path"]).name == "0000_like-photo-png_0.png"
    answer = ratlip("generate", RED, *given, "--like-noise", 0.75, "--json")
    assert json.loads(answer.out)["images"][0]["like_weight"] == 0.5


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are Unicode there")
def test_a_file_whose_name_is_no_unicode_can_be_generated_like(lafite: Model, photo: Path, tmp_path: Path) -> None:
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/ph\xe9.jpg"))
    Image.open(photo).convert("RGB").save(strange, "JPEG")
    answer = ratlip("generate", "--like", strange, "--model", lafite.folder, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    (record,) = map(json.loads, (tmp_path / "out" / "images.jsonl").read_text(encoding="utf-8").splitlines())
    assert record["prompt"] == "like ph\\udce9.jpg"
    (image,) = (tmp_path / "out").glob("0000_like-*.png")
    assert Image.open(image).text["prompt"] == "like ph\\udce9.jpg"


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        (("--like-weight", 0.5, RED), 2, "add --like"),
        (("--like", "photo", "--like-weight", 0.5), 2, "mixes an image with a prompt"),
        (("--like", "photo", RED, "--like-weight", 1.5), 2, "--like-weight is 1.5"),
        (("--like", "photo", "--like-noise", -1), 2, "--like-noise is -1"),
        (("--like", "photo", RED, BLUE, "--interpolate"), 2, "leave out --like"),
        (("--like", "none.png"), 1, "none.png: the image does not exist"),
        (("--like", "notes.txt"), 1, "notes.txt: "),
        (("--like", "exported"), 2, "exported is a folder; name the file in it"),
        (("--like", "photo", "--prompts", "notes.txt"), 2, "there is no prompt"),
        (("--like", "photo", "-"), 2, "there is no prompt"),
        (("--like", "photo", "--model", "exported"), 2, "is an exported model"),
    ],
)
def test_what_no_image_can_stand_for_is_told(
    photo: Path, tmp_path: Path, given: tuple[object, ...], code: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "export.json").touch()
    (tmp_path / "notes.txt").touch()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setattr("ratlip_cli.weights.load.load_model", None)  # all of it before a model is loaded
    answer = ratlip("generate", *(photo if one == "photo" else one for one in given))
    assert (answer.code, says in answer.err) == (code, True), answer.err
