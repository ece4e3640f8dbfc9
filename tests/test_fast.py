"""The accelerated modules compute what the plain model computes: images, logits, losses and all gradients."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from ratlip_cli import fast
from ratlip_cli.data.dataset import Batch
from ratlip_cli.fast import SWAPS, Swap, swaps_for
from ratlip_cli.fast.swaps import _has_operators, swap_clip
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.config import VARIANTS, DiscriminatorConfig, GeneratorConfig
from ratlip_cli.model.discriminator import Discriminator
from ratlip_cli.model.generator import Generator
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.training.trainer import Trainer
from ratlip_cli.weights.clip_files import load_clip

CONFIG = GeneratorConfig(
    image_size=64, noise_dim=12, hidden_size=8, base_channels=8, bridge_channels=16, bridge_blocks=2
)
CAPTIONS = ["a red bird", "a blue flower with six petals", "a man with a beard", "a bird"]
NONE: frozenset[Swap] = frozenset()
ALL = frozenset(Swap)


@pytest.fixture(scope="module")
def plain_clip(tiny_clip: Path) -> FrozenCLIP:
    return load_clip(str(tiny_clip), swaps=NONE)


@pytest.fixture(scope="module")
def fast_clip(tiny_clip: Path) -> FrozenCLIP:
    return load_clip(str(tiny_clip), swaps=ALL)


def randomise(network: nn.Module) -> None:
    """Every parameter and running statistic away from its initial value, so that no identity hides a mistake."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(tensor + 0.2 * noise if "running_var" not in name else 1 + noise.abs())


def pair(config: GeneratorConfig, clip: FrozenCLIP, swaps: frozenset[Swap] = ALL) -> tuple[Generator, Generator]:
    """A plain generator, and the same one with swaps."""
    torch.manual_seed(0)
    plain = Generator(config, clip.geometry)
    randomise(plain)
    swapped = copy.deepcopy(plain)
    fast.for_training(swapped, nn.Identity(), swaps)
    return plain, swapped


def accelerated(network: nn.Module) -> set[str]:
    return {
        type(module).__name__ for module in network.modules() if type(module).__module__.startswith("ratlip_cli.fast")
    }


@pytest.mark.parametrize("cache_bytes", [1, 2**24])
@pytest.mark.parametrize(("training", "image_size"), [(False, 64), (True, 48)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_images_and_their_gradients(
    plain_clip: FrozenCLIP,
    fast_clip: FrozenCLIP,
    variant: str,
    image_size: int,
    training: bool,
    cache_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In float64, where the same function agrees to far more digits than another one could; whole and in chunks."""
    monkeypatch.setattr("ratlip_cli.fast.chunks.CACHE_BYTES", cache_bytes)
    config = replace(CONFIG, variant=variant, image_size=image_size)
    plain_clip, fast_clip = copy.deepcopy(plain_clip).double(), copy.deepcopy(fast_clip).double()
    plain, swapped = (network.train(training).double() for network in pair(config, plain_clip))
    noise, text = torch.randn(3, config.noise_dim).double(), plain_clip.encode_text(CAPTIONS[:3])
    images, expected = swapped(noise, text, fast_clip), plain(noise, text, plain_clip)
    # Of the largest value, up to 1e9 here: a small one is the difference of large ones, and rounded as they are.
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-12 * float(expected.detach().abs().max()))

    weights = torch.randn_like(images)
    (images * weights).sum().backward()
    (expected * weights).sum().backward()
    for (name, parameter), other in zip(swapped.named_parameters(), plain.parameters(), strict=True):
        gradient = torch.zeros_like(other) if other.grad is None else other.grad
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-10 * float(gradient.abs().max()), msg=name)
    for (name, buffer), other_buffer in zip(swapped.named_buffers(), plain.buffers(), strict=True):
        if "running" in name:
            torch.testing.assert_close(buffer, other_buffer, msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_images_in_float32(plain_clip: FrozenCLIP, fast_clip: FrozenCLIP, variant: str) -> None:
    config = replace(CONFIG, variant=variant)
    plain, swapped = (network.eval() for network in pair(config, plain_clip))
    noise, text = torch.randn(3, config.noise_dim), plain_clip.encode_text(CAPTIONS[:3])
    with torch.no_grad():
        images, expected = swapped(noise, text, fast_clip), plain(noise, text, plain_clip)
    scale = float(expected.abs().max())
    torch.testing.assert_close(images / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [32, 56])
def test_features_and_logits(plain_clip: FrozenCLIP, fast_clip: FrozenCLIP, side: int) -> None:
    plain = Discriminator(DiscriminatorConfig(4), plain_clip.geometry)
    randomise(plain)
    swapped = copy.deepcopy(plain)
    fast.for_training(nn.Linear(1, 1), swapped, ALL)
    images, text = torch.rand(4, 3, side, side) * 2 - 1, plain_clip.encode_text(CAPTIONS)
    with torch.no_grad():
        ours, expected = fast_clip.features(images), plain_clip.features(images)
        torch.testing.assert_close(ours.patches, expected.patches, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.embedding, expected.embedding, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fast_clip.patch_features(images), expected.patches, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(swapped(expected.patches, text), plain(expected.patches, text), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pool_type", ["argmax", "eos"])
def test_captions_up_to_their_ends_have_the_vectors_of_padded_ones(plain_clip: FrozenCLIP, pool_type: str) -> None:
    """Of every length, the empty one and those that are cut among them, in any order."""
    plain = copy.deepcopy(plain_clip).double()
    end = plain.tokenizer([""])[0, 1]
    config = replace(plain.model.text_config, pool_type=pool_type, eos_id=int(plain.embedding_rows(end)))
    plain.model.text_config = config
    cut = copy.deepcopy(plain)
    swap_clip(cut, frozenset({Swap.CLIP_CAPTIONS}))
    captions = [" ".join(["red"] * words) for words in (*range(plain.context_length + 2), 3, 0, 40)]
    lengths = (plain.tokenizer(captions) != 0).sum(dim=1).tolist()
    assert {2, plain.context_length} <= set(lengths)
    expected = plain.encode_text(captions)
    torch.testing.assert_close(cut.encode_text(captions), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(cut.encode_text(captions[:1]), expected[:1], rtol=1e-10, atol=1e-10)
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    assert cut.encode_tokens(plain.tokenizer(captions)[:0]).shape == (0, expected.shape[1])


@pytest.mark.parametrize("swap", Swap)
@pytest.mark.parametrize("variant", ["ratlip", "galip"])
def test_every_swap_alone_computes_the_same(plain_clip: FrozenCLIP, tiny_clip: Path, variant: str, swap: Swap) -> None:
    config = replace(CONFIG, variant=variant)
    clip = load_clip(str(tiny_clip), swaps=frozenset({swap})).double()
    plain_clip = copy.deepcopy(plain_clip).double()
    plain, swapped = (network.double() for network in pair(config, plain_clip, frozenset({swap})))
    noise, text = torch.randn(2, config.noise_dim).double(), plain_clip.encode_text(CAPTIONS[:2])
    images, expected = swapped(noise, text, clip), plain(noise, text, plain_clip)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-12 * float(expected.detach().abs().max()))
    for (name, parameter), other in zip(swapped.named_parameters(), plain.named_parameters(), strict=True):
        assert name == other[0]
        assert parameter.shape == other[1].shape


@pytest.mark.parametrize("pixel_stem", [False, True])
def test_training_steps(tiny_settings: TrainSettings, pixel_stem: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_settings.replaced(lr_g=1e-6, lr_d=4e-6, pixel_stem=pixel_stem)
    batches = [Batch(torch.rand(4, 3, 32, 32) * 2 - 1, torch.arange(4)) for _ in range(2)]
    logs = []
    for swaps in (NONE, ALL):
        monkeypatch.setitem(SWAPS, "cpu", swaps)
        clip = load_clip(settings.clip)
        trainer = Trainer(settings, clip, clip.encode_text(CAPTIONS), images=4, device=torch.device("cpu"))
        assert bool(accelerated(trainer.generator) | accelerated(trainer.discriminator)) is bool(swaps)
        randomise(trainer.discriminator)
        logs.append([trainer.train_step(batch).logs for batch in batches])
    for plain, swapped in zip(*logs, strict=True):
        assert plain.keys() == swapped.keys()
        for name, value in plain.items():
            assert swapped[name] == pytest.approx(value, rel=1e-4), name


def test_a_device_takes_only_what_was_measured_there() -> None:
    assert swaps_for(torch.device("cpu")) == {swap for swap in Swap if _has_operators(swap)}
    assert swaps_for(torch.device("cuda")) == SWAPS.get("cuda", frozenset())
    assert swaps_for(torch.device("meta")) == frozenset()


def test_a_network_without_swaps_is_the_plain_one(plain_clip: FrozenCLIP) -> None:
    plain, swapped = pair(CONFIG, plain_clip, NONE)
    assert not accelerated(plain)
    assert not accelerated(swapped)
    assert not accelerated(plain_clip)
    assert not any(module.inplace for module in swapped.modules() if isinstance(module, nn.LeakyReLU))


@pytest.mark.parametrize(("swap", "operator"), [(Swap.AFFINES, "fused"), (Swap.ATTENTION, "norm_and_attention")])
@pytest.mark.parametrize("error", [AttributeError, TypeError, RuntimeError])
def test_a_swap_whose_operators_changed_is_not_taken(
    swap: Swap, operator: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(*arguments: object) -> None:
        raise error("other arguments")

    module = "affines" if swap is Swap.AFFINES else "attention"
    monkeypatch.setattr(f"ratlip_cli.fast.{module}.{operator}", changed)
    assert not _has_operators.__wrapped__(swap)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_compiled_and_exported_models_take_the_plain_way(plain_clip: FrozenCLIP, variant: str) -> None:
    _, swapped = pair(replace(CONFIG, variant=variant), plain_clip)
    noise, text = torch.randn(2, CONFIG.noise_dim), torch.randn(2, plain_clip.geometry.embed_dim)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator, self.clip = swapped.eval(), plain_clip

        def forward(self, noise: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
            return self.generator(noise, text, self.clip)

    with torch.no_grad():
        program = torch.export.export(Whole(), (noise, text), strict=False)
    assert not any("autograd_function" in str(node.target) for node in program.graph.nodes)
    called = {str(node.target) for node in program.graph.nodes}
    assert any("upsample_nearest" in name for name in called), "the plain block enlarges its input"
    assert not any("conv_transpose" in name for name in called)
