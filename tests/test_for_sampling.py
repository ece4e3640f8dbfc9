"""The generator that only draws: the same images as the one it was derived from, which stays as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from plain import draw as plain_draw
from plain import weights_of
from test_plain import CONFIG, randomise
from torch import nn

from ratlip_cli.fast.chunks import CACHE_BYTES
from ratlip_cli.fast.onednn import PackedConv
from ratlip_cli.fast.sampling import (
    DoublingConv,
    UnshuffledAttention,
    channel_orders,
    for_sampling,
    images_at_once,
)
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.config import VARIANTS, ClipGeometry, GeneratorConfig
from ratlip_cli.model.generator import Generator
from ratlip_cli.model.shuffle_attention import ShuffleAttention
from ratlip_cli.weights.clip_files import load_clip


@pytest.fixture(scope="module")
def clip(tiny_clip: Path) -> FrozenCLIP:
    return load_clip(str(tiny_clip))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("image_size", [64, 48])
@pytest.mark.parametrize("variant", VARIANTS)
def test_drawing_is_the_plain_transcription(
    clip: FrozenCLIP, variant: str, image_size: int, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ratlip_cli.fast.sampling.is_usable", lambda: packed)
    torch.manual_seed(0)
    config = replace(CONFIG, variant=variant, image_size=image_size)
    generator = Generator(config, clip.geometry)
    randomise(generator)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    noise, text = torch.randn(3, config.noise_dim), torch.randn(3, clip.geometry.embed_dim)
    drawing = for_sampling(generator)
    with torch.no_grad():
        expected = plain_draw(weights_of(generator), config, clip, noise, text)
        scale = float(expected.abs().max())
        torch.testing.assert_close(drawing(noise, text, clip) / scale, expected / scale, rtol=0, atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in drawing.modules())
    assert any(isinstance(module, DoublingConv) or getattr(module, "doubles", False) for module in drawing.modules())
    assert any(isinstance(module, nn.Conv2d | DoublingConv) for module in drawing.modules()) is not packed
    assert generator.training
    after = generator.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.requires_grad for parameter in generator.parameters())


@pytest.mark.parametrize(("channels", "groups"), [(16, 8), (16, 2), (4, 2), (12, 3), (2, 1)])
def test_attention_without_a_shuffle_is_the_same_in_another_order(channels: int, groups: int) -> None:
    torch.manual_seed(0)
    attention = ShuffleAttention(channels, groups).requires_grad_(False)
    for parameter in attention.parameters():
        parameter.normal_()
    x = torch.randn(2, channels, 5, 6)
    before, behind = channel_orders(channels, groups)
    expected = attention(x)[:, behind]
    torch.testing.assert_close(UnshuffledAttention(attention)(x[:, before]), expected)


def test_attention_keeps_its_digits_where_a_channel_is_nearly_even() -> None:
    attention = ShuffleAttention(16, 2).requires_grad_(False)
    attention.spatial_weight.fill_(1.0)
    x = 1000 + torch.randn(1, 16, 64, 64)
    before, behind = channel_orders(16, 2)
    expected = attention.double()(x.double())[:, behind].float()
    drawn = UnshuffledAttention(attention.float())(x[:, before].contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=0)


def test_weights_are_not_packed_under_autocast(clip: FrozenCLIP) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        drawing = for_sampling(Generator(CONFIG, clip.geometry))
    assert not any(isinstance(module, PackedConv) for module in drawing.modules())


def test_what_is_not_changed_is_shared(clip: FrozenCLIP) -> None:
    generator = Generator(CONFIG, clip.geometry)
    drawing = for_sampling(generator)
    assert drawing.prompts.weight is generator.prompts.weight
    assert drawing.blocks[0].fuse1.affines[0].gamma[0].weight is generator.blocks[0].fuse1.affines[0].gamma[0].weight


@pytest.mark.parametrize(
    ("image_size", "base_channels", "images"), [(256, 64, 1), (224, 64, 1), (512, 64, 1), (64, 16, 64), (32, 8, 512)]
)
def test_parts_of_a_batch_stay_in_cache(image_size: int, base_channels: int, images: int) -> None:
    geometry = ClipGeometry(width=16, grid=8, layers=3, embed_dim=8, image_size=64)
    with torch.device("meta"):
        generator = Generator(GeneratorConfig(image_size=image_size, base_channels=base_channels), geometry)
    largest = base_channels * image_size**2 * 4
    assert images_at_once(generator) == images
    assert images == 1 or images * largest <= CACHE_BYTES
