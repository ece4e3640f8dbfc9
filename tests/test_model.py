"""Laws of the model: what every variant and every size must satisfy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ratlip_cli.errors import UsageError
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.config import VARIANTS, ClipGeometry, DiscriminatorConfig, GeneratorConfig
from ratlip_cli.model.discriminator import Discriminator
from ratlip_cli.model.generator import Generator
from ratlip_cli.model.losses import (
    clip_similarity,
    discriminator_loss,
    generator_loss,
    matching_aware_gradient_penalty,
    mismatched,
    mode_seeking,
)
from ratlip_cli.model.rat import Affine, SharedLSTM
from ratlip_cli.weights.clip_files import load_clip

CONFIG = GeneratorConfig(
    image_size=32, noise_dim=12, hidden_size=8, base_channels=8, bridge_channels=16, bridge_blocks=2
)


@pytest.fixture(scope="module")
def clip(tiny_clip: Path) -> FrozenCLIP:
    return load_clip(str(tiny_clip))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """New weights are the same ones every time: now and then all ReLUs of an affine's MLP would be dead."""
    torch.manual_seed(0)


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and running statistic away from its initial value, so that no identity hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(tensor + 0.3 * noise if "running_var" not in name else 1 + noise.abs())
    return module


def inputs(clip: FrozenCLIP, config: GeneratorConfig, batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(batch, config.noise_dim, generator=generator)
    return noise, torch.randn(batch, clip.geometry.embed_dim, generator=generator)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_image_does_not_depend_on_its_batch(clip: FrozenCLIP, variant: str) -> None:
    config = replace(CONFIG, variant=variant)
    generator = randomised(Generator(config, clip.geometry)).eval()
    noise, text = inputs(clip, config, batch=3)
    with torch.no_grad():
        together = generator(noise, text, clip)
        alone = torch.cat([generator(noise[i : i + 1], text[i : i + 1], clip) for i in range(3)])
    assert together.std() > 0.01
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4 * float(together.abs().max()))


@pytest.mark.parametrize("variant", VARIANTS)
def test_noise_and_text_both_reach_the_image(clip: FrozenCLIP, variant: str) -> None:
    config = replace(CONFIG, variant=variant)
    generator = randomised(Generator(config, clip.geometry)).eval()
    noise, text = inputs(clip, config, batch=2)
    with torch.no_grad():
        one = generator(noise[:1], text[:1], clip)
        assert not torch.allclose(one, generator(noise[1:], text[:1], clip))
        assert not torch.allclose(one, generator(noise[:1], text[1:], clip))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_affine_of_a_new_model_is_the_identity(clip: FrozenCLIP, variant: str) -> None:
    generator = Generator(replace(CONFIG, variant=variant), clip.geometry)
    affines = [module for module in generator.modules() if isinstance(module, Affine)]
    assert len(affines) == 4 * CONFIG.bridge_blocks + 4 * len(generator.blocks)
    for affine in affines:
        condition_dim, channels = affine.gamma[0].in_features, affine.gamma[2].out_features
        c = torch.randn(2, channels, 3, 3)
        assert torch.equal(affine(c, torch.randn(2, condition_dim)), c)


def gammas(generator: Generator, noise: Tensor, text: Tensor, change_after: int | None = None) -> list[Tensor]:
    """The gamma of each affine of the bridge; the state is changed after affine number `change_after`."""
    recurrence, found = generator.bridge.recurrence, []
    state = recurrence.initial_state(noise, text)
    for block in generator.bridge.blocks:
        for affine in (*block.fuse1.affines, *block.fuse2.affines):
            condition, state = recurrence(text, state)
            found.append(affine.gamma(condition))
            if len(found) - 1 == change_after:
                state = state._replace(hidden=state.hidden + 0.5, cell=state.cell - 0.5)
    return found


@pytest.mark.parametrize("variant", ["ratlip", "rat"])
@pytest.mark.parametrize("step", [0, 3, 6])
def test_state_is_handed_on(clip: FrozenCLIP, variant: str, step: int) -> None:
    config = replace(CONFIG, variant=variant)
    generator = randomised(Generator(config, clip.geometry)).eval()
    noise, text = inputs(clip, config, batch=2)
    before, after = gammas(generator, noise, text), gammas(generator, noise, text, change_after=step)
    assert len(before) == 4 * config.bridge_blocks
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [affine <= step for affine in range(len(before))]


@pytest.mark.parametrize("variant", ["ratlip", "rat"])
def test_noise_enters_the_recurrence_through_its_first_state(clip: FrozenCLIP, variant: str) -> None:
    config = replace(CONFIG, variant=variant)
    generator = randomised(Generator(config, clip.geometry)).eval()
    noise, text = inputs(clip, config, batch=2)
    pairs = zip(gammas(generator, noise, text), gammas(generator, noise + 1, text), strict=True)
    assert not any(torch.equal(a, b) for a, b in pairs)


def test_the_bridge_runs_through_the_states_that_the_test_unrolls(clip: FrozenCLIP) -> None:
    generator = randomised(Generator(CONFIG, clip.geometry)).eval()
    noise, text = inputs(clip, CONFIG, batch=2)
    seen: list[Tensor] = []
    for block in generator.bridge.blocks:
        for affine in (*block.fuse1.affines, *block.fuse2.affines):
            affine.gamma.register_forward_hook(lambda module, given, output: seen.append(output))
    expected = gammas(generator, noise, text)
    seen.clear()
    with torch.no_grad():
        generator(noise, text, clip)
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_the_shared_lstm_is_an_lstm() -> None:
    """Equations 3 to 7 against PyTorch's own cell, whose gates come in the order i, f, u, o."""
    noise_dim, text_dim, hidden = 5, 7, 6
    shared, cell = SharedLSTM(noise_dim, text_dim, hidden), nn.LSTMCell(text_dim, hidden)
    i, f, o, u = shared.gates.weight.chunk(4)
    ordered = torch.cat((i, f, u, o))
    with torch.no_grad():
        cell.weight_ih.copy_(ordered[:, :text_dim])
        cell.weight_hh.copy_(ordered[:, text_dim:])
        bias_i, bias_f, bias_o, bias_u = shared.gates.bias.chunk(4)
        cell.bias_ih.copy_(torch.cat((bias_i, bias_f, bias_u, bias_o)))
        cell.bias_hh.zero_()
    noise, text = torch.randn(3, noise_dim), torch.randn(3, text_dim)
    state = shared.initial_state(noise, text)
    h, c = shared.initial_hidden(noise), shared.initial_cell(noise)
    for _ in range(4):
        condition, state = shared(text, state)
        h, c = cell(text, (h, c))
        torch.testing.assert_close(condition, h)
        torch.testing.assert_close(state.cell, c)


@pytest.mark.parametrize(
    ("grid", "image_size", "sizes", "channels"),
    [
        (7, 256, [8, 16, 32, 64, 128, 256], [8, 8, 8, 8, 4, 2, 1]),
        (7, 224, [8, 16, 32, 64, 128, 224], [8, 8, 8, 8, 4, 2, 1]),
        (7, 32, [8, 16, 32], [8, 4, 2, 1]),
        (14, 256, [16, 32, 64, 128, 256], [8, 8, 8, 4, 2, 1]),
        (16, 512, [16, 32, 64, 128, 256, 512], [8, 8, 8, 8, 4, 2, 1]),
        (8, 64, [8, 16, 32, 64], [8, 8, 4, 2, 1]),
    ],
)
def test_sizes_and_channels_of_image_g(grid: int, image_size: int, sizes: list[int], channels: list[int]) -> None:
    config = GeneratorConfig(image_size=image_size, base_channels=64)
    assert config.block_sizes(grid) == sizes
    assert config.block_channels(grid) == [64 * factor for factor in channels]


@pytest.mark.parametrize("image_size", [32, 48, 64, 512])
def test_every_image_size_is_drawn(clip: FrozenCLIP, image_size: int) -> None:
    config = replace(CONFIG, image_size=image_size, base_channels=2)
    noise, text = inputs(clip, config, batch=1)
    with torch.no_grad():
        assert Generator(config, clip.geometry).eval()(noise, text, clip).shape == (1, 3, image_size, image_size)


@pytest.mark.parametrize(("layers", "prompts", "blocks"), [(12, 8, (1, 4, 8)), (24, 16, (2, 8, 16)), (6, 4, (0, 2, 4))])
def test_prompts_and_feature_blocks_follow_the_depth(layers: int, prompts: int, blocks: tuple[int, int, int]) -> None:
    geometry = ClipGeometry(width=768, grid=7, layers=layers, embed_dim=512, image_size=224)
    assert geometry.prompts == prompts
    assert geometry.feature_blocks == blocks


def test_a_clip_of_one_block_is_refused() -> None:
    with pytest.raises(UsageError, match="has one block; it must have two or more"):
        ClipGeometry(width=16, grid=4, layers=1, embed_dim=8, image_size=32)


@pytest.mark.parametrize("grid", [4, 7, 14, 16])
def test_the_referee_gives_one_logit_for_every_grid(grid: int) -> None:
    geometry = ClipGeometry(width=16, grid=grid, layers=3, embed_dim=8, image_size=8 * grid)
    discriminator = Discriminator(DiscriminatorConfig(base_channels=2), geometry)
    assert discriminator(torch.randn(5, 3, 16, grid, grid), torch.randn(5, 8)).shape == (5,)


@pytest.mark.parametrize(("grid", "patch"), [(4, 8), (7, 32), (5, 14)])
def test_a_pixel_stem_starts_as_the_papers_discriminator_and_sees_what_clip_does_not(grid: int, patch: int) -> None:
    geometry = ClipGeometry(width=16, grid=grid, layers=3, embed_dim=8, image_size=patch * grid)
    plain = Discriminator(DiscriminatorConfig(base_channels=2), geometry)
    stem = Discriminator(DiscriminatorConfig(base_channels=2, pixel_stem=True), geometry)
    missing, unexpected = stem.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert all(name.startswith("extractor.stem.") for name in missing)
    patches, text, pixels = (
        torch.randn(3, 3, 16, grid, grid),
        torch.randn(3, 8),
        torch.randn(3, 3, patch * grid, patch * grid),
    )
    torch.testing.assert_close(stem(patches, text, pixels), plain(patches, text))
    nn.init.normal_(stem.extractor.stem.last.weight)
    assert not torch.isclose(stem(patches, text, pixels), stem(patches, text, pixels.flip(3))).any()
    with pytest.raises(TypeError, match="pixel stem"):
        stem(patches, text)


def test_bad_sizes_are_refused_in_words() -> None:
    for change, words in [
        ({"variant": "ratlib"}, "Did you mean 'ratlip'"),
        ({"image_size": 16}, "32 to 512"),
        ({"image_size": 1024}, "32 to 512"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"base_channels": 7}, "base_channels is 7"),
        ({"base_channels": 20}, "multiple of 16"),
    ]:
        with pytest.raises(UsageError, match=words):
            replace(GeneratorConfig(), **change)
    small = ClipGeometry(width=16, grid=3, layers=3, embed_dim=8, image_size=24)
    with pytest.raises(UsageError, match="grid of 3"):
        Discriminator(DiscriminatorConfig(), small)


def test_losses_are_equation_8(clip: FrozenCLIP) -> None:
    real, fake, mismatch = torch.tensor([0.5, 2.0]), torch.tensor([-2.0, 0.0]), torch.tensor([1.0, -0.5])
    # E max(0, 1-D) = (0.5+0)/2, E max(0, 1+D) = (0+1)/2 and (2+0.5)/2, and the penalty as it is
    assert float(discriminator_loss(real, fake, mismatch, torch.tensor(0.25))) == pytest.approx(0.25 + 0.875 + 0.25)
    assert float(generator_loss(fake, torch.tensor([0.5, 0.25]), clip_weight=4)) == pytest.approx(1 - 1.5)
    vectors = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    assert clip_similarity(vectors, torch.tensor([[4.0, 3.0], [0.0, 2.0]])).tolist() == pytest.approx([0.96, 0.0])
    assert mismatched(torch.arange(3.0)[:, None]).flatten().tolist() == [1.0, 2.0, 0.0]


def test_mode_seeking_is_large_where_the_noise_changes_little() -> None:
    noise = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 4.0], [1.0, 0.0]])  # pairs 3 and 0.5 apart
    angles = torch.tensor([0.0, 0.0, torch.pi / 2, torch.pi / 3], requires_grad=True)  # cosines 0 and 0.5
    along = torch.tensor([0.0, 1.0, 5.0, -2.0])  # what agrees with the sentence does not count, nor does length
    vectors = torch.stack((3 * angles.cos(), along, 3 * angles.sin()), dim=1)
    text = torch.tensor([[0.0, 2.0, 0.0]]).expand(4, -1)
    loss = mode_seeking(vectors, text, noise)
    assert loss.item() == pytest.approx((3 / 1 + 0.5 / 0.5) / 2, rel=2e-3)
    loss.backward()
    assert angles.grad is not None
    assert (angles.grad[:2] > 0).all()  # going down this gradient, the vectors of a pair turn away from each other
    assert (angles.grad[2:] < 0).all()
    assert mode_seeking(torch.ones(4, 3), text, noise).isfinite()


def test_the_penalty_is_the_norm_of_the_gradient(clip: FrozenCLIP) -> None:
    """Against differences: the norm of a linear discriminator's gradient is the norm of its weights."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Parameter(torch.full((3, 2, 1, 1), 0.5))
            self.text = nn.Parameter(torch.tensor([1.0, -1.0]))

        def forward(self, patches: Tensor, text: Tensor) -> Tensor:
            return (patches * self.patches).sum(dim=(1, 2, 3, 4)) + text @ self.text

    linear = Linear()
    patches, text = torch.randn(4, 3, 2, 1, 1, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    penalty, norms = matching_aware_gradient_penalty(linear(patches, text), (patches, text))
    length = (6 * 0.25 + 2) ** 0.5
    assert norms.tolist() == pytest.approx([length] * 4)
    assert float(penalty.detach()) == pytest.approx(2 * length**6, rel=1e-5)
    penalty.backward()
    assert linear.patches.grad is not None
    assert float(linear.patches.grad[0, 0, 0, 0]) == pytest.approx(2 * 6 * length**4 * 0.5, rel=1e-5)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_a_training_step_leaves_clip_as_it_was(clip: FrozenCLIP, autocast: torch.dtype | None) -> None:
    generator, discriminator = Generator(CONFIG, clip.geometry), Discriminator(DiscriminatorConfig(4), clip.geometry)
    noise, text = inputs(clip, CONFIG, batch=3)
    before = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    clip.train()
    assert not any(module.training for module in clip.modules())
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        fake = clip.features(generator(noise, text, clip))
        similarity = clip_similarity(fake.embedding, text)
        patches, sentence = fake.patches.detach().requires_grad_(), text.clone().requires_grad_()
        logits = discriminator(patches, sentence)
        penalty, _ = matching_aware_gradient_penalty(logits, (patches, sentence))
        loss = generator_loss(discriminator(fake.patches, text), similarity) - logits.mean() + penalty
    loss.backward()
    for optimizer in (torch.optim.Adam(generator.parameters()), torch.optim.Adam(discriminator.parameters())):
        optimizer.step()
    assert all(parameter.grad is None for parameter in clip.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in clip.state_dict().items())
    untouched = [name for name, parameter in generator.named_parameters() if parameter.grad is None]
    assert untouched == []
