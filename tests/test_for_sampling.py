"""The generator that only samples: the same images as the one it was derived from, which stays as it was."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_fast import ALL, CONFIG, NONE, randomise
from torch import nn

from ratlip_cli.fast import Swap, for_sampling
from ratlip_cli.fast.chunks import CACHE_BYTES
from ratlip_cli.fast.rows import RowLinear, RowLSTMCell
from ratlip_cli.fast.sampling import (
    DoublingConv,
    UnshuffledAttention,
    channel_orders,
    derived,
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
def test_it_generates_what_the_plain_model_does(clip: FrozenCLIP, variant: str, image_size: int, packed: bool) -> None:
    torch.manual_seed(0)
    config = replace(CONFIG, variant=variant, image_size=image_size)
    generator = Generator(config, clip.geometry)
    randomise(generator)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    noise, text = torch.randn(3, config.noise_dim), torch.randn(3, clip.geometry.embed_dim)
    sampling = derived(generator, ALL if packed else ALL - {Swap.PACKED})
    with torch.no_grad():
        expected = copy.deepcopy(generator).eval()(noise, text, clip)
        scale = float(expected.abs().max())
        torch.testing.assert_close(sampling(noise, text, clip) / scale, expected / scale, rtol=0, atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in sampling.modules())
    assert any(isinstance(module, DoublingConv) or getattr(module, "doubles", False) for module in sampling.modules())
    assert any(isinstance(module, nn.Conv2d | DoublingConv) for module in sampling.modules()) is not packed
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
    before, after = channel_orders(channels, groups)
    expected = attention(x)[:, after]
    torch.testing.assert_close(UnshuffledAttention(attention)(x[:, before]), expected)


def test_attention_keeps_its_digits_where_a_channel_is_nearly_even() -> None:
    attention = ShuffleAttention(16, 2).requires_grad_(False)
    attention.spatial_weight.fill_(1.0)
    x = 1000 + torch.randn(1, 16, 64, 64, generator=torch.Generator().manual_seed(0))
    before, after = channel_orders(16, 2)
    expected = attention.double()(x.double())[:, after].float()
    ours = UnshuffledAttention(attention.float())(x[:, before].contiguous(memory_format=torch.channels_last))
    # A mean of numbers near 1000 is rounded by 2^-24 of them, which is as much of their deviation of 1.
    torch.testing.assert_close(ours, expected, rtol=4 * 2**-24 * 1000, atol=0)


def test_what_is_not_changed_is_shared(clip: FrozenCLIP) -> None:
    generator = Generator(CONFIG, clip.geometry)
    sampling = derived(generator, ALL)
    assert sampling.prompts.weight is generator.prompts.weight
    assert sampling.blocks[0].fuse1.affines[0].gamma[0].weight is generator.blocks[0].fuse1.affines[0].gamma[0].weight


@pytest.mark.parametrize(
    ("image_size", "base_channels", "images"), [(256, 64, 1), (224, 64, 1), (512, 64, 1), (64, 16, 64), (32, 8, 512)]
)
def test_chunks_of_a_batch_stay_in_cache(image_size: int, base_channels: int, images: int) -> None:
    geometry = ClipGeometry(width=16, grid=8, layers=3, embed_dim=8, image_size=64)
    with torch.device("meta"):
        generator = Generator(GeneratorConfig(image_size=image_size, base_channels=base_channels), geometry)
    largest = base_channels * image_size**2 * 4
    assert images_at_once(generator) == images
    assert images == 1 or images * largest <= CACHE_BYTES


def test_a_device_without_swaps_samples_with_the_plain_generator(clip: FrozenCLIP) -> None:
    generator = Generator(CONFIG, clip.geometry).eval()
    noise, text = torch.randn(3, CONFIG.noise_dim), torch.randn(3, clip.geometry.embed_dim)
    sampler = for_sampling(generator, clip, NONE)
    with torch.no_grad():
        expected = torch.cat([generator(noise[i : i + 1], text[i : i + 1], clip) for i in range(3)])
    torch.testing.assert_close(sampler(noise, text), expected)
    plain = {type(module) for module in generator.modules()}
    assert {type(module) for module in sampler.generator.modules()} - {RowLinear, RowLSTMCell} <= plain


class Pixels(nn.Module):
    """A generator of another family."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 12)

    def forward(self, noise: torch.Tensor, text: torch.Tensor, clip: FrozenCLIP) -> torch.Tensor:
        return self.linear(torch.cat((noise, text), dim=1)).view(-1, 3, 2, 2)


def test_a_generator_of_another_family_is_called_as_it_is(clip: FrozenCLIP) -> None:
    generator, noise, text = Pixels(), torch.randn(20, 2), torch.randn(20, 3)
    sampler = for_sampling(generator, clip)
    expected = generator(noise, text, clip).detach()
    torch.testing.assert_close(sampler(noise, text), expected)
    assert torch.equal(sampler(noise[:3], text[:3]), sampler(noise, text)[:3]), "whatever else is generated"
    torch.testing.assert_close(sampler(noise, text, 7), expected)
