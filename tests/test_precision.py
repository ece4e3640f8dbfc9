"""Sampling in bf16: near fp32 by what rounding allows, as independent of the batch, and said wherever it is used."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import ratlip
from PIL import Image
from test_fast import ALL, CONFIG, NONE, randomise
from test_for_sampling import Pixels
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli import api, fast
from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.data.layout import DatasetInfo, Record
from ratlip_cli.data.writer import write_dataset
from ratlip_cli.evaluation.images import Captions, GeneratedImages
from ratlip_cli.evaluation.request import EvaluationRequest
from ratlip_cli.evaluation.run import evaluate
from ratlip_cli.explain.inputs import load_models
from ratlip_cli.fast import for_sampling, onednn, resolve_precision
from ratlip_cli.fast.onednn import PackedConv, PackedLinear, is_usable
from ratlip_cli.generation import PRECISIONS
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.config import VARIANTS, ClipGeometry, DiscriminatorConfig, GeneratorConfig
from ratlip_cli.model.generator import Generator
from ratlip_cli.sampling import generate
from ratlip_cli.weights.card import read_scores
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.load import load_model
from ratlip_cli.weights.model_folder import Model, create_model_folder, model_config, save_weights

U = 2.0**-8  # Unit roundoff of bfloat16: eight binary digits.

needs_onednn = pytest.mark.skipif(not is_usable(), reason="this PyTorch has no oneDNN")


@pytest.fixture(scope="module")
def clip(tiny_clip: Path) -> FrozenCLIP:
    return load_clip(str(tiny_clip))


@pytest.fixture(params=["as this CPU does", "rounded"])
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How this CPU computes, and how one without bf16 does."""
    if request.param == "rounded":
        monkeypatch.setattr(onednn, "multiplies_bf16", lambda: False)


Layer = Callable[[Tensor, Tensor, Tensor | None], Tensor]

LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Callable[[Tensor, Tensor], nn.Module], Layer]] = {
    "linear": ((3, 7, 40), (24, 40), PackedLinear, F.linear),
    "convolution": (
        (2, 40, 8, 8),
        (24, 40, 3, 3),
        lambda weight, bias: PackedConv(weight, bias, 8, dtype=torch.bfloat16),
        lambda x, weight, bias: F.conv2d(x, weight, bias, padding=1),
    ),
    "transposed": (
        (2, 40, 8, 8),
        (40, 24, 4, 4),
        lambda weight, bias: PackedConv(weight, bias, 8, True, torch.bfloat16),
        lambda x, weight, bias: F.conv_transpose2d(x, weight, bias, stride=2, padding=1),
    ),
}


@needs_onednn
@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_errs_by_the_rounding_of_what_it_multiplies_and_gives(layer: str) -> None:
    x_shape, weight_shape, make, exact = LAYERS[layer]
    torch.manual_seed(0)
    x, weight, bias = torch.randn(x_shape), torch.randn(weight_shape), torch.randn(24)
    out = make(weight, bias)(x)
    assert out.dtype is torch.float32
    expected = exact(x.double(), weight.double(), bias.double())
    products = exact(x.double().abs(), weight.double().abs(), None)  # the sum of their absolute values
    terms = math.prod(weight_shape)  # more than are added up for a value, in float32
    inside = (2 * U + U**2 + terms * 2.0**-24) * products  # what is multiplied is rounded, then added up
    error = (out - expected).abs()
    assert (error <= inside + U * (expected.abs() + inside)).all()  # and what comes out may be
    assert error.max() > 2.0**-20 * products.max(), "this was float32"


@needs_onednn
@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("variant", VARIANTS)
def test_images_are_near_those_in_fp32(clip: FrozenCLIP, variant: str) -> None:
    """Each layer adds three roundings, of independent errors of at most U, to what goes through."""
    torch.manual_seed(0)
    generator = Generator(replace(CONFIG, variant=variant), clip.geometry).eval()
    randomise(generator)
    noise, text = torch.randn(8, CONFIG.noise_dim), torch.randn(8, clip.geometry.embed_dim)
    expected, images = (for_sampling(generator, clip, ALL, precision)(noise, text) for precision in ("fp32", "bf16"))
    assert images.dtype is torch.float32
    layers = 4 * clip.geometry.layers + 1 + 3 * len(generator.blocks)
    error = (images - expected).square().mean().sqrt() / expected.std()
    assert 1e-4 < error < U * math.sqrt(3 * layers)


@needs_onednn
def test_what_is_read_from_noise_and_text_stays_fp32(clip: FrozenCLIP) -> None:
    torch.manual_seed(0)
    generator = Generator(CONFIG, clip.geometry).eval()
    randomise(generator)
    noise, text = torch.randn(3, CONFIG.noise_dim), torch.randn(3, clip.geometry.embed_dim)
    single, half = (for_sampling(generator, clip, ALL, precision).generator for precision in ("fp32", "bf16"))
    with torch.no_grad():
        for one, other in zip(single.clip_input(noise, text), half.clip_input(noise, text), strict=True):
            assert torch.equal(one, other)
        y = torch.cat((noise, text), dim=1)
        x = torch.randn(3, half.config.block_channels(4)[0], 4, 4)
        assert torch.equal(single.blocks[0].fuse1(x, y), half.blocks[0].fuse1(x, y))
        colours = torch.randn(1, CONFIG.base_channels, 64, 64)
        assert torch.equal(single.to_rgb(colours), half.to_rgb(colours))


@needs_onednn
def test_an_image_in_bf16_is_the_same_to_the_bit_whatever_else_is_generated(clip: FrozenCLIP) -> None:
    torch.manual_seed(0)
    generator = Generator(CONFIG, clip.geometry).eval()
    randomise(generator)
    noise, text = torch.randn(19, CONFIG.noise_dim), torch.randn(19, clip.geometry.embed_dim)
    sampler = for_sampling(generator, clip, ALL, "bf16")
    every = sampler(noise, text)
    for rows in (slice(0, 1), slice(3, 5), slice(7, 19)):
        assert torch.equal(sampler(noise[rows], text[rows]), every[rows])
    assert torch.equal(for_sampling(generator, clip, ALL, "bf16")(noise, text), every)


@needs_onednn
def test_the_model_and_its_clip_stay_as_they_are(clip: FrozenCLIP) -> None:
    generator = Generator(CONFIG, clip.geometry).eval()
    image = torch.rand(1, 3, 32, 32)
    before, embedding = clip.fingerprint, clip.encode_image(image)
    sampler = for_sampling(generator, clip, ALL, "bf16")
    assert not any(isinstance(module, PackedConv | PackedLinear) for module in (*clip.modules(), *generator.modules()))
    assert torch.equal(clip.encode_image(image), embedding)
    assert load_clip(clip.spec).fingerprint == before
    assert sampler.clip.visual.ln_pre.weight is clip.visual.ln_pre.weight, "what is not in bf16 is shared"


def test_other_families_and_plain_modules_take_autocast(clip: FrozenCLIP) -> None:
    torch.manual_seed(0)
    ratlip_own = Generator(CONFIG, clip.geometry).eval()
    for generator, noise_dim, text_dim in ((Pixels(), 2, 3), (ratlip_own, CONFIG.noise_dim, clip.geometry.embed_dim)):
        noise, text = torch.randn(3, noise_dim), torch.randn(3, text_dim)
        expected, images = (for_sampling(generator, clip, NONE, name)(noise, text) for name in ("fp32", "bf16"))
        assert images.dtype is torch.float32
        assert 0 < (images - expected).abs().max() < 16 * U * expected.abs().max()


def test_autocast_around_it_changes_nothing(clip: FrozenCLIP) -> None:
    torch.manual_seed(0)
    generator = Generator(CONFIG, clip.geometry).eval()
    noise, text = torch.randn(2, CONFIG.noise_dim), torch.randn(2, clip.geometry.embed_dim)
    sampler = for_sampling(generator, clip)
    expected = sampler(noise, text)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sampler(noise, text), expected)


@pytest.mark.parametrize("width", [32, 512])
def test_auto_is_fp32_until_scores_are_measured(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a wide CLIP too, with which bf16 is faster: of no such model it is known to keep the scores."""
    monkeypatch.setattr(fast, "multiplies_bf16", lambda: True)
    monkeypatch.setattr(fast, "swaps_for", lambda device: ALL)
    generator = Generator(CONFIG, ClipGeometry(width=width, grid=4, layers=3, embed_dim=8, image_size=32))
    assert {name: resolve_precision(name, generator) for name in PRECISIONS} == {
        "auto": "fp32",
        "fp32": "fp32",
        "bf16": "bf16",
    }
    assert resolve_precision("auto", Pixels()) == "fp32"


@needs_onednn
def test_the_two_bf16_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of autocast, where the LSTM and the affines are bf16 too, is not taken for that of the products alone."""
    generator = Generator(CONFIG, ClipGeometry(width=32, grid=4, layers=3, embed_dim=8, image_size=32))
    for swaps, network, name in (
        (ALL, generator, "bf16"),
        (ALL, Pixels(), "bf16-autocast"),
        (NONE, generator, "bf16-autocast"),
    ):
        monkeypatch.setattr(fast, "swaps_for", lambda device, swaps=swaps: swaps)
        assert resolve_precision("bf16", network) == resolve_precision(name, network) == name


def test_images_and_scores_of_autocast_say_so(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = EvaluationRequest(model=model_folder, metrics=("clip-score",), device="cpu", precision="bf16")
    by_products = evaluate(request)
    monkeypatch.setattr(fast, "swaps_for", lambda device: NONE)
    by_autocast = evaluate(request)
    assert [one.record()["precision"] for one in (by_products, by_autocast)] == ["bf16", "bf16-autocast"]
    assert by_products.fingerprint != by_autocast.fingerprint
    (sample,) = generate(load_model(str(model_folder)).in_precision("bf16"), ["a bird"])
    assert sample.record()["precision"] == "bf16-autocast"


def test_a_cpu_without_bf16_says_that_it_is_slower(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logging.getLogger("ratlip_cli").propagate = True
    monkeypatch.setattr(fast, "multiplies_bf16", lambda: False)
    for name in ("auto", "fp32"):
        resolve_precision(name, Pixels())
    assert caplog.text == ""
    assert resolve_precision("bf16", Pixels()) == "bf16-autocast"
    assert "slower" in caplog.text


@pytest.fixture(scope="module")
def model_folder(tiny_clip: Path, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights that names its own CLIP for its scores and `tiny_dataset` for its data."""
    clip = load_clip(str(tiny_clip))
    sizes = GeneratorConfig(
        image_size=32, noise_dim=6, hidden_size=4, base_channels=8, bridge_channels=8, bridge_blocks=1
    )
    folder = tmp_path_factory.mktemp("runs") / "random"
    config = model_config(sizes, DiscriminatorConfig(), clip, {"dataset": str(tiny_dataset)}, features="clip")
    create_model_folder(folder, config, clip)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        generator = Generator(sizes, clip.geometry)
        randomise(generator)
    save_weights(folder, generator.state_dict())
    return folder


@pytest.mark.parametrize(("given", "used"), [(["--precision", "bf16"], "bf16"), ([], "fp32")])
def test_images_and_their_records_say_the_precision(
    given: list[str], used: str, model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    answer = ratlip("generate", "a bird", "-n", 2, "--model", model_folder, "--out", out, "--json", *given)
    assert answer.code == 0, answer.err
    assert f" in {used}" in answer.err
    told = json.loads(answer.out)
    assert [told["precision"], *(image["precision"] for image in told["images"])] == [used] * 3
    records = [json.loads(line) for line in (out / "images.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["precision"] for record in records] == [used] * 2
    expected = generate(load_model(str(model_folder)).in_precision(used), ["a bird"], 2)
    for record, sample in zip(records, expected, strict=True):
        with Image.open(out / record["file_name"]) as image:
            assert image.text["precision"] == used
            assert image.tobytes() == sample.image.tobytes()
    with Image.open(out / "0000_grid.png") as grid:
        assert grid.text["precision"] == used


def test_in_python_a_model_is_loaded_with_its_precision(model_folder: Path) -> None:
    half = api.load_model(model_folder, precision="bf16")
    (image,) = half.generate("a bird")
    assert isinstance(half, api.Model)
    assert image.precision == half.precision == "bf16"
    assert api.load_model(model_folder).precision == "fp32", "auto, beside a small CLIP"
    with pytest.raises(api.UsageError, match=r"unknown precision 'bf61'\. Did you mean 'bf16'"):
        api.load_model(model_folder, precision="bf61")


def test_what_explains_a_model_generates_in_fp32(model_folder: Path) -> None:
    half = load_model(str(model_folder)).in_precision("bf16")
    (taken,) = load_models([half], "cpu")
    assert (half.precision, taken.precision) == ("bf16", "fp32")


def test_scores_of_bf16_images_say_so_and_have_another_fingerprint(model_folder: Path, tmp_path: Path) -> None:
    request = EvaluationRequest(model=model_folder, metrics=("clip-score",), device="cpu")
    single, half = evaluate(request), evaluate(replace(request, precision="bf16"))
    assert (single.record()["precision"], half.record()["precision"]) == ("fp32", "bf16")
    assert single.fingerprint != half.fingerprint
    assert single.score("clip_score").value > 0  # where it is, the images' precision shows
    assert 0 < abs(single.score("clip_score").value - half.score("clip_score").value) < 100 * U
    loaded: Model = load_model(str(model_folder)).in_precision("bf16")
    again = evaluate(replace(request, model=loaded))
    assert (again.fingerprint, again.record()["precision"]) == (single.fingerprint, "fp32"), "the request decides"
    for evaluation, protocol in ((single, "standard"), (half, "standard, images in bf16")):
        path = tmp_path / f"{evaluation.fingerprint}.json"
        path.write_text(json.dumps(evaluation.record()), encoding="utf-8")
        assert read_scores(path).protocol == protocol


def test_the_fingerprint_of_fp32_images_is_what_it_was_before_there_were_others(tiny_dataset: Path) -> None:
    model = load_model("ratlip-demo")
    captions = Captions.of_split(CaptionedImages(tiny_dataset, "test", 32), 1)
    before = hashlib.sha256("\0".join((model.fingerprint, captions.fingerprint, "0")).encode()).hexdigest()
    assert GeneratedImages(model, captions, 0).fingerprint == before
    assert GeneratedImages(model.in_precision("bf16"), captions, 0).fingerprint != before


@pytest.mark.parametrize("command", [["generate", "a bird"], ["evaluate"], ["bench"]])
def test_an_unknown_precision_is_one_line(command: list[str]) -> None:
    answer = ratlip(*command, "--precision", "bf61")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.splitlines() == ["error: unknown precision 'bf61'. Did you mean 'bf16'? Known: auto, bf16, fp32."]


@pytest.mark.slow
def test_bench_measures_in_the_precision_that_was_asked_for(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ratlip_cli.training import benchmark

    monkeypatch.setattr(benchmark, "SHORTEST_SECONDS", 0.0)
    monkeypatch.setattr(benchmark, "MATRIX_SIDE", 64)
    for given, used in (("bf16", "bf16"), ("auto", "fp32")):
        answer = ratlip("bench", model_folder, "--device", "cpu", "--precision", given, "--json", "--quiet")
        assert json.loads(answer.out)["precision"] == used


@pytest.mark.slow
def test_any_model_is_scored_in_both_precisions(model_folder: Path, tmp_path: Path) -> None:
    """By the script that the documentation names for it."""
    colours = ("red", "blue", "green", "yellow", "black", "white", "brown", "pink")
    records = [Record(one, "test", (f"a {one} image",), Image.new("RGB", (40, 40), one)) for one in colours]
    info = DatasetInfo(name="colours", source="this test", licence="CC0", image_size=32, split_rule="all")
    write_dataset(tmp_path / "colours", records, info)
    script = Path(__file__).parent / "benchmarks" / "bf16.py"
    asked = ["scores", "--model", model_folder, "--dataset", tmp_path / "colours", "--images", "6", "--resamples", "40"]
    answer = subprocess.run([sys.executable, script, *asked], capture_output=True, text=True, check=False)
    told = json.loads(answer.stdout)
    assert (told["model"], told["images"]) == (str(model_folder), 6)
    assert set(told["scores"]) == {"fid_clip", "kid_clip", "precision_clip", "recall_clip", "clip_score", "r_precision"}
    assert told["scores"]["clip_score"]["bf16"] != told["scores"]["clip_score"]["fp32"]
    assert answer.returncode == (0 if told["reached"] else 1)
