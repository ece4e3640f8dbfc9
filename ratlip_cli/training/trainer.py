"""One training step (Section III-D, Eq. 8): the discriminator's half, then the generator's.

Nothing here prints, writes or reads files. The noise of a step is a pure function of the seed and the step's number,
so what a checkpoint must hold is the networks, the optimisers, the average, and the number of steps done.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ratlip_cli.data.dataset import Batch
from ratlip_cli.device import peak_memory_mib
from ratlip_cli.errors import TrainingError
from ratlip_cli.model.clip import FrozenCLIP, ImageFeatures
from ratlip_cli.model.discriminator import Discriminator
from ratlip_cli.model.generator import Generator, statistics_untouched
from ratlip_cli.model.losses import (
    clip_similarity,
    discriminator_loss,
    generator_loss,
    matching_aware_gradient_penalty,
    mismatched,
    mode_seeking,
)
from ratlip_cli.training.ema import start_ema, tensors_of, update_ema
from ratlip_cli.training.settings import TrainSettings

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepRecord:
    """What one step did: a line of metrics.jsonl. Means over the batch; None where a value was not finite."""

    step: int
    """Steps done, this one counted."""
    epoch: float
    """Passes over the training images, this step counted."""
    loss_d: float | None
    """L_D of Eq. 8, before this step."""
    loss_g: float | None
    """L_G of Eq. 8, against the discriminator after its half of this step."""
    penalty_norm: float | None
    """Norm of the gradient of D(x,T) that the penalty raises to its power."""
    logit_real: float | None
    """D(x,T): a real image with its own sentence."""
    logit_fake: float | None
    """D(G(z,T),T): a generated image with its sentence."""
    logit_mismatched: float | None
    """D(x,T_mis): a real image with another image's sentence."""
    clip_similarity: float | None
    """Cosine of a generated image's CLIP vector and its sentence's."""
    lr_g: float
    """Learning rate of the generator."""
    lr_d: float
    """Learning rate of the discriminator."""
    images_per_second: float
    """Real images a second in this step, without what reading, sampling and saving take."""
    memory_mib: float
    """Peak memory so far in MiB."""
    skipped: bool
    """Whether the step was not finite, and so left everything as it was."""


class _Part(NamedTuple):
    """One of the equal parts of a step's batch; there is more than one under gradient accumulation."""

    images: Tensor
    text: Tensor
    mismatched: Tensor
    noise: Tensor
    asked: Tensor
    """The sentences of the images to generate."""


class Trainer:
    """Generator, discriminator, their optimisers and the generator's average, and the step that moves them.

    Args:
        settings: what decides the run.
        clip: the frozen CLIP, on `device`.
        text: sentence vectors (captions,d) of the training split; a batch's captions index them.
        images: number of training images, to count epochs.
        device: where to compute.
    """

    def __init__(
        self, settings: TrainSettings, clip: FrozenCLIP, text: Tensor, images: int, device: torch.device
    ) -> None:
        self.settings = settings
        self.clip = clip
        self.text = text.to(device)
        self.images = images
        self.device = device
        self.steps_done = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.generator = Generator(settings.generator_config(), clip.geometry).to(device)
            self.discriminator = Discriminator(settings.discriminator_config(), clip.geometry).to(device)
        self.ema = start_ema(self.generator)
        # Going through a network's parts takes as long as moving the average.
        self._weights_g, self._weights_d = list(self.generator.parameters()), list(self.discriminator.parameters())
        self._averaged, self._current = tensors_of(self.ema), tensors_of(self.generator)
        self.generator.recompute = settings.recompute

        betas = (settings.beta1, settings.beta2)
        self.optimizer_g = torch.optim.Adam(self._weights_g, lr=settings.lr_g, betas=betas, fused=True)
        self.optimizer_d = torch.optim.Adam(self._weights_d, lr=settings.lr_d, betas=betas, fused=True)
        self.precision = resolve_precision(settings.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self._draw = torch.compile(self.generator) if settings.compile else self.generator
        # The penalty differentiates twice, which compiled networks cannot: it keeps the plain discriminator.
        self._judge = torch.compile(self.discriminator) if settings.compile else self.discriminator
        self.not_finite_in_a_row = 0
        self._undo = _Undo(self.generator, self.discriminator, self.optimizer_d)

    def train_step(self, batch: Batch) -> StepRecord:
        """One step of Eq. 8 on a batch; it is applied whole or, where anything in it is not finite, not at all.

        Raises:
            TrainingError: the GPU's memory is full; the step is not applied.
        """
        started = time.perf_counter()
        self._undo.remember_statistics()
        try:
            values = self._both_halves(self._parts(batch))
        except torch.OutOfMemoryError as error:
            self._undo.restore()
            raise TrainingError(
                "the GPU's memory is full; use a smaller --batch-size, or cut it into parts with --grad-accum."
            ) from error
        finite = all(map(math.isfinite, values.values()))
        if finite:
            self.optimizer_g.step()
            update_ema(self._averaged, self._current, self.settings.ema, self.steps_done)
            self._undo.forget()
        else:
            self._undo.restore()
        self.optimizer_g.zero_grad()
        self._count(finite)
        return self._record(values, skipped=not finite, seconds=time.perf_counter() - started)

    def _both_halves(self, parts: list[_Part]) -> dict[str, float]:
        """The discriminator's update and the generator's gradient; what was measured on the way."""
        measured, fake = self._discriminator_half(parts)
        measured |= self._generator_half(parts, fake)
        # The one place in a step where the CPU waits for the GPU.
        return dict(zip(measured, torch.stack(list(measured.values())).tolist(), strict=True))

    def _discriminator_half(self, parts: list[_Part]) -> tuple[dict[str, Tensor], ImageFeatures | None]:
        """L_D and the discriminator's update; its step is undone later if the step turns out not finite.

        Returns what was measured and, where the batch is in one part, the features of the generated images with
        their graph: the generator's half goes on from them instead of drawing the images once more.
        """
        totals: dict[str, Tensor] = {}
        keep_graph = len(parts) == 1
        for part in parts:
            with contextlib.nullcontext() if keep_graph else self._without_trace():
                fake = self._fake_features(part)
            with torch.no_grad(), self._autocast():
                patches = self.clip.patch_features(part.images)
            # In float32, for the penalty. What is seen knows no sentence: both logits of a real image read it.
            patches, text = patches.float().requires_grad_(), part.text.detach().requires_grad_()
            pixels = self.clip.resized(part.images).detach().requires_grad_()
            referee = self.discriminator.referee
            seen = referee.look(self.discriminator.extractor(patches, pixels))
            logit_real, logit_mismatched = referee.logits(seen, text), referee.logits(seen, part.mismatched)
            penalty, norm = matching_aware_gradient_penalty(
                logit_real,
                (patches, text, pixels) if self.settings.pixel_stem else (patches, text),
                self.settings.penalty_weight,
                self.settings.penalty_power,
            )
            with self._autocast():
                logit_fake = self._judge(fake.patches.detach(), part.asked, fake.pixels.detach())
            loss = discriminator_loss(logit_real, logit_fake, logit_mismatched, penalty)
            torch.autograd.backward(self.scaler.scale(loss / len(parts)), inputs=self._weights_d)
            _add(
                totals,
                len(parts),
                loss_d=loss,
                penalty_norm=norm,
                logit_real=logit_real,
                logit_fake=logit_fake,
                logit_mismatched=logit_mismatched,
            )
        self.scaler.unscale_(self.optimizer_d)
        totals["gradient_d"] = _gradient_norm(self._weights_d)
        self._undo.remember_discriminator()
        self.optimizer_d.step()
        self.optimizer_d.zero_grad()
        return totals, fake if keep_graph else None

    def _generator_half(self, parts: list[_Part], fake: ImageFeatures | None) -> dict[str, Tensor]:
        """L_G and the generator's gradient. The discriminator networks, but no gradient of its weights is computed."""
        totals: dict[str, Tensor] = {}
        self.discriminator.requires_grad_(False)
        for part in parts:
            seen = fake or self._fake_features(part)
            with self._autocast():
                logit_fake = self._judge(seen.patches, part.asked, seen.pixels)
            similarity = clip_similarity(seen.embedding, part.asked)
            loss = generator_loss(logit_fake, similarity, self.settings.clip_weight)
            if self.settings.diversity_weight:
                loss = loss + self.settings.diversity_weight * mode_seeking(seen.embedding, part.asked, part.noise)
            torch.autograd.backward(self.scaler.scale(loss / len(parts)))
            _add(totals, len(parts), loss_g=loss, clip_similarity=similarity)
        self.discriminator.requires_grad_(True)
        self.scaler.unscale_(self.optimizer_g)
        totals["gradient_g"] = _gradient_norm(self._weights_g)
        return totals

    def _fake_features(self, part: _Part) -> ImageFeatures:
        """CLIP(G(z,T)): what the discriminator and the similarity see of the generated images."""
        with self._autocast():
            return self.clip.features(self._draw(part.noise, part.asked, self.clip))

    def _parts(self, batch: Batch) -> list[_Part]:
        """The batch in equal parts; each sentence meets its neighbour in the whole batch as T_mis."""
        text = self.text[batch.captions.to(self.device)]
        tensors = (
            batch.images.to(self.device, non_blocking=True),
            text,
            mismatched(text),
            step_noise(self.settings.seed, self.steps_done, len(text), self.settings.noise_dim).to(self.device),
        )
        size = len(text) // self.settings.grad_accum
        parts = zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)
        return [_Part(images, text, wrong, noise, self._asked(text)) for images, text, wrong, noise in parts]

    def _asked(self, text: Tensor) -> Tensor:
        """The sentences of a part (B,d) or, for mode seeking, half of them twice."""
        return text[: len(text) // 2].repeat(2, 1) if self.settings.diversity_weight else text

    def _autocast(self) -> torch.autocast:
        dtype = DTYPES[self.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype is not torch.float32)

    @contextlib.contextmanager
    def _without_trace(self) -> Iterator[None]:
        """Without gradients, and without leaving a trace in BatchNorm's running statistics."""
        with torch.no_grad(), statistics_untouched(self.generator):
            yield

    def _count(self, finite: bool) -> None:
        """Count the step. One that fp16 lost while its loss scale can still fall is no sign of divergence."""
        scale_can_fall = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        self.scaler.update()
        self.steps_done += 1
        if finite:
            self.not_finite_in_a_row = 0
        elif not scale_can_fall:
            self.not_finite_in_a_row += 1

    def _record(self, values: dict[str, float], skipped: bool, seconds: float) -> StepRecord:
        shown = {name: value if math.isfinite(value) else None for name, value in values.items()}
        batch_size = self.settings.batch_size
        return StepRecord(
            step=self.steps_done,
            epoch=self.steps_done * batch_size / self.images,
            loss_d=shown["loss_d"],
            loss_g=shown["loss_g"],
            penalty_norm=shown["penalty_norm"],
            logit_real=shown["logit_real"],
            logit_fake=shown["logit_fake"],
            logit_mismatched=shown["logit_mismatched"],
            clip_similarity=shown["clip_similarity"],
            lr_g=self.settings.lr_g,
            lr_d=self.settings.lr_d,
            images_per_second=batch_size / seconds,
            memory_mib=peak_memory_mib(self.device),
            skipped=skipped,
        )

    def state(self) -> dict[str, Any]:
        """What besides the networks decides the next step: optimisers and loss scale. Tensors and plain values only."""
        return {
            "optimizer_g": self.optimizer_g.state_dict(),
            "optimizer_d": self.optimizer_d.state_dict(),
            "scaler": self.scaler.state_dict(),
            "not_finite_in_a_row": self.not_finite_in_a_row,
        }

    def load_state(self, state: dict[str, Any], steps_done: int) -> None:
        """Go on from what `state` returned after `steps_done` steps; learning rates and betas stay the settings'."""
        for optimizer, name in ((self.optimizer_g, "optimizer_g"), (self.optimizer_d, "optimizer_d")):
            loaded = state[name]
            for group, own in zip(loaded["param_groups"], optimizer.param_groups, strict=True):
                group.update(lr=own["lr"], betas=own["betas"])
            optimizer.load_state_dict(loaded)
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.not_finite_in_a_row = state["not_finite_in_a_row"]
        self.steps_done = steps_done


class _Undo:
    """Takes back the discriminator's update and the generator's running statistics where a step is not finite."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, optimizer_d: torch.optim.Optimizer) -> None:
        self._statistics = list(generator.buffers())
        self._weights = list(discriminator.parameters())
        self._optimizer_d = optimizer_d
        self.forget()

    def remember_statistics(self) -> None:
        """Copy what a step changes from its beginning on."""
        self._remember(self._statistics)

    def remember_discriminator(self) -> None:
        """Copy what the discriminator's update changes, as late as can be: by now much of the step's memory is free."""
        states = self._optimizer_d.state.values()
        self._is_first_update = not states
        self._remember([*self._weights, *(tensor for state in states for tensor in state.values())])

    @torch.no_grad()
    def restore(self) -> None:
        """Put it back."""
        for tensor, copied in zip(self._tensors, self._copies, strict=True):
            tensor.copy_(copied)
        if self._is_first_update:  # Adam had no state before
            self._optimizer_d.state.clear()
        self.forget()

    def forget(self) -> None:
        """Free the copies."""
        self._tensors: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._is_first_update = False

    def _remember(self, tensors: list[Tensor]) -> None:
        self._tensors += tensors
        self._copies += [tensor.detach().clone() for tensor in tensors]


def resolve_precision(name: str, device: torch.device) -> str:
    """`auto` as bf16 on a CUDA device that has it, else fp32; any other name as it is."""
    if name != "auto":
        return name
    if device.type != "cuda":
        return "fp32"
    with torch.cuda.device(device):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def step_noise(seed: int, step: int, batch_size: int, noise_dim: int) -> Tensor:
    """z ~ N(0,I) (batch_size, noise_dim) of one step: a pure function of the arguments, drawn on the CPU."""
    mixed = int(np.random.SeedSequence((seed, step)).generate_state(1)[0])
    return torch.randn(batch_size, noise_dim, generator=torch.Generator().manual_seed(mixed))


def _gradient_norm(weights: list[nn.Parameter]) -> Tensor:
    """Norm over all their gradients: finite only if every one of them is."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm


def _add(totals: dict[str, Tensor], parts: int, **measured: Tensor) -> None:
    """Add the mean of each measured tensor, as this part's share of the batch."""
    for name, tensor in measured.items():
        totals[name] = totals.get(name, torch.zeros((), device=tensor.device)) + tensor.detach().float().mean() / parts
