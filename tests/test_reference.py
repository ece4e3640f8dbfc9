"""The published code's values, reached through the importer of its checkpoints (see tests/reference/README.md)."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ratlip_cli.model.clip import FrozenCLIP, ImageFeatures
from ratlip_cli.model.discriminator import Discriminator
from ratlip_cli.model.generator import Generator
from ratlip_cli.model.losses import matching_aware_gradient_penalty, mismatched
from ratlip_cli.model.shuffle_attention import ShuffleAttention
from ratlip_cli.tensor_files import load_into
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.released.checkpoint import ReleasedCheckpoint
from ratlip_cli.weights.released.convert import read_released
from ratlip_cli.weights.released.ratlip import import_released

FOLDER = Path(__file__).parent / "reference"
RELATIVE = 2e-4


def formula(name: str, shape: list[int]) -> Tensor:
    """The weights that the reference values were made with."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    n = np.asarray(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape), dtype=np.float32)
    if len(shape) >= 2:
        return torch.from_numpy(n / np.sqrt(np.prod(shape[1:])).astype(np.float32))
    if name.endswith("running_var"):
        return torch.from_numpy(1 + 0.1 * np.abs(n))
    return torch.from_numpy(np.asarray((1 if name.endswith(".weight") else 0) + 0.1 * n, dtype=np.float32))


def names_and_shapes(kind: str, net: str) -> dict[str, list[int]]:
    return json.loads((FOLDER / f"{kind}_released_keys.json").read_text())[net]


def assert_close(actual: Tensor, expected: np.ndarray) -> None:
    difference = np.abs(actual.detach().numpy() - expected).max()
    assert difference <= RELATIVE * np.abs(expected).max()


@pytest.fixture(scope="module")
def clip() -> FrozenCLIP:
    """OpenAI's ViT-B/32 with the formula's weights."""
    clip = load_clip("ViT-B-32-quickgelu:random")
    shapes = names_and_shapes("ratlip", "clip")
    load_into(clip.model, {name.removeprefix("clip."): formula(name, shape) for name, shape in shapes.items()}, "clip")
    return clip


@pytest.fixture(scope="module", params=["galip", "ratlip"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def values(kind: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{kind}_released_seed0.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def checkpoint(kind: str, tmp_path_factory: pytest.TempPathFactory) -> ReleasedCheckpoint:
    """A checkpoint file as the published code writes it (GALIP's from several GPUs), read by the importer."""
    prefix = "module." if kind == "galip" else ""
    nets = {
        net: {
            prefix + name.removeprefix(f"{net}."): formula(name, shape)
            for name, shape in names_and_shapes(kind, net).items()
            if "CLIP_ViT.transformer" not in name  # the frozen CLIP's own: 340 MB that the importer passes over
        }
        for net in ("netG", "netD", "netC")
    }
    path = tmp_path_factory.mktemp("released") / f"{kind}.pth"
    torch.save({"model": nets, "epoch": 1}, path)
    return read_released(path)


@pytest.fixture(scope="module")
def discriminator(checkpoint: ReleasedCheckpoint, clip: FrozenCLIP) -> Discriminator:
    discriminator = Discriminator(checkpoint.discriminator_config, clip.geometry)
    assert checkpoint.discriminator is not None
    load_into(discriminator, checkpoint.discriminator, "netD and netC")
    return discriminator


@pytest.fixture(scope="module")
def features(clip: FrozenCLIP, values: dict[str, np.ndarray]) -> ImageFeatures:
    pixels = np.random.RandomState(1000 + int(values["seed"])).uniform(-1, 1, (2, 3, 224, 224))
    with torch.no_grad():
        return clip.features(torch.from_numpy(pixels.astype(np.float32)))


def test_text_vectors(clip: FrozenCLIP, values: dict[str, np.ndarray]) -> None:
    assert_close(clip.encode_tokens(torch.from_numpy(values["tokens"]).long()), values["text_embedding"])


def test_image_vectors_and_features(features: ImageFeatures, values: dict[str, np.ndarray]) -> None:
    assert_close(features.embedding, values["image_embedding"])
    assert_close(features.patches[:, :, ::32], values["image_features_sub"])


def test_bridge_and_images(checkpoint: ReleasedCheckpoint, clip: FrozenCLIP, values: dict[str, np.ndarray]) -> None:
    generator = Generator(checkpoint.generator_config, clip.geometry).eval()
    load_into(generator, checkpoint.generator, "netG")
    bridge: list[Tensor] = []
    generator.fuse.register_forward_hook(lambda module, inputs, output: bridge.append(output))
    noise, text = torch.from_numpy(values["noise"]), torch.from_numpy(values["text_embedding"])
    with torch.no_grad():
        images = generator(noise, text, clip)
    assert_close(bridge[0][:1, ::8], values["bridge_out_sub"])
    assert_close(images[:, :, ::4, ::4], values["fake_sub"])
    assert_close(images.mean(dim=(1, 2, 3)), values["fake_mean"])
    assert_close(images.std(dim=(1, 2, 3)), values["fake_std"])


def test_logits_and_gradient_penalty(
    discriminator: Discriminator, features: ImageFeatures, values: dict[str, np.ndarray]
) -> None:
    text = torch.from_numpy(values["text_embedding"][:2]).requires_grad_()
    patches = features.patches.clone().requires_grad_()
    logits = discriminator(patches, text)
    penalty, norms = matching_aware_gradient_penalty(logits, (patches, text))
    assert_close(logits, values["logit_real"])
    assert_close(norms, values["gp_grad_norm"])
    assert_close(penalty, values["ma_gp_k2_p6"])
    assert_close(discriminator(features.patches, mismatched(text)), values["logit_mismatch"])


def test_shuffle_attention() -> None:
    with np.load(FOLDER / "ratlip_released_seed0.npz") as file:
        given, expected = torch.from_numpy(file["sa_in"]), file["sa_out"]
    attention = ShuffleAttention(64, groups=8)
    names = {
        "channel_weight": "cweight",
        "channel_bias": "cbias",
        "spatial_weight": "sweight",
        "spatial_bias": "sbias",
        "norm.weight": "gn.weight",
        "norm.bias": "gn.bias",
    }
    shapes = {name: list(tensor.shape) for name, tensor in attention.state_dict().items()}
    load_into(attention, {own: formula(f"sa.{theirs}", shapes[own]) for own, theirs in names.items()}, "sa")
    assert_close(attention(given), expected)


def test_prefixes_and_precision_do_not_matter() -> None:
    shapes = {net: names_and_shapes("ratlip", net) for net in ("netG", "netD", "netC")}
    nets = {
        net: {
            name.removeprefix(f"{net}."): torch.zeros(shape)
            for name, shape in shapes[net].items()
            if "CLIP_ViT" not in name
        }
        for net in shapes
    }
    nets["netG"]["to_rgb.1.bias"] = torch.tensor([0.5, 0.25, -1.0])
    prefixed = {net: {f"module.{name}": tensor.half() for name, tensor in nets[net].items()} for net in nets}
    plain, other = import_released(nets), import_released(prefixed)
    assert plain.generator_config == other.generator_config
    assert plain.generator.keys() == other.generator.keys()
    assert other.generator["to_rgb.bias"].tolist() == [0.5, 0.25, -1.0]
    assert all(tensor.dtype == torch.float32 for tensor in other.generator.values())
