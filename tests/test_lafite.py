"""LAFITE: the published code's values, through the renaming table, and what holds of every model of it."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_lafite import plain_operations
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.baselines import lafite
from ratlip_cli.baselines.lafite import Discriminator, Generator
from ratlip_cli.errors import UsageError
from ratlip_cli.families.lafite import LafiteDiscriminatorConfig, LafiteGeneratorConfig, LafiteObjectiveConfig
from ratlip_cli.planned import planned
from ratlip_cli.tensor_files import load_into
from ratlip_cli.weights.released.checkpoint import ReleasedCheckpoint
from ratlip_cli.weights.released.lafite import discriminator_names, export_lafite, import_lafite

FOLDER = Path(__file__).parent / "reference" / "baselines" / "lafite"
KEYS = json.loads((FOLDER / "keys.json").read_text())
TEXT_DIM = 64
OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def formula(net: str, name: str, shape: list[int]) -> Tensor:
    """The weights that the reference values were made with (its README)."""
    if name.endswith("resample_filter"):
        return torch.outer(*[torch.tensor([1.0, 3.0, 3.0, 1.0])] * 2) / 64
    n = np.random.RandomState(zlib.crc32(f"{net}.{name}".encode())).standard_normal(shape)
    n = torch.from_numpy(np.asarray(n, dtype=np.float32))
    m = 100 if net == "G" and (".pre_" in name or name.startswith("mapping.fc")) else 1
    if len(shape) >= 2:
        return m * n
    return 1 + 0.1 * n if name.endswith("affine_0.bias") else 0.1 * m * n


def published(size: str, net: str) -> dict[str, Tensor]:
    return {name: formula(net, name, shape) for name, shape in KEYS[size][net].items()}


def assert_close(actual: Tensor, expected: np.ndarray, relative: float = 2e-4) -> None:
    assert actual.shape == expected.shape
    assert np.abs(actual.detach().numpy() - expected).max() <= relative * np.abs(expected).max()


@pytest.fixture(scope="module")
def checkpoint() -> ReleasedCheckpoint:
    return import_lafite(published("small", "G"), published("small", "D"), is_ema=True)


@pytest.fixture(scope="module")
def values() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "lafite_seed0.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def given(values: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The reference's arrays as tensors."""
    return {name: torch.from_numpy(np.asarray(array)) for name, array in values.items()}


@pytest.fixture(scope="module")
def generator(checkpoint: ReleasedCheckpoint) -> Generator:
    network = Generator(checkpoint.generator_config, TEXT_DIM).eval().requires_grad_(False)
    load_into(network, checkpoint.generator, "G")
    return network


@pytest.fixture(scope="module")
def discriminator(checkpoint: ReleasedCheckpoint) -> Discriminator:
    """The right one: each logit with its own image's match."""
    return loaded_discriminator(checkpoint)


def loaded_discriminator(checkpoint: ReleasedCheckpoint, **switches: bool) -> Discriminator:
    sizes = checkpoint.discriminator_config
    config = LafiteDiscriminatorConfig(sizes.image_size, sizes.channel_base, sizes.channel_max, **switches)
    network = Discriminator(config, TEXT_DIM)
    assert checkpoint.discriminator is not None
    load_into(network, checkpoint.discriminator, "D")
    return network


@pytest.fixture(scope="module")
def real(given: dict[str, Tensor]) -> Tensor:
    return F.interpolate(given["real_base"], scale_factor=4, mode="nearest")


# ------------------------------------------------------------------------------------------------------- renaming table


def test_sizes_are_told_from_shapes(checkpoint: ReleasedCheckpoint) -> None:
    config = checkpoint.generator_config
    assert (config.image_size, config.channel_base, config.channel_max) == (64, 1024, 32)
    assert (config.noise_dim, config.w_dim, config.mapping_layers, config.text_width) == (48, 32, 8, 512)
    assert config.channels == [32, 32, 32, 32, 16]
    assert checkpoint.discriminator_config.batch_sum, "as the weights were trained"


@pytest.mark.parametrize("size", ["small", "published_256"])
def test_every_published_name_and_shape_has_its_own_and_back(size: str) -> None:
    shapes = KEYS[size]
    with planned():
        tensors = {net: {name: torch.empty(shape) for name, shape in shapes[net].items()} for net in ("G", "D")}
    for net, named in tensors.items():
        named.update({name: formula(net, name, [4, 4]) for name in named if name.endswith("resample_filter")})
    found = import_lafite(tensors["G"], tensors["D"], is_ema=True)
    text_dim = shapes["G"]["synthesis.b4.conv1.pre_0.weight"][1]
    with planned():
        networks = Generator(found.generator_config, text_dim), Discriminator(found.discriminator_config, text_dim)
    assert found.discriminator is not None
    for network, ours in zip(networks, (found.generator, found.discriminator), strict=True):
        assert {name: tensor.shape for name, tensor in network.state_dict().items()} == {
            name: tensor.shape for name, tensor in ours.items()
        }
    back = export_lafite(found.generator_config, found.generator, found.discriminator)
    for net, name in (("G", "G_ema"), ("D", "D")):
        assert {key: list(tensor.shape) for key, tensor in back[name].items()} == shapes[net]


def test_export_gives_the_tensors_back(checkpoint: ReleasedCheckpoint) -> None:
    back = export_lafite(checkpoint.generator_config, checkpoint.generator, checkpoint.discriminator)
    for net, name in (("G", "G_ema"), ("D", "D")):
        assert all(torch.equal(back[name][key], tensor) for key, tensor in published("small", net).items())


def test_a_foreign_tensor_or_filter_is_refused() -> None:
    tensors = published("small", "G")
    with pytest.raises(ValueError, match=r"unknown tensor synthesis\.b8\.extra"):
        import_lafite({**tensors, "synthesis.b8.extra": torch.zeros(1)}, None, is_ema=True)
    with pytest.raises(ValueError, match=r"b8\.resample_filter is another filter"):
        import_lafite({**tensors, "synthesis.b8.resample_filter": torch.ones(4, 4) / 16}, None, is_ema=True)


def test_parameter_counts_are_the_published_ones() -> None:
    counts = KEYS["parameter_counts"]
    for side, base, maximum, name in (
        (256, 32768, 512, "256"),
        (64, 32768, 512, "64_fmap1.0"),
        (64, 8192, 512, "64_fmap0.25"),
        (64, 4096, 512, "64_fmap0.125"),
        (128, 16384, 512, "128_fmap0.5"),
    ):
        with planned():
            generator = Generator(LafiteGeneratorConfig(image_size=side, channel_base=base, channel_max=maximum), 512)
            discriminator = Discriminator(LafiteDiscriminatorConfig(side, base, maximum), 512)
        parameters = dict(generator.named_parameters())
        text = sum(tensor.numel() for key, tensor in parameters.items() if ".style.text" in key)
        assert count(generator) == counts[name]["G"]
        assert count(discriminator) == counts[name]["D"]
        assert text == counts[name].get("G_pre", counts[name].get("G_text_layers_pre"))
    with planned():
        generator = Generator(LafiteGeneratorConfig(), 512)
    assert count(generator.mapping) == counts["256"]["G_mapping"]
    assert count(generator) - count(generator.mapping) == counts["256"]["G_synthesis"]
    assert count(lafite.NoiseMapper()) == counts["mapper"]


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# ---------------------------------------------------------------------------------------------------- single operations


def test_single_operations(values: dict[str, np.ndarray], given: dict[str, Tensor]) -> None:
    x, w3, w1, style = (given[f"op_{name}"] for name in ("x", "w3", "w1", "s"))
    assert_close(lafite.fir(x), values["op_filter"])
    assert_close(lafite.up2(x), values["op_upsample2d"])
    assert_close(lafite.down2(x), values["op_downsample2d"])
    assert_close(lafite.conv3_up2(x, w3), values["op_conv3_up2"])
    assert_close(lafite.conv3_down2(x, w3), values["op_conv3_down2"])
    assert_close(F.conv2d(lafite.down2(x), w1), values["op_conv1_down2"])
    assert_close(lafite.modulated_conv(x, w3, style), values["op_modconv"])
    assert_close(lafite.modulated_conv(x, w3, style, demodulate=False), values["op_modconv_nodemod"])


# ------------------------------------------------------------------------------------------------------------ generator


def test_mapping_and_truncation(generator: Generator, values: dict[str, np.ndarray], given: dict[str, Tensor]) -> None:
    z = given["z"]
    assert_close(generator.mapping(z), values["w"])
    assert_close(generator.styles(z, psi=0.7)[:, 3], values["w_trunc07"])
    assert_close(generator.styles(z, psi=0.7, cutoff=4), values["w_trunc07_cut4"])


def test_images_styles_and_blocks(
    generator: Generator, values: dict[str, np.ndarray], given: dict[str, Tensor]
) -> None:
    blocks: list[tuple[Tensor, Tensor]] = []
    styles: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda module, inputs, output: blocks.append(output)) for block in generator.blocks
    ]
    hooks += [
        module.register_forward_hook(lambda module, inputs, output: styles.append(output))
        for module in generator.modules()
        if isinstance(module, lafite.Style)
    ]
    images = generator(given["z"], given["fts"], None)
    for hook in hooks:
        hook.remove()
    assert_close(images, values["img_const"])
    for number, (x, image) in enumerate(blocks):
        side = 4 << number
        step = max(1, side // 8)
        assert_close(x[:, ::4, ::step, ::step], values[f"b{side}_x_sub"])
        assert_close(image[:, :, ::step, ::step], values[f"b{side}_img_sub"])
    scaled = [  # the published toRGB's style includes its factor
        style / style.shape[1] ** 0.5 if number in (1, 4, 7, 10, 13) else style for number, style in enumerate(styles)
    ]
    assert_close(torch.stack([style.norm(dim=1) for style in scaled], dim=1), values["style_norms"])
    assert_close(scaled[0], values["style_b4_conv1"])
    assert_close(scaled[-1], values["style_b64_torgb"])


def test_no_noise_and_style_mixing(
    generator: Generator, values: dict[str, np.ndarray], given: dict[str, Tensor]
) -> None:
    none = torch.zeros(4, sum(generator.noise_sizes))
    images = generator(given["z"], given["fts"], None, pixel_noise=none)
    assert_close(images[:, :, ::4, ::4], values["img_none"])
    mixed = generator(given["z"], given["fts"], None, mix=(given["z2"], torch.tensor([[5]])))
    assert_close(mixed[:, :, ::4, ::4], values["img_mixed_cut5_sub"])


def test_the_buffers_given_as_noise_are_the_buffers(generator: Generator, given: dict[str, Tensor]) -> None:
    own = torch.cat([buffer.flatten() for name, buffer in generator.named_buffers() if name.endswith("noise")])
    noise = own.expand(4, -1)
    expected = generator(given["z"], given["fts"], None)
    torch.testing.assert_close(generator(given["z"], given["fts"], None, noise), expected)


# ------------------------------------------------------------------------------------- discriminator, losses, gradients


def test_logits(
    checkpoint: ReleasedCheckpoint,
    discriminator: Discriminator,
    real: Tensor,
    values: dict[str, np.ndarray],
    given: dict[str, Tensor],
) -> None:
    """Right: unconditional + the image's own sum; published: + that of the whole batch."""
    wide = loaded_discriminator(checkpoint, batch_sum=True)
    for kind, images in (("real", real), ("fake", given["img_const"].clamp(-3, 3))):
        logits, features = discriminator(images, given["fts"])
        matches = (values[f"{kind}_d_fts"] * values["fts"]).sum(axis=1)
        assert_close(features, values[f"{kind}_d_fts"])
        assert_close(logits, values[f"{kind}_unconditional"][:, 0] + matches, 1e-3)
        assert_close(wide(images, given["fts"])[0][:, None], values[f"{kind}_logits"], 1e-3)
    assert_close(wide(real[:2], given["fts"][:2])[0][:, None], values["real_logits_batch2"], 1e-3)
    normed = loaded_discriminator(checkpoint, batch_sum=True, unit_features=True)
    logits, features = normed(real, given["fts"])
    assert_close(logits[:, None], values["real_logits_normed"], 1e-3)
    assert_close(features, values["real_d_fts_normed"])


def test_contrastive_terms_as_published(values: dict[str, np.ndarray], given: dict[str, Tensor]) -> None:
    d, t = given["real_d_fts"], given["fts"]
    for lam in (0.0, 0.3, 1.0):
        assert_close(lafite.contrastive(d, t, 0.5, lam, published=True), values[f"contra_temp05_lam{lam}"])
    assert_close(lafite.contrastive(d, t, 0.0, published=True), values["contra_temp0"])


def test_the_right_contrastive_term_is_a_cross_entropy(given: dict[str, Tensor]) -> None:
    d, t = given["real_d_fts"], given["fts"]
    cosines = F.cosine_similarity(d[:, None], t[None], dim=2)
    expected = -F.cross_entropy(cosines.T / 0.5, torch.arange(4), reduction="none")
    torch.testing.assert_close(lafite.contrastive(d, t, 0.5), expected)


def test_losses(
    checkpoint: ReleasedCheckpoint, real: Tensor, values: dict[str, np.ndarray], given: dict[str, Tensor]
) -> None:
    wide, text = loaded_discriminator(checkpoint, batch_sum=True), given["fts"]
    logits, features = wide(real, text)
    fake_logits, fake_features = wide(given["img_const"].clamp(-3, 3), text)
    told, fake_told = (lafite.contrastive(d, text, 0.5, published=True).mean() for d in (features, fake_features))
    assert_close(lafite.logistic_fake(fake_logits), values["loss_Dgen"], 1e-3)
    assert_close(lafite.logistic_real(logits) - 5 * told, values["loss_Dreal_itd5"], 1e-3)
    assert_close(lafite.logistic_real(fake_logits) - 5 * fake_told, values["loss_Gmain_itd5"], 1e-3)


def test_r1_and_its_gradients(
    checkpoint: ReleasedCheckpoint, real: Tensor, values: dict[str, np.ndarray], given: dict[str, Tensor]
) -> None:
    wide, images = loaded_discriminator(checkpoint, batch_sum=True), real.clone().requires_grad_()
    penalty = lafite.r1(wide(images, given["fts"])[0], images)
    assert_close(penalty, values["r1_penalty"])
    (5 * penalty).mean().backward()
    norms = {
        theirs: 0.0 if (gradient := wide.get_parameter(own).grad) is None else gradient.norm().item()
        for own, theirs in discriminator_names(dict(wide.named_parameters()), 64).items()
    }
    ordered = [norms[name] for name in KEYS["small"]["D"] if not name.endswith("resample_filter")]
    expected = np.maximum(values["r1_gamma10_param_grad_norm"], 0)  # -1 where the code gives none
    assert_close(torch.tensor(ordered), expected, 1e-3)


def test_path_length(generator: Generator, values: dict[str, np.ndarray], given: dict[str, Tensor]) -> None:
    ws = generator.styles(given["z"][:2]).contiguous().requires_grad_()
    images = generator.synthesis(ws, given["fts"][:2])
    noise = F.interpolate(given["pl_noise_base"], scale_factor=4, mode="nearest")
    lengths = lafite.path_lengths(images, ws, noise)
    assert_close(lengths, values["pl_lengths"])
    mean = 0.01 * lengths.mean()
    assert mean.item() == pytest.approx(values["pl_mean_after_first"].item(), rel=1e-3)
    assert_close((lengths - mean).square(), values["pl_penalty"])


# ----------------------------------------------------------------------------------------- text and image vectors, CLIP


def test_perturbed_and_pseudo_features(values: dict[str, np.ndarray], given: dict[str, Tensor]) -> None:
    noise = given["feature_noise"]
    assert_close(lafite.perturbed(given["fts"], noise, 0.1), values["txt_fts_perturbed"])
    assert_close(lafite.perturbed(given["img_fts"], noise, 0.75), values["img_fts_pseudo"])


def normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(three)[:, None, None] for three in (OPENAI_MEAN, OPENAI_STD))
    return ((images + 1) / 2 - mean) / std


def test_clip_input(values: dict[str, np.ndarray], given: dict[str, Tensor]) -> None:
    side, left, top = values["clip_crop_size_left_top"].tolist()
    images = F.interpolate(given["real_base"][:1], scale_factor=16, mode="nearest")
    place = torch.tensor([(side - 128 + 0.5) / 128, (left + 0.5) / (257 - side), (top + 0.5) / (257 - side)])
    assert_close(normalised(lafite.clip_input(images, place, 224))[:, :, ::8, ::8], values["clip_input_256_sub"])


def test_small_images_are_enlarged_where_the_published_code_pads(given: dict[str, Tensor]) -> None:
    fake = given["img_const"][:1].clamp(-3, 3)
    whole = lafite.clip_input(fake, torch.tensor([1.0, 0.0, 0.0]), 224)
    torch.testing.assert_close(whole, F.interpolate(fake, (224, 224), mode="bicubic"))


def test_noise_mapper(values: dict[str, np.ndarray], given: dict[str, Tensor]) -> None:
    mapper = lafite.NoiseMapper()
    tensors = {}
    for name, shape in KEYS["mapper"].items():
        n = np.random.RandomState(zlib.crc32(f"mapper.{name}".encode())).standard_normal(shape).astype(np.float32)
        tensors[name] = torch.from_numpy(n / np.float32(shape[1] ** 0.5) if len(shape) == 2 else np.float32(0.1) * n)
    load_into(mapper, tensors, "mapper")
    assert_close(mapper(given["mapper_in"], given["mapper_noise"]), values["mapper_out"])


# ------------------------------------------------------------------------------------------ what holds of every model


def small(side: int) -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    sizes = {"image_size": side, "channel_base": 8 * side, "channel_max": 16}
    generator = Generator(LafiteGeneratorConfig(noise_dim=8, w_dim=12, mapping_layers=2, text_width=10, **sizes), 6)
    discriminator = Discriminator(LafiteDiscriminatorConfig(**sizes), 6)
    with torch.no_grad():  # so that every parameter counts
        for name, parameter in [*generator.named_parameters(), *discriminator.named_parameters()]:
            if name.endswith(("bias", "noise_strength")):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return generator.eval(), discriminator


def inputs(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, 8, generator=rng), F.normalize(torch.randn(count, 6, generator=rng), dim=1)


@pytest.mark.parametrize("side", [33, 100])
def test_any_side(side: int) -> None:
    generator, discriminator = small(side)
    noise, text = inputs(3)
    images = generator(noise, text, None)
    assert images.shape == (3, 3, side, side)
    logits, features = discriminator(images, text)
    assert logits.shape == (3,)
    assert features.shape == (3, 6)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in generator.parameters())


@pytest.mark.parametrize(("side", "fused"), [(32, True), (44, False)])
def test_the_plain_operations_give_the_same(side: int, fused: bool) -> None:
    """Images, logits, and the gradients of R1 and of the path length."""

    def computed() -> list[Tensor]:
        generator, discriminator = (network.double() for network in small(side))
        noise, text = (tensor.double() for tensor in inputs(4))
        ws = generator.styles(noise)
        images = generator.synthesis(ws, text)
        logits, _ = discriminator(images, text)
        lengths = lafite.path_lengths(images, ws, torch.ones_like(images))
        real = images.detach().requires_grad_()
        penalty = lafite.r1(discriminator(real, text)[0], real)
        parameters = [*generator.parameters(), *discriminator.parameters()]
        gradients = torch.autograd.grad(lengths.sum() + penalty.sum() + logits.sum(), parameters)
        return [images, logits, lengths, penalty, *gradients]

    with plain_operations(fused):
        expected = computed()
    for ours, plain in zip(computed(), expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-6 * plain.abs().max().item())


def test_a_logit_depends_on_its_group_alone() -> None:
    """Eight images make two groups: the even ones and the odd ones."""
    _, discriminator = small(32)
    _, text = inputs(8)
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = discriminator(images, text)[0]
    images[1] = 0.5
    after = discriminator(images, text)[0]
    torch.testing.assert_close(after[::2], before[::2])
    assert (after[1::2] != before[1::2]).all()


@pytest.mark.parametrize(("batch", "group"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 1), (6, 3), (8, 4)])
def test_groups_of_any_batch(batch: int, group: int) -> None:
    x = torch.randn(batch, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    rows = [x[start :: batch // group] for start in range(batch // group)]
    expected = [(row.var(dim=0, unbiased=False) + 1e-8).sqrt().mean() for row in rows]
    channel = lafite.minibatch_deviation(x)[:, 2]
    for row in range(batch):
        torch.testing.assert_close(channel[row], expected[row % (batch // group)].expand(4, 4))


def test_the_average_of_w_follows_in_training_alone() -> None:
    generator, _ = small(32)
    noise, text = inputs(4)
    generator(noise, text, None)
    assert not generator.mapping.average.any()
    generator.train()
    generator(noise, text, None)
    torch.testing.assert_close(generator.mapping.average, 0.005 * generator.mapping(noise).mean(dim=0).detach())


def test_style_mixing_of_no_layer_and_of_all() -> None:
    generator, _ = small(32)
    (noise, _), (other, _) = inputs(3), inputs(3, seed=2)
    first, second = generator.styles(noise), generator.styles(other)
    assert torch.equal(generator.styles(noise, (other, torch.tensor([[generator.layers]]))), first)
    assert torch.equal(generator.styles(noise, (other, torch.tensor([[0]]))), second)
    rows = generator.styles(noise, (other, torch.tensor([[1], [3], [5]])))
    assert torch.equal(rows[1], torch.cat((first[1, :3], second[1, 3:])))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"image_size": 16}, "image_size is 16; LAFITE's must be 32 to 256 pixels"),
        ({"image_size": 512}, "must be 32 to 256"),
        ({"w_dim": 0}, "w_dim is 0; it must be 1 to 8192"),
        ({"channel_base": 100, "image_size": 256}, "channel_base is 100; 256 pixels need at least 256"),
    ],
)
def test_impossible_sizes(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LafiteGeneratorConfig(**sizes)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"mixing": 1.5}, "mixing is 1.5; it must be from 0 to 1"),
        ({"itc": -1.0}, "itc is -1.0; it must be a number from 0"),
        ({"itd": float("nan")}, "itd is nan"),
        ({"r1_every": -1}, "r1_every is -1; it must not be negative"),
    ],
)
def test_impossible_weights(weights: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LafiteObjectiveConfig(**weights)


def test_export_of_a_side_that_the_published_code_has_not() -> None:
    config = LafiteGeneratorConfig(image_size=48)
    with pytest.raises(UsageError, match="image_size is 48; the published code of LAFITE knows powers of two alone"):
        export_lafite(config, {})


def test_styles_beyond_half_precision_overflow_nothing() -> None:
    torch.manual_seed(0)
    x, weight, style = 200 * torch.rand(2, 4, 8, 8), torch.randn(5, 4, 3, 3), 400 * (1 + torch.rand(2, 4))
    expected = lafite.modulated_conv(x, weight, style)
    with torch.autocast("cpu", torch.float16):
        found = lafite.modulated_conv(x.half(), weight, style)
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02 * expected.abs().max().item())
