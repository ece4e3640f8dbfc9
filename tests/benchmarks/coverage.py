"""How often 95 % intervals of a mean over seeds and images cover the truth, by several ways to make them.

    python tests/benchmarks/coverage.py --draws 1000

Scores of S seeds and 100 images around 0: an effect of the seed, one of the image, and one of both together.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ratlip_cli.experiments.statistics import estimate, mean_sample, resamples

SPREADS = {
    "seeds": (1, 0, 3),
    "images": (0.1, 2, 1),
    "both": (0.5, 1, 2),
    "neither alone": (0, 0, 1),
}
"""Standard deviations of the three effects, by where most of the mean's variance comes from."""

IMAGES, RESAMPLES = 100, 400

Scores = NDArray[np.float64]


def percentile(scores: Scores, random: np.random.Generator) -> tuple[float, float]:
    """The plain hierarchical bootstrap: seeds are resampled, then images."""
    seeds, n = scores.shape
    chosen, counts = random.integers(seeds, size=(RESAMPLES, seeds)), resamples(n, RESAMPLES) / n
    low, high = np.quantile((scores[chosen].mean(axis=1) * counts).sum(axis=1), (0.025, 0.975))
    return float(low), float(high)


def over_seeds(scores: Scores) -> tuple[float, float]:
    """Student's t over the seeds alone."""
    means = scores.mean(axis=1)
    low, high = stats.t.interval(0.95, len(means) - 1, means.mean(), stats.sem(means))
    return float(low), float(high)


def satterthwaite(scores: Scores) -> tuple[float, float]:
    """The variance of the module, and one t with the degrees of freedom of Satterthwaite (1946)."""
    seeds, n = scores.shape
    of_seeds = scores.mean(axis=1).var(ddof=1) / seeds
    together, each = scores.mean(axis=0).var(ddof=1) / n, scores.var(axis=1, ddof=1).mean() / n
    of_images = max(together - (each - together) / (seeds - 1), 0.0)
    variance = of_seeds + of_images
    degrees = variance**2 / (of_seeds**2 / (seeds - 1) + of_images**2 / (n - 1))
    half = stats.t.ppf(0.975, degrees) * np.sqrt(variance)
    return float(scores.mean() - half), float(scores.mean() + half)


def ours(scores: Scores) -> tuple[float, float]:
    """Those of the package."""
    own = estimate(mean_sample(range(len(scores)), scores))
    return float(own.low or 0), float(own.high or 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--skewed", action="store_true", help="exponential effects instead of normal ones")
    args = parser.parse_args()
    print("| most of the variance from | seeds | percentile bootstrap | t over seeds alone | Satterthwaite | ours |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, (of_seed, of_image, of_both) in SPREADS.items():
        for seeds in (3, 5):
            random = np.random.default_rng([seeds, len(name)])

            def effect(*shape: int, random: np.random.Generator = random) -> Scores:
                return random.exponential(1, shape) - 1 if args.skewed else random.standard_normal(shape)

            covered = []
            for _ in range(args.draws):
                scores = of_seed * effect(seeds, 1) + of_image * effect(1, IMAGES) + of_both * effect(seeds, IMAGES)
                made = (percentile(scores, random), over_seeds(scores), satterthwaite(scores), ours(scores))
                covered.append([low < 0 < high for low, high in made])
            cells = " | ".join(f"{share:.1%}" for share in np.mean(covered, axis=0))
            print(f"| {name} ({of_seed:g} : {of_image:g} : {of_both:g}) | {seeds} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
