"""Laws of one training step and of a run: what it leaves alone, what it repeats bit for bit, and what it refuses."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.data.dataset import Batch, CaptionedImages, text_vectors, training_batches
from ratlip_cli.demo.attributes import FAMILIES, sample_attributes
from ratlip_cli.demo.captions import captions as captions_of
from ratlip_cli.demo.render import render
from ratlip_cli.demo.said import holds, said
from ratlip_cli.errors import TrainingError, WeightsError
from ratlip_cli.model.losses import found_wrong, mode_seeking
from ratlip_cli.setting import Value
from ratlip_cli.tensor_files import load_tensors, save_tensors
from ratlip_cli.training.dry_run import dry_run
from ratlip_cli.training.ema import start_ema, tensors_of, update_ema
from ratlip_cli.training.init_from import find_start, start_from
from ratlip_cli.training.session import PATIENCE, TrainingSession
from ratlip_cli.training.settings import TrainSettings, resolve_settings
from ratlip_cli.training.start import open_session
from ratlip_cli.training.trainer import StepRecord, Trainer, step_noise
from ratlip_cli.training.word_exchange import WordExchange
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.model_folder import create_model_folder, model_config, save_weights

CPU = torch.device("cpu")


def make_trainer(settings: TrainSettings) -> tuple[Trainer, list[Batch]]:
    """A trainer without a run folder, and the first three batches."""
    dataset = CaptionedImages(Path(settings.dataset), "train", settings.image_size, settings.seed)
    clip = load_clip(settings.clip)
    trainer = Trainer(settings, clip, text_vectors(dataset, clip), len(dataset), CPU, captions=dataset.captions)
    return trainer, list(itertools.islice(training_batches(dataset, settings.batch_size), 3))


def everything(trainer: Trainer) -> dict[str, Tensor]:
    """A copy of all that a step may change."""
    found: dict[str, Tensor] = {}
    for name in ("generator", "ema", "discriminator"):
        found |= {f"{name}.{key}": value for key, value in getattr(trainer, name).state_dict().items()}
    for name in ("optimizer_g", "optimizer_d"):
        for index, state in getattr(trainer, name).state_dict()["state"].items():
            found |= {f"{name}.{index}.{key}": value for key, value in state.items()}
    return copy.deepcopy(found)


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """Names of tensors that are not bit for bit the same, or only in one of the two."""
    return sorted(
        name
        for name in first.keys() | second.keys()
        if name not in first or name not in second or not torch.equal(first[name], second[name])
    )


def timeless(records: list[StepRecord]) -> list[StepRecord]:
    """Records without what a clock or the machine decides."""
    return [replace(record, images_per_second=0.0, memory_mib=0.0) for record in records]


# One step


def test_step_is_equation_8_written_out(settings: TrainSettings) -> None:
    trainer, (batch, *_) = make_trainer(settings)
    generator, discriminator = copy.deepcopy((trainer.generator, trainer.discriminator))
    clip = trainer.clip
    optimizer_d = torch.optim.Adam(discriminator.parameters(), settings.lr_d, betas=(0.0, 0.9))
    optimizer_g = torch.optim.Adam(generator.parameters(), settings.lr_g, betas=(0.0, 0.9))

    text = trainer.rows[batch.captions]
    wrong_text = torch.cat((text[1:], text[:1]))
    noise = step_noise(settings.seed, 0, 4, settings.noise_dim)
    real = clip.features(batch.images).patches.requires_grad_()
    sentence = text.clone().requires_grad_()
    fake = clip.features(generator(noise, text, clip))
    logit_real = discriminator(real, sentence)
    gradients = torch.autograd.grad(logit_real.sum(), (real, sentence), create_graph=True)
    norm = torch.cat([gradient.flatten(1) for gradient in gradients], 1).norm(dim=1)
    loss_d = (
        F.relu(1 - logit_real).mean()
        + F.relu(1 + discriminator(fake.patches.detach(), text)).mean() / 2
        + F.relu(1 + discriminator(real.detach(), wrong_text)).mean() / 2
        + 2 * (norm**6).mean()
    )
    loss_d.backward()
    optimizer_d.step()
    logit_fake = discriminator(fake.patches, text)
    loss_g = -logit_fake.mean() - 4 * F.cosine_similarity(fake.embedding, text).mean()
    loss_g.backward()
    optimizer_g.step()

    record = trainer.train_step(batch)
    assert record.logs["loss_d"] == pytest.approx(loss_d.item(), rel=1e-5)
    assert record.logs["loss_g"] == pytest.approx(loss_g.item(), rel=1e-5)
    assert record.logs["penalty_norm"] == pytest.approx(norm.mean().item(), rel=1e-5)
    for ours, theirs in ((trainer.generator, generator), (trainer.discriminator, discriminator)):
        for (name, value), expected in zip(ours.named_buffers(), theirs.buffers(), strict=True):
            torch.testing.assert_close(value, expected, msg=name)
        for (name, value), expected in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            # Adam with beta1 = 0 moves by the gradient's sign at first: where it is all but zero, rounding decides.
            clear = expected.grad.abs() > 1e-5
            torch.testing.assert_close(value[clear], expected[clear], rtol=1e-4, atol=1e-6, msg=name)


def test_clip_is_bit_identical_after_steps_and_has_no_gradient(settings: TrainSettings) -> None:
    trainer, batches = make_trainer(settings)
    before = copy.deepcopy(trainer.clip.state_dict())
    for batch in batches:
        trainer.train_step(batch)
    assert not differing(before, trainer.clip.state_dict())
    assert all(parameter.grad is None for parameter in trainer.clip.parameters())


def test_generators_half_computes_no_gradient_of_the_discriminator(settings: TrainSettings) -> None:
    trainer, (batch, *_) = make_trainer(settings)
    trainer.train_step(batch)
    assert all(parameter.grad is None for parameter in trainer.discriminator.parameters())
    assert all(parameter.requires_grad for parameter in trainer.discriminator.parameters())


@pytest.mark.parametrize(("variant", "parts"), [("rat", 4), ("galip", 2)])
def test_accumulated_step_is_the_whole_step(settings: TrainSettings, variant: str, parts: int) -> None:
    whole, batches = make_trainer(settings.replaced(variant=variant))
    accumulated, _ = make_trainer(settings.replaced(variant=variant, grad_accum=parts))
    for batch in batches[:2]:
        first, second = whole.train_step(batch), accumulated.train_step(batch)
        assert second.logs["loss_d"] == pytest.approx(first.logs["loss_d"], rel=1e-4)
        assert second.logs["loss_g"] == pytest.approx(first.logs["loss_g"], rel=1e-4, abs=1e-5)
    moved = max(settings.lr_g, settings.lr_d) * 4
    for name in ("generator", "discriminator"):
        ours, theirs = (getattr(trainer, name).state_dict() for trainer in (whole, accumulated))
        far = [(ours[key] - theirs[key]).abs().gt(moved * 1e-2).float().mean().item() for key in ours]
        assert sum(far) / len(far) < 0.02


def test_accumulation_updates_running_statistics_in_the_generators_half_alone(settings: TrainSettings) -> None:
    trainer, (batch, *_) = make_trainer(settings.replaced(grad_accum=2))
    trainer.train_step(batch)
    norms = [module for module in trainer.generator.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert {norm.momentum for norm in norms} == {0.1}
    reference, _ = make_trainer(settings)
    parts = zip(batch.captions.split(2), step_noise(0, 0, 4, settings.noise_dim).split(2), strict=True)
    for captions, noise in parts:
        reference.generator(noise, reference.rows[captions], reference.clip)
    expected = {key: value for key, value in reference.generator.state_dict().items() if "running" in key}
    for key, value in expected.items():
        torch.testing.assert_close(trainer.generator.state_dict()[key], value, msg=key)


def test_mode_seeking_draws_pairs_of_one_sentence(settings: TrainSettings) -> None:
    settings = settings.replaced(batch_size=8, grad_accum=2, lr_d=1e-9)
    found, weights = [], (1e-9, 0.5)
    for weight in weights:
        trainer, (batch, *_) = make_trainer(settings.replaced(diversity_weight=weight))
        expected = []
        for part in trainer._micro_batches(batch):
            half = len(part.text) // 2
            text = torch.cat((part.text[:half], part.text[:half]))
            images = copy.deepcopy(trainer.generator)(part.noise, text, trainer.clip)
            expected.append(mode_seeking(trainer.clip.encode_image(images), text, part.noise))
        found.append(trainer.train_step(batch).logs["loss_g"])
    with_term, without = found[1], found[0]
    assert with_term is not None
    assert without is not None
    assert with_term - without == pytest.approx(0.5 * torch.stack(expected).mean().item(), rel=1e-3)


def test_hard_negatives_are_captions_with_a_word_exchanged_that_clip_finds_wrong(settings: TrainSettings) -> None:
    trainer, batches = make_trainer(settings.replaced(hard_negatives=5))
    neighbours, _ = make_trainer(settings)
    with torch.no_grad():
        trainer.clip.model.logit_scale.fill_(math.log(500.0))  # that of random weights is near 14, and they tell little
    taken_from_neighbours = 0
    for batch in batches:
        (micro,), (plain,) = trainer._micro_batches(batch), neighbours._micro_batches(batch)
        (again,) = trainer._micro_batches(batch)
        assert torch.equal(again.mismatched, micro.mismatched), "a function of seed and step"
        vectors = trainer.clip.encode_image(micro.images)
        for row, texts in enumerate(trainer._exchanged(WordExchange(trainer.captions), batch, [*range(4)])):
            caption = trainer.captions[int(batch.captions[row])]
            assert len(texts) == 5
            assert {one_word(caption, text)[0] in caption.split() for text in texts} == {True}
            captions = trainer.clip.encode_text(texts)
            own = F.cosine_similarity(vectors[row], micro.text[row], 0)
            odds = [500 * (own - F.cosine_similarity(vectors[row], other, 0)).item() for other in captions]
            wrong = [other for other, log_odds in zip(captions, odds, strict=True) if log_odds > math.log(20)]
            taken_from_neighbours += not wrong
            hard = wrong and row % 2
            torch.testing.assert_close(micro.mismatched[row], wrong[0] if hard else plain.mismatched[row])
            assert micro.negatives is not None
            torch.testing.assert_close(
                micro.negatives.captions[row], torch.cat((captions, plain.mismatched[row][None]))
            )
        trainer.steps_done += 1
        neighbours.steps_done += 1
    assert 0 < taken_from_neighbours < 12


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_hard_negatives_begin_at_their_share_of_the_run(settings: TrainSettings, share: float) -> None:
    changes = {"hard_negatives": 5, "hard_negatives_from": share, "contrastive_weight": 0.5, "steps": 4}
    trainer, (batch, *_) = make_trainer(settings.replaced(**changes))
    with torch.no_grad():
        trainer.clip.model.logit_scale.fill_(math.log(500.0))
    logs = [trainer.train_step(batch).logs for _ in range(4)]
    begun = [False] * round(4 * share) + [True] * round(4 - 4 * share)
    assert [{"contrastive", "hard_negative_share"} <= one.keys() for one in logs] == begun
    assert [{"contrastive", "hard_negative_share"}.isdisjoint(one) for one in logs] == [not one for one in begun]
    numbers = {0.0: {0: 1.0}, 0.5: {0: 0.5, 2: 0.5}, 1.0: {0: 1.0}}
    assert trainer.kinds_of_steps(4) == numbers[share], "what --dry-run and bench measure"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, []),
        ({"decay_from": 0.5, "final_lr": 0.1, "final_similarity_weight": 0.1}, []),
        ({"diversity_weight": 0.1, "decay_from": 0.5, "final_diversity_weight": 0.5}, []),
        ({"final_lr": 0.1, "final_similarity_weight": 0.1}, ["--final-lr and --final-similarity-weight do nothing"]),
        ({"decay_from": 0.5, "final_diversity_weight": 0.5}, ["--final-diversity-weight does nothing: --diversity"]),
        ({"variant": "lafite", "language_free": True, "mixing": 0.3}, ["not used: --mixing, because"]),
        ({"variant": "lafite", "mixing": 0.3, "text_noise": 0.2, "pseudo_noise": 0.5}, []),
        ({"final_similarity_weight": 0.0}, ["--final-similarity-weight does nothing"]),
        ({"final_diversity_weight": 0.0, "diversity_weight": 0.1}, ["--final-diversity-weight does nothing without"]),
        ({"variant": "lafite", "pseudo_noise": 0.5}, ["not used: --pseudo-noise, because it takes"]),
        (
            {"variant": "lafite", "language_free": True, "pseudo_noise": 0.5, "pseudo_mapper": "m"},
            ["not used: --pseudo-noise, because --pseudo-mapper"],
        ),
        (
            {"variant": "lafite", "path_length_weight": 3.0, "path_length_every": 0, "pseudo_mapper": "m"},
            ["not used: --pseudo-mapper, because it takes", "not used: --path-length-weight, because"],
        ),
    ],
)
def test_settings_that_do_nothing_are_told(given: dict[str, Any], told: list[str]) -> None:
    lines = TrainSettings.of(**given).ignored
    assert [line.startswith(start) for line, start in zip(lines, told, strict=True)] == [True] * len(told)


@pytest.mark.parametrize("length", [{"steps": 12}, {"steps": None, "epochs": 4}])
def test_a_step_gone_to_is_as_far_in_the_run_as_it_would_be(settings: TrainSettings, length: dict[str, Any]) -> None:
    trainer, (batch, *_) = make_trainer(settings.replaced(**length))
    total = trainer.settings.total_steps(trainer.images)
    trainer.go_to(total // 2)
    trainer.train_step(batch)
    assert trainer.objective.progress == total // 2 / total


def test_a_run_is_the_same_up_to_where_its_hard_negatives_begin(settings: TrainSettings) -> None:
    with_them = {"hard_negatives": 5, "contrastive_weight": 0.5, "hard_negatives_from": 0.5, "steps": 4}
    weights = []
    for changes in ({"steps": 4}, with_them):
        trainer, (batch, *_) = make_trainer(settings.replaced(**changes))
        trainer.train_step(batch)
        trainer.train_step(batch)
        weights.append(torch.cat([weight.flatten() for weight in trainer.generator.parameters()]))
    assert torch.equal(*weights)


def one_word(caption: str, other: str) -> tuple[str, str]:
    """The word of a caption that another has exchanged, and what stands in its place; no other word differs."""
    pairs = zip(re.findall(r"\w+", caption.lower()), re.findall(r"\w+", other), strict=True)
    ((own, instead),) = [(own, instead) for own, instead in pairs if own != instead]
    return own, instead


def test_contrastive_term_is_clips_cross_entropy_over_own_caption_and_wrong_ones(
    settings: TrainSettings,
) -> None:
    settings = settings.replaced(batch_size=8, grad_accum=2, lr_d=1e-9, hard_negatives=6, diversity_weight=0.1)
    found, weights = [], (0.0, 0.5)
    for weight in weights:
        trainer, (batch, *_) = make_trainer(settings.replaced(contrastive_weight=weight))
        with torch.no_grad():
            trainer.clip.model.logit_scale.fill_(math.log(500.0))
        expected = []
        for part in trainer._micro_batches(batch):
            images = copy.deepcopy(trainer.generator)(part.noise, part.fake_text, trainer.clip)
            assert part.negatives is not None
            rows = [*range(len(part.text) // 2)] * 2  # mode seeking: half of the captions, twice
            for vector, row in zip(trainer.clip.encode_image(images), rows, strict=True):
                wrong = part.negatives.captions[row][part.negatives.wrong[row]]
                captions = torch.cat((part.text[row][None], wrong))
                logits = 500 * F.cosine_similarity(captions, vector[None])
                expected.append(F.cross_entropy(logits[None], torch.tensor([0])))
        logs = trainer.train_step(batch).logs
        assert ("contrastive" in logs) == (weight > 0)
        if weight:
            assert logs["contrastive"] == pytest.approx(torch.stack(expected).mean().item(), rel=1e-3)
        found.append(logs["loss_g"])
    without, with_term = found
    assert with_term is not None
    assert without is not None
    assert with_term - without == pytest.approx(0.5 * torch.stack(expected).mean().item(), rel=1e-3)


def test_hard_negatives_of_the_demo_contradict_their_captions_in_one_thing() -> None:
    """What `_TIMES_AS_PROBABLE` was chosen for, by rules that read captions back.

    A caption that says more than the own one, and something else than this image shows, would speak against images
    that the own one describes as well.
    """
    rng = random.Random(0)
    clip = load_clip("ratlip-demo")
    scenes = [(family, sample_attributes(family, rng)) for family in FAMILIES for _ in range(40)]
    told = [rng.choice(captions_of(family, attributes, rng)) for family, attributes in scenes]
    more = [(family, sample_attributes(family, rng)) for family in FAMILIES for _ in range(700)]
    exchange = WordExchange([text for scene in more for text in captions_of(*scene, rng)])
    others = [exchange.exchanged(text, [(rng.random(), rng.random()) for _ in range(8)]) for text in told]
    images = np.stack([np.asarray(render(family, attributes, rng, 64).image) for family, attributes in scenes])
    with torch.no_grad():
        vectors = clip.encode_image(torch.from_numpy(images).movedim(3, 1) / 127.5 - 1)
    captions = clip.encode_text([text for several in others for text in several]).view(len(scenes), 8, -1)
    wrong = found_wrong(clip.encode_text(told), vectors, captions, clip.logit_scale)
    kinds: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for (family, attributes), own, texts, found in zip(scenes, told, others, wrong.tolist(), strict=True):
        for text, is_wrong in zip(texts, found, strict=True):
            false = [name for name, value in said(family, text).items() if not holds(attributes[name], value)]
            said_of_it = said(family, own).keys() & false
            kinds[is_wrong]["contradicts" if len(said_of_it) == 1 else "adds" if false else "says nothing else"] += 1
    assert kinds[True]["contradicts"] >= 4 * kinds[True]["adds"]
    assert kinds[True]["contradicts"] >= 2 * kinds[True]["says nothing else"]
    assert kinds[False]["says nothing else"] >= 4 * kinds[False]["contradicts"], "CLIP finds most of them"
    print(kinds)


def test_noise_is_a_function_of_seed_and_step() -> None:
    assert torch.equal(step_noise(1, 2, 4, 8), step_noise(1, 2, 4, 8))
    assert len({step_noise(seed, step, 1, 1).item() for seed in range(20) for step in range(20)}) == 400
    many = step_noise(0, 0, 4000, 8)
    assert abs(many.mean()) < 0.02
    assert abs(many.std() - 1) < 0.02


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near_float32(settings: TrainSettings, precision: str) -> None:
    exact, (batch, *_) = make_trainer(settings)
    half, _ = make_trainer(settings.replaced(precision=precision))
    half.scaler = torch.amp.GradScaler("cpu", init_scale=1.0, enabled=half.scaler.is_enabled())
    first, second = exact.train_step(batch), half.train_step(batch)
    assert not second.skipped
    assert second.logs["loss_d"] == pytest.approx(first.logs["loss_d"], abs=0.1)
    assert second.logs["loss_g"] == pytest.approx(first.logs["loss_g"], abs=0.2)
    assert second.logs["penalty_norm"] == pytest.approx(first.logs["penalty_norm"], rel=0.05)
    assert all(parameter.dtype == torch.float32 for parameter in half.generator.parameters())


# The schedule


def test_rates_and_weights_move_along_half_a_cosine(settings: TrainSettings) -> None:
    decaying = settings.replaced(
        steps=8, decay_from=0.5, final_lr=0.1, similarity_weight=4.0, final_similarity_weight=1.0, lr_g=1e-3
    )
    trainer, batches = make_trainer(decaying)
    rates = [trainer.train_step(batch).lr_g for batch in (batches * 3)[:8]]
    shares = [1.0] * 5 + [0.1 + 0.9 * (1 + math.cos(math.pi * gone / 4)) / 2 for gone in (1, 2, 3)]
    assert rates == pytest.approx([1e-3 * share for share in shares])
    assert trainer.optimizer_d.param_groups[0]["lr"] == pytest.approx(settings.lr_d * shares[-1])


@pytest.mark.parametrize("name", ["similarity_weight", "diversity_weight"])
def test_a_weight_ends_at_its_final_value(settings: TrainSettings, name: str) -> None:
    trainer, (batch, *_) = make_trainer(settings.replaced(**{name: 4.0, f"final_{name}": 1.0}, decay_from=0.5))
    (micro,) = trainer._micro_batches(batch)

    def loss(progress: float) -> float:
        trainer.objective.progress = progress
        with torch.no_grad():
            return float(trainer.objective.generator_loss(micro, fake)[0])

    with torch.no_grad():
        fake = trainer.objective.fake(micro)
    assert loss(0.0) == loss(0.5) != loss(1.0)
    assert loss(0.75) == pytest.approx((loss(0.0) + loss(1.0)) / 2, abs=1e-4), "half-way between 4 and 1"
    constant, _ = make_trainer(settings.replaced(**{name: 1.0}))
    with torch.no_grad():
        assert float(constant.objective.generator_loss(micro, fake)[0]) == pytest.approx(loss(1.0), abs=1e-5)


# The average


def test_average_follows_weights_and_running_statistics() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    average = start_ema(network)
    assert not average.training
    expected = copy.deepcopy(network.state_dict())
    for step in range(30):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        network(torch.randn(4, 1, 3, 3))
        decay = min(0.7, (1 + step) / (10 + step))
        update_ema(tensors_of(average), tensors_of(network), decay)
        for name, value in network.state_dict().items():
            floating = value.is_floating_point()
            expected[name] = decay * expected[name] + (1 - decay) * value if floating else value.clone()
    for name, value in expected.items():
        torch.testing.assert_close(average.state_dict()[name], value, msg=name)


def test_average_without_decay_is_the_generator(settings: TrainSettings) -> None:
    trainer, batches = make_trainer(settings.replaced(ema=0.0))
    for batch in batches:
        trainer.train_step(batch)
    assert not differing(trainer.ema.state_dict(), trainer.generator.state_dict())


def large_tensors_kept(trainer: Trainer) -> int:
    """How many tensors of an image's width and height wait for the generator's gradient."""
    kept: set[int] = set()

    def keep(tensor: Tensor) -> Tensor:
        if tensor.dim() == 4 and tensor.shape[-1] == trainer.settings.image_size:
            kept.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        images = trainer.generator(torch.zeros(4, trainer.settings.noise_dim), trainer.rows[:4], trainer.clip)
    assert images.requires_grad
    return len(kept)


def test_recomputing_changes_nothing_and_keeps_less(settings: TrainSettings) -> None:
    found = {}
    for recompute in (False, True):
        trainer, (batch, *_) = make_trainer(settings.replaced(recompute=recompute, grad_accum=2))
        trainer.train_step(batch)
        found[recompute] = everything(trainer), large_tensors_kept(trainer)
    assert differing(found[False][0], found[True][0]) == []
    assert 4 * found[True][1] < found[False][1]


# Steps that are not finite


@pytest.mark.parametrize(
    ("where", "steps_before"), [("images", 2), ("discriminator", 0), ("discriminator", 2), ("generator", 0)]
)
def test_step_that_is_not_finite_changes_nothing(settings: TrainSettings, where: str, steps_before: int) -> None:
    trainer, batches = make_trainer(settings)
    for batch in batches[:steps_before]:
        trainer.train_step(batch)
    before = everything(trainer)
    bad = batches[2]
    if where == "images":
        bad = Batch(torch.full_like(bad.images, float("nan")), bad.captions)
        record = trainer.train_step(bad)
    else:
        network = getattr(trainer, where)
        parameter = next(network.parameters())
        hook = parameter.register_hook(lambda gradient: gradient * float("inf"))
        record = trainer.train_step(bad)
        hook.remove()
    assert record.skipped
    assert trainer.not_finite_in_a_row == 1
    assert differing(before, everything(trainer)) == []
    assert not trainer.train_step(batches[0]).skipped
    assert trainer.not_finite_in_a_row == 0


@pytest.mark.parametrize(("variant", "where"), [("ratlip", "fake"), ("galip", "generator_loss")])
def test_full_memory_is_told_and_changes_nothing(
    settings: TrainSettings, monkeypatch: pytest.MonkeyPatch, variant: str, where: str
) -> None:
    trainer, (batch, *_) = make_trainer(settings.replaced(variant=variant))
    before = everything(trainer)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(trainer.objective, where, full)
        with pytest.raises(TrainingError, match="smaller --batch-size"):
            trainer.train_step(batch)
    assert differing(before, everything(trainer)) == []
    assert not trainer.train_step(batch).skipped


@pytest.mark.slow
def test_falling_loss_scale_is_no_divergence(settings: TrainSettings) -> None:
    trainer, (batch, *_) = make_trainer(settings.replaced(precision="fp16"))
    bad = Batch(torch.full_like(batch.images, float("nan")), batch.captions)
    falls = 0
    while trainer.not_finite_in_a_row == 0:
        assert trainer.train_step(bad).skipped
        falls += 1
    assert trainer.scaler.get_scale() <= 1
    assert falls == 17  # 2^16 down to 1, and the first that counts


@pytest.mark.slow
def test_run_stops_after_ten_such_steps_and_keeps_the_good_weights(
    settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(settings.replaced(steps=40))
    trainer = session.trainer
    whole_step = trainer.train_step
    good: dict[str, Tensor] = {}

    def train_step(batch: Batch) -> StepRecord:
        if trainer.steps_done == 3:
            good.update(everything(trainer))
        if trainer.steps_done >= 3:
            batch = Batch(batch.images * float("nan"), batch.captions)
        return whole_step(batch)

    monkeypatch.setattr(trainer, "train_step", train_step)
    records: list[StepRecord] = []
    with pytest.raises(TrainingError, match=r"steps 4 to 13 were not finite.*Try"):
        records.extend(session.run())
    reopened = open_session(settings.replaced(steps=40, resume=settings.out))
    assert reopened.trainer.steps_done == 3 + PATIENCE
    assert differing(good, everything(reopened.trainer)) == []

    whole_step = reopened.trainer.train_step
    monkeypatch.setattr(reopened.trainer, "train_step", train_step)
    with pytest.raises(TrainingError, match=r"steps 4 to 14 were not finite"):
        list(reopened.run())


# A run


def run_all(session: TrainingSession, steps: int | None = None) -> list[StepRecord]:
    """Run to the end, or until `steps` steps of the whole run are done."""
    return list(session.run(lambda: steps is not None and session.trainer.steps_done >= steps))


@pytest.mark.parametrize(("workers", "grad_accum"), [(2, 1), pytest.param(0, 2, marks=pytest.mark.slow)])
def test_stopping_and_resuming_is_as_if_it_had_never_stopped(
    settings: TrainSettings, tmp_path: Path, workers: int, grad_accum: int
) -> None:
    settings = settings.replaced(grad_accum=grad_accum)
    through = open_session(settings.replaced(out=str(tmp_path / "through")))
    records = run_all(through)

    halves = settings.replaced(workers=workers)
    first = open_session(halves)
    before = run_all(first, steps=3)
    second = open_session(halves.replaced(resume=settings.out))
    assert second.trainer.steps_done == 3
    after = run_all(second)

    assert timeless(before + after) == timeless(records)
    assert differing(everything(through.trainer), everything(second.trainer)) == []
    lines = [(Path(run) / "metrics.jsonl").read_text().splitlines() for run in (through.folder.path, settings.out)]
    assert [line.split('"images_per_second"')[0] for line in lines[0]] == [
        line.split('"images_per_second"')[0] for line in lines[1]
    ]
    saved = [sorted((run / "model").glob("*.safetensors")) for run in (through.folder.path, second.folder.path)]
    assert [path.read_bytes() for path in saved[0]] == [path.read_bytes() for path in saved[1]]


@pytest.mark.slow
@pytest.mark.parametrize("counted", [True, False])
def test_another_batch_size_goes_on_where_the_images_were(
    settings: TrainSettings, monkeypatch: pytest.MonkeyPatch, counted: bool
) -> None:
    """Of 10 images 12 were seen in 3 steps of 4; 3 epochs are 18 more, in 9 steps of 2, none left out or twice."""
    first = open_session(settings.replaced(steps=None, epochs=3))
    assert first.total_steps == 8
    run_all(first, steps=3)
    if not counted:  # as an earlier version saved it
        file = Path(settings.out) / "checkpoints" / "step_00000003" / "checkpoint.json"
        file.write_text(file.read_text().replace('"images_seen": 12,', ""))
    positions: list[int] = []
    sample = CaptionedImages.training_sample
    monkeypatch.setattr(
        CaptionedImages, "training_sample", lambda self, at: (positions.append(at), sample(self, at))[1]
    )
    second = open_session(resolve_settings({"resume": settings.out, "batch_size": 2}))
    assert second.trainer.images_seen == 12
    if not counted:
        return
    records = run_all(second)
    assert [record.epoch for record in records] == pytest.approx([1.4 + 0.2 * step for step in range(9)])
    assert (second.trainer.steps_done, second.trainer.images_seen, second.finished) == (12, 30, True)
    assert positions[:18] == list(range(12, 30))
    assert open_session(resolve_settings({"resume": settings.out})).finished


# Starting from another model


def larger(settings: TrainSettings, image_size: int) -> Trainer:
    changed = settings.replaced(image_size=image_size)
    clip = load_clip(settings.clip)
    return Trainer(changed, clip, torch.zeros(1, 16), 1, CPU)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "before", "after", "blocks"),
    [
        ("ratlip", 32, 64, {0: 0, 1: None, 2: 1, 3: 2, 4: 3}),
        ("galip", 64, 128, {0: 0, 1: 1, 2: None, 3: 2, 4: 3, 5: 4}),
        ("rat", 64, 256, {0: 0, 1: 1, 2: None, 3: None, 4: 2, 5: 3, 6: 4}),
        ("rat", 128, 32, {0: 0, 1: 3, 2: 4, 3: 5}),
        ("ratlip-released", 64, 48, {0: 0, 1: 1, 2: 2, 3: 3, 4: 4}),
    ],
)
def test_blocks_that_fit_are_taken_and_the_rest_is_new(
    tiny_settings: TrainSettings, tmp_path: Path, variant: str, before: int, after: int, blocks: dict[int, int | None]
) -> None:
    settings = tiny_settings.replaced(variant=variant, seed=1)
    old = larger(settings, before)
    trainer = larger(settings.replaced(seed=2, init_from=str(tmp_path)), after)
    new = copy.deepcopy(trainer.generator.state_dict())
    create_model_folder(tmp_path, model_config(*old.settings.configs(), old.clip), old.clip)
    save_weights(tmp_path, old.generator.state_dict(), old.discriminator.state_dict())
    told = start_from(find_start(trainer.settings), trainer)
    own = old.generator.state_dict()
    for name, value in trainer.generator.state_dict().items():
        path = name.split(".")
        block = blocks[int(path[1])] if path[0] == "blocks" else -1
        source = new if block is None else own
        expected = ".".join(["blocks", str(block), *path[2:]]) if block not in (None, -1) else name
        assert torch.equal(value, source[expected]), name
        assert torch.equal(value, trainer.ema.state_dict()[name]), name
    assert not differing(dict(trainer.discriminator.state_dict()), dict(old.discriminator.state_dict()))
    anew = [f"block {place + 1} of image-G" for place, block in blocks.items() if block is None]
    assert f", of {before} pixels, for {after}: " in told
    assert told.endswith(f"{', '.join(anew) or 'nothing'} start{'' if len(anew) > 1 else 's'} anew")


_LAFITE = {"w_dim": 5, "mapping_layers": 2, "text_width": 7, "channel_base": 512, "channel_max": 16}
_ATTNGAN = {"z_dim": 5, "condition_dim": 3}


@pytest.mark.parametrize(
    ("variant", "sizes", "generator", "discriminator", "moved"),
    [
        ("dfgan", {}, ["block 1 of the generator"], ["block 4 of the discriminator"], ("blocks.2.", "blocks.2.")),
        (
            "ratgan",
            {},
            ["block 2 of the generator"],
            ["block 4 of the discriminator", "head of the discriminator"],
            ("blocks.2.", "blocks.2."),
        ),
        (
            "lafite",
            _LAFITE,
            ["block 5 of the generator"],
            ["block 1 of the discriminator", "from_rgb of the discriminator"],
            ("blocks.3.", "blocks.2."),
        ),
        ("attngan", _ATTNGAN, ["first"], ["network 3 of the discriminator"], ("nets.0.", "nets.1.")),
    ],
)
def test_both_networks_of_pixels_take_what_fits_of_another_size(
    tiny_settings: TrainSettings,
    tmp_path: Path,
    variant: str,
    sizes: dict[str, Value],
    generator: list[str],
    discriminator: list[str],
    moved: tuple[str, str],
) -> None:
    """From 32 to 64 pixels a block of each is new, and of AttnGAN the first stage and the largest discriminator."""
    settings = tiny_settings.replaced(variant=variant, seed=1, **sizes)
    old = larger(settings, 32)
    create_model_folder(tmp_path, model_config(*old.settings.configs(), old.clip), old.clip)
    save_weights(tmp_path, old.generator.state_dict(), old.discriminator.state_dict())
    for after in (64, 32):
        trainer = larger(settings.replaced(seed=2, init_from=str(tmp_path)), after)
        told = start_from(find_start(trainer.settings), trainer)
        own, others = dict(trainer.discriminator.state_dict()), dict(old.discriminator.state_dict())
        if after == 32:
            assert not differing(own, others)
            assert told.endswith("all its weights are taken")
            continue
        anew = ", ".join([*generator, *discriminator])
        assert (
            told == f"starting from model {tmp_path}, of 32 pixels, for 64: all that fits is taken; {anew} start anew"
        )
        new, theirs = moved
        for name, value in own.items():
            if name.startswith(new):
                assert torch.equal(value, others[theirs + name.removeprefix(new)]), name
        trainer.rows = settings.family.rows(trainer.clip, ["a red image"])
        assert not trainer.train_step(Batch(torch.rand(4, 3, 64, 64), torch.zeros(4, dtype=torch.long))).skipped


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("file", ["generator.safetensors", "discriminator.safetensors"])
def test_a_model_that_does_not_fit_is_told_before_the_data_are_read(
    settings: TrainSettings, tmp_path: Path, dry: bool, file: str
) -> None:
    """Nothing is prepared of a dataset that is not there yet."""
    old = larger(settings, 32)
    create_model_folder(tmp_path / "model", model_config(*old.settings.configs(), old.clip), old.clip)
    save_weights(tmp_path / "model", old.generator.state_dict(), old.discriminator.state_dict())
    tensors = load_tensors(tmp_path / "model" / file)
    save_tensors(tmp_path / "model" / file, {name: value for name, value in tensors.items() if "conv" not in name})
    (tmp_path / "images").mkdir()
    for colour in ("red", "green", "blue", "grey"):
        Image.new("RGB", (40, 40), colour).save(tmp_path / "images" / f"{colour}.png")
        (tmp_path / "images" / f"{colour}.txt").write_text(f"a {colour} image")
    own = {
        "dataset": str(tmp_path / "images"),
        "data_dir": str(tmp_path / "data"),
        "init_from": str(tmp_path / "model"),
    }
    with pytest.raises(WeightsError, match=rf"{file} does not fit"):
        (dry_run if dry else open_session)(settings.replaced(**own))
    assert not (tmp_path / "data").exists()
    assert not Path(settings.out).exists()


@pytest.mark.parametrize(
    ("name", "value"), [("variant", "galip"), ("generator_channels", 8), ("noise_dim", 9), ("pixel_stem", True)]
)
def test_a_model_of_other_sizes_is_told_with_both(
    settings: TrainSettings, tmp_path: Path, name: str, value: str | int
) -> None:
    run_all(open_session(settings.replaced(steps=1)))
    other = settings.replaced(out=str(tmp_path / "other"), init_from=settings.out, **{name: value})
    words = rf"has {name} = {settings.architecture[name]}, this run {value}: .* leave out --{name.replace('_', '-')},"
    with pytest.raises(WeightsError, match=words):
        open_session(other)
    assert not (tmp_path / "other").exists()


def test_max_time_stops_and_saves(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_session(settings.replaced(steps=1000, max_time="1h"))
    clock = iter(range(0, 1_000_000, 1000))
    monkeypatch.setattr("ratlip_cli.training.session.time.monotonic", lambda: float(next(clock)))
    assert len(run_all(session)) == 3
    assert not session.finished
    assert [path.name for path in (session.folder.path / "checkpoints").iterdir()] == ["step_00000003"]


def test_rehearsal_measures_and_writes_nothing(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = Path(settings.dataset)
    before = sorted(data.rglob("*"))
    found = dry_run(settings.replaced(steps=None, epochs=5))
    assert found.steps == 13  # 5 passes over 10 images in batches of 4
    assert found.images == 10
    assert found.captions == 20
    assert found.seconds >= found.steps * found.seconds_per_step > 0
    trainer, _ = make_trainer(settings)
    assert found.generator_parameters == sum(value.numel() for value in trainer.generator.parameters())
    assert found.clip_parameters == sum(value.numel() for value in trainer.clip.parameters())
    assert found.memory_mib > 50
    assert list(tmp_path.iterdir()) == []
    assert sorted(path for path in data.rglob("*") if ".text_vectors" not in path.parts) == [
        path for path in before if ".text_vectors" not in path.parts
    ]


@pytest.mark.slow
def test_compiled_step_is_the_plain_step(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    plain, (batch, *_) = make_trainer(settings)
    compiled, _ = make_trainer(settings.replaced(compile=True))
    first, second = plain.train_step(batch), compiled.train_step(batch)
    assert second.logs["loss_d"] == pytest.approx(first.logs["loss_d"], rel=1e-4)
    assert second.logs["loss_g"] == pytest.approx(first.logs["loss_g"], rel=1e-4)
    assert list(compiled.generator.state_dict()) == list(plain.generator.state_dict())
    assert list(compiled.discriminator.state_dict()) == list(plain.discriminator.state_dict())
