"""LAFITE goes through everything that the package does with models, and learns as its paper says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_line import ratlip
from torch import Tensor
from torch.nn import functional as F

from ratlip_cli.baselines import lafite
from ratlip_cli.data.dataset import Batch
from ratlip_cli.errors import UsageError, WeightsError
from ratlip_cli.families import family_of
from ratlip_cli.tensor_files import save_tensors
from ratlip_cli.training.objectives.lafite import LafiteObjective
from ratlip_cli.training.settings import TrainSettings, resolve_settings
from ratlip_cli.training.start import open_session
from ratlip_cli.training.trainer import Trainer
from ratlip_cli.weights.clip_files import load_clip

SIZES = {"noise_dim": 6, "w_dim": 5, "mapping_layers": 2, "text_width": 7, "channel_base": 256, "channel_max": 8}


@pytest.fixture(scope="module")
def small(tiny_settings: TrainSettings) -> TrainSettings:
    """Both regularisers are due in steps 0, 2 and 4."""
    due = {"r1_every": 2, "path_length_every": 2}
    return tiny_settings.replaced(variant="lafite", image_size=32, lr_g=2.5e-3, lr_d=2.5e-3, **SIZES, **due)


@pytest.fixture(scope="module")
def run(small: TrainSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six steps."""
    folder = tmp_path_factory.mktemp("lafite") / "run"
    list(open_session(small.replaced(out=str(folder), sample_every=3)).run())
    return folder


def trainer_of(settings: TrainSettings, seed: int = 0) -> tuple[Trainer, Batch]:
    """A trainer of random text vectors, and a batch."""
    clip = load_clip(settings.clip)
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn(settings.batch_size, clip.geometry.embed_dim, generator=rng)
    trainer = Trainer(settings, clip, rows, settings.batch_size, torch.device("cpu"))
    size = settings.image_size
    images = torch.rand(settings.batch_size, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return trainer, Batch(images, torch.arange(settings.batch_size))


def weights(trainer: Trainer) -> list[Tensor]:
    networks = (trainer.generator, trainer.discriminator, trainer.ema)
    return [tensor.clone() for network in networks for tensor in network.state_dict().values()]


def test_what_a_run_records(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"loss_d", "loss_g", "logit_real", "logit_fake", "clip_similarity", "match_real"} <= lines[0].keys()
    assert [("r1" in line, "path_length" in line) for line in lines] == [(True, True), (False, False)] * 3
    assert not any(line["skipped"] for line in lines)
    assert (run / "samples" / "step_00000006.png").is_file()
    repeated = (run / "config.toml").read_text()
    assert "language_free = false" in repeated
    assert "penalty_weight" not in repeated


def test_all_that_a_step_draws_is_its_own(small: TrainSettings) -> None:
    """The global generator stays where it is; the same step gives the same weights."""
    (one, batch), (other, _) = trainer_of(small), trainer_of(small)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one.train_step(batch)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    other.train_step(batch)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights(one), weights(other), strict=True))


@pytest.mark.parametrize("language_free", [False, True])
def test_captions_do_not_matter_without_language(small: TrainSettings, language_free: bool) -> None:
    settings = small.replaced(language_free=language_free)
    (one, batch), (other, _) = trainer_of(settings, seed=0), trainer_of(settings, seed=1)
    one.train_step(batch)
    other.train_step(batch)
    same = all(torch.equal(ours, theirs) for ours, theirs in zip(weights(one), weights(other), strict=True))
    assert same == language_free


def objective(settings: TrainSettings) -> tuple[LafiteObjective, Batch]:
    trainer, _ = trainer_of(settings)
    assert isinstance(trainer.objective, LafiteObjective)
    [batch] = trainer._micro_batches(Batch(torch.rand(4, 3, 32, 32), torch.arange(4)))
    return trainer.objective, batch


def test_what_the_networks_are_told(small: TrainSettings) -> None:
    """Text with a tenth of noise, image vectors with three quarters, or of each the share that `mixing` says."""
    ours, batch = objective(small)
    expected = F.normalize(0.9 * batch.text + 0.1 * F.normalize(batch.draws["g_text"], dim=1), dim=1)
    torch.testing.assert_close(ours.condition(batch, "g"), expected)
    torch.testing.assert_close(batch.text.norm(dim=1), torch.ones(4))
    free, _ = objective(small.replaced(language_free=True))
    vectors = F.normalize(free.clip.encode_image(batch.images), dim=1)
    pseudo = F.normalize(0.25 * vectors + 0.75 * F.normalize(batch.draws["g_text"], dim=1), dim=1)
    torch.testing.assert_close(free.condition(batch, "g"), pseudo)
    mixed, _ = objective(small.replaced(mixing=0.5))
    of_image = batch.draws["of_image"] < 0.5
    torch.testing.assert_close(mixed.condition(batch, "g"), torch.where(of_image, pseudo, expected))


def test_losses_are_put_together_as_the_formulas_say(small: TrainSettings) -> None:
    ours, batch = objective(small)
    fake = ours.fake(batch)
    loss, logs = ours.discriminator_loss(batch, fake)
    text = ours.condition(batch, "d")
    logits, features = ours.discriminator(batch.images, text)
    told = lafite.contrastive(features, text, 0.5).mean()
    expected = F.softplus(ours.discriminator(fake.images, text)[0]).mean() + F.softplus(-logits).mean() - 5 * told
    torch.testing.assert_close(loss, expected)
    assert logs["loss_d"] is loss
    assert not loss.isnan()
    penalty, logs = ours._r1(batch, fake)
    gamma = 0.0002 * 32**2 / 4
    torch.testing.assert_close(penalty, gamma / 2 * logs["r1"].mean() * 2)


def test_optimisers_and_ema(small: TrainSettings) -> None:
    published = small.replaced(r1_every=16, path_length_every=4, beta2=0.99)
    ours, _ = objective(published)
    adam_g, adam_d = ours.adam(published)
    assert adam_g.lr == pytest.approx(0.002)
    assert adam_g.betas == pytest.approx((0, 0.99**0.8))
    assert adam_d.lr == pytest.approx(0.0025 * 16 / 17)
    without, _ = objective(published.replaced(path_length_every=0))
    assert without.adam(published)[0].lr == 0.0025
    batch_size = small.batch_size
    assert ours.ema_decay(0.0, 0, 0) == 0
    assert ours.ema_decay(0.0, 9, 1000) == pytest.approx(0.5 ** (batch_size / 50))
    assert ours.ema_decay(0.0, 9, 10**6) == pytest.approx(0.5 ** (batch_size / (batch_size * 312.5)))
    own, _ = objective(small.replaced(ema_half_life=2000.0))
    assert own.ema_decay(0.0, 9, 10**6) == pytest.approx(0.5 ** (batch_size / 2000))


def test_the_ema_has_the_generators_buffers(small: TrainSettings) -> None:
    trainer, batch = trainer_of(small)
    for _ in range(3):
        trainer.train_step(batch)
    assert trainer.generator.mapping.average.any()
    assert torch.equal(trainer.ema.mapping.average, trainer.generator.mapping.average)
    assert not torch.equal(trainer.ema.blocks[0].constant, trainer.generator.blocks[0].constant)


def test_recompute_changes_no_value(small: TrainSettings) -> None:
    plain, batch = trainer_of(small.replaced(precision="bf16"))
    again, _ = trainer_of(small.replaced(precision="bf16", recompute=True))
    for _ in range(2):
        assert not plain.train_step(batch).skipped
        assert not again.train_step(batch).skipped
    for ours, theirs in zip(weights(again), weights(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_mapper_of_another_clip_is_refused(small: TrainSettings, tmp_path: Path) -> None:
    own = tmp_path / "mapper.safetensors"
    save_tensors(own, lafite.NoiseMapper(16, 5).state_dict())
    settings = small.replaced(language_free=True, pseudo_mapper=str(own))
    trainer, batch = trainer_of(settings)
    assert not trainer.train_step(batch).skipped
    save_tensors(own, lafite.NoiseMapper(12, 5).state_dict())
    with pytest.raises(UsageError, match=r"mapper\.safetensors maps vectors of 12; those of the CLIP .* have 16"):
        trainer_of(settings)
    save_tensors(own, {"else": torch.zeros(3)})
    with pytest.raises(WeightsError, match="is no mapper of Lafite-NN"):
        trainer_of(settings)


def test_the_preset_and_the_published_settings() -> None:
    ours = resolve_settings({"dataset": "demo", "variant": "lafite"})
    assert ours.image_size == 64
    assert ours.clip == "ratlip-demo"
    assert ours.model["channel_max"] == 128
    published = resolve_settings({"dataset": "elsewhere", "variant": "lafite"})
    assert (published.batch_size, published.lr_g, published.beta2) == (16, 0.0025, 0.99)
    assert (published.model["batch_sum"], published.objective["double_exponential"]) == (False, False)
    released = resolve_settings({"dataset": "elsewhere", "variant": "lafite-released"})
    assert (released.model["batch_sum"], released.objective["double_exponential"]) == (True, True)
    assert family_of("lafite-released").configs({})[1].batch_sum


def test_a_preset_beside_a_model_to_start_from_says_nothing_that_it_lacks(run: Path) -> None:
    """The preset small has an EMA, which LAFITE's settings do not."""
    ours = resolve_settings({"dataset": "elsewhere", "init_from": str(run)}, "small")
    assert (ours.variant, ours.model["channel_max"], ours.objective["itd"]) == ("lafite", 8, 5.0)


def test_its_modules(run: Path) -> None:
    answer = ratlip("info", "--model", run, "--json")
    assert answer.code == 0, answer.err
    listed = {module["name"]: module["trained"] for module in json.loads(answer.out)["modules"]}
    assert {"mapping", "synthesis 4", "synthesis 32", "discriminator block 3", "text features"} <= listed.keys()


@pytest.mark.slow
def test_the_discriminator_learns_what_belongs_together(small: TrainSettings) -> None:
    """On four images with four captions, from the logarithm of one in four."""
    trainer, batch = trainer_of(small.replaced(r1_every=16, path_length_every=0, lr_g=0.01, lr_d=0.01))
    values = [float(trainer.train_step(batch).logs["match_real"] or 0) for _ in range(60)]
    assert sum(values[:5]) / 5 < -1.2
    assert sum(values[-5:]) / 5 > -1.0
