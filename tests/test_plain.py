"""The package computes what the plain transcription computes: images, logits, losses and gradients."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from plain import PlainTrainer, draw, features, judge, weights_of
from torch import nn

from ratlip_cli.data.dataset import Batch
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.config import VARIANTS, DiscriminatorConfig, GeneratorConfig
from ratlip_cli.model.discriminator import Discriminator
from ratlip_cli.model.generator import Generator
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.training.trainer import Trainer, step_noise
from ratlip_cli.weights.clip_files import load_clip

CONFIG = GeneratorConfig(
    image_size=64, noise_dim=12, hidden_size=8, base_channels=8, bridge_channels=16, bridge_blocks=2
)
SENTENCES = ["a red bird", "a blue flower with six petals", "a man with a beard", "a bird"]


@pytest.fixture(scope="module")
def clip(tiny_clip: Path) -> FrozenCLIP:
    return load_clip(str(tiny_clip))


def randomise(network: nn.Module) -> None:
    """Every parameter and running statistic away from its initial value, so that no identity hides a mistake."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(tensor + 0.2 * noise if "running_var" not in name else 1 + noise.abs())


@pytest.mark.parametrize(("training", "image_size"), [(False, 64), (True, 48)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_images_and_their_gradients(clip: FrozenCLIP, variant: str, image_size: int, training: bool) -> None:
    """In float64, where the same function agrees to far more digits than another one could."""
    torch.manual_seed(0)
    config = replace(CONFIG, variant=variant, image_size=image_size)
    generator, clip = Generator(config, clip.geometry).train(training).double(), copy.deepcopy(clip).double()
    randomise(generator)
    plain = copy.deepcopy(generator)
    noise, text = torch.randn(3, config.noise_dim).double(), clip.encode_text(SENTENCES[:3])
    images = generator(noise, text, clip)
    expected = draw(weights_of(plain), config, clip, noise, text, training)
    # Of the largest value, up to 1e9 here: a small one is the difference of large ones, and rounded as they are.
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-12 * float(expected.detach().abs().max()))

    weights = torch.randn_like(images)
    (images * weights).sum().backward()
    (expected * weights).sum().backward()
    for (name, parameter), other in zip(generator.named_parameters(), plain.parameters(), strict=True):
        gradient = torch.zeros_like(other) if other.grad is None else other.grad
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-10 * float(gradient.abs().max()), msg=name)
    for (name, buffer), other_buffer in zip(generator.named_buffers(), plain.buffers(), strict=True):
        if "running" in name:
            torch.testing.assert_close(buffer, other_buffer, msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_images_in_float32(clip: FrozenCLIP, variant: str) -> None:
    config = replace(CONFIG, variant=variant)
    generator = Generator(config, clip.geometry).eval()
    randomise(generator)
    noise, text = torch.randn(3, config.noise_dim), clip.encode_text(SENTENCES[:3])
    with torch.no_grad():
        images, expected = generator(noise, text, clip), draw(weights_of(generator), config, clip, noise, text)
    scale = float(expected.abs().max())
    torch.testing.assert_close(images / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [32, 56])
def test_features_and_logits(clip: FrozenCLIP, side: int) -> None:
    discriminator = Discriminator(DiscriminatorConfig(4), clip.geometry)
    randomise(discriminator)
    images, text = torch.rand(4, 3, side, side) * 2 - 1, clip.encode_text(SENTENCES)
    with torch.no_grad():
        ours, (patches, vectors) = clip.features(images), features(clip, images)
        torch.testing.assert_close(ours.patches, patches, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.embedding, vectors, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(clip.patch_features(images), patches, rtol=1e-4, atol=1e-5)
        expected = judge(weights_of(discriminator), patches, text)
        torch.testing.assert_close(discriminator(patches, text), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pixel_stem", [False, True])
def test_two_training_steps(tiny_settings: TrainSettings, tiny_clip: Path, pixel_stem: bool) -> None:
    settings = replace(tiny_settings, lr_g=1e-6, lr_d=4e-6, pixel_stem=pixel_stem)
    clip = load_clip(str(tiny_clip))
    trainer = Trainer(settings, clip, clip.encode_text(SENTENCES), samples=4, device=torch.device("cpu"))
    randomise(trainer.discriminator)
    plain = PlainTrainer(copy.deepcopy(trainer.generator), copy.deepcopy(trainer.discriminator), clip, settings)
    for number in range(2):
        images = torch.rand(4, 3, 32, 32) * 2 - 1
        loss_d, loss_g = plain.step(images, SENTENCES, step_noise(settings.seed, number, 4, settings.noise_dim))
        record = trainer.train_step(Batch(images, torch.arange(4)))
        assert record.loss_d == pytest.approx(loss_d, rel=1e-4)
        assert record.loss_g == pytest.approx(loss_g, rel=1e-4)
