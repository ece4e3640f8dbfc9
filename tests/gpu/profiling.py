"""Step "profile": where the time of one training step and of one batch of images goes, operation by operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from harness import batch_of, chosen_swaps, shared_trainer, swapped, synchronise
from report import Context
from torch.profiler import ProfilerActivity, profile

from ratlip_cli import fast

ROWS = 40


def run(context: Context) -> None:
    """Both in bf16, as a run on a GPU has it."""
    trainer, count = shared_trainer(context), 2 if context.tiny else 32
    trainer.precision = "bf16"
    swaps = chosen_swaps(context)
    with swapped(trainer, swaps):
        batch = batch_of(trainer, count)
        table(context, "training step", lambda: trainer.train_step(batch))
        sampler = fast.for_sampling(trainer.ema, trainer.clip, swaps)
        noise, text = torch.randn(count, trainer.settings.noise_dim, device=context.device), trainer.rows[:count]

        @torch.no_grad()
        def sample() -> None:
            with torch.autocast(context.device.type, torch.bfloat16):
                sampler.generator(noise, text, trainer.clip)

        table(context, "generate", sample)


def table(context: Context, name: str, work: Callable[[], Any]) -> None:
    """Note the operations that take longest, by their own time on the device (of the CPU where there is no GPU)."""
    work()
    synchronise(context.device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if context.on_gpu else [])]
    with profile(activities=activities, record_shapes=False) as recorded:
        work()
        synchronise(context.device)
    own = "self_device_time_total" if context.on_gpu else "self_cpu_time_total"
    events = sorted(recorded.key_averages(), key=lambda event: -getattr(event, own))
    total = sum(getattr(event, own) for event in events)
    context.note(
        name,
        {
            "milliseconds": total / 1000,
            "operations": sum(event.count for event in events),
            "table": [
                {
                    "name": event.key[:120],
                    "calls": event.count,
                    "own ms": getattr(event, own) / 1000,
                    "cpu ms": event.self_cpu_time_total / 1000,
                }
                for event in events[:ROWS]
            ],
        },
    )
    for event in events[:3]:
        context.row(f"{name}: {event.key[:30]}", f"{getattr(event, own) / max(total, 1e-9):.0%}")
