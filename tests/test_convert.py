"""Published checkpoints: files of the published code to working models, and back."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from command_line import ratlip
from PIL import Image
from torch import Tensor, nn

from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.config import DiscriminatorConfig, GeneratorConfig
from ratlip_cli.model.discriminator import Discriminator
from ratlip_cli.model.generator import Generator
from ratlip_cli.tensor_files import load_tensors
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.load import load_model
from ratlip_cli.weights.model_folder import DISCRIMINATOR_FILE, GENERATOR_FILE
from ratlip_cli.weights.released.ratlip import RELEASED_IMAGE_SIZE, export_released, import_released

Nets = dict[str, dict[str, Tensor]]


def released(clip: FrozenCLIP, variant: str, seed: int = 0) -> Nets:
    """The networks of a small model as the published code saves them."""
    config = GeneratorConfig(
        variant=variant, image_size=RELEASED_IMAGE_SIZE, noise_dim=6, hidden_size=4, base_channels=4, bridge_blocks=2
    )
    torch.manual_seed(seed)
    networks = Generator(config, clip.geometry), Discriminator(DiscriminatorConfig(base_channels=2), clip.geometry)
    for network in networks:
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.1)
    generator, discriminator = (network.state_dict() for network in networks)
    return export_released(generator, discriminator, clip.visual.state_dict())


@pytest.fixture(scope="module")
def clip(tiny_clip: Path) -> FrozenCLIP:
    return load_clip(str(tiny_clip))


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("variant", ["galip", "ratlip-released"])
def test_a_checkpoint_becomes_a_model_that_generates(
    clip: FrozenCLIP, tiny_clip: Path, tmp_path: Path, variant: str
) -> None:
    nets = released(clip, variant)
    several_gpus = {
        net: {f"module.{name}": tensor for name, tensor in tensors.items()} for net, tensors in nets.items()
    }
    file = save(tmp_path / "state_epoch_1080.pth", {"model": several_gpus, "epoch": 1080})
    out = tmp_path / "model"
    answer = ratlip("convert", file, "--out", out, "--clip", tiny_clip, "--variant", variant, "--json", "--quiet")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    model = load_model(str(out))
    assert (told["variant"], told["fingerprint"]) == (variant, model.fingerprint)
    assert model.config.training["converted_from"] == "state_epoch_1080.pth"
    expected = import_released(nets)
    assert all(
        torch.equal(tensor, expected.generator[name]) for name, tensor in load_tensors(out / GENERATOR_FILE).items()
    )
    generated = ratlip(
        "generate", "a bird", "--model", out, "--device", "cpu", "--out", tmp_path / "images", "--no-grid", "-q"
    )
    assert generated.code == 0, generated.err
    with Image.open(generated.out.strip()) as image:
        assert image.size == (RELEASED_IMAGE_SIZE, RELEASED_IMAGE_SIZE)
        assert len(set(image.tobytes())) > 10


def test_the_way_back_gives_the_same_file(clip: FrozenCLIP, tmp_path: Path) -> None:
    for variant in ("galip", "ratlip-released"):
        nets = released(clip, variant)
        read = import_released(nets)
        again = export_released(read.generator, read.discriminator, clip.visual.state_dict())
        assert {net: set(tensors) for net, tensors in again.items()} == {net: set(nets[net]) for net in nets}
        assert all(torch.equal(again[net][name], nets[net][name]) for net in nets for name in nets[net])


def test_half_precision_files_and_half_precision_folders(clip: FrozenCLIP, tiny_clip: Path, tmp_path: Path) -> None:
    nets = released(clip, "ratlip-released")
    halved = {net: {name: tensor.half() for name, tensor in tensors.items()} for net, tensors in nets.items()}
    file = save(tmp_path / "half.pth", {"model": halved})
    for option, dtype in (((), torch.float32), (("--half",), torch.float16)):
        out = tmp_path / f"model{len(option)}"
        answer = ratlip("convert", file, "--out", out, "--clip", tiny_clip, *option, "--quiet")
        assert answer.code == 0, answer.err
        assert load_tensors(out / GENERATOR_FILE)["to_rgb.weight"].dtype == dtype
        stored = load_tensors(out / GENERATOR_FILE)["to_rgb.weight"].float()
        assert torch.equal(stored, halved["netG"]["to_rgb.1.weight"].float())


@pytest.mark.parametrize("name", ["netG_ema", "netG_EMA", "netGEMA"])
def test_an_ema_is_taken_unless_it_is_not_wanted(clip: FrozenCLIP, tiny_clip: Path, tmp_path: Path, name: str) -> None:
    nets = released(clip, "galip")
    ema = released(clip, "galip", seed=1)["netG"]
    file = save(tmp_path / "ema.pth", {"model": {**nets, name: ema}})
    for option, expected in (("--ema", ema), ("--no-ema", nets["netG"])):
        out = tmp_path / option
        assert ratlip("convert", file, "--out", out, "--clip", tiny_clip, option, "--quiet").code == 0
        assert torch.equal(load_tensors(out / GENERATOR_FILE)["to_rgb.weight"], expected["to_rgb.1.weight"])
        assert load_model(str(out)).config.training["average"] == (option == "--ema")


def test_a_generator_alone_is_enough(clip: FrozenCLIP, tiny_clip: Path, tmp_path: Path) -> None:
    file = save(tmp_path / "generator.pth", {"model": {"netG": released(clip, "galip")["netG"]}})
    assert ratlip("convert", file, "--out", tmp_path / "model", "--clip", tiny_clip, "--quiet").code == 0
    assert not (tmp_path / "model" / DISCRIMINATOR_FILE).exists()


class Malicious:
    """Unpickled, it would make a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.target}'",)


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_malicious_file_is_refused_and_nothing_in_it_executed(
    clip: FrozenCLIP, tiny_clip: Path, tmp_path: Path, wrapped: bool
) -> None:
    target, file = tmp_path / "executed", tmp_path / "state.pth"
    if wrapped:
        torch.save({"model": released(clip, "galip"), "epoch": Malicious(target)}, file)
    else:
        file.write_bytes(pickle.dumps(Malicious(target)))
    answer = ratlip("convert", file, "--out", tmp_path / "model", "--clip", tiny_clip, "--quiet")
    assert (answer.code, answer.out) == (1, "")
    assert "was refused, nothing in it executed" in answer.err
    assert not target.exists()
    assert not (tmp_path / "model").exists()
    torch.load(file, weights_only=False) if wrapped else pickle.loads(file.read_bytes())
    assert target.exists()  # so the file was dangerous


def spoiled(nets: Nets, how: str) -> object:
    """Content that is not quite a checkpoint."""
    if how == "other CLIP":
        nets["netG"]["mapping.CLIP_ViT.class_embedding"] = nets["netG"]["mapping.CLIP_ViT.class_embedding"] + 1
    elif how == "other architecture":
        nets["netG"]["mapping.CLIP_ViT.extra"] = torch.zeros(1)
    elif how == "missing tensor":
        del nets["netG"]["mapping.conv.bias"]
    elif how == "extra tensor":
        nets["netD"]["colour"] = torch.zeros(1)
    elif how == "misshapen tensor":
        nets["netG"]["mapping.conv.bias"] = torch.zeros(3)
    elif how == "a gap in the discriminator":
        del nets["netD"]["main.gamma"]
    elif how == "no generator":
        del nets["netG"]
    elif how == "a list":
        return [1, 2]
    return {"model": nets}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("other CLIP", "class_embedding differs; give the right one by --clip"),
        ("other architecture", "was trained with another CLIP"),
        ("missing tensor", "missing: fuse.bias"),
        ("extra tensor", "unknown tensor colour in netD"),
        ("misshapen tensor", "fuse.bias (3,) instead of"),
        ("a gap in the discriminator", "is not a checkpoint that the published code writes"),
        ("no generator", "it has no 'netG'"),
        ("a list", "it has no 'netG'"),
    ],
)
def test_what_is_no_checkpoint_is_said(clip: FrozenCLIP, tiny_clip: Path, tmp_path: Path, how: str, words: str) -> None:
    file = save(tmp_path / "state.pth", spoiled(released(clip, "galip"), how))
    answer = ratlip("convert", file, "--out", tmp_path / "model", "--clip", tiny_clip, "--quiet")
    assert (answer.code, answer.out) == (1, "")
    assert words in answer.err
    assert not (tmp_path / "model").exists()


def test_bad_input(clip: FrozenCLIP, tiny_clip: Path, tmp_path: Path) -> None:
    file = save(tmp_path / "state.pth", {"model": released(clip, "galip")})
    cut = tmp_path / "cut.pth"
    cut.write_bytes(file.read_bytes()[:1000])
    (tmp_path / "there").mkdir()
    for arguments, code, words in (
        ((file, "--out", tmp_path / "there"), 2, "exists; choose another --out"),
        ((file, "--out", tmp_path / "new", "--variant", "galipp"), 2, "Did you mean 'galip'"),
        ((file, "--out", tmp_path / "new", "--variant", "ratlip-released"), 1, "is of variant galip"),
        ((tmp_path / "none.pth", "--out", tmp_path / "new"), 1, "does not exist"),
        ((cut, "--out", tmp_path / "new"), 1, "cannot be read as a PyTorch file"),
    ):
        answer = ratlip("convert", *arguments, "--clip", tiny_clip, "--quiet")
        assert (answer.code, answer.out) == (code, "")
        assert words in answer.err


def test_the_published_code_has_no_other_models(clip: FrozenCLIP, tiny_clip: Path, tmp_path: Path) -> None:
    file = save(tmp_path / "state.pth", {"model": released(clip, "galip")})
    assert ratlip("convert", file, "--out", tmp_path / "model", "--clip", tiny_clip, "--quiet").code == 0
    back = ratlip("convert", tmp_path / "model", "--to-released", "--out", tmp_path / "back.pth", "--quiet")
    assert (back.code, back.out) == (2, "")
    assert "224 pixels on ViT-B/32 alone" in back.err
    assert not (tmp_path / "back.pth").exists()
