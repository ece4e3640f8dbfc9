"""Files of the published DF-GAN, RAT-GAN, AttnGAN and LAFITE code: to models that generate, and back."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from command_line import ratlip
from PIL import Image
from published_files import (
    ALONE,
    ON_DAMSM,
    SIZES,
    WORDS,
    networks,
    published,
    save,
    save_text_side,
    text_encoder,
    without_counters,
)
from published_pickles import save_captions
from torch import Tensor

from ratlip_cli.baselines.damsm import CONTEXT, END
from ratlip_cli.baselines.damsm_files import TEXT_ENCODER_FILE, VOCABULARY_FILE, load_text_encoder, read_vocabulary
from ratlip_cli.errors import WeightsError
from ratlip_cli.families import FAMILIES
from ratlip_cli.families.damsm import OnDamsm
from ratlip_cli.sampling import generate
from ratlip_cli.tensor_files import load_tensors, save_tensors
from ratlip_cli.weights.load import load_model
from ratlip_cli.weights.model_folder import (
    CARD_FILE,
    CONFIG_FILE,
    DISCRIMINATOR_FILE,
    GENERATOR_FILE,
    read_model_config,
)
from ratlip_cli.weights.released.codes import CODES, VARIANTS

BASELINES = tuple(SIZES)


def convert(tiny_clip: Path | str, *arguments: object):
    return ratlip("convert", *arguments, "--clip", tiny_clip, "--quiet")


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.fixture(scope="module")
def models(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model folder of each variant, converted from its published files, which lie beside it."""
    made = {}
    for variant in BASELINES:
        folder = tmp_path_factory.mktemp(variant)
        text_side = save_text_side(folder, variant) if variant in ON_DAMSM else []
        answer = convert(
            tiny_clip, *save(folder, variant, published(variant)), *text_side, "--out", folder / "model", "--json"
        )
        assert answer.code == 0, answer.err
        assert json.loads(answer.out)["variant"] == variant
        made[variant] = folder / "model"
    return made


@pytest.mark.parametrize("variant", BASELINES)
def test_published_files_become_a_model_that_generates(models: dict[str, Path], tmp_path: Path, variant: str) -> None:
    folder = models[variant]
    for file, network in zip((GENERATOR_FILE, DISCRIMINATOR_FILE), networks(variant), strict=True):
        assert_same(load_tensors(folder / file), network.state_dict())
    config = read_model_config(folder)
    assert (config.generator, config.discriminator) == SIZES[variant]
    out = tmp_path / "images"
    told = ratlip("generate", "a small red bird", "--model", folder, "--device", "cpu", "--out", out, "--no-grid", "-q")
    assert told.code == 0, told.err
    with Image.open(told.out.strip()) as image:
        assert image.size == (config.generator.image_size, config.generator.image_size)
        assert len(set(image.tobytes())) > 10


@pytest.mark.parametrize("variant", BASELINES)
def test_an_image_is_that_of_its_seed_and_prompt_alone(models: dict[str, Path], variant: str) -> None:
    model = load_model(str(models[variant]))
    prompts = ["a bird", "a small bird with red wings"]
    together = [sample.image.tobytes() for sample in generate(model, prompts, 2, seed=3, batch_size=4)]
    alone = [sample.image.tobytes() for sample in generate(model, prompts, 2, seed=3, batch_size=1)]
    assert len(set(together)) == 4
    for one, other in zip(together, alone, strict=True):
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) <= 1  # of 255, by rounding


@pytest.mark.parametrize("variant", [variant for variant in BASELINES if variant != "lafite-released"])
def test_the_way_back_gives_the_same_files(models: dict[str, Path], tmp_path: Path, variant: str) -> None:
    out = tmp_path / "netG_back.pth"
    told = ratlip("convert", models[variant], "--to-released", "--out", out, "--quiet")
    assert (told.code, told.out.strip()) == (0, str(out)), told.err
    nets = published(variant)
    if variant in ALONE:
        found = {net: torch.load(out if net == "netG" else tmp_path / f"{net}.pth", weights_only=True) for net in nets}
    else:
        found = torch.load(out, weights_only=True)["model"]
    assert found.keys() == nets.keys()
    for net in nets:
        assert_same(found[net], nets[net])


def test_lafites_files_are_not_written(models: dict[str, Path], tmp_path: Path) -> None:
    told = ratlip("convert", models["lafite-released"], "--to-released", "--out", tmp_path / "back.pkl", "--quiet")
    assert (told.code, told.out) == (2, "")
    assert "its published files hold source code, and ratlip writes none" in told.err
    assert not list(tmp_path.iterdir())


def test_files_beside_are_not_overwritten(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "netD1.pth").touch()
    told = ratlip("convert", models["attngan-released"], "--to-released", "--out", tmp_path / "netG.pth", "--quiet")
    assert (told.code, told.out) == (2, "")
    assert "netD1.pth exists" in told.err
    assert [path.name for path in tmp_path.iterdir()] == ["netD1.pth"]


def test_models_that_were_never_published_are_not_written(tmp_path: Path) -> None:
    told = ratlip("convert", "ratlip-demo", "--to-released", "--out", tmp_path / "back.pth", "--quiet")
    assert (told.code, told.out) == (2, "")
    assert "variant ratlip is not one of published code" in told.err


KINDS = ("zip", "legacy", "several GPUs", "float16", "safetensors", "in a state", "in a state_dict", "alone")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ["dfgan-released", "attngan-released"])
def test_every_kind_of_file_is_read(tiny_clip: Path, tmp_path: Path, variant: str, kind: str) -> None:
    tensors = without_counters(published(variant))["netG"]
    path = tmp_path / "netG.pth"
    if kind == "several GPUs":
        torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, path)
    elif kind == "float16":
        torch.save({name: tensor.half() for name, tensor in tensors.items()}, path)
    elif kind == "safetensors":
        save_tensors(path, tensors)
    elif kind == "in a state":
        torch.save({"model": {"netG": tensors}}, path)
    elif kind == "in a state_dict":
        torch.save({"state_dict": tensors, "epoch": 3}, path)
    elif kind == "alone":
        torch.save({"netG": tensors, "epoch": 3}, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    answer = convert(tiny_clip, path, *save_text_side(tmp_path, variant), "--out", tmp_path / "model")
    assert answer.code == 0, answer.err
    expected = networks(variant)[0].state_dict()
    if kind == "float16":
        expected = {name: tensor.half().to(tensor.dtype) for name, tensor in expected.items()}
    assert_same(load_tensors(tmp_path / "model" / GENERATOR_FILE), expected)
    assert not (tmp_path / "model" / DISCRIMINATOR_FILE).exists()


def test_the_ema_of_a_snapshot_is_taken_unless_it_is_not_wanted(tiny_clip: Path, tmp_path: Path) -> None:
    nets = published("lafite-released") | {"G": published("lafite-released", seed=1)["G_ema"]}
    (file,) = save(tmp_path, "lafite-released", nets)
    for option, seed in (("--ema", 0), ("--no-ema", 1)):
        assert convert(tiny_clip, file, "--out", tmp_path / option, option).code == 0
        assert_same(load_tensors(tmp_path / option / GENERATOR_FILE), networks("lafite-released", seed)[0].state_dict())
        assert read_model_config(tmp_path / option).training["average"] == (option == "--ema")


def test_a_text_encoder_and_captions_are_converted_alone(tiny_clip: Path, tmp_path: Path) -> None:
    """And then stand in for the published files."""
    variant = "dfgan-released"
    save_text_side(tmp_path, variant)
    encoder, captions, words = (tmp_path / name for name in ("text_encoder200.pth", "captions.pickle", "words.json"))
    told = ratlip("convert", captions, "--out", words, "--json", "--quiet")
    assert json.loads(told.out) == {"path": str(words), "words": 1 + len(WORDS)}
    assert read_vocabulary(words) == (END, *WORDS)
    told = ratlip("convert", encoder, "--captions", words, "--out", tmp_path / "text", "--json", "--quiet")
    assert told.code == 0, told.err
    assert json.loads(told.out)["fingerprint"] == text_encoder(variant).fingerprint
    assert load_text_encoder(tmp_path / "text").fingerprint == text_encoder(variant).fingerprint
    files = save(tmp_path, variant, published(variant))
    for number, given in enumerate(
        (
            ("--text-encoder", tmp_path / "text"),
            ("--text-encoder", tmp_path / "text" / TEXT_ENCODER_FILE, "--captions", words),
            ("--text-encoder", encoder, "--captions", captions),
        )
    ):
        out = tmp_path / f"model{number}"
        assert convert(tiny_clip, *files, *given, "--out", out).code == 0
        assert read_model_config(out).text_encoder == text_encoder(variant).fingerprint
        assert load_model(str(out)).fingerprint == load_model(str(tmp_path / "model0")).fingerprint


def test_the_text_encoder_is_part_of_the_model(models: dict[str, Path], tmp_path: Path) -> None:
    """Of its fingerprint, its card, and what is pushed; a model with another one is refused."""
    folder = shutil.copytree(models["dfgan-released"], tmp_path / "model")
    before = load_model(str(folder)).fingerprint
    assert read_model_config(folder).text_encoder in (folder / CARD_FILE).read_text()
    pushed = ratlip("push", folder, "me/birds", "--dry-run", "--json", "--quiet", "--prompt", "a red bird")
    assert pushed.code == 0, pushed.err
    assert {TEXT_ENCODER_FILE, VOCABULARY_FILE, "samples.png"} <= json.loads(pushed.out)["files"].keys()
    assert json.loads(pushed.out)["fingerprint"] == before
    (folder / VOCABULARY_FILE).write_text(json.dumps({"words": [END, *reversed(WORDS)]}))
    with pytest.raises(WeightsError, match="was trained with a text encoder of fingerprint"):
        load_model(str(folder))
    content = json.loads((folder / CONFIG_FILE).read_text())
    content["text_encoder"] = load_text_encoder(folder).fingerprint
    (folder / CONFIG_FILE).write_text(json.dumps(content))
    assert load_model(str(folder)).fingerprint != before
    (folder / TEXT_ENCODER_FILE).unlink()
    with pytest.raises(WeightsError, match=rf"{TEXT_ENCODER_FILE} does not exist"):
        load_model(str(folder))


def test_models_on_clip_say_nothing_of_a_text_encoder(models: dict[str, Path]) -> None:
    assert "text_encoder" not in json.loads((models["lafite-released"] / CONFIG_FILE).read_text())


def test_its_own_text_encoder_knows_the_words_and_reads_the_prompt(models: dict[str, Path], tmp_path: Path) -> None:
    """Not its CLIP, which reads 16 tokens here."""
    told = ratlip("info", models["dfgan-released"], "--words")
    assert told.out.split() == sorted(WORDS)
    image = tmp_path / "a.png"
    Image.new("RGB", (64, 64), "red").save(image)
    for target, fits, reads in (("discriminator", 17, CONTEXT), ("discriminator", None, CONTEXT), ("clip", None, 16)):
        prompt = " ".join(["red"] * (fits or reads + 1))
        given = ("--image", image, "--target", target, "--device", "cpu", "--out", tmp_path / "out")
        told = ratlip("gradcam", prompt, "--model", models["dfgan-released"], *given)
        assert told.code == 0, told.err
        assert (f"as long as the {reads} tokens that are read" in told.err) == (fits is None)


def test_unknown_words_are_told_and_left_out(models: dict[str, Path], tmp_path: Path) -> None:
    model = models["dfgan-released"]
    told = ratlip(
        "generate", "a crimson bird", "--model", model, "--device", "cpu", "--out", tmp_path / "a", "--no-grid"
    )
    assert told.code == 0
    assert told.err.count("crimson") == 1
    assert f"{model} does not know 'crimson': `ratlip info {model} --words` lists the words that it knows" in told.err
    told = ratlip("generate", "un oiseau", "--model", model, "--device", "cpu", "--out", tmp_path / "b", "--no-grid")
    assert (told.code, told.out) == (2, "")
    assert "'un oiseau' has no word that the model's text encoder knows" in told.err


def test_the_playground_names_words_that_the_text_encoder_does_not_know(models: dict[str, Path]) -> None:
    """Its CLIP may know them, but the model does not read by that."""
    pytest.importorskip("gradio", reason="gradio is missing: pip install 'ratlip[play]'")
    from ratlip_cli.web import playground

    model = load_model(str(models["dfgan-released"]))
    page = playground.Playground([model])
    (name,) = page.models
    _, note, *_ = next(page.one_prompt("a crimson bird", 1, name, 1, 0, 1.0))
    assert f"{name} does not know &#x27;crimson&#x27;" in note
    _, note, *_ = next(page.one_prompt("a red bird", 1, name, 1, 0, 1.0))
    assert "know" not in note


def test_every_variant_of_published_code_can_be_named(models: dict[str, Path]) -> None:
    from ratlip_cli.cli.convert import VARIANTS as OFFERED

    assert set(OFFERED) == {"auto", *VARIANTS}
    assert set(VARIANTS) == {"galip", "ratlip-released", *models}
    for variant in models:
        nets = published(variant)
        found = [code.variants for code in CODES if code.recognises(nets.get("netG", nets.get("G_ema", {})))]
        assert found == [next(code.variants for code in CODES if variant in code.variants)]


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.target}'",)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Published files, good and bad."""
    save(tmp_path, "dfgan-released", published("dfgan-released"))
    save(tmp_path, "lafite-released", published("lafite-released"))
    save(tmp_path, "attngan-released", published("attngan-released"))
    save_text_side(tmp_path, "attngan-released")
    (tmp_path / "text_encoder200.pth").rename(tmp_path / "narrow.pth")
    save_text_side(tmp_path, "dfgan-released")
    save_captions(tmp_path / "other.pickle", [*WORDS, "blue"])
    (tmp_path / "empty.pth").touch()
    (tmp_path / "page.pth").write_text("<!DOCTYPE html>")
    (tmp_path / "cut.pkl").write_bytes((tmp_path / "network-snapshot.pkl").read_bytes()[:5000])
    (tmp_path / "cut.pickle").write_bytes((tmp_path / "captions.pickle").read_bytes()[:60])
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"G_ema": Malicious(tmp_path / "executed")}))
    (tmp_path / "evil.pickle").write_bytes(pickle.dumps([Malicious(tmp_path / "executed")]))
    torch.save(Malicious(tmp_path / "executed"), tmp_path / "evil.pth")
    image_encoder = {"emb_features.weight": torch.ones(1), "emb_cnn_code.weight": torch.ones(1)}
    torch.save(image_encoder, tmp_path / "image_encoder200.pth")
    torch.save({"layer.weight": torch.ones(1)}, tmp_path / "foreign.pth")
    torch.save({"netG": {}, "epoch": 1}, tmp_path / "nothing.pth")
    torch.save({"netG": {"fc.weight": 1}}, tmp_path / "numbers.pth")
    torch.save(published("ratgan-released")["netG"], tmp_path / "no_flowers.pth")
    words = published("attngan-released")["netG"]
    words |= {name: one.repeat(1, 2, 1, 1) for name, one in words.items() if name.endswith("conv_context.weight")}
    torch.save(words, tmp_path / "wide_words.pth")
    for name, change in (
        ("lacking", lambda tensors: {key: tensors[key] for key in tensors if key != "to_rgb.1.bias"}),
        ("extra", lambda tensors: tensors | {"more.weight": torch.ones(1)}),
        ("misshapen", lambda tensors: tensors | {"fc.bias": torch.ones(3)}),
        ("flat", lambda tensors: tensors | {"fc.weight": torch.ones(3)}),
        ("huge", lambda tensors: tensors | {"to_rgb.1.weight": torch.ones(1).expand(3, 10**9, 3, 3)}),
        ("sparse", lambda tensors: tensors | {"fc.bias": torch.ones(3).to_sparse()}),
    ):
        torch.save({"model": {"netG": change(published("dfgan-released")["netG"])}}, tmp_path / f"{name}.pth")
    return tmp_path


DAMSM = "--text-encoder text_encoder200.pth --captions captions.pickle"

BAD = [
    ("state_epoch_1220.pth", 2, "reads text by a text encoder of DAMSM: give --text-encoder"),
    ("state_epoch_1220.pth --text-encoder text_encoder200.pth", 2, "give --captions captions.pickle"),
    ("state_epoch_1220.pth --captions captions.pickle", 2, "give --text-encoder"),
    ("state_epoch_1220.pth --text-encoder text_encoder200.pth --captions other.pickle", 1, "knows 7 words, but"),
    ("state_epoch_1220.pth --text-encoder narrow.pth --captions captions.pickle", 1, "of 8 numbers, but"),
    ("wide_words.pth --text-encoder narrow.pth --captions captions.pickle", 1, "gives words of 8 numbers, but"),
    ("state_epoch_1220.pth --text-encoder captions.pickle --captions captions.pickle", 1, "captions go by --captions"),
    ("state_epoch_1220.pth --text-encoder text_encoder200.pth --captions page.pth", 1, "a web page"),
    ("state_epoch_1220.pth --text-encoder text_encoder200.pth --captions evil.pickle", 1, "nothing in it executed"),
    ("state_epoch_1220.pth --text-encoder text_encoder200.pth --captions evil.pkl", 1, "nothing in it executed"),
    ("state_epoch_1220.pth --text-encoder evil.pth --captions captions.pickle", 1, "nothing in it executed"),
    ("state_epoch_1220.pth --text-encoder foreign.pth --captions captions.pickle", 1, "is no text encoder of DAMSM"),
    ("state_epoch_1220.pth --text-encoder . --captions captions.pickle", 2, "leave out --captions"),
    ("state_epoch_1220.pth --text-encoder .", 1, "vocabulary.json cannot be read"),
    ("state_epoch_1220.pth --text-encoder none.pth --captions captions.pickle", 1, "none.pth does not exist"),
    (
        f"state_epoch_1220.pth {DAMSM} --variant attngan-released",
        1,
        "is of variant dfgan-released, not attngan-released",
    ),
    (
        f"no_flowers.pth {DAMSM} --variant ratgan-flower-released",
        1,
        "is of variant ratgan-released, not ratgan-flower-released",
    ),
    (f"state_epoch_1220.pth {DAMSM} --variant dfgna-released", 2, "Did you mean 'dfgan-released'"),
    (f"state_epoch_1220.pth {DAMSM} --discriminator netD0.pth", 2, "keeps it in the generator's file"),
    (
        f"netG.pth {DAMSM.replace('text_encoder200', 'narrow')} --discriminator netD0.pth",
        1,
        "1 discriminators for images",
    ),
    (
        f"netG.pth {DAMSM.replace('text_encoder200', 'narrow')}" + " --discriminator netD0.pth" * 4,
        2,
        "was given 4 times",
    ),
    (
        f"netG.pth {DAMSM} --discriminator state_epoch_1220.pth",
        1,
        "holds netG, netD, netC; a file with the tensors of one",
    ),
    (f"network-snapshot.pkl {DAMSM}", 2, "reads text by CLIP: leave out --text-encoder"),
    ("network-snapshot.pkl --captions captions.pickle", 2, "reads text by CLIP: leave out --captions"),
    ("network-snapshot.pkl --discriminator netD0.pth", 2, "keeps it in the generator's file"),
    ("cut.pkl", 1, "damaged or cut short"),
    ("evil.pkl", 1, "nothing in it executed"),
    ("evil.pickle", 1, "nothing in it executed"),
    ("evil.pth", 1, "nothing in it executed"),
    ("cut.pickle", 1, "damaged or cut short"),
    ("captions.pickle --variant dfgan-released", 2, "leave out --variant"),
    ("captions.pickle --captions captions.pickle", 2, "leave out --captions"),
    ("captions.pickle --half", 2, "leave out --half"),
    ("text_encoder200.pth", 2, "give --captions captions.pickle"),
    ("text_encoder200.pth --captions other.pickle", 1, "knows 7 words, but"),
    (f"text_encoder200.pth {DAMSM}", 2, "leave out --text-encoder"),
    ("image_encoder200.pth", 1, "is the image encoder of DAMSM"),
    ("netD0.pth", 1, "is a discriminator: give it by --discriminator"),
    ("foreign.pth", 1, "has tensors of no published generator that is known here: 'layer.weight'"),
    ("nothing.pth", 1, "it has no 'netG'"),
    ("numbers.pth", 1, "'fc.weight' is int"),
    ("empty.pth", 1, "an empty file"),
    ("page.pth", 1, "a web page"),
    (f"lacking.pth {DAMSM}", 1, "to_rgb"),
    (f"extra.pth {DAMSM}", 1, "more.weight"),
    (f"misshapen.pth {DAMSM}", 1, "(3,) instead of"),
    (f"flat.pth {DAMSM}", 1, "is not a checkpoint that the published code writes"),
    (f"huge.pth {DAMSM}", 1, "is larger than what the file stores of it"),
    (f"sparse.pth {DAMSM}", 1, "is not a plain tensor of real numbers"),
    (".", 1, "is a folder; name the file in it"),
]


@pytest.mark.slow
def test_bad_files_and_options_are_one_clear_line(
    tiny_clip: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for arguments, code, words in BAD:
        told = convert(tiny_clip, *arguments.split(), "--out", "new")
        assert (told.code, told.out, len(told.err.splitlines())) == (code, "", 1), (arguments, told)
        assert words in told.err, (arguments, told.err)
        assert not Path("new").exists()
    assert not Path("executed").exists()


def test_lafite_names_another_clip(tmp_path: Path) -> None:
    (file,) = save(tmp_path, "lafite-released", published("lafite-released"))
    told = convert("ratlip-demo", file, "--out", tmp_path / "new")
    assert (told.code, told.out) == (1, "")
    assert "whose text vectors have 128 numbers, not 16; give the right one by --clip" in told.err


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("attngan-released", "netD0.pth"),
        ("attngan-released", "netD2.pth"),
        ("dfgan-2020-released", "netD.pth"),
        ("ratgan-released", "netd.pth"),
    ],
)
def test_a_generator_is_not_written_under_a_discriminators_name(
    models: dict[str, Path], tmp_path: Path, variant: str, name: str
) -> None:
    told = ratlip("convert", models[variant], "--to-released", "--out", tmp_path / "new" / name, "--quiet")
    assert (told.code, told.out) == (2, "")
    assert "is where the discriminator of that name goes" in told.err
    assert "netG.pth" in told.err
    assert not (tmp_path / "new").exists()


def test_options_of_the_other_direction(models: dict[str, Path], tmp_path: Path) -> None:
    for option in (
        ("--variant", "dfgan-released"),
        ("--captions", "x"),
        ("--text-encoder", "x"),
        ("--discriminator", "x"),
        ("--clip", "x"),
        ("--half",),
        ("--no-ema",),
    ):
        told = ratlip("convert", models["dfgan-released"], "--to-released", "--out", tmp_path / "new", *option)
        assert (told.code, told.out) == (2, "")
        assert "takes a model as it is" in told.err


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize("variant", [name for name, family in FAMILIES.items() if isinstance(family, OnDamsm)])
def test_what_cannot_be_trained_is_told_before_anything_is_looked_for(
    tmp_path: Path, variant: str, dry: tuple[str, ...]
) -> None:
    """Neither the data nor the CLIP nor the device is: none of them is there. Nor is a folder left of a run."""
    told = ratlip(
        *("train", "--dataset", tmp_path / "nowhere" / "{000..009}.tar", "--variant", variant, *dry),
        *("--clip", tmp_path / "no-clip", "--device", "cuda:99", "--out", tmp_path / "run", "--quiet"),
    )
    assert (told.code, told.out) == (2, "")
    assert f"variant {variant} is for published weights" in told.err
    assert "cannot be trained: use --variant " in told.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variant", ["ratgan-released", "attngan-released"])
def test_published_weights_on_a_text_encoder_of_their_own_are_not_trained(
    tiny_clip: Path, tiny_dataset: Path, tmp_path: Path, variant: str
) -> None:
    out = tmp_path / "run"
    told = ratlip(
        *("train", "--dataset", tiny_dataset, "--variant", variant, "--clip", tiny_clip, "--image-size", "32"),
        *("--steps", "1", "--batch-size", "2", "--workers", "0", "--device", "cpu", "--out", out, "--quiet"),
    )
    assert (told.code, told.out) == (2, "")
    assert "cannot be trained: use --variant " in told.err
    assert not out.exists()


@pytest.mark.parametrize("variant", ["dfgan-released", "attngan-released", "lafite-released"])
def test_a_converted_model_is_described(models: dict[str, Path], variant: str) -> None:
    told = ratlip("info", models[variant], "--json")
    assert told.code == 0, told.err
    described = json.loads(told.out)
    trained = sum(parameter.numel() for network in networks(variant) for parameter in network.parameters())
    assert described["parameters_trained"] == trained
    assert described["fingerprint"] == load_model(str(models[variant])).fingerprint


def test_a_model_on_damsm_is_not_exported(models: dict[str, Path], tmp_path: Path) -> None:
    told = ratlip("export", models["attngan-released"], "--out", tmp_path / "out", "--quiet")
    assert (told.code, told.out) == (1, "")
    assert "reads captions by DAMSM's text encoder, which cannot be exported: variant attngan, trained" in told.err
    assert not (tmp_path / "out").exists()
