"""Step "right": what the device computes is what the plain model computes on a CPU, in values and all gradients."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from harness import (
    DTYPES,
    NONE,
    TINY_SIZES,
    batch_of,
    clip_on,
    compile_networks,
    far,
    plain_clip,
    plain_trainer,
    settings_of,
    swapped,
    tf32,
    usable,
)
from report import Context
from torch import Tensor, nn

from ratlip_cli import fast
from ratlip_cli.families import family_of
from ratlip_cli.fast import Swap, swaps_for
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.config import VARIANTS
from ratlip_cli.model.losses import (
    clip_similarity,
    discriminator_loss,
    generator_loss,
    matching_aware_gradient_penalty,
    mismatched,
)
from ratlip_cli.training.checkpoint import Identity, read_checkpoint, resume, save_checkpoint
from ratlip_cli.training.objectives.objective import MicroBatch
from ratlip_cli.training.objectives.ratlip import RatlipObjective
from ratlip_cli.training.settings import TrainSettings, resolve_settings
from ratlip_cli.training.trainer import StepRecord, Trainer

IMAGES = 3
NAN_STEPS = 50
"""fp16 must have found its loss scale after half of them."""


BASELINES: dict[str, dict[str, Any]] = {
    "dfgan": {"generator_channels": 4, "discriminator_channels": 4},
    "ratgan": {"generator_channels": 4, "discriminator_channels": 4, "hidden_size": 8},
    "attngan": {"generator_channels": 4, "discriminator_channels": 2},
    "lafite": {"channel_base": 256, "channel_max": 16, "w_dim": 12, "text_width": 12},
}
"""The other papers' variants, and their sizes on a CPU; on a GPU they are those of the preset `demo`."""
BASELINE_IMAGES = 4
"""In a batch of theirs: a group of LAFITE's mini-batch deviation."""

SAMPLING = frozenset({Swap.FOLDED, Swap.PACKED})
CAPTIONS = ["a bird", "", "a small red bird with black wings and a long beak that sits on a branch in the snow"]
"""Swaps that training does not have; `sampled_images` tries them."""


class Limits(NamedTuple):
    """The largest relative errors that are right."""

    images: float
    values: float
    """Of logits, penalty norms and losses."""
    gradients: float
    """Of all gradients of a network as one vector."""
    worst: float
    """Of the worst weight's gradient; what is small beside the others counts as if it were a thousandth of them."""


LIMITS = {
    "float64": Limits(1e-9, 1e-4, 1e-4, 1e-3),  # CLIP's pixels and the losses are rounded to float32 on the way
    "fp32": Limits(1e-4, 2e-3, 2e-2, 5e-2),  # gradients at full size: 3e-3 between two float32 orders on a CPU
    "bf16": Limits(0.1, 0.2, 0.7, math.inf),  # 0.36 at full size with random weights, on a CPU
    "fp16": Limits(0.02, 0.05, 0.2, math.inf),
}


class Networks(NamedTuple):
    """What images and losses are computed by."""

    generator: nn.Module
    discriminator: nn.Module
    clip: FrozenCLIP


class Given(NamedTuple):
    """Inputs of one step, float32 on the CPU."""

    images: Tensor
    text: Tensor
    noise: Tensor


def run(context: Context) -> None:
    """All sub-checks, the cheapest first."""
    for work in (
        small_variants,
        swaps_alone,
        references,
        baselines,
        twenty_steps,
        exact_resume,
        sampled_images,
        full_variants,
        fifty_steps,
        compiled_steps,
    ):
        began = time.monotonic()
        with tf32(False):
            work(context)
        context.row(work.__name__.replace("_", " "), f"{time.monotonic() - began:.1f} s")


def small_variants(context: Context) -> None:
    """Each variant on a tiny CLIP: float64 to many digits, and the objective in every precision."""
    for variant in VARIANTS:
        networks, given = networks_of(variant, True), given_of(True)
        expected = written_out(placed(networks, torch.device("cpu"), torch.float64), given)
        actual = written_out(placed(networks, context.device, torch.float64, usable(context.device)), given)
        compare(context, f"{variant}, small, float64, all swaps", actual, expected, LIMITS["float64"])
        precisions = ["fp32"] if context.tiny and variant != "ratlip" else DTYPES
        of_product(context, f"{variant}, small", networks, given, precisions, expected)


def swaps_alone(context: Context) -> None:
    """Every swap by itself, in float64, also those that the device does not take yet."""
    networks, given = networks_of("ratlip", True), given_of(True)
    expected = written_out(placed(networks, torch.device("cpu"), torch.float64), given)
    for swap in set(usable(context.device)) - SAMPLING:
        placed_ones = placed(networks, context.device, torch.float64, [swap])
        compare(context, f"swap {swap.value}", written_out(placed_ones, given), expected, LIMITS["float64"])


def full_variants(context: Context) -> None:
    """Each variant on ViT-B/32 with random weights, in the precisions that training has."""
    for variant in ["ratlip"] if context.tiny else VARIANTS:  # the tiny ones were compared already
        networks, given = networks_of(variant, context.tiny), given_of(context.tiny)
        expected = written_out(placed(networks, torch.device("cpu")), given)
        of_product(context, f"{variant}, full size", networks, given, DTYPES, expected)


def of_product(
    context: Context,
    name: str,
    networks: Networks,
    given: Given,
    precisions: Iterable[str],
    expected: dict[str, Tensor],
) -> None:
    """The training objective as a run has it, with the device's own swaps, against the plain equations."""
    on_device = placed(networks, context.device, swaps=list(swaps_for(context.device)))
    for precision in precisions:
        actual = by_objective(on_device, given, DTYPES[precision])
        compare(context, f"{name}, {precision}", actual, expected, LIMITS[precision])


def networks_of(variant: str, tiny: bool) -> Networks:
    """Plain networks on the CPU; where they are small, no weight keeps an initial value that would hide a mistake."""
    family, clip = family_of(variant), plain_clip(tiny)
    configs = family.configs({**TINY_SIZES, "image_size": 48} if tiny else {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        networks = family.generator(configs[0], clip.geometry), family.discriminator(configs[1], clip.geometry)
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for network in networks if tiny else ():
            for weight in network.parameters():
                weight.add_(0.05 * torch.randn(weight.shape, generator=random))
    return Networks(*networks, clip)


def given_of(tiny: bool) -> Given:
    """Random images, text vectors and noise."""
    random, size = torch.Generator().manual_seed(5), 48 if tiny else 256
    sizes = settings_of(tiny)
    return Given(
        torch.rand(IMAGES, 3, size, size, generator=random) * 2 - 1,
        torch.randn(IMAGES, plain_clip(tiny).geometry.embed_dim, generator=random),
        torch.randn(IMAGES, sizes.noise_dim, generator=random),
    )


def placed(
    networks: Networks,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    swaps: list[Swap] | frozenset[Swap] = NONE,
) -> Networks:
    """Copies of networks on a device, with those swaps that training has."""
    chosen = frozenset(swaps) - SAMPLING
    generator, discriminator, clip = (copy.deepcopy(network).to(device, dtype) for network in networks)
    fast.for_training(generator, discriminator, chosen)
    return Networks(generator, discriminator, fast.clip_for(clip, chosen))


def written_out(networks: Networks, given: Given) -> dict[str, Tensor]:
    """Eq. 8 from its plain parts: images, logits, penalty norms, losses and all gradients, by name."""
    generator, discriminator, clip = networks
    weight = next(generator.parameters())
    real_images, text, noise = (tensor.to(weight) for tensor in given)
    images = generator(noise, text, clip)
    fake = clip.features(images)
    with torch.no_grad():
        real = clip.patch_features(real_images)
    patches, own_text = real.to(weight.dtype).requires_grad_(), text.clone().requires_grad_()
    logit_real = discriminator(patches, own_text)
    penalty, norm = matching_aware_gradient_penalty(logit_real, (patches, own_text))
    logit_mismatched = discriminator(patches, mismatched(text))
    logit_fake = discriminator(fake.patches.detach(), text)
    loss_d = discriminator_loss(logit_real, logit_fake, logit_mismatched, penalty)
    found = {"images": images, "penalty_norm": norm, "loss_d": loss_d, "text_vectors": clip.encode_text(CAPTIONS)}
    found |= {"logit_real": logit_real, "logit_fake": logit_fake, "logit_mismatched": logit_mismatched}
    found |= gradients(loss_d, discriminator, "D")
    loss_g = generator_loss(discriminator(fake.patches, text), clip_similarity(fake.embedding, text))
    return found | {"loss_g": loss_g} | gradients(loss_g, generator, "G")


def by_objective(networks: Networks, given: Given, dtype: torch.dtype) -> dict[str, Tensor]:
    """The same from the objective that training has, under autocast to `dtype`."""
    generator, discriminator, clip = networks
    device = clip.mean.device
    real_images, text, noise = (tensor.to(device) for tensor in given)
    objective = RatlipObjective(
        TrainSettings(),
        generator,
        discriminator,
        clip,
        lambda: torch.autocast(device.type, dtype, enabled=dtype is not torch.float32),
    )
    images: list[Tensor] = []
    hook = generator.register_forward_hook(lambda module, inputs, output: images.append(output))
    batch = MicroBatch(real_images, text, objective.mismatched(text), noise, objective.fake_text(text))
    fake = objective.fake(batch)
    hook.remove()
    loss_d, logs_d = objective.discriminator_loss(batch, fake)
    found = {"images": images[0], "text_vectors": clip.encode_text(CAPTIONS), **logs_d}
    found |= gradients(loss_d, discriminator, "D", kept=True)
    loss_g, logs_g = objective.generator_loss(batch, fake)
    return found | logs_g | gradients(loss_g, generator, "G")


def gradients(loss: Tensor, network: nn.Module, name: str, kept: bool = False) -> dict[str, Tensor]:
    """The gradient of every weight, as `gradient NAME weight`; the loss is scaled so that fp16 holds it."""
    scale = 2.0**7
    weights = dict(network.named_parameters())
    values = torch.autograd.grad(loss * scale, list(weights.values()), retain_graph=kept, allow_unused=True)
    return {
        f"gradient {name} {key}": torch.zeros_like(weights[key]) if value is None else value / scale
        for key, value in zip(weights, values, strict=True)
    }


def compare(
    context: Context, name: str, actual: dict[str, Tensor], expected: dict[str, Tensor], limits: Limits
) -> None:
    """Hold images, values and gradients against those expected; every error goes into the report."""
    errors = {"images": far(actual["images"], expected["images"])}
    values = [key for key in expected if not key.startswith("gradient") and key != "images"]
    errors |= {key: far(actual[key], expected[key]) for key in values}
    for network in ("D", "G"):
        keys = [key for key in expected if key.startswith(f"gradient {network} ")]
        errors[f"gradients {network}"] = far(
            torch.cat([actual[key].flatten() for key in keys]), torch.cat([expected[key].flatten() for key in keys])
        )
        floor = 1e-3 * max(float(expected[key].norm()) for key in keys)
        each = {
            key: far(actual[key], expected[key]) * min(1.0, float(expected[key].norm()) / floor)
            if expected[key].norm() > 0
            else float(actual[key].norm()) / floor
            for key in keys
        }
        worst = max(each, key=lambda key: math.inf if math.isnan(each[key]) else each[key])
        errors[f"worst {network}"] = each[worst]
        errors[f"worst {network} is"] = worst
    context.note(name, errors)
    context.check(f"{name}: images", errors["images"], limits.images)
    context.check(f"{name}: logits, penalty, losses", largest(errors[key] for key in values), limits.values)
    context.check(f"{name}: gradients", largest((errors["gradients D"], errors["gradients G"])), limits.gradients)
    if math.isfinite(limits.worst):
        context.check(f"{name}: worst gradient", largest((errors["worst D"], errors["worst G"])), limits.worst)


def largest(values: Any) -> float:
    """The largest value; NaN where one is, which `max` may pass over."""
    listed = list(values)
    return math.nan if any(map(math.isnan, listed)) else max(listed)


def baselines(context: Context) -> None:
    """The other papers' variants: images, losses and gradients of a step with all its regularisers; steps of training.

    Float32 of the device against float32 of the CPU, of which either errs by as much: the limits are those of "fp32".
    """
    for variant, small in BASELINES.items():
        asked = {"dataset": "demo", "variant": variant, "lr_g": 1e-5, "lr_d": 1e-5, "batch_size": BASELINE_IMAGES}
        regularised = {"path_length_every": 4} if variant == "lafite" else {}
        sizes = {"image_size": 32, **small} if context.tiny else {}
        settings = resolve_settings({**asked, **regularised, **sizes})
        found, steps = [], []
        for device in (torch.device("cpu"), context.device):
            trainer = baseline_trainer(settings, device)
            found.append(step_of_phases(trainer, batch_of(trainer, BASELINE_IMAGES).images))
            steps.append(stepped(baseline_trainer(settings, device), 5))
        compare(context, f"{variant}, fp32", found[1], found[0], LIMITS["fp32"])
        context.check(f"{variant}: losses of five steps", furthest(steps[1], steps[0]), 1e-2)


def baseline_trainer(settings: TrainSettings, device: torch.device) -> Trainer:
    """On the tiny CLIP and prompts; the same weights on every device, none of them at a first value of zero."""
    clip, family = clip_on(device, True), settings.family
    prompts = json.loads((Path(__file__).parent / "prompts.json").read_text(encoding="utf-8"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        trainer = Trainer(settings, clip, family.rows(clip, prompts), len(prompts), device)
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for network in (trainer.generator, trainer.discriminator):
            for weight in network.parameters():
                weight.add_((0.02 * torch.randn(weight.shape, generator=random)).to(device))
    return trainer


def step_of_phases(trainer: Trainer, images: Tensor) -> dict[str, Tensor]:
    """Images, what was measured and all gradients of every phase of a trainer's first step, before any update."""
    settings, objective, family = trainer.settings, trainer.objective, trainer.settings.family
    random, count = torch.Generator().manual_seed(6), len(images)
    noise = torch.randn(count, settings.noise_dim, generator=random).to(images)
    draws = {name: one.to(images) for name, one in objective.draws(count, random).items()}
    text = family.condition(trainer.clip, trainer.rows[:count])
    batch = MicroBatch(images, text, objective.mismatched(text), noise, objective.fake_text(text), draws)
    found = {"images": trainer.generator(noise, text, trainer.clip)}
    fake = objective.fake(batch)
    for number, phase in enumerate(objective.discriminator_phases(0)):
        loss, logs = phase(batch, fake)
        found |= {f"D {number} {name}": value for name, value in logs.items()}
        found |= gradients(loss, trainer.discriminator, f"D {number}", kept=True)
    for number, phase in enumerate(objective.generator_phases(0)):
        loss, logs = phase(batch, None if number or objective.fresh_fake else fake)
        found |= {f"G {number} {name}": value for name, value in logs.items()}
        found |= gradients(loss, trainer.generator, f"G {number}", kept=True)
    return found


def references(context: Context) -> None:
    """The values of the published code (tests/reference), through the importer of its checkpoints."""
    try:
        from test_reference import FOLDER, formula, names_and_shapes
    except ImportError as error:
        context.note("references", f"not compared: {error}")
        return
    from ratlip_cli.model.shuffle_attention import ShuffleAttention

    with np.load(FOLDER / "ratlip_released_seed0.npz") as file:
        given, expected = torch.from_numpy(file["sa_in"]), torch.from_numpy(file["sa_out"])
    attention = ShuffleAttention(64, groups=8)
    theirs = {"channel_": "c", "spatial_": "s", "norm.": "gn."}
    with torch.no_grad():
        for name, weight in attention.named_parameters():
            own = next(start for start in theirs if name.startswith(start))
            weight.copy_(formula(f"sa.{theirs[own]}{name[len(own) :]}", list(weight.shape)))
    actual = attention.to(context.device)(given.to(context.device))
    context.check("reference: shuffle attention", far(actual, expected), 2e-4)
    if not context.tiny:
        released(context, formula, names_and_shapes, FOLDER)


def released(context: Context, formula: Any, names_and_shapes: Any, folder: Path) -> None:
    """Text and image vectors, images, logits and penalty of the published RATLIP and GALIP."""
    from ratlip_cli.model.discriminator import Discriminator
    from ratlip_cli.model.generator import Generator
    from ratlip_cli.tensor_files import load_into
    from ratlip_cli.weights.released.ratlip import import_released

    device = context.device
    clip = copy.deepcopy(plain_clip(False))
    shapes = names_and_shapes("ratlip", "clip")
    load_into(clip.model, {name.removeprefix("clip."): formula(name, shape) for name, shape in shapes.items()}, "clip")
    clip = fast.clip_for(clip.to(device))
    for kind in ("galip", "ratlip"):
        with np.load(folder / f"{kind}_released_seed0.npz") as file:
            values = {name: torch.from_numpy(file[name]) for name in file.files if file[name].ndim}
            seed = int(file["seed"])
        nets = {
            net: {
                name.removeprefix(f"{net}."): formula(name, shape)
                for name, shape in names_and_shapes(kind, net).items()
                if "CLIP_ViT.transformer" not in name
            }
            for net in ("netG", "netD", "netC")
        }
        checkpoint = import_released(nets)
        generator = Generator(checkpoint.generator_config, clip.geometry).eval()
        discriminator = Discriminator(checkpoint.discriminator_config, clip.geometry)
        load_into(generator, checkpoint.generator, "netG")
        load_into(discriminator, checkpoint.discriminator or {}, "netD and netC")
        generator, discriminator = generator.to(device), discriminator.to(device)
        fast.for_training(generator, discriminator)
        pixels = np.random.RandomState(1000 + seed).uniform(-1, 1, (2, 3, 224, 224)).astype(np.float32)
        text = values["text_embedding"].to(device)
        with torch.no_grad():
            features = clip.features(torch.from_numpy(pixels).to(device))
            images = generator(values["noise"].to(device), text, clip)
        patches, own_text = features.patches.clone().requires_grad_(), text[:2].clone().requires_grad_()
        logits = discriminator(patches, own_text)
        _, norms = matching_aware_gradient_penalty(logits, (patches, own_text))
        for name, actual in {
            "text_embedding": clip.encode_tokens(values["tokens"].long()),
            "image_embedding": features.embedding,
            "image_features_sub": features.patches[:, :, ::32],
            "fake_sub": images[:, :, ::4, ::4],
            "logit_real": logits,
            "logit_mismatch": discriminator(features.patches, mismatched(own_text)),
            "gp_grad_norm": norms,
        }.items():
            difference = (actual.detach().cpu() - values[name]).abs().max() / values[name].abs().max()
            context.check(f"reference: {kind} {name}", float(difference), 5e-4)


def small_settings(**typed: Any) -> TrainSettings:
    return settings_of(True, batch_size=4, ema=0.9, **typed)


def small_trainer(device: torch.device, swaps: frozenset[Swap] | None = None, **typed: Any) -> Trainer:
    """A trainer on the tiny CLIP with swaps; left out, those of the device."""
    trainer = plain_trainer(small_settings(**typed), clip_on(device, True), device)
    trainer_swaps = swaps_for(device) if swaps is None else swaps
    fast.for_training(trainer.generator, trainer.discriminator, trainer_swaps)
    fast.clip_for(trainer.clip, trainer_swaps)
    return trainer


def stepped(trainer: Trainer, steps: int) -> list[StepRecord]:
    """The records of some steps on one batch."""
    batch = batch_of(trainer, trainer.settings.batch_size)
    return [trainer.train_step(batch) for _ in range(steps)]


def furthest(records: list[StepRecord], expected: list[StepRecord]) -> float:
    """The largest difference of two runs' losses, relative to the loss or to 1 where it is smaller."""
    return largest(
        abs((one.logs[name] or math.nan) - (other.logs[name] or math.nan)) / max(1.0, abs(other.logs[name] or 0.0))
        for one, other in zip(records, expected, strict=True)
        for name in ("loss_d", "loss_g")
    )


def twenty_steps(context: Context) -> None:
    """Twenty steps of a small model on the CPU, plain, and on the device, with its swaps."""
    slowly = {"lr_g": 1e-5, "lr_d": 4e-5}  # Adam's first steps follow the gradient's sign: where it is nearly 0, chance
    expected = stepped(small_trainer(torch.device("cpu"), NONE, **slowly), 20)
    actual = stepped(small_trainer(context.device, **slowly), 20)
    by_step = [furthest([one], [other]) for one, other in zip(actual, expected, strict=True)]
    context.note("twenty steps, CPU against device", {"by step": by_step})
    context.check("twenty steps: losses, first step", by_step[0], 1e-4)
    context.check("twenty steps: losses", largest(by_step), 5e-2)


def fifty_steps(context: Context) -> None:
    """No NaN in fifty steps in half precision: at full size where the device is a GPU."""
    steps = 8 if context.tiny else NAN_STEPS
    for precision in ("bf16", "fp16"):
        settings = settings_of(context.tiny, batch_size=2 if context.tiny else 8, precision=precision)
        trainer = plain_trainer(settings, clip_on(context.device, context.tiny), context.device)
        with swapped(trainer, swaps_for(context.device)):
            records = stepped(trainer, steps)
        skipped = [record.step for record in records if record.skipped]
        weights = (*trainer.generator.parameters(), *trainer.discriminator.parameters(), *trainer.ema.parameters())
        broken = sum(not bool(weight.isfinite().all()) for weight in weights)
        context.note(f"fifty steps, {precision}", {"skipped": skipped, "last": records[-1].logs})
        counted = skipped if precision == "bf16" else [step for step in skipped if step > steps // 2]
        allowed = 0 if precision == "bf16" else 2  # fp16 skips one now and then, to find its loss scale again
        context.check(f"fifty steps, {precision}: steps not finite", len(counted), allowed)
        context.check(f"fifty steps, {precision}: weights not finite", broken, 0)
        del trainer


def exact_resume(context: Context) -> None:
    """The same run twice, and once with a checkpoint in the middle, with deterministic algorithms and without."""
    for deterministic in (True, False):
        with deterministically(deterministic) as nondeterministic:
            whole, again = small_trainer(context.device), small_trainer(context.device)
            stepped(whole, 4)
            stepped(again, 2)
            with tempfile.TemporaryDirectory() as folder:
                identity = Identity(again.settings.architecture, "clip", "data")
                path = save_checkpoint(Path(folder), again, identity, keep=1)
                resumed = small_trainer(context.device)
                resume(resumed, read_checkpoint(path), identity, again.settings)
            stepped(again, 2)
            stepped(resumed, 2)
            differences = {"twice": apart(again, whole), "resumed": apart(resumed, whole)}
        name = "deterministic" if deterministic else "as usual"
        context.note(f"resume, {name}", {**differences, "operations without one": sorted(set(nondeterministic))})
        context.row(f"same bits twice, {name}", "yes" if differences["twice"] == 0 else f"{differences['twice']:.1e}")
        if deterministic and differences["twice"] == 0:
            context.check("resume: same bits", differences["resumed"], 0.0)
        else:
            context.check(
                f"resume: no further off than twice the same, {name}",
                differences["resumed"],
                max(10 * differences["twice"], 1e-4),
            )


@contextlib.contextmanager
def deterministically(wanted: bool) -> Iterator[list[str]]:
    """Deterministic algorithms where there are some; gives the operations that have none."""
    nondeterministic: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.use_deterministic_algorithms(wanted, warn_only=True)
        try:
            yield nondeterministic
        finally:
            torch.use_deterministic_algorithms(False)
    messages = [str(one.message) for one in caught]
    nondeterministic += [text.split(" does not have")[0][:80] for text in messages if "deterministic" in text]


def apart(one: Trainer, other: Trainer) -> float:
    """How far the weights of two trainers are apart: the largest relative error of a network; 0 is the same bits."""
    return largest(
        far(
            torch.cat([weight.flatten() for weight in first.parameters()]),
            torch.cat([weight.flatten() for weight in second.parameters()]),
        )
        for first, second in ((one.generator, other.generator), (one.discriminator, other.discriminator))
    )


def compiled_steps(context: Context) -> None:
    """Two steps of a small model with both networks compiled, and without."""
    expected = stepped(small_trainer(context.device, NONE), 2)
    trainer = small_trainer(context.device, NONE)
    compile_networks(trainer, context.tiny)
    context.check("compiled: losses of two steps", furthest(stepped(trainer, 2), expected), 1e-3)


def sampled_images(context: Context) -> None:
    """Images of the bundled model and of a full-size one, by the product's own sampler, on the device and the CPU."""
    from ratlip_cli.sampling import noise_vectors, sample
    from ratlip_cli.weights.load import load_model

    models = [load_model("ratlip-demo", device) for device in ("cpu", context.device)]
    prompts = json.loads((Path(__file__).parent / "prompts.json").read_text(encoding="utf-8"))
    noise = noise_vectors(0, range(len(prompts)), models[0].config.generator.noise_dim)
    expected, actual = (sample(model, noise, model.encode(prompts), 4) for model in models)
    pixels = [((images + 1) * 127.5).round() for images in (expected, actual)]
    same = float((pixels[0] == pixels[1]).double().mean())
    context.note("bundled model", {"error": far(actual, expected), "same pixels": same})
    context.check("bundled model: images", far(actual, expected), 1e-4)
    context.check("bundled model: largest difference of a pixel", float((pixels[0] - pixels[1]).abs().max()), 1)

    networks, given = networks_of("ratlip", context.tiny), given_of(context.tiny)
    expected = fast.for_sampling(networks.generator.eval(), networks.clip, NONE)(given.noise, given.text)
    for name, swaps in (("own swaps", swaps_for(context.device)), ("all swaps", frozenset(usable(context.device)))):
        ones = placed(networks, context.device)
        clip = fast.clip_for(ones.clip, swaps)
        actual = fast.for_sampling(ones.generator.eval(), clip, swaps)(given.noise, given.text, IMAGES)
        context.check(f"full size, sampled with {name}", far(actual, expected), 1e-4)
