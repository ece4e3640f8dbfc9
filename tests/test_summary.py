"""The paper's table of parameters, exactly, and the arithmetic of an image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_line import ratlip
from torch.utils.flop_counter import FlopCounterMode

from ratlip_cli.fast import onednn
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.config import DiscriminatorConfig, GeneratorConfig
from ratlip_cli.model.generator import Generator
from ratlip_cli.summary import discriminator_parameters, parameter_counts, summarise
from ratlip_cli.weights.clip_files import clip_architecture, load_clip
from ratlip_cli.weights.load import load_model


@pytest.fixture(scope="module")
def vit_b_32() -> FrozenCLIP:
    return clip_architecture("ViT-B-32-quickgelu")


@pytest.mark.parametrize(
    ("hidden_size", "parameters", "printed"),
    [
        (4, 138_514_803, "132.10"),
        (8, 138_681_203, "132.26"),
        (16, 139_020_147, "132.58"),
        (32, 139_722_611, "133.25"),
        (64, 141_225_843, "134.68"),
        (128, 144_625_523, "137.93"),
    ],
)
def test_generator_of_the_papers_table(vit_b_32: FrozenCLIP, hidden_size: int, parameters: int, printed: str) -> None:
    config = GeneratorConfig(variant="ratlip-released", hidden_size=hidden_size)
    counted = sum(parameter_counts(config, vit_b_32))
    assert counted == parameters
    assert f"{counted / 2**20:.2f}" == printed


def test_baseline_and_discriminator_of_the_papers_table(vit_b_32: FrozenCLIP) -> None:
    assert sum(parameter_counts(GeneratorConfig(variant="galip"), vit_b_32)) == 139_284_675
    used, unused = discriminator_parameters(DiscriminatorConfig(), vit_b_32.geometry)
    assert used + unused == 30_806_021


def test_the_table_is_of_the_sizes_of_the_model_that_is_named() -> None:
    answer = ratlip("info", "ratlip-demo", "--table", "--json")
    model = load_model("ratlip-demo")
    table = json.loads(answer.out)
    own = model.config.discriminator
    used, unused = discriminator_parameters(own, model.clip.geometry)
    assert table["discriminator_unused_shortcuts"] == unused
    assert {row["with_discriminator"] - row["generator"] for row in table["table"]} == {used + unused}


@pytest.mark.parametrize("pixel_stem", [False, True])
def test_modules_add_up_to_the_model(tiny_clip: Path, pixel_stem: bool) -> None:
    config, discriminator = GeneratorConfig(image_size=64, base_channels=16), DiscriminatorConfig(4, pixel_stem)
    modules = summarise(config, discriminator, clip_architecture(str(tiny_clip)))
    clip = load_clip(str(tiny_clip))
    generator = Generator(config, clip.geometry).eval()
    names = [one.name for one in modules]
    assert names[:6] == ["CLIP text encoder", "noise to code", "RAT bridge", "prompts", "CLIP-BLK", "fuse"]
    assert names[-3:] == ["CLIP image encoder", "FE extractor", "referee"]
    assert sum(one.trained for one in modules[-3:]) == discriminator_parameters(discriminator, clip.geometry)[0]
    generating = modules[1:-3]
    assert sum(one.trained for one in generating) == sum(p.numel() for p in generator.parameters())
    onednn.count_flops()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        generator(torch.zeros(1, config.noise_dim), torch.zeros(1, clip.geometry.embed_dim), clip)
    # the counter does not see into PyTorch's fused attention on the CPU, a small part of the whole
    assert sum(one.flops for one in generating) == pytest.approx(counter.get_total_flops(), rel=0.005)
    assert modules[names.index("to RGB")].shape == (3, 64, 64)
    assert modules[0].frozen + modules[-3].frozen == sum(p.numel() for p in clip.parameters())
