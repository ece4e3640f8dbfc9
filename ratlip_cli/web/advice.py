"""What a run's records warn of, in words, with the setting that helps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from ratlip_cli.training.objectives.lafite import usual_r1_gamma
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.training.variety import OVER_CAPTIONS, UNDER_ONE_CAPTION, Watch
from ratlip_cli.web.records import Metrics

RECENT = 200
"""Last steps whose means are looked at."""

EARLY = 500
"""Steps before which a run has no habits to warn of."""

_WORSE = 1.1
"""How many times its best value a Fréchet distance must be to count as worse."""

_ABOVE_CHANCE = 0.05
"""How far above chance a contrastive term must be to say anything."""


def advice(metrics: Metrics, settings: TrainSettings) -> list[str]:
    """A line for each thing that goes wrong in a run by its records."""
    found = [
        _not_finite(metrics),
        _too_like(metrics, settings),
        _penalty(metrics, settings),
        _one_sided(metrics),
        _deaf(metrics),
        _at_chance(metrics, settings),
        _worse(metrics),
    ]
    return [*_collapsed(metrics), *(line for line in found if line)]


def recent(metrics: Metrics, name: str) -> float | None:
    """Mean of the last RECENT values; None where there are none."""
    values: Sequence[float] = metrics.values(name)[-RECENT:]
    return fmean(values) if values else None


def _collapsed(metrics: Metrics) -> list[str]:
    watch, last = Watch(), dict[str, str]()
    for name in (UNDER_ONE_CAPTION, OVER_CAPTIONS):
        for step, value in zip(metrics.steps(name), metrics.values(name), strict=True):
            for line in watch.fallen(step, {name: value}):
                last[name] = line
    return [f"The images collapse: {line}." for name, line in last.items() if name in watch.low]


def _not_finite(metrics: Metrics) -> str | None:
    if not metrics.skipped:
        return None
    last = metrics.skipped[-1]
    return (
        f"{len(metrics.skipped):,} of {metrics.last_step:,} steps were not finite and not applied, step {last:,} the "
        "last: try a lower --lr-d and --lr-g, a larger --batch-size, or --precision fp32."
    )


def _too_like(metrics: Metrics, settings: TrainSettings) -> str | None:
    fake, real = recent(metrics, "clip_similarity"), recent(metrics, "clip_similarity_real")
    if fake is None or real is None or fake <= real:
        return None
    remedy = "Lower --similarity-weight, or let it fall by --final-similarity-weight and --decay-from."
    if "similarity_weight" in settings.family.unused:
        remedy = "An earlier checkpoint may look better."
    return (
        f"The CLIP similarity of generated images ({fake:.3f}) is above that of real images ({real:.3f}): they please "
        f"CLIP more than they look real. {remedy}"
    )


def _penalty(metrics: Metrics, settings: TrainSettings) -> str | None:
    found = _of_gradients(metrics, settings)
    losses = metrics.values("loss_d")[-RECENT:]
    if found is None or not losses:
        return None
    measured, term = found
    loss = fmean(losses)
    if term < 10 or term < 0.5 * loss:
        return None
    return (
        f"The gradient penalty explodes: {measured} and its term {term:.3g}, of a discriminator's loss of {loss:.3g}. "
        "Lower --lr-d, or go on from an earlier checkpoint by --resume with --out."
    )


def _of_gradients(metrics: Metrics, settings: TrainSettings) -> tuple[str, float] | None:
    """What was measured of the discriminator's gradient, in words, and the penalty's share of the loss; None of none.

    A penalty is the paper's power of a norm, or R1, which is computed every few steps.
    """
    if "r1_gamma" in settings.objective and (squares := _of_last_steps(metrics, "r1")):
        gamma = float(settings.objective["r1_gamma"]) or usual_r1_gamma(settings.image_size, settings.batch_size)
        return (
            f"R1, the square of the gradient's norm, is {fmean(squares):.3g}",
            gamma / 2 * fmean(squares),
        )
    norms = _of_last_steps(metrics, "penalty_norm")
    if not norms or "penalty_power" in settings.family.unused:
        return None
    # The norms are means over batches, and the power of a mean is at most the mean of powers: so is this of the term.
    try:
        term = fmean(settings.penalty_weight * max(norm, 0.0) ** settings.penalty_power for norm in norms)
    except OverflowError:
        term = math.inf
    return f"its norm is {fmean(norms):.2f}", term


def _of_last_steps(metrics: Metrics, name: str) -> Sequence[float]:
    """The values in the last RECENT steps, or the last one where that is longer ago."""
    both = list(zip(metrics.steps(name), metrics.values(name), strict=True))
    return [value for step, value in both if step > metrics.last_step - RECENT] or [value for _, value in both[-1:]]


def _one_sided(metrics: Metrics) -> str | None:
    real, fake = recent(metrics, "logit_real"), recent(metrics, "logit_fake")
    if real is None or fake is None or metrics.last_step < EARLY or real < 1 or fake > -1 or real - fake < 6:
        return None
    return (
        f"The discriminator has won: its logit is {real:.2f} for real images and {fake:.2f} for generated ones, so "
        "that it no longer teaches. Lower --lr-d, or raise --lr-g."
    )


def _deaf(metrics: Metrics) -> str | None:
    real, mismatched = recent(metrics, "logit_real"), recent(metrics, "logit_mismatched")
    if real is None or mismatched is None or metrics.last_step < EARLY or real - mismatched > 0.05:
        return None
    return (
        f"The discriminator does not read the text: its logit is {real:.2f} for images with their captions and "
        f"{mismatched:.2f} with others'. Check that captions fit their images; more --steps or a larger --batch-size "
        "help."
    )


def _at_chance(metrics: Metrics, settings: TrainSettings) -> str | None:
    """The same of a discriminator that tells a batch's images by their text, and of the images that it tells."""
    weights = settings.objective
    if metrics.last_step < EARLY or not (weights.get("itd") and weights.get("temperature")):
        return None
    chance = -math.log(settings.batch_size // settings.grad_accum)
    if weights.get("double_exponential"):
        chance += math.log(float(weights["temperature"]))
    for name, whose in (("match_real", "real images"), ("match_fake", "generated images")):
        match = recent(metrics, name)
        if match is not None and match - chance < _ABOVE_CHANCE:
            return (
                f"{whose.capitalize()} are not told by their text: {name} is {match:.2f}, by chance {chance:.2f}. "
                "Check that captions fit their images; a higher --itd, more --steps or a larger --batch-size help."
            )
    return None


def _worse(metrics: Metrics) -> str | None:
    for name in metrics.scores:
        if not name.startswith("fid"):
            continue
        steps, values = metrics.steps(name), metrics.values(name)
        best = min(range(len(values)), key=lambda place: values[place])
        if values[-1] > _WORSE * values[best]:
            return (
                f"{name} is {values[-1]:.4g} and was {values[best]:.4g} at step {steps[best]:,}: the model gets worse. "
                "The best one is kept in best/; --decay-from with --final-lr calms the end of a run."
            )
    return None
