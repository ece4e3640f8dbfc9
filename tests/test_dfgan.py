"""DF-GAN and RAT-GAN: the published code's values, through the importer of its checkpoints, and the laws."""

from __future__ import annotations

import contextlib
import copy
import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.baselines import dfgan, ratgan
from ratlip_cli.data.dataset import Batch
from ratlip_cli.errors import UsageError
from ratlip_cli.families.dfgan import DFGAN, DFGAN2020, DFGANReleased
from ratlip_cli.families.ratgan import FLOWER, RATGAN, RATGANReleased
from ratlip_cli.family import Family
from ratlip_cli.model.config import ClipGeometry
from ratlip_cli.model.losses import mismatched
from ratlip_cli.planned import planned
from ratlip_cli.summary import count_parameters
from ratlip_cli.tensor_files import check_fit, load_into
from ratlip_cli.training.objectives.dfgan import DFGANObjective
from ratlip_cli.training.objectives.objective import MicroBatch
from ratlip_cli.training.objectives.ratgan import RATGANObjective
from ratlip_cli.training.settings import TrainSettings, resolve_settings
from ratlip_cli.training.start import open_session
from ratlip_cli.training.trainer import Trainer
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.released.checkpoint import ReleasedCheckpoint
from ratlip_cli.weights.released.dfgan import export_dfgan, import_dfgan, is_dfgan
from ratlip_cli.weights.released.ratgan import export_ratgan, import_ratgan, is_ratgan

FOLDER = Path(__file__).parent / "reference" / "baselines"
IMAGES_AND_FEATURES, LOGITS_AND_GRADIENTS = 2e-4, 1e-3
"""The README's tolerances, relative to an array's largest value."""

VIT_B_32 = ClipGeometry(width=768, grid=7, layers=12, embed_dim=512, image_size=224)

RATGAN_RELEASED, RATGAN_FLOWER = RATGANReleased("ratgan-released", ""), RATGANReleased(FLOWER, "")

Nets = dict[str, dict[str, Tensor]]


def keys(model: str) -> dict[str, dict[str, dict[str, list[int]]]]:
    content: dict[str, dict[str, dict[str, list[int]]]] = json.loads((FOLDER / model / "keys.json").read_text())
    return content


def formula(net: str, key: str, shape: list[int]) -> Tensor:
    """The weights that the reference values were made with."""
    drawn_as = f"{net}.{key[key.index('lstm.') :] if 'lstm.' in key else key}"
    n = np.random.RandomState(zlib.crc32(drawn_as.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) >= 3:
        gain = 0.7 if net == "netG" else 1.4
        n = np.float32(gain) * n / np.sqrt(np.float32(np.prod(shape[1:])))
    elif len(shape) == 2:
        n = n / np.sqrt(np.float32(shape[1]))
    elif key.split(".")[-1] == "gamma" or key.endswith("fc_gamma.linear2.bias"):
        n = 1 + np.float32(0.1) * n
    else:
        n = np.float32(0.1) * n
    return torch.from_numpy(np.asarray(n, dtype=np.float32))


def filled(shapes: Mapping[str, Mapping[str, list[int]]]) -> Nets:
    return {net: {key: formula(net, key, shape) for key, shape in of.items()} for net, of in shapes.items()}


def values(model: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / model / f"{model}_seed0.npz") as file:
        return dict(file)


def assert_close(actual: Tensor, expected: np.ndarray, relative: float = IMAGES_AND_FEATURES) -> None:
    found = actual.detach().numpy()
    assert found.size == expected.size
    difference = np.abs(found.reshape(expected.shape) - expected).max()
    assert difference <= relative * np.abs(expected).max()


def built(family: Family, checkpoint: ReleasedCheckpoint) -> tuple[nn.Module, nn.Module]:
    """Both networks with the weights of a checkpoint."""
    with planned():
        generator = family.generator(checkpoint.generator_config, VIT_B_32)
        discriminator = family.discriminator(checkpoint.discriminator_config, VIT_B_32)
    load_into(generator, checkpoint.generator, "netG")
    assert checkpoint.discriminator is not None
    load_into(discriminator, checkpoint.discriminator, "netD and netC")
    return generator, discriminator


def of(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array)


WEIGHTS = TrainSettings.of(variant="dfgan", similarity_weight=0.0)


def gradients(network: nn.Module) -> dict[str, Tensor]:
    """The gradient's norm of every parameter by its name; -1 where there is none."""
    return {
        name: torch.tensor(-1.0) if weight.grad is None else weight.grad.norm()
        for name, weight in network.named_parameters()
    }


def assert_gradients(norms: Nets, expected: np.ndarray) -> None:
    """The norms are in the order of the published state dicts, which keys.json has."""
    order = [(net, name) for net, of_net in keys("dfgan")["small_nf8_64"].items() for name in of_net if norms.get(net)]
    found = torch.stack([norms[net][name] for net, name in order])
    assert_close(found, expected, LOGITS_AND_GRADIENTS)


@pytest.fixture(scope="module")
def dfgan_values() -> dict[str, np.ndarray]:
    return values("dfgan")


@pytest.fixture(scope="module")
def dfgan_networks() -> tuple[nn.Module, nn.Module]:
    """From a checkpoint of several GPUs."""
    nets = {
        net: {f"module.{key}": tensor for key, tensor in tensors.items()}
        for net, tensors in filled(keys("dfgan")["small_nf8_64"]).items()
    }
    assert is_dfgan(nets)
    assert not is_ratgan(nets)
    return built(DFGANReleased(), import_dfgan(nets))


def test_dfgans_images(dfgan_networks: tuple[nn.Module, nn.Module], dfgan_values: dict[str, np.ndarray]) -> None:
    (generator, _), expected = dfgan_networks, dfgan_values
    noise, text = of(expected["noise"]), of(expected["sent"])
    y, first = torch.cat((noise, text), dim=1), generator.get_submodule("blocks.0")
    with torch.no_grad():
        x = generator.get_submodule("code")(noise).unflatten(1, (-1, 4, 4))
        assert_close(x, expected["g_fc"])
        enlarged = F.interpolate(x, scale_factor=2)
        assert_close(first.fuse1.affines[0](enlarged, y)[:, ::4], expected["g_block0_fuse1_affine0"])
        assert_close(first.fuse1(enlarged, y)[:, ::4], expected["g_block0_fuse1"])
        for number, block in enumerate(generator.get_submodule("blocks").children()):
            x, step = block(x, y), 2**number
            assert_close(x[:, ::4, ::step, ::step], expected[f"g_block{number}_sub"])
        assert_close(generator(noise, text), expected["fake"])


def test_dfgans_features_and_logits(
    dfgan_networks: tuple[nn.Module, nn.Module], dfgan_values: dict[str, np.ndarray]
) -> None:
    (_, discriminator), expected = dfgan_networks, dfgan_values
    with torch.no_grad():
        for images in ("real", "fake"):
            features = discriminator.features(of(expected[images]))
            assert_close(features, expected[f"d_{images}_features"])
            logits = discriminator.head(features, of(expected["sent"]))
            assert_close(logits, expected[f"logit_{images}"], LOGITS_AND_GRADIENTS)


def test_dfgans_training_step(dfgan_networks: tuple[nn.Module, nn.Module], dfgan_values: dict[str, np.ndarray]) -> None:
    """The published code moves the features on by one, this package the captions: turned round, the pairs agree."""
    (generator, discriminator), expected = dfgan_networks, dfgan_values
    objective = DFGANObjective(WEIGHTS, generator, discriminator, None, contextlib.nullcontext)
    text = of(expected["sent"])
    batch = MicroBatch(of(expected["real"]), text, text.roll(1, dims=0), of(expected["noise"]), text)
    fake = objective.fake(batch)

    loss, logs = objective.discriminator_loss(batch, fake)
    assert_close(logs["logit_mismatched"].roll(-1), expected["logit_mis"], LOGITS_AND_GRADIENTS)
    assert_close(logs["penalty_norm"], expected["gp_grad_norm"], LOGITS_AND_GRADIENTS)
    assert_close(loss, expected["errD"], LOGITS_AND_GRADIENTS)
    hinge = expected["errD_real"] + (expected["errD_fake"] + expected["errD_mis"]) / 2
    assert_close(loss - hinge, expected["ma_gp"], LOGITS_AND_GRADIENTS)
    loss.backward()
    assert_gradients(export_dfgan({}, gradients(discriminator)), expected["errD_param_grad_norm"])

    loss, _ = objective.generator_loss(batch, fake)
    assert_close(loss, expected["errG"], LOGITS_AND_GRADIENTS)
    loss.backward()
    assert_gradients(export_dfgan(gradients(generator), None), expected["errG_param_grad_norm"])


def shapes_of(nets: Nets) -> dict[str, dict[str, list[int]]]:
    return {net: {name: list(tensor.shape) for name, tensor in tensors.items()} for net, tensors in nets.items()}


@pytest.fixture(scope="module")
def ratgan_networks() -> tuple[nn.Module, nn.Module]:
    """nf 4: what is filled is what the exporter says the published code has."""
    generator, discriminator = ratgan.Generator(256, 4, 100, 256, 256), dfgan.Discriminator(256, 4, 256, most=16)
    nets = filled(shapes_of(export_ratgan(generator.state_dict(), discriminator.state_dict())))
    assert is_ratgan(nets)
    return built(RATGAN_RELEASED, import_ratgan(nets, "ratgan-released"))


def test_ratgans_images(ratgan_networks: tuple[nn.Module, nn.Module]) -> None:
    (generator, _), expected = ratgan_networks, values("ratgan")
    noise, text = of(expected["noise"]), of(expected["sent"])
    with torch.no_grad():
        assert_close(generator.get_submodule("lstm.noise_to_hidden")(noise), expected["h0"])
        assert_close(generator.get_submodule("lstm.noise_to_cell")(noise), expected["c0"])
        states = generator.conditions(noise, text)
        assert len(states) == 28
        assert_close(states[:3], expected["h_first3"])
        assert_close(states[-1], expected["h_last"])
        images = generator(noise, text)
    assert_close(images[:, :, ::4, ::4], expected["fake_sub"])
    assert_close(images.mean(dim=(1, 2, 3)), expected["fake_mean"])
    assert_close(images.std(dim=(1, 2, 3)), expected["fake_std"])


def test_ratgans_logits_and_penalty(ratgan_networks: tuple[nn.Module, nn.Module]) -> None:
    """Its mismatched pairs are those of DF-GAN but for the last image with the first caption."""
    (generator, discriminator), expected = ratgan_networks, values("ratgan")
    objective = RATGANObjective(WEIGHTS, generator, discriminator, None, contextlib.nullcontext)
    text = of(expected["sent"])
    real = of(expected["real_base"]).repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    batch = MicroBatch(real, text, mismatched(text), of(expected["noise"]), text)
    with torch.no_grad():
        assert_close(discriminator.features(real), expected["d_real_features"])
        hinge, logs = objective.discriminator_loss(batch, objective.fake(batch))
    assert_close(logs["logit_real"], expected["logit_real"], LOGITS_AND_GRADIENTS)
    assert_close(logs["logit_mismatched"][:1], expected["logit_wrong"], LOGITS_AND_GRADIENTS)
    assert_close(logs["logit_fake"], expected["logit_fake"], LOGITS_AND_GRADIENTS)
    real_term, fake_term, wrong_term = (
        F.relu(1 + sign * logs[f"logit_{name}"]).mean() for name, sign in (("real", -1), ("fake", 1), ("mismatched", 1))
    )
    torch.testing.assert_close(hinge, real_term + (fake_term + wrong_term) / 2)
    penalty, logs = objective.penalty(batch, None)
    assert_close(logs["penalty_norm"], expected["gp_grad_norm"], LOGITS_AND_GRADIENTS)
    assert_close(penalty, expected["ma_gp"], LOGITS_AND_GRADIENTS)


def numbered(shapes: Mapping[str, Mapping[str, list[int]]]) -> Nets:
    """Tensors of these shapes that take no memory, each of a number of its own."""
    return {
        net: {name: torch.tensor(float(number)).expand(shape) for number, (name, shape) in enumerate(of.items(), 1)}
        for net, of in shapes.items()
    }


def assert_same_files(found: Nets, expected: Nets, unused: str = "-") -> None:
    assert shapes_of(found) == shapes_of(expected)
    for net, tensors in expected.items():
        for name, tensor in tensors.items():
            first = (0,) * tensor.ndim
            assert found[net][name][first] == (0 if unused in name else tensor[first]), name


@pytest.mark.parametrize("size", ["published_bird_coco_nf32_256", "small_nf8_64"])
def test_dfgans_file_and_back(size: str) -> None:
    nets = numbered(keys("dfgan")[size])
    checkpoint = import_dfgan(nets)
    fit(DFGANReleased(), checkpoint)
    assert checkpoint.discriminator is not None
    assert_same_files(export_dfgan(checkpoint.generator, checkpoint.discriminator), nets)
    assert import_dfgan({"netG": nets["netG"]}).discriminator is None


def test_the_file_of_2020_and_back() -> None:
    nets = numbered(keys("dfgan")["old2020_nf32_256"])
    checkpoint = import_ratgan(nets)
    assert checkpoint.generator_config.variant == "dfgan-2020-released"
    fit(DFGAN2020(), checkpoint)
    assert_same_files(export_ratgan(checkpoint.generator, checkpoint.discriminator), nets)


@pytest.mark.parametrize("trained", [False, True])
def test_ratgans_file_and_back(trained: bool, caplog: pytest.LogCaptureFixture) -> None:
    """What the model of flowers alone uses of it was never trained in the others: its last weights are 0 there."""
    nets = numbered(keys("ratgan")["published_nf64"])
    net = nets["netG"]
    net |= {name: net[name[name.index("lstm.") :]] for name in net if ".lstm." in name}
    if not trained:
        net |= {
            name: torch.zeros_like(tensor) for name, tensor in net.items() if ".affine4." in name or ".affine5." in name
        }
    checkpoint = import_ratgan(nets)
    assert checkpoint.generator_config.variant == (FLOWER if trained else "ratgan-released")
    fit(RATGAN_FLOWER if trained else RATGAN_RELEASED, checkpoint)
    assert_same_files(export_ratgan(checkpoint.generator, checkpoint.discriminator), nets, unused=".fea_l")
    if trained:
        assert import_ratgan(nets, "ratgan-released").generator_config.variant == "ratgan-released"
        assert "its third affines were trained, as those of ratgan-flower-released" in caplog.text
    else:
        assert import_ratgan(nets, FLOWER).generator_config.variant == "ratgan-released"
        assert not caplog.text


def fit(family: Family, checkpoint: ReleasedCheckpoint) -> None:
    """The tensors are those of networks of the sizes that were told from them."""
    with planned():
        check_fit(family.generator(checkpoint.generator_config, VIT_B_32), checkpoint.generator, "netG")
        discriminator = family.discriminator(checkpoint.discriminator_config, VIT_B_32)
        check_fit(discriminator, checkpoint.discriminator or {}, "netD")


def counted(family: Family, channels: int, image_size: int) -> dict[str, int]:
    """Parameters as the published code divides them."""
    generator_config, discriminator_config = family.configs(
        {"generator_channels": channels, "discriminator_channels": channels, "image_size": image_size}
    )
    with planned():
        generator = family.generator(generator_config, VIT_B_32)
        discriminator = family.discriminator(discriminator_config, VIT_B_32)
    head = count_parameters(discriminator.get_submodule("head"))
    return {"netG": count_parameters(generator), "netD": count_parameters(discriminator) - head, "netC": head}


@pytest.mark.parametrize("size", [size for size in keys("dfgan")["parameter_counts"] if size.startswith("nf")])
def test_dfgans_parameters(size: str) -> None:
    channels, image_size, *clip = size.split("_")
    family = DFGAN() if clip else DFGANReleased()
    counts = counted(family, int(channels.removeprefix("nf")), int(image_size))
    assert counts == keys("dfgan")["parameter_counts"][size]


@pytest.mark.parametrize("channels", [32, 64])
def test_parameters_of_2020(channels: int) -> None:
    counts = counted(DFGAN2020(), channels, 256)
    published = keys("dfgan")["parameter_counts"][f"old2020_nf{channels}"]
    assert {"netG": counts["netG"], "netD": counts["netD"] + counts["netC"]} == published


@pytest.mark.parametrize("channels", [32, 64])
def test_ratgans_parameters(channels: int) -> None:
    """With what the published code builds and never uses, which is not ours."""
    with planned():
        generator = ratgan.Generator(256, channels, 100, 256, 256)
    file = export_ratgan(generator.state_dict(), None)["netG"]
    published = keys("ratgan")["parameter_counts"][f"nf{channels}"]
    assert sum(tensor.numel() for name, tensor in file.items() if ".lstm." not in name) == published["netG"]
    assert count_parameters(generator.lstm) == published["lstm"]
    if channels == 64:
        assert published["netG"] - count_parameters(generator) == 6_034_560
    counts = counted(RATGAN_RELEASED, channels, 256)
    assert counts["netD"] + counts["netC"] == published["netD"]
    assert counts["netG"] == count_parameters(generator)


@pytest.mark.parametrize("family", [DFGAN(), RATGAN(), DFGAN2020()], ids=lambda family: family.name)
@pytest.mark.parametrize("image_size", [32, 33, 64, 100, 128, 255, 256])
def test_every_size_gives_images_that_depend_on_their_own_row_alone(family: Family, image_size: int) -> None:
    sizes = {"image_size": image_size, "generator_channels": 2, "discriminator_channels": 2}
    generator_config, discriminator_config = family.configs(
        sizes | ({"hidden_size": 8} if family.name == "ratgan" else {})
    )
    torch.manual_seed(0)
    generator = family.generator(generator_config, VIT_B_32).eval()
    discriminator = family.discriminator(discriminator_config, VIT_B_32)
    for network in (generator, discriminator):
        for parameter in network.parameters():  # a new affine is the identity, and a new residual is not added
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5)
    noise, text = torch.randn(3, 100), torch.randn(3, family.text_dim(VIT_B_32))
    with torch.no_grad():
        images = generator(noise, text, None)
        assert images.shape == (3, 3, image_size, image_size)
        assert images.abs().max() <= 1
        torch.testing.assert_close(generator(noise[1:2], text[1:2], None), images[1:2], atol=1e-5, rtol=1e-4)
        assert (generator(noise, text.roll(1, 0), None) - images).abs().max() > 1e-3, "text enters"
        assert (generator(noise.roll(1, 0), text, None) - images).abs().max() > 1e-3, "noise enters"
        assert discriminator(images, text).shape == (3,)
        assert family.features(discriminator, None, images).ndim == 2
    listed = family.modules(generator, discriminator).values()
    assert sum(map(count_parameters, listed)) == count_parameters(generator) + count_parameters(discriminator)


@pytest.mark.parametrize("family", [DFGAN(), RATGAN(), DFGAN2020()], ids=lambda family: family.name)
@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"image_size": 31}, "image_size is 31; it must be 32 to 256 pixels"),
        ({"image_size": 512}, "image_size is 512"),
        ({"generator_channels": 0}, "base_channels is 0; it must be 1 to"),
        ({"discriminator_channels": 10**9}, "base_channels is 1000000000"),
        ({"noise_dim": -1}, "noise_dim is -1"),
    ],
)
def test_sizes_that_cannot_be(family: Family, sizes: dict[str, int], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        family.configs(sizes)


def test_files_of_others_are_not_taken() -> None:
    others = {"netG": {"mapping.conv.weight": torch.zeros(1), "GBlocks.0.c1.weight": torch.zeros(1)}}
    assert not is_dfgan(others)
    assert not is_ratgan(others)
    clips = {"netG": numbered(keys("dfgan")["small_nf8_64"])["netG"]}
    wide = clips["netG"]["GBlocks.0.fuse1.affine0.fc_gamma.linear1.weight"]
    clips["netG"]["GBlocks.0.fuse1.affine0.fc_gamma.linear1.weight"] = wide[:, :1].expand(-1, 612)
    with pytest.raises(ValueError, match="512 values"):
        import_dfgan(clips)


def test_the_clip_similarity_is_added_where_it_is_asked_for(tiny_clip: Path) -> None:
    clip = load_clip(str(tiny_clip))
    family = DFGAN()
    sizes = {"image_size": 32, "generator_channels": 2, "discriminator_channels": 2}
    generator_config, discriminator_config = family.configs(sizes)
    networks = (
        family.generator(generator_config, clip.geometry),
        family.discriminator(discriminator_config, clip.geometry),
    )
    text = clip.encode_text(["a red image", "a blue image"])
    batch = MicroBatch(torch.zeros(2, 3, 32, 32), text, mismatched(text), torch.randn(2, 100), text)
    losses = []
    for start, final in ((0.0, None), (3.0, None), (0.0, 5.0)):
        settings = WEIGHTS.replaced(similarity_weight=start, final_similarity_weight=final, decay_from=0.0)
        objective = DFGANObjective(settings, *networks, clip, contextlib.nullcontext)
        objective.progress = 1.0
        loss, logs = objective.generator_loss(batch, objective.fake(batch))
        losses.append(loss)
    assert "clip_similarity" in logs
    torch.testing.assert_close(losses[2], losses[0] - 5 * logs["clip_similarity"].mean())
    torch.testing.assert_close(losses[1], losses[0] - 3 * logs["clip_similarity"].mean())


@pytest.mark.parametrize(("variant", "updates"), [("dfgan", 1), ("ratgan", 2)])
def test_ratgans_discriminator_moves_twice_in_a_step(
    tiny_settings: TrainSettings, tmp_path: Path, variant: str, updates: int
) -> None:
    """By the hinge losses, then by the penalty; DF-GAN's once, by both."""
    sizes = {"generator_channels": 2, "discriminator_channels": 2}
    settings = tiny_settings.replaced(
        variant=variant, similarity_weight=0.0, steps=2, recompute=True, out=str(tmp_path / "run"), **sizes
    )
    session = open_session(settings)
    records = list(session.run())
    assert {"loss_d", "loss_g", "penalty_norm", "logit_mismatched"} <= records[0].logs.keys()
    optimizer = session.trainer.optimizer_d
    assert {int(state["step"]) for state in optimizer.state.values()} == {2 * updates}
    never = [name for name, weight in session.trainer.discriminator.named_parameters() if weight not in optimizer.state]
    assert never == [], "at 32 pixels channels change in every block"


def test_a_shortcut_that_is_never_used_is_left_alone(tiny_settings: TrainSettings) -> None:
    """As in the published files every block has one; where channels stay, no gradient reaches it, and steps go on."""
    sizes = {"image_size": 128, "generator_channels": 1, "discriminator_channels": 1, "batch_size": 2}
    settings, clip = (
        tiny_settings.replaced(variant="dfgan", similarity_weight=0.0, **sizes),
        load_clip(tiny_settings.clip),
    )
    one, other = (
        Trainer(settings, clip, torch.ones(2, clip.geometry.embed_dim), 2, torch.device("cpu")) for _ in range(2)
    )
    batch = Batch(torch.zeros(2, 3, 128, 128), torch.arange(2))
    before = copy.deepcopy(one.discriminator.state_dict())
    assert not one.train_step(batch).skipped
    never = [name for name, weight in one.discriminator.named_parameters() if weight not in one.optimizer_d.state]
    assert never
    assert all("shortcut" in name for name in never)
    assert all(torch.equal(one.discriminator.state_dict()[name], before[name]) for name in never)
    for network, theirs in ((other.generator, one.generator), (other.discriminator, one.discriminator)):
        network.load_state_dict(theirs.state_dict())
    other.load_state(copy.deepcopy(one.state()), 1, 2)
    assert one.train_step(batch._replace(images=torch.full_like(batch.images, torch.inf))).skipped
    for trainer in (one, other):
        trainer.steps_done = 2
        assert not trainer.train_step(batch).skipped
    for name, tensor in one.discriminator.state_dict().items():
        assert torch.equal(tensor, other.discriminator.state_dict()[name]), name


@pytest.mark.parametrize("variant", ["dfgan", "ratgan"])
def test_a_size_between_powers_of_two(tiny_settings: TrainSettings, variant: str) -> None:
    """100 pixels: sides of 6, 12, 25, 50 and 100 with the layers of 64 pixels; only the first map is larger."""
    own = {"variant": variant, "generator_channels": 2, "discriminator_channels": 2, "similarity_weight": 0.0}
    clip = load_clip(tiny_settings.clip)
    rows = torch.randn(4, clip.geometry.embed_dim, generator=torch.Generator().manual_seed(0))
    trainers = [
        Trainer(tiny_settings.replaced(**own, image_size=size), clip, rows, 4, torch.device("cpu"))
        for size in (64, 100)
    ]
    less, more = ([count_parameters(t.generator), count_parameters(t.discriminator)] for t in trainers)
    noise_dim, first = tiny_settings.noise_dim, 8 * 2
    assert more == [less[0] + first * (6**2 - 4**2) * (noise_dim + 1), less[1]]
    found = [tuple(x.shape[2:]) for x in outputs_of_blocks(trainers[1], rows)]
    assert found == [(side, side) for side in ([6] * (variant == "ratgan") + [12, 25, 50, 100] + [50, 25, 12, 6])]
    images = torch.rand(4, 3, 100, 100, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert not trainers[1].train_step(Batch(images, torch.arange(4))).skipped


def outputs_of_blocks(trainer: Trainer, text: Tensor) -> list[Tensor]:
    """What the generator's blocks and then the discriminator's return."""
    found: list[Tensor] = []
    for network in (trainer.generator, trainer.discriminator):
        for block in network.get_submodule("blocks").children():
            block.register_forward_hook(lambda block, given, output: found.append(output))
    noise = torch.zeros(len(text), trainer.settings.noise_dim)
    with torch.no_grad():
        trainer.discriminator(trainer.generator(noise, text, trainer.clip), text)
    return found


def test_the_papers_settings_lie_over_a_datasets() -> None:
    settings = resolve_settings({"dataset": "cub", "variant": "ratgan"})
    assert (settings.lr_g, settings.lr_d, settings.batch_size, settings.ema) == (1e-4, 4e-4, 24, 0.0)
    assert (settings.similarity_weight, settings.model["hidden_size"], settings.noise_dim) == (0.0, 256, 100)
    small = resolve_settings({"dataset": "demo-birds", "variant": "dfgan"})
    assert (small.model["generator_channels"], small.image_size, small.similarity_weight) == (16, 64, 0.0)
    with pytest.raises(UsageError, match="variant dfgan-released has no setting 'similarity_weight'"):
        resolve_settings({"variant": "dfgan-released", "similarity_weight": 4.0})
