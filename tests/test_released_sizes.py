"""Files with the names and shapes of the published ones, at full size: converted, counted, and asked for an image."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from command_line import ratlip
from conftest import PREPROCESS, TINY_CLIP
from published_files import save
from published_pickles import save_captions
from torch import Tensor

from ratlip_cli.tensor_files import load_tensors
from ratlip_cli.weights.clip_files import save_clip
from ratlip_cli.weights.load import load_model
from ratlip_cli.weights.model_folder import DISCRIMINATOR_FILE

REFERENCE = Path(__file__).parent / "reference" / "baselines"
WORDS = [f"word{number}" for number in range(5449)]
FILTER = torch.tensor([1.0, 3.0, 3.0, 1.0])

pytestmark = pytest.mark.slow


def published(paper: str, kind: str, nets: list[str]) -> dict[str, dict[str, Tensor]]:
    """Random tensors of the published names and shapes."""
    shapes = json.loads((REFERENCE / paper / "keys.json").read_text())[kind]
    random = torch.Generator().manual_seed(0)

    def filled(name: str, shape: list[int]) -> Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.zeros(shape, dtype=torch.int64)
        if name.endswith("resample_filter"):
            return torch.outer(FILTER, FILTER) / 64
        if ".affine4." in name or ".affine5." in name:  # never trained but for flowers
            return torch.zeros(shape)
        values = torch.randn(shape, generator=random) * 0.05
        return values.abs() + 1 if name.endswith("running_var") else values

    return {net: {name: filled(name, shape) for name, shape in shapes[net].items()} for net in nets}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP with text vectors as long as those of ViT-B/32."""
    folder = tmp_path_factory.mktemp("clip") / "wide"
    config = TINY_CLIP | {"embed_dim": 512}
    save_clip(folder, {"model_cfg": config, "preprocess_cfg": PREPROCESS}, open_clip.CLIP(**config).state_dict())
    return folder


@pytest.mark.parametrize(
    ("paper", "kind", "variant", "nets", "generator", "discriminator"),
    [
        ("dfgan", "published_bird_coco_nf32_256", "dfgan-released", ["netG", "netD", "netC"], 9_744_131, 6_915_142),
        ("dfgan", "old2020_nf32_256", "dfgan-2020-released", ["netG", "netD"], 12_240_010, 20_170_566),
        ("ratgan", "published_nf64", "ratgan-released", ["netG"], 38_091_658 - 6_034_560, None),
        ("attngan", "bird_AttnGAN2", "attngan-released", ["netG"], 7_084_592, None),
        ("attngan", "coco_AttnGAN2", "attngan-released", ["netG"], 13_811_456, None),
        ("attngan", "bird_AttnDCGAN2", "attngan-released", ["netG"], 6_638_960, None),
        ("lafite", "published_256", "lafite-released", ["G"], 44_997_026, None),
    ],
)
def test_the_published_sizes(
    clip: Path,
    tmp_path: Path,
    paper: str,
    kind: str,
    variant: str,
    nets: list[str],
    generator: int,
    discriminator: int | None,
) -> None:
    given = save(tmp_path, variant, published(paper, kind, nets))
    if variant != "lafite-released":
        shapes = json.loads((REFERENCE / "dfgan" / "keys.json").read_text())["text_encoder_bird"]
        encoder = {name: torch.randn(shape) for name, shape in shapes.items()}
        torch.save(encoder, tmp_path / "text_encoder200.pth")
        save_captions(tmp_path / "captions.pickle", WORDS)
        given += ["--text-encoder", tmp_path / "text_encoder200.pth", "--captions", tmp_path / "captions.pickle"]
    out = tmp_path / "model"
    told = ratlip("convert", *given, "--out", out, "--clip", clip, "--json", "--quiet")
    assert told.code == 0, told.err
    assert json.loads(told.out)["variant"] == variant
    model = load_model(str(out))
    assert sum(parameter.numel() for parameter in model.generator.parameters()) == generator
    if discriminator is None:
        assert not (out / DISCRIMINATOR_FILE).exists()
    else:
        tensors = load_tensors(out / DISCRIMINATOR_FILE)
        assert sum(tensor.numel() for tensor in tensors.values()) == discriminator
    if variant != "lafite-released":
        assert sum(parameter.numel() for parameter in model.text_encoder.parameters()) == 2_075_320
    (image,) = model.sampler(torch.randn(1, model.config.generator.noise_dim), model.encode(["word7 word5000"]))
    assert image.shape == (3, 256, 256)
    assert image.std() > 0
