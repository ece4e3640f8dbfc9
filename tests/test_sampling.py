"""Prompts to images: what decides an image, what is written, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import ratlip
from PIL import Image

from ratlip_cli.cli.console import read_prompts
from ratlip_cli.errors import RatlipError, UsageError, WeightsError
from ratlip_cli.generation import parse_indices
from ratlip_cli.grids import captioned_grid
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.config import DiscriminatorConfig, GeneratorConfig
from ratlip_cli.model.discriminator import Discriminator
from ratlip_cli.model.generator import Generator
from ratlip_cli.noise import noise_vectors as noise_in_numpy
from ratlip_cli.outputs import ImageFolder, slug
from ratlip_cli.pixels import from_image, to_images
from ratlip_cli.sampling import TorchModel, generate, noise_vectors, sample
from ratlip_cli.tensor_files import load_tensors, save_tensors
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.load import load_model
from ratlip_cli.weights.model_folder import (
    CONFIG_FILE,
    GENERATOR_FILE,
    Model,
    create_model_folder,
    fingerprint_of,
    load_discriminator,
    load_folder,
    model_config,
    save_weights,
)

PROMPT = "a red bird with black wings"


@pytest.fixture(scope="module")
def made(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete model folder of random weights, the CLIP in it."""
    clip = load_clip(str(tiny_clip))
    generator_config = GeneratorConfig(
        image_size=32, noise_dim=6, hidden_size=4, base_channels=4, bridge_channels=8, bridge_blocks=1
    )
    discriminator_config = DiscriminatorConfig(base_channels=2)
    torch.manual_seed(0)
    generator, discriminator = (
        Generator(generator_config, clip.geometry),
        Discriminator(discriminator_config, clip.geometry),
    )
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("made") / "model"
    create_model_folder(folder, model_config(generator_config, discriminator_config, clip, {"dataset": "tests"}), clip)
    save_weights(folder, generator.state_dict(), discriminator.state_dict(), {"step": "3"})
    return folder


@pytest.fixture
def model_folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "model"))


@pytest.fixture
def model(model_folder: Path) -> Model:
    return load_folder(model_folder)


def pixels(model: Model, *prompts: str, count: int = 2, seed: int = 0, **options: float) -> list[bytes]:
    return [image.image.tobytes() for image in generate(model, prompts, count, seed, **options)]


def test_what_is_saved_is_what_is_loaded(model_folder: Path, model: Model, tiny_clip: Path) -> None:
    state = load_tensors(model_folder / GENERATOR_FILE)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.generator.state_dict().items())
    assert load_discriminator(model).config == model.config.discriminator
    assert model.config.training == {"dataset": "tests"}
    assert model.clip.fingerprint == load_clip(str(tiny_clip)).fingerprint
    assert model.fingerprint == fingerprint_of(model_folder)
    assert not any(parameter.requires_grad for parameter in model.generator.parameters())
    assert not [name for name in state if "visual" in name or "clip" in name.split(".")[0]]  # no CLIP weights inside


def test_others_may_read_what_is_saved(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    assert (model_folder / GENERATOR_FILE).stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_image_depends_on_prompt_seed_and_index_alone(model: Model) -> None:
    both = pixels(model, PROMPT, "a yellow flower", count=3)
    assert both[:3] == pixels(model, PROMPT, count=3)
    assert both[:3] == pixels(model, PROMPT, count=5)[:3]
    assert len(set(both)) == 6
    assert pixels(model, PROMPT, count=3, seed=1) != both[:3]


@pytest.mark.parametrize(
    ("text", "indices"), [("7", [7]), ("7,12-14", [7, 12, 13, 14]), (" 3 - 4 , 0,4", [3, 4, 0]), ("5-5", [5])]
)
def test_indices_are_read(text: str, indices: list[int]) -> None:
    assert parse_indices(text) == indices


@pytest.mark.parametrize("text", ["", ",", "a", "-1", "3-", "1.5", "5-3", "1;2", "0-99999999", "9" * 30, "\u0663"])
def test_what_is_no_list_of_indices(text: str) -> None:
    with pytest.raises(UsageError):
        parse_indices(text)


def test_images_by_their_indices_are_the_same_images(model: Model, model_folder: Path, tmp_path: Path) -> None:
    every = pixels(model, PROMPT, "a yellow flower", count=5)
    chosen = list(generate(model, [PROMPT, "a yellow flower"], indices=[4, 1]))
    assert [image.image.tobytes() for image in chosen] == [every[4], every[1], every[9], every[6]]
    assert [image.index for image in chosen] == [4, 1, 4, 1]
    answer = ratlip("generate", PROMPT, "--indices", "4,1", "--model", model_folder, "--out", tmp_path / "out")
    names = [f"0000_a-red-bird-with-black-wings_{index}.png" for index in (4, 1)]
    assert [Path(line).name for line in answer.out.splitlines()] == [*names, "0000_grid.png"]
    for name, expected in zip(names, (every[4], every[1]), strict=True):
        with Image.open(tmp_path / "out" / name) as image:
            assert image.tobytes() == expected
    records = [json.loads(line) for line in (tmp_path / "out" / "images.jsonl").read_text().splitlines()]
    assert [(record["file_name"], record["index"]) for record in records] == list(zip(names, (4, 1), strict=True))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_prompts_are_read_in_the_encodings_that_say_what_they_are(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes("красная птица\r\n\nun pájaro\n".encode(encoding))
    assert read_prompts([], tmp_path / "prompts.txt") == ["красная птица", "un pájaro"]


@pytest.mark.parametrize("content", ["un pájaro".encode("latin-1"), "a bird".encode("utf-16-le"), b"\xff\xfe\x00"])
def test_prompts_in_other_encodings_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes(b"a bird\n" + content if b"p" in content else content)
    with pytest.raises(UsageError, match=r"prompts\.txt.* is not UTF-8 text.*save it as UTF-8"):
        read_prompts([], tmp_path / "prompts.txt")


def test_a_prompt_is_encoded_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the generator reads of it is what the images are compared with."""
    condition, text = model.encode(["a red bird"]), model.clip.encode_text(["a red bird"])
    read: list[Sequence[str]] = []
    encode = FrozenCLIP.encode_text

    def counted(clip: FrozenCLIP, captions: Sequence[str]) -> torch.Tensor:
        read.append(captions)
        return encode(clip, captions)

    monkeypatch.setattr(FrozenCLIP, "encode_text", counted)
    encoded = TorchModel(model).encoded("a red bird")
    assert read == [["a red bird"]]
    assert torch.equal(encoded[0], condition)
    assert torch.equal(encoded[1], text)


def test_the_batch_size_changes_nothing_but_rounding(model: Model) -> None:
    noise = noise_vectors(0, range(5), 6)
    text = model.clip.encode_text([PROMPT]).expand(5, -1)
    torch.testing.assert_close(sample(model, noise, text, 1), sample(model, noise, text, 4), rtol=0, atol=1e-4)


def test_noise_is_a_function_of_seed_and_index(model: Model) -> None:
    noise = noise_vectors(3, range(2000), 4)
    assert torch.equal(noise[[7, 5]], noise_vectors(3, [7, 5], 4))
    assert not torch.equal(noise, noise_vectors(4, range(2000), 4))
    assert noise.mean().abs() < 0.05
    assert abs(float(noise.std()) - 1) < 0.05
    torch.manual_seed(99)
    torch.randn(10)
    assert torch.equal(noise[:1], noise_vectors(3, [0], 4))


def test_noise_stays_what_it_was() -> None:
    """Published images can be drawn again: these values must never change."""
    expected = [[0.217950583, -0.751166284, -0.540689766], [-1.163621545, 1.570964456, 0.690552354]]
    torch.testing.assert_close(noise_vectors(0, [0, 1], 3), torch.tensor(expected))


@pytest.mark.parametrize("length", [1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 64, 100, 257])
def test_noise_without_torch_is_that_of_torch(length: int) -> None:
    """That of exported models, in numpy: short vectors to the bit, long ones to torch's own rounding."""
    noise = torch.from_numpy(noise_in_numpy(2**62 + 1, range(40), length))
    expected = noise_vectors(2**62 + 1, range(40), length)
    if length < 16:
        assert torch.equal(noise, expected)
    torch.testing.assert_close(noise, expected, rtol=2e-6, atol=2e-6)


def test_truncation_scales_the_noise(model: Model) -> None:
    assert len(set(pixels(model, PROMPT, count=4, truncation=0.0))) == 1
    assert pixels(model, PROMPT, truncation=0.5) != pixels(model, PROMPT)


def test_best_of_keeps_the_most_similar(model: Model) -> None:
    drawn = list(generate(model, [PROMPT], count=8))
    best = list(generate(model, [PROMPT], count=2, best_of=4))
    expected = sorted(drawn, key=lambda image: -image.clip_similarity)[:2]
    assert [image.index for image in best] == [image.index for image in expected]
    assert [image.image.tobytes() for image in best] == [image.image.tobytes() for image in expected]


def test_written_images_carry_their_records(model: Model, tmp_path: Path) -> None:
    out = tmp_path / "out"
    samples = list(generate(model, [PROMPT, "gelbe Blüte / 50%"], count=2, seed=7))
    folder = ImageFolder(out)
    paths = [folder.save(made) for made in samples]
    assert [path.name for path in paths] == [
        "0000_a-red-bird-with-black-wings_0.png",
        "0000_a-red-bird-with-black-wings_1.png",
        "0001_gelbe-blüte-50_0.png",
        "0001_gelbe-blüte-50_1.png",
    ]
    records = [json.loads(line) for line in (out / "images.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["file_name"] for record in records] == [path.name for path in paths]
    for path, made, record in zip(paths, samples, records, strict=True):
        with Image.open(path) as image:
            assert image.tobytes() == made.image.tobytes()
            assert image.text["prompt"] == record["prompt"] == made.prompt
            assert (int(image.text["seed"]), int(image.text["index"])) == (7, made.index)
            assert image.text["fingerprint"] == record["fingerprint"] == model.fingerprint
            assert float(image.text["clip_similarity"]) == record["clip_similarity"]


LONG = ("a red bird " * 7000, "ü" * 11_000)
"""More than the 64 KiB of a JPEG's metadata, the second one once it is written as \\u00fc."""


@pytest.mark.parametrize("prompt", LONG)
def test_a_prompt_too_long_for_a_jpeg_is_told(prompt: str, model: Model, tmp_path: Path) -> None:
    (made,) = generate(model, [PROMPT])
    long = replace(made, prompt=prompt)
    folder = ImageFolder(tmp_path / "out", "jpg")
    with pytest.raises(RatlipError, match="is too long for the metadata of a JPEG: use --format png or webp"):
        folder.save(long)
    assert list((tmp_path / "out").iterdir()) == []
    with Image.open(ImageFolder(tmp_path, "webp").save(long)) as image:
        assert json.loads(image.getexif()[270])["prompt"] == prompt
    with Image.open(ImageFolder(tmp_path).save(long)) as image:
        assert image.text["prompt"] == prompt
    with Image.open(ImageFolder(tmp_path, "jpg").save(replace(made, prompt=prompt[:10_000]))) as image:
        assert json.loads(image.getexif()[270])["prompt"] == prompt[:10_000]


def test_nothing_is_overwritten(model: Model, tmp_path: Path) -> None:
    images = list(generate(model, [PROMPT], count=1))
    first = ImageFolder(tmp_path).save(images[0])
    before = first.read_bytes()
    second = ImageFolder(tmp_path, "webp").save(images[0])
    assert second.name.startswith("0001_")
    assert first.read_bytes() == before
    assert len((tmp_path / "images.jsonl").read_text().splitlines()) == 2
    assert ImageFolder(tmp_path).save_grid(images).name == "0002_grid.png"
    (tmp_path / "10000_many.png").touch()
    folder = ImageFolder(tmp_path)
    assert folder.save(images[0]).name.startswith("10001_")
    with pytest.raises(RatlipError, match="another ratlip writes into this folder"):
        folder.save(images[0])


def test_pixels_survive_the_way_to_an_image_and_back() -> None:
    levels = torch.arange(256).repeat(3, 1).view(1, 3, 16, 16)
    image = levels.float() / 127.5 - 1
    torch.testing.assert_close(from_image(to_images(image)[0]), image[0])
    wild = torch.tensor([-7.0, 7.0, 0.0]).view(1, 3, 1, 1)
    assert to_images(wild)[0].getpixel((0, 0)) == (0, 255, 128)


def test_a_grid_shows_every_image() -> None:
    colours = ["red", "lime", "blue"]
    grid = captioned_grid([(f"row {row} " * 30, [Image.new("RGB", (32, 32), c) for c in colours]) for row in range(2)])
    found = {colour for _, colour in grid.getcolors(maxcolors=1 << 20)}
    assert {(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)} <= found
    area = sum(count for count, colour in grid.getcolors(maxcolors=1 << 20) if colour == (0, 0, 255))
    assert area == 2 * 128 * 128


def test_a_grid_stays_small() -> None:
    many = [Image.new("RGB", (32, 32), "blue")] * 40
    grid = captioned_grid([("word " * 3000, many)])
    assert grid.width < 16 * 140
    assert grid.height < 3 * (140 + 20) + 3 * 20


def test_a_prompt_that_clip_cannot_read_to_its_end_is_said(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("ratlip_cli").propagate = True
    next(generate(model, [PROMPT, "word " * 40]))
    assert {record.getMessage() for record in caplog.records} == {
        "prompt 2: the prompt is as long as the 16 tokens that are read; its end may be cut."
    }
    caplog.clear()
    next(generate(model, [PROMPT]))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a red house", "ratlip-demo does not know 'house': "),
        ("a red house, sea", "ratlip-demo knows neither 'house' nor 'sea': "),
        ("a car, house, sea", "ratlip-demo knows none of 'car', 'house', 'sea': "),
        ("a red bird with black wings", ""),
    ],
)
def test_unknown_words_are_named(prompt: str, said: str, tmp_path: Path) -> None:
    answer = ratlip("generate", prompt, "-n", 3, "--model", "ratlip-demo", "--device", "cpu", "--out", tmp_path)
    assert answer.code == 0
    assert said in answer.err
    assert answer.err.count("--words") == bool(said), "once"


def test_the_words_that_a_model_knows_are_listed(model_folder: Path) -> None:
    answer = ratlip("info", "ratlip-demo", "--words")
    assert "bird\n" in answer.out
    assert json.loads(ratlip("info", "ratlip-demo", "--words", "--json").out)["words"] == answer.out.split()
    whole = ratlip("info", model_folder, "--words")
    assert (whole.code, whole.out) == (0, "")
    assert "reads any word" in whole.err


def test_slugs_are_safe_file_names() -> None:
    assert slug("../../etc/passwd\0") == "etc-passwd"
    assert slug("A red   bird!") == "a-red-bird"
    assert slug("???") == "prompt"
    assert len(slug("word " * 100)) <= 60
    assert len(slug("\U0001d4d0" * 70 + "語" * 70).encode()) <= 60


@pytest.mark.parametrize(
    ("prompts", "options", "words"),
    [
        ([], {}, "no prompt"),
        (["a", "  "], {}, "prompt 2 is empty"),
        (["a"], {"best_of": 0}, "^best-of is 0; it must be at least 1"),
        (["a"], {"count": 0}, "^the number of images is 0; it must be at least 1"),
        (["a"], {"seed": -1}, "negative"),
        (["a"], {"truncation": float("nan")}, "truncation"),
        (["a"], {"batch_size": 0}, "batch size is 0"),
        (["a"], {"indices": []}, "indices are whole numbers"),
        (["a"], {"indices": [-1]}, "indices are whole numbers"),
        (["a"], {"indices": [3, 3]}, "an index is there twice"),
        (["a"], {"indices": [1], "count": 2}, "leave out the number of images"),
        (["a"], {"indices": [1], "best_of": 2}, "leave out the number of images"),
    ],
)
def test_bad_requests_are_refused(model: Model, prompts: list[str], options: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        list(generate(model, prompts, **options))


def test_a_generator_that_draws_nan_is_reported(model: Model) -> None:
    with torch.no_grad():
        model.generator.to_rgb.bias.fill_(float("nan"))
    with pytest.raises(RatlipError, match="not numbers"):
        list(generate(model, [PROMPT]))


def test_damaged_model_folders_are_named(model_folder: Path) -> None:
    weights = (model_folder / GENERATOR_FILE).read_bytes()
    config = json.loads((model_folder / CONFIG_FILE).read_text())
    tensors = load_tensors(model_folder / GENERATOR_FILE)

    (model_folder / GENERATOR_FILE).write_bytes(weights[: len(weights) // 2])
    with pytest.raises(WeightsError, match="damaged or cut short"):
        load_folder(model_folder)

    save_tensors(model_folder / GENERATOR_FILE, {"foreign.weight": torch.zeros(2)})
    with pytest.raises(WeightsError, match=r"missing: .* and \d+ more; not of this model: foreign.weight"):
        load_folder(model_folder)

    tensors["to_rgb.bias"] = torch.zeros(4)
    save_tensors(model_folder / GENERATOR_FILE, tensors)
    with pytest.raises(WeightsError, match=r"to_rgb.bias \(4,\) instead of \(3,\)"):
        load_folder(model_folder)

    (model_folder / GENERATOR_FILE).unlink()
    with pytest.raises(WeightsError, match="does not exist"):
        load_folder(model_folder)

    for change, words in [
        ({"format_version": 99}, "format version 99"),
        ({"library": "other"}, "does not describe a ratlip model"),
        ({"generator": {"variant": "ratlip"}}, "missing keys"),
        ({"generator": config["generator"] | {"colour": 1}}, r"unknown keys \['colour'\]"),
    ]:
        (model_folder / CONFIG_FILE).write_text(json.dumps(config | change))
        with pytest.raises(WeightsError, match=words):
            load_folder(model_folder)
    (model_folder / CONFIG_FILE).write_text('{"library":')
    with pytest.raises(WeightsError, match="is damaged"):
        load_folder(model_folder)


def test_another_clip_is_refused(model_folder: Path) -> None:
    config = json.loads((model_folder / CONFIG_FILE).read_text())
    (model_folder / CONFIG_FILE).write_text(json.dumps(config | {"clip_fingerprint": "0" * 16}))
    with pytest.raises(WeightsError, match="other weights, so other images"):
        load_folder(model_folder)


def test_models_are_found_by_folder_run_and_name(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = model_folder.parent
    assert load_model(str(model_folder)).fingerprint == load_model(str(run)).fingerprint
    monkeypatch.chdir(run)
    with pytest.raises(UsageError, match=r"unknown model 'ratlip-dmo'\. Did you mean 'ratlip-demo'"):
        load_model("ratlip-dmo")
    (run / "empty").mkdir()
    with pytest.raises(WeightsError, match="neither a model folder nor a run folder"):
        load_model("empty")


def test_half_precision_weights_load(model_folder: Path) -> None:
    half = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in load_tensors(model_folder / GENERATOR_FILE).items()
    }
    full = load_folder(model_folder)
    save_tensors(model_folder / GENERATOR_FILE, half)
    loaded = load_folder(model_folder)
    assert loaded.fingerprint != full.fingerprint
    parameter = next(loaded.generator.parameters())
    assert parameter.dtype == torch.float32
    replaced = replace(full, generator=loaded.generator)
    first, second = next(generate(full, [PROMPT])), next(generate(replaced, [PROMPT]))
    torch.testing.assert_close(from_image(first.image), from_image(second.image), rtol=0, atol=0.05)
