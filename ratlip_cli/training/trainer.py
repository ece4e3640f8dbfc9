"""One training step (Section III-D): the discriminator's half, then the generator's.

What the networks are trained for is the objective's; here are order, micro-batches, precision, rollback, EMA, records.
Nothing here prints, writes or reads files. The noise of a step is a pure function of the seed and the step's number,
so what a checkpoint must hold is the networks, the optimisers, the EMA, and the number of steps done.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ratlip_cli import fast
from ratlip_cli.data.dataset import Batch
from ratlip_cli.device import peak_memory_mib
from ratlip_cli.distributed import world
from ratlip_cli.errors import TrainingError
from ratlip_cli.fast.recompute import batch_norms, recompute, statistics_untouched
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.losses import found_wrong, hard_mismatched
from ratlip_cli.training.ema import start_ema, tensors_of, update_ema
from ratlip_cli.training.objectives.objective import Logs, MicroBatch, Negatives, Phase
from ratlip_cli.training.objectives.schedule import scheduled
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.training.word_exchange import WordExchange

_GRADIENT_D, _GRADIENT_G = "gradient norm of D", "gradient norm of G"
"""Measured to see whether a step is finite, and not recorded."""

_STEPS_OF_A_KIND = 10_000
"""Steps at most that are looked at for the kinds of them."""

_OF_OBJECTIVE, _OF_WORDS = 1, 2
"""What tells the objective's random numbers of a step, and those that exchange words, from its noise vectors."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepRecord:
    """What one step did."""

    step: int  # Steps done, this one counted.
    epoch: float | None  # Passes over the training images, this step counted; None for a stream of unknown length.
    logs: Mapping[str, float | None]  # What the objective measured, means over the batch; None where not finite.
    lr_g: float  # Learning rate of the generator.
    lr_d: float  # Learning rate of the discriminator.
    images_per_second: float  # Real images a second in this step, without what reading, sampling and saving take.
    memory_mib: float  # Peak memory so far in MiB.
    skipped: bool  # Whether the step was not finite, and so left everything as it was.

    def line(self) -> dict[str, Any]:
        """Its line in metrics.jsonl."""
        values = dict(vars(self))
        logs = values.pop("logs")
        return {"step": values.pop("step"), "epoch": values.pop("epoch"), **logs, **values}


class Trainer:
    """Generator, discriminator, their optimisers, the generator's EMA, and the step that moves them.

    Args:
        settings: what decides the run.
        clip: the frozen CLIP, on `device`.
        rows: what `Family.rows` made of the captions of the training split, and a row of zeros where images have none:
            a batch's captions index them. None for a stream, whose batches bring their captions, and where none is
            looked at.
        images: number of training images, to count epochs; 0 where it is not known.
        device: where to compute.
        classes: for each row the number of its image's class, see `CaptionedImages.classes`; None where there are none.
        captions: those of `rows`, for hard negatives.
    """

    def __init__(
        self,
        settings: TrainSettings,
        clip: FrozenCLIP,
        rows: Tensor | None,
        images: int,
        device: torch.device,
        classes: NDArray[np.int64] | None = None,
        captions: Sequence[str] = (),
    ) -> None:
        self.settings = settings
        self.clip = clip
        self.rows = (torch.empty(0) if rows is None else rows).to(device)
        self.classes = None if classes is None else torch.from_numpy(classes).to(device)
        self.captions = captions
        self._word_exchange = WordExchange(captions) if settings.hard_negatives else None
        self.stream: list[dict[str, Any]] = []  # Where a stream is: `StreamReader.position` of every process.
        self.images = images
        self.device = device
        self.steps_done = 0
        self.images_seen = 0  # Images in all steps done; another number in each where the batch size changed.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            generator, discriminator = settings.configs()
            self.generator = settings.family.generator(generator, clip.geometry).to(device)
            self.discriminator = settings.family.discriminator(discriminator, clip.geometry).to(device)
        self.world = world()
        fast.for_training(self.generator, self.discriminator)
        if settings.batch_norm == "global":
            for network in (self.generator, self.discriminator):
                self.world.with_global_statistics(network)
        self.ema = start_ema(self.generator)
        # Going through a network's modules takes as long as moving the EMA.
        self._weights_g, self._weights_d = list(self.generator.parameters()), list(self.discriminator.parameters())
        self._averaged, self._current = tensors_of(self.ema), tensors_of(self.generator)
        if settings.recompute:
            recompute(_blocks(self.generator))
        local = (self.generator, self.discriminator) if settings.batch_norm == "local" else ()
        self._own_statistics = _running_statistics(*local)

        self.precision = resolve_precision(settings.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.objective = settings.family.objective(settings, self.generator, self.discriminator, clip, self._autocast)
        self._copied = len(list(self.generator.buffers())) if self.objective.copies_buffers else 0
        self._adam = adam_g, adam_d = self.objective.adam(settings)
        self.optimizer_g = torch.optim.Adam(self._weights_g, lr=adam_g.lr, betas=adam_g.betas, fused=True)
        self.optimizer_d = torch.optim.Adam(self._weights_d, lr=adam_d.lr, betas=adam_d.betas, fused=True)
        self.not_finite_in_a_row = 0
        self.between_steps = True
        """Whether every step is applied whole or not at all: False inside of one, and where one ended half-way."""
        self._undo = _Undo([*self.generator.buffers(), *self.discriminator.buffers()])

    def train_step(self, batch: Batch) -> StepRecord:
        """One step on a batch; it is applied whole or, where anything in it is not finite, not at all.

        Raises TrainingError: the GPU's memory is full. After this and any other error in its two halves the step is
        not applied.
        """
        started = time.perf_counter()
        self.between_steps = False
        self._follow_schedule()
        self._undo.remember_statistics()
        objective_before = self.objective.state()
        try:
            values = self._both_halves(self._micro_batches(batch))
        except BaseException as error:
            self._undo.restore()
            self.objective.load_state(objective_before)
            self.optimizer_d.zero_grad()
            self.optimizer_g.zero_grad()
            self.between_steps = True
            if isinstance(error, torch.OutOfMemoryError):
                raise TrainingError(
                    "the GPU's memory is full; use a smaller --batch-size, or cut it into micro-batches with "
                    "--grad-accum."
                ) from error
            raise
        finite = all(map(math.isfinite, values.values()))
        if finite:
            self.optimizer_g.step()
            self.world.mean_(self._own_statistics)  # so that all have one model, also to score and to go on from
            decay = self.objective.ema_decay(self.settings.ema, self.steps_done, self.images_seen)
            update_ema(self._averaged, self._current, decay, self._copied)
            self._undo.forget()
        else:
            self._undo.restore()
            self.objective.load_state(objective_before)
        self.optimizer_g.zero_grad()
        self._count(finite)
        self.between_steps = True
        return self._record(values, skipped=not finite, seconds=time.perf_counter() - started)

    def kinds_of_steps(self, steps: int) -> dict[int, float]:
        """Of the kinds of steps that do different things one each, by its number, and their share of `steps`.

        The most frequent kind comes first. What differs are the phases, of which a long run's beginning is looked at,
        and whether there are hard negatives.
        """
        steps = max(1, steps)
        without = math.ceil(self.settings.hard_negatives_from * steps) if self._word_exchange else 0
        first: dict[tuple[int, tuple[str, ...]], int] = {}
        shares: defaultdict[int, float] = defaultdict(float)
        for start, end in ((0, without), (without, steps)):
            looked_at = min(end - start, _STEPS_OF_A_KIND)
            for step in range(start, start + looked_at):
                phases = (*self.objective.discriminator_phases(step), *self.objective.generator_phases(step))
                names = tuple(getattr(phase, "__name__", repr(phase)) for phase in phases)
                shares[first.setdefault((start, names), step)] += (end - start) / looked_at / steps
        return dict(sorted(shares.items(), key=lambda one: -one[1]))

    def go_to(self, step: int) -> None:
        """Let step `step`, counted from 0, be the next one, as if all before had this batch size; weights stay."""
        self.steps_done, self.images_seen = step, step * self.settings.batch_size

    def _follow_schedule(self) -> None:
        """Set the learning rates, and tell the objective how much of the run is done."""
        settings = self.settings
        total = settings.total_steps(self.images, self.steps_done, self.images_seen)
        self.objective.progress = progress = min(1.0, self.steps_done / max(1, total))
        share = scheduled(1.0, settings.final_lr, progress, settings.decay_from)
        for optimizer, adam in zip((self.optimizer_g, self.optimizer_d), self._adam, strict=True):
            optimizer.param_groups[0]["lr"] = share * adam.lr

    def _both_halves(self, batches: list[MicroBatch]) -> dict[str, float]:
        """The discriminator's update and the generator's gradient; what was measured on the way."""
        measured, fake = self._discriminator_half(batches)
        measured |= self._generator_half(batches, fake)
        wrong = [batch.negatives.wrong for batch in batches if batch.negatives is not None]
        if wrong:
            measured["hard_negative_share"] = torch.cat(wrong)[:, :-1].any(dim=1).float().mean()
        values = torch.stack(list(measured.values()))
        self.world.mean_([values])
        return dict(zip(measured, values.tolist(), strict=True))  # the one place where the CPU waits for the GPU

    def _discriminator_half(self, batches: list[MicroBatch]) -> tuple[Logs, Any]:
        """The discriminator's updates; they are undone later if the step turns out not finite.

        Returns what was measured and, where there is one micro-batch, the generated images with their graph: the
        generator's half goes on from them instead of generating once more.
        """
        totals: Logs = {}
        phases = self.objective.discriminator_phases(self.steps_done)
        keep_graph = len(batches) == 1 and not self.objective.fresh_fake
        fakes: list[Any] = []
        for number, phase in enumerate(phases):
            for place, batch in enumerate(batches):
                fake = self._fake(batch, keep_graph, len(batches)) if number == 0 else fakes[place]
                if keep_graph or len(phases) > 1:
                    fakes.append(fake)
                loss, logs = phase(batch, fake)
                loss = loss if number else self.scaler.scale(loss)
                torch.autograd.backward(loss / len(batches), inputs=self._weights_d)
                _add(totals, logs, len(batches))
            self._unscale(self.optimizer_d, number, totals, _GRADIENT_D)
            if number == 0:
                self._undo.remember(self.optimizer_d)
            self.optimizer_d.step()
            self.optimizer_d.zero_grad()
        return totals, fakes[0] if keep_graph else None

    def _fake(self, batch: MicroBatch, with_graph: bool, batches: int) -> Any:
        """The generated images of a micro-batch; those that are generated once more move no statistics now."""
        again = batches > 1 and not self.objective.fresh_fake
        untouched = statistics_untouched(self.generator) if again else contextlib.nullcontext()
        with torch.set_grad_enabled(with_graph), untouched:
            return self.objective.fake(batch)

    def _generator_half(self, batches: list[MicroBatch], fake: Any) -> Logs:
        """The generator's updates but for the last, and its gradient. None of the discriminator's is computed."""
        totals: Logs = {}
        phases: Sequence[Phase] = self.objective.generator_phases(self.steps_done)
        self.discriminator.requires_grad_(False)
        try:
            for number, phase in enumerate(phases):
                for batch in batches:
                    first = number == 0 and not self.objective.fresh_fake
                    own = self.objective.fake(batch) if first and fake is None else fake if first else None
                    loss, logs = phase(batch, own)
                    torch.autograd.backward((loss if number else self.scaler.scale(loss)) / len(batches))
                    _add(totals, logs, len(batches))
                self._unscale(self.optimizer_g, number, totals, _GRADIENT_G)
                if number < len(phases) - 1:
                    if number == 0:
                        self._undo.remember(self.optimizer_g)
                    self.optimizer_g.step()
                    self.optimizer_g.zero_grad()
        finally:
            self.discriminator.requires_grad_(True)
        return totals

    def _unscale(self, optimizer: torch.optim.Optimizer, phase: int, totals: Logs, name: str) -> None:
        """Take the loss scale out of the gradients, which the first phase alone has, and add up their norm."""
        weights = optimizer.param_groups[0]["params"]
        self.world.mean_(weight.grad for weight in weights if weight.grad is not None)
        if phase == 0:
            self.scaler.unscale_(optimizer)
        norm = _gradient_norm(weights)
        totals[name] = totals[name] + norm if phase else norm

    def _micro_batches(self, batch: Batch) -> list[MicroBatch]:
        """The batch, or this process's rows of it, in equal micro-batches; each image meets another one's caption."""
        settings, step = self.settings, self.steps_done
        whole = len(batch.images) * self.world.size
        rows = self.world.rows(whole, *settings.shares)
        with torch.no_grad():
            text = settings.family.condition(self.clip, self._rows_of(batch))
            mismatched = self.objective.mismatched(self.world.whole(text, *settings.shares))[rows]
        images = batch.images.to(self.device, non_blocking=True)
        noise = step_noise(settings.seed, step, whole, settings.noise_dim)[rows]
        tensors = (images, text, mismatched, noise.to(self.device))
        drawn = self.objective.draws(whole, _generator(settings.seed, step, _OF_OBJECTIVE))
        drawn = {name: tensor[rows] for name, tensor in drawn.items()}
        count = len(rows)
        size = count // settings.grad_accum
        split = zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)
        draws = [
            {name: tensor[start : start + size].to(self.device) for name, tensor in drawn.items()}
            for start in range(0, count, size)
        ]
        classes = self._classes_of(batch)
        of_classes = [None] * len(draws) if classes is None else torch.split(classes, size)
        batches = [
            MicroBatch(images, text, mismatched, noise, self.objective.fake_text(text), own, None, classes)
            for (images, text, mismatched, noise), own, classes in zip(split, draws, of_classes, strict=True)
        ]
        if self._word_exchange is None or self.objective.progress < settings.hard_negatives_from:
            return batches
        texts = self._exchanged(self._word_exchange, batch, rows)
        return [
            self._with_negatives(micro, texts[start : start + size], rows[start : start + size])
            for micro, start in zip(batches, range(0, count, size), strict=True)
        ]

    @torch.no_grad()
    def _with_negatives(self, batch: MicroBatch, texts: list[list[str]], rows: list[int]) -> MicroBatch:
        """A micro-batch with its images' captions that have a word exchanged; every second image is told from one.

        The other images are told from their neighbours' captions, and all count as negatives: without them large
        things are learned late.
        """
        with self._autocast():
            vectors = self.clip.encode_image(batch.images)
        captions = self.settings.family.encode(self.clip, [text for several in texts for text in several])
        captions = torch.cat((captions.view(len(texts), -1, captions.shape[1]), batch.mismatched[:, None]), dim=1)
        wrong = found_wrong(batch.text, vectors, captions, self.clip.logit_scale)
        second = torch.tensor(rows, device=wrong.device)[:, None] % 2 == 1
        mismatched = hard_mismatched(captions, wrong & second, batch.mismatched)
        return batch._replace(mismatched=mismatched, negatives=Negatives(captions, wrong))

    def _exchanged(self, exchange: WordExchange, batch: Batch, rows: list[int]) -> list[list[str]]:
        """For each caption of a batch `hard_negatives` others, which are a function of seed and step.

        Args:
            rows: of the whole batch, those of this process.
        """
        shape = (self.settings.hard_negatives, 2)
        rng = _generator(self.settings.seed, self.steps_done, _OF_WORDS)
        chances = torch.rand(len(batch.images) * self.world.size, *shape, generator=rng, dtype=torch.float64)[rows]
        captions = [] if isinstance(batch.captions, tuple) else batch.captions.tolist()  # a stream has none
        owns = [self.captions[number] if 0 <= number < len(self.captions) else "" for number in captions]
        return [exchange.exchanged(own, few) for own, few in zip(owns, chances.tolist(), strict=True)]

    def _classes_of(self, batch: Batch) -> Tensor | None:
        """The numbers of the classes of a batch's images (B,); None where they are not known."""
        if self.classes is None or isinstance(batch.captions, tuple):
            return None
        captions = batch.captions.to(self.device)
        return torch.where(captions < 0, -1, self.classes[captions])

    def _rows_of(self, batch: Batch) -> Tensor:
        if not self.settings.reads_captions:
            return torch.zeros(len(batch.captions), self.clip.geometry.embed_dim, device=self.device)
        if not isinstance(batch.captions, tuple):
            return self.rows[batch.captions.to(self.device)]
        captioned = [number for number, caption in enumerate(batch.captions) if caption]
        if len(captioned) == len(batch.captions):
            return self.settings.family.rows(self.clip, batch.captions)
        rows = torch.zeros(len(batch.captions), self.clip.geometry.embed_dim, device=self.device)
        if captioned:
            rows[captioned] = self.settings.family.rows(self.clip, [batch.captions[number] for number in captioned])
        return rows

    def _autocast(self) -> torch.autocast:
        dtype = DTYPES[self.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype is not torch.float32)

    def _count(self, finite: bool) -> None:
        """Count the step. One that fp16 lost while its loss scale can still fall is no sign of divergence."""
        scale_can_fall = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        self.scaler.update()
        self.steps_done += 1
        self.images_seen += self.settings.batch_size
        if finite:
            self.not_finite_in_a_row = 0
        elif not scale_can_fall:
            self.not_finite_in_a_row += 1

    def _record(self, values: dict[str, float], skipped: bool, seconds: float) -> StepRecord:
        logs = {
            name: value if math.isfinite(value) else None
            for name, value in values.items()
            if name not in (_GRADIENT_D, _GRADIENT_G)
        }
        batch_size = self.settings.batch_size
        return StepRecord(
            step=self.steps_done,
            epoch=self.images_seen / self.images if self.images else None,
            logs=logs,
            lr_g=self.optimizer_g.param_groups[0]["lr"],
            lr_d=self.optimizer_d.param_groups[0]["lr"],
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
            "objective": self.objective.state(),
            "not_finite_in_a_row": self.not_finite_in_a_row,
            "stream": self.stream,
        }

    def load_state(self, state: dict[str, Any], steps_done: int, images_seen: int) -> None:
        """Go on from what `state` returned after so many steps; learning rates and betas stay the settings'."""
        for optimizer, name in ((self.optimizer_g, "optimizer_g"), (self.optimizer_d, "optimizer_d")):
            loaded = state[name]
            for group, own in zip(loaded["param_groups"], optimizer.param_groups, strict=True):
                group.update(lr=own["lr"], betas=own["betas"])
            optimizer.load_state_dict(loaded)
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.objective.load_state(state.get("objective", {}))
        self.stream = state.get("stream", [])
        self.not_finite_in_a_row = state["not_finite_in_a_row"]
        self.steps_done, self.images_seen = steps_done, images_seen


class _Undo:
    """Takes back updates of weights, and running statistics, where a step is not finite.

    Args:
        statistics: the buffers of both networks.
    """

    def __init__(self, statistics: list[Tensor]) -> None:
        self._statistics = statistics
        self.forget()

    def remember_statistics(self) -> None:
        """Copy what a step changes from its beginning on."""
        self._copy(self._statistics)

    def remember(self, optimizer: torch.optim.Optimizer) -> None:
        """Copy what an optimiser's update changes, as late as can be: by now much of the step's memory is free."""
        weights, states = optimizer.param_groups[0]["params"], optimizer.state.values()
        if not states:
            self._first_updates.append(optimizer)
        self._copy([*weights, *(tensor for state in states for tensor in state.values())])

    @torch.no_grad()
    def restore(self) -> None:
        """Put it back."""
        for tensor, copied in zip(self._tensors, self._copies, strict=True):
            tensor.copy_(copied)
        for optimizer in self._first_updates:  # Adam had no state before
            optimizer.state.clear()
        self.forget()

    def forget(self) -> None:
        """Free the copies."""
        self._tensors: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._first_updates: list[torch.optim.Optimizer] = []

    def _copy(self, tensors: list[Tensor]) -> None:
        copies = [tensor.detach().clone() for tensor in tensors]
        self._tensors += tensors
        self._copies += copies


def resolve_precision(name: str, device: torch.device) -> str:
    """`auto` as bf16 on a CUDA device that has it, else fp32; any other name as it is."""
    if name != "auto":
        return name
    if device.type != "cuda":
        return "fp32"
    with torch.cuda.device(device):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def step_noise(seed: int, step: int, batch_size: int, noise_dim: int) -> Tensor:
    """z ~ N(0,I) (batch_size, noise_dim) of one step: a pure function of the arguments, made on the CPU."""
    return torch.randn(batch_size, noise_dim, generator=_generator(seed, step))


def _generator(*entropy: int) -> torch.Generator:
    mixed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    return torch.Generator().manual_seed(mixed)


def _gradient_norm(weights: list[nn.Parameter]) -> Tensor:
    """Norm over all their gradients: finite only if every one of them is."""
    return torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])


def _add(totals: Logs, logs: Logs, count: int) -> None:
    """Add the mean of each log, as the share of one of `count` micro-batches."""
    for name, tensor in logs.items():
        totals[name] = totals.get(name, torch.zeros((), device=tensor.device)) + tensor.detach().float().mean() / count


def _running_statistics(*networks: nn.Module) -> list[Tensor]:
    """The means and variances that BatchNorm keeps for sampling."""
    norms = [norm for network in networks for norm in batch_norms(network)]
    return [tensor for norm in norms for tensor in (norm.running_mean, norm.running_var) if tensor is not None]


def _blocks(generator: nn.Module) -> nn.ModuleList:
    blocks = generator.get_submodule("blocks")
    if not isinstance(blocks, nn.ModuleList):
        raise TypeError(f"the blocks of {type(generator).__name__} are no ModuleList")
    return blocks
