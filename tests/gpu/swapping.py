"""Step "swaps": each accelerated module against the plain one, alone and all together; what SWAPS should say."""

from __future__ import annotations

from typing import Any

import torch
from harness import (
    DTYPES,
    NONE,
    batch_of,
    in_layout,
    seconds_of,
    shared_trainer,
    swapped,
    usable,
    with_peak,
)
from report import Context

from ratlip_cli import fast
from ratlip_cli.fast import Swap
from ratlip_cli.training.trainer import Trainer

BATCH = 32
WIN, LOSS = 0.05, 0.02
"""The share of the time that a swap must save in training, sampling or encoding captions, and may cost in another."""
DECIDING = "bf16"
"""The precision that `--precision auto` takes on a GPU."""
SAMPLING, ENCODING = frozenset({Swap.FOLDED, Swap.PACKED}), frozenset({Swap.CLIP_CAPTIONS})
"""The swaps that nothing else takes than sampling, and than encoding captions."""
CAPTION = "a small red bird with black wings and a long beak"


def run(context: Context) -> None:
    """Measure in both precisions, the deciding one first; then say which swaps win."""
    trainer = shared_trainer(context)
    try:
        for precision in (DECIDING, "fp32"):
            measure_all(context, trainer, precision)
            if precision == DECIDING:
                decide(context, trainer)
    finally:
        if "verdict" not in context.figures:
            decide_from_figures(context)


def contenders(device: torch.device) -> dict[str, tuple[frozenset[Swap], bool]]:
    """Name -> swaps, and whether in channels last."""
    ours = usable(device)
    return {
        "plain": (NONE, False),
        "all": (frozenset(ours), False),
        **{swap.value: (frozenset({swap}), False) for swap in ours},
        "plain, channels last": (NONE, True),
        "all, channels last": (frozenset(ours), True),
        "plain again": (NONE, False),
    }


def measure_all(context: Context, trainer: Trainer, precision: str) -> None:
    """Training step and sampling of every contender."""
    for name, (swaps, channels_last) in contenders(context.device).items():
        try:
            context.note(f"{name}, {precision}", measured(context, trainer, precision, swaps, channels_last))
        except Exception as error:
            context.attempt(f"{name}, {precision}", error)


def measured(
    context: Context, trainer: Trainer, precision: str, swaps: frozenset[Swap], channels_last: bool = False
) -> dict[str, Any]:
    """Seconds and memory of a training step, of sampling one batch and of encoding its captions, with these swaps."""
    device, budget = context.device, 0.0 if context.tiny else 0.4
    count = 2 if context.tiny else BATCH
    found: dict[str, Any] = {}
    trainer.precision = precision
    with in_layout(trainer, channels_last), swapped(trainer, swaps):
        if not swaps or swaps >= ENCODING:
            captions = [CAPTION] * count
            encoding, spread = seconds_of(lambda: trainer.clip.encode_text(captions), device, budget / 4)
            found |= {"encoding seconds": encoding, "encoding spread": spread}
        if not swaps or swaps - SAMPLING - ENCODING:
            batch = batch_of(trainer, count)
            (step, spread), peak = with_peak(
                device, lambda: seconds_of(lambda: trainer.train_step(batch), device, budget)
            )
            found |= {"training seconds": step, "training spread": spread, "training gib": peak}
        if not swaps or swaps - ENCODING - {Swap.REFEREE}:
            sampler = fast.for_sampling(trainer.ema, trainer.clip, swaps)
            noise = torch.randn(count, trainer.settings.noise_dim, device=device)
            text = trainer.rows[:count]

            @torch.no_grad()
            def sample() -> torch.Tensor:
                with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
                    images: torch.Tensor = sampler.generator(noise, text, trainer.clip)
                    return images

            (seconds, spread), peak = with_peak(device, lambda: seconds_of(sample, device, budget / 4))
            found |= {"sampling seconds": seconds, "sampling spread": spread, "sampling gib": peak}
    return found


def gains(figures: dict[str, Any], name: str, precision: str) -> dict[str, float]:
    """The share of the plain time that a contender saves in each work, where it was measured."""
    plain, again, own = (figures.get(f"{one}, {precision}", {}) for one in ("plain", "plain again", name))
    saved = {}
    for work in ("training", "sampling", "encoding"):
        key = f"{work} seconds"
        if key in plain and key in own:
            saved[work] = 1 - own[key] / min(plain[key], again.get(key, plain[key]))
    return saved


def wins(saved: dict[str, float]) -> bool:
    """Whether a swap pays."""
    return bool(saved) and max(saved.values()) >= WIN and min(saved.values()) >= -LOSS


def decide_from_figures(context: Context) -> frozenset[Swap]:
    """Note for each swap what it saves and whether it wins, and the line for fast/swaps.py."""
    verdict: dict[str, Any] = {}
    chosen = []
    for swap in usable(context.device):
        saved = gains(context.figures, swap.value, DECIDING)
        verdict[swap.value] = {**saved, "wins": wins(saved)}
        if wins(saved):
            chosen.append(swap)
        shown = ", ".join(f"{work} {share:+.1%}" for work, share in saved.items()) or "unmeasured"
        context.row(f"{swap.value} saves", f"{shown}{'  WINS' if wins(saved) else ''}")
    literal = f'"{context.device.type}": frozenset({{{", ".join(f"Swap.{swap.name}" for swap in chosen)}}})'
    literal = literal.replace("({})", "()")
    context.figures["verdict"] = verdict
    context.note("literal", literal)
    context.row("SWAPS should say", literal)
    context.shared["chosen"] = frozenset(chosen)
    return frozenset(chosen)


def decide(context: Context, trainer: Trainer) -> None:
    """The verdict, and the winners together."""
    chosen = decide_from_figures(context)
    if chosen:
        context.note(f"chosen, {DECIDING}", measured(context, trainer, DECIDING, chosen))
        together = gains(context.figures, "chosen", DECIDING)
        context.row("all winners save", ", ".join(f"{work} {share:+.1%}" for work, share in together.items()))
