"""LAFITE goes through everything that the package does with models, and learns as its paper says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from command_line import ratlip
from torch import Tensor
from torch.nn import functional as F

from ratlip_cli.baselines import lafite
from ratlip_cli.clip_tokenizer import merges
from ratlip_cli.data.dataset import Batch
from ratlip_cli.errors import UsageError, WeightsError
from ratlip_cli.exported import OPENAI_MERGES, ExportedModel, Graph
from ratlip_cli.families import family_of
from ratlip_cli.generation import InterpolationRequest, LikeRequest
from ratlip_cli.like import LikeModel
from ratlip_cli.pixels import to_images
from ratlip_cli.samples import Sample, interpolate
from ratlip_cli.samples import generate as generate_by
from ratlip_cli.sampling import TorchModel, generate, noise_vectors
from ratlip_cli.tensor_files import save_tensors
from ratlip_cli.training import benchmark
from ratlip_cli.training.dry_run import dry_run
from ratlip_cli.training.objectives.lafite import LafiteObjective
from ratlip_cli.training.settings import TrainSettings, check_beginning, resolve_settings, settings_of_run
from ratlip_cli.training.start import open_session
from ratlip_cli.training.trainer import Trainer
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.export.export import _Encoding, _Generating, _settings
from ratlip_cli.weights.load import load_model
from ratlip_cli.weights.model_folder import Model

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
    of_image = batch.draws["g_of_image"] < 0.5
    torch.testing.assert_close(mixed.condition(batch, "g"), torch.where(of_image, pseudo, expected))
    masks = [batch.draws[f"{phase}_of_image"] for phase in ("d", "g", "pl", "r1")]  # new ones in each phase
    assert len({tuple(mask[:, 0].tolist()) for mask in masks}) == 4


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


def test_the_generators_loss_is_put_together_as_the_formula_says(small: TrainSettings) -> None:
    """L_G: of images of its own noise, told apart by the discriminator's features and by CLIP's image vectors."""
    ours, batch = objective(small)
    drawn = batch.draws
    loss, logs = ours.generator_loss(batch, None)
    text = ours.condition(batch, "g")
    images = ours.generator(drawn["g_noise"], text, ours.clip, drawn["g_pixels"], (drawn["g_other"], drawn["g_cutoff"]))
    logits, features = ours.discriminator(images, text)
    seen = ours.clip.encode_image(lafite.clip_input(images, drawn["crop"][0], ours.clip.geometry.image_size))
    told, told_clip = (lafite.contrastive(vectors, text, 0.5).mean() for vectors in (features, seen))
    torch.testing.assert_close(loss, F.softplus(-logits).mean() - 5 * told - 10 * told_clip)
    assert told < 0 > told_clip
    assert logs["loss_g"] is loss


def test_the_path_length_is_held_to_its_running_mean(small: TrainSettings) -> None:
    """weight E (length - mean)^2 of half the batch, times its interval; the mean moves by a hundredth, from 0 on."""
    ours, batch = objective(small)
    drawn = {name: tensor[:2] for name, tensor in batch.draws.items() if name.startswith("pl_")}
    text = ours.condition(batch, "pl")[:2]
    ws = ours.plain_generator.styles(drawn["pl_noise"], (drawn["pl_other"], drawn["pl_cutoff"]))
    images = ours.plain_generator.synthesis(ws, text, drawn["pl_pixels"])
    (gradient,) = torch.autograd.grad((images * drawn["pl_image"]).sum() / 32, ws)
    lengths = gradient.square().sum(dim=2).mean(dim=1).sqrt()
    for before in (0.0, 0.01 * lengths.mean()):
        mean = before + 0.01 * (lengths.mean() - before)
        penalty, logs = ours._path_length(batch, None)
        torch.testing.assert_close(ours.path_length_mean, mean)
        torch.testing.assert_close(penalty, 2 * (lengths - mean).square().mean() * 2)
        torch.testing.assert_close(logs["path_length"], lengths)


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


@pytest.mark.slow
def test_a_dry_run_counts_what_is_due_now_and_then(small: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """R1, which is due in every third step, and takes three seconds there, by a clock that only it moves."""
    plain, gone = LafiteObjective._r1, [0.0]

    def slow(*given: Any) -> tuple[Tensor, dict[str, Tensor]]:
        gone[0] += 3
        return plain(*given)

    monkeypatch.setattr("ratlip_cli.training.dry_run.time", SimpleNamespace(perf_counter=lambda: gone[0]))
    monkeypatch.setattr(LafiteObjective, "_r1", slow)
    assert dry_run(small.replaced(r1_every=0, path_length_every=0, steps=6)).seconds_per_step == 0
    found = dry_run(small.replaced(r1_every=3, path_length_every=0, steps=6)).seconds_per_step
    assert found == pytest.approx(1.0)


@pytest.mark.slow
def test_arithmetic_of_a_step_counts_what_is_due_by_its_share(
    small: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "SHORTEST_SECONDS", 0.0)
    clip = load_clip(small.clip)

    def gflop(r1: int, path: int) -> float:
        settings = small.replaced(r1_every=r1, path_length_every=path, steps=12)
        return benchmark.measure_training(settings, clip, torch.device("cpu"), 1.0).gflop_per_step

    none, r1, path, both = gflop(0, 0), gflop(1, 0), gflop(0, 1), gflop(3, 4)
    assert none < min(r1, path)
    assert both == pytest.approx(none + (r1 - none) / 3 + (path - none) / 4)


def test_contrastive_terms_of_one_image_are_refused(small: TrainSettings) -> None:
    """They would be 0, and say nothing of it."""
    alone = small.replaced(grad_accum=small.batch_size)
    words = "batch_size 4 in 4 micro-batches leaves one image to each, and LAFITE's contrastive terms compare"
    with pytest.raises(UsageError, match=words):
        check_beginning(alone)
    check_beginning(alone.replaced(itd=0.0, itc=0.0))
    check_beginning(small.replaced(batch_size=8, grad_accum=2, batch_norm="local"), several=2)


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


def test_a_mapper_is_part_of_its_run(small: TrainSettings, tmp_path: Path) -> None:
    own, other, run = tmp_path / "mapper.safetensors", tmp_path / "other.safetensors", tmp_path / "run"
    for file in (own, other):
        save_tensors(file, lafite.NoiseMapper(16, 5).state_dict())
    settings = small.replaced(language_free=True, pseudo_mapper=str(own), steps=2, out=str(run), save_every=1)
    list(open_session(settings).run())
    whole = (run / "checkpoints" / "step_00000002" / "generator.safetensors").read_bytes()
    shutil.rmtree(run / "checkpoints" / "step_00000002")
    again = settings.replaced(resume=str(run))
    for given, told in ((str(other), "was trained with the pseudo_mapper of fingerprint"), ("", "--pseudo-mapper ")):
        with pytest.raises(WeightsError, match=told):
            open_session(again.replaced(pseudo_mapper=given))
    own.unlink()
    list(open_session(again).run())
    assert (run / "checkpoints" / "step_00000002" / "generator.safetensors").read_bytes() == whole
    assert settings_of_run(run).objective["pseudo_mapper"] == str(own)
    noted = json.loads((run / "checkpoints" / "step_00000002" / "checkpoint.json").read_text())
    assert list(noted["files"]) == ["pseudo_mapper"]


def test_a_mapper_is_read_before_data_are_looked_for_and_told_where_it_does_nothing(
    small: TrainSettings, tmp_path: Path
) -> None:
    own, told = tmp_path / "mapper.safetensors", list[str]()
    save_tensors(own, {"else": torch.zeros(3)})
    settings = small.replaced(pseudo_mapper=str(own), out=str(tmp_path / "run"))
    nowhere = settings.replaced(mixing=0.5, dataset=str(tmp_path))
    for begin in (open_session, dry_run):
        with pytest.raises(WeightsError, match="is no mapper of Lafite-NN"):
            begin(nowhere)
    open_session(settings, told.append)
    assert "not used: --pseudo-mapper, because it takes --language-free or --mixing" in told


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
    assert (ours.variant, ours.model["channel_max"], ours.objective["itd"]) == ("lafite", 8, 2.0)


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    """The run's, whose images follow noise and text as after long training."""
    loaded = load_model(str(run))
    torch.manual_seed(0)
    for parameter in loaded.generator.parameters():
        parameter.data += torch.randn_like(parameter) * (parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5)
    return loaded


def pixels(made: Iterable[Sample]) -> np.ndarray:
    return np.stack([np.asarray(one.image).astype(int) for one in made])


def test_truncation_moves_w_to_its_average(model: Model, tmp_path: Path) -> None:
    """Scaling the noise would change nothing: it is brought to unit variance."""
    full, half, none = (pixels(generate(model, ["a red image"], 3, 5, psi)) for psi in (1.0, 0.5, 0.0))
    assert np.array_equal(none[0], none[1])
    assert np.array_equal(none[0], none[2])
    assert np.abs(full[0] - full[1]).max() > 5 < np.abs(full - half).max()
    noise, text = noise_vectors(5, range(3), 6), model.encode(["a red image"] * 3)
    with torch.no_grad():
        ws = model.generator.mapping(noise)[:, None].expand(-1, model.generator.layers, -1)
        average = model.generator.mapping.average
        expected = to_images(model.generator.synthesis(average + 0.5 * (ws - average), text))
    assert np.abs(half - np.stack([np.asarray(image).astype(int) for image in expected])).max() <= 1
    assert np.array_equal(half, pixels(generate(model, ["a red image"], 3, 5, 0.5, batch_size=1)))
    expected[0].save(tmp_path / "like.png")
    like = LikeModel(model, LikeRequest(tmp_path / "like.png", noise=0.0))
    of_average = pixels(generate_by(like, [like.like.label], 2, 5, 0.0))
    assert np.array_equal(of_average[0], of_average[1])


class Untraced(ExportedModel):
    """What an exported model computes, by the modules that are exported themselves."""

    def __init__(self, folder: Path, model: Model) -> None:
        super().__init__(folder)
        self.modules = {"generator": _Generating(model), "text_encoder": _Encoding(model)}

    def _graph(self, network: str) -> Graph:
        return lambda *arrays: self.modules[network](*map(torch.from_numpy, arrays)).numpy()


@pytest.fixture
def untraced(model: Model, tmp_path: Path) -> Untraced:
    (tmp_path / "merges.txt").write_text("".join(f"{merge}\n" for merge in merges()))
    (tmp_path / "export.json").write_text(json.dumps(asdict(_settings(model, "onnx", OPENAI_MERGES))))
    return Untraced(tmp_path, model)


@torch.no_grad()
def test_an_exported_model_refuses_truncation(untraced: Untraced) -> None:
    assert len(list(generate_by(untraced, ["a red image"]))) == 1
    with pytest.raises(UsageError, match="truncates inside its generator, which was exported without"):
        list(generate_by(untraced, ["a red image"], truncation=0.7))


@torch.no_grad()
def test_what_lies_between_two_prompts_is_of_unit_length_exported_or_not(model: Model, untraced: Untraced) -> None:
    """As all text vectors in training are; the ends are the images of `generate`."""
    torch_model, prompts = TorchModel(model), ("a red image", "grey")
    start, end = map(torch_model.encoded, prompts)
    assert torch_model.between(start, end, 0.5)[0].norm() == pytest.approx(1)
    request = InterpolationRequest(prompts, 5, seed=5)
    ours, theirs = ([np.asarray(f).astype(int) for f in interpolate(one, request)] for one in (torch_model, untraced))
    assert np.abs(np.stack(ours) - np.stack(theirs)).max() <= 1
    plain = pixels(generate(model, prompts, 1, 5))
    assert np.array_equal(ours[0], plain[0])
    assert np.array_equal(ours[4], plain[1])
    assert np.abs(ours[0] - ours[4]).max() > 5


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
