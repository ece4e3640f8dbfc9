"""Score a model of the demo: do the images show what their captions say, how varied are they, how far from real ones?

    python examples/demo/score.py ratlip-demo runs/demo-ratlip-seed1

Every number stands beside what the classifier says of real images with the same captions, and beside chance: how often
those real images fit captions that were dealt out anew within their family. `check_scores.py` holds the goals.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import script
import torch
from check_scores import GOALS, table
from classifier import Classifier, load_classifier
from history import here
from rendered_set import STORED, RenderedSet, rendered_set, to_tensor
from scipy import linalg
from torch import Tensor

from ratlip_cli.demo.attributes import ATTRIBUTES, FAMILIES, sample_attributes
from ratlip_cli.demo.render import render
from ratlip_cli.demo.said import holds, said
from ratlip_cli.errors import UsageError
from ratlip_cli.files import write_text
from ratlip_cli.sampling import noise_vectors, sample
from ratlip_cli.training.runs import runs_in
from ratlip_cli.weights.load import find_model, load_model
from ratlip_cli.weights.model_folder import Model

Sampler = Callable[[Sequence[str], int], Tensor]
"""Captions and a seed to one image each (B,3,64,64) in [-1,1]; caption k gets noise vector k of the seed."""

DIVERSITY_CAPTIONS = {
    "bird": ("a red bird with black wings", "a blue bird with yellow wings", "a white bird with a long orange beak"),
    "flower": ("a pink flower with a yellow centre", "a blue flower with a white centre", "a red flower"),
    "face": ("a person with blond hair", "a person with black hair and glasses", "an old person with a red hat"),
}
"""Captions that leave most attributes open."""

NOISES = 64


def fits(classifier: Classifier, images: Tensor, captions: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Attribute -> share of the captions stating it whose image shows it; captions come with their family."""
    right = defaultdict(list)
    for family in FAMILIES:
        rows = [row for row, (own, _) in enumerate(captions) if own == family]
        if not rows:
            continue
        answers = classifier.answers(images[rows], family)
        for place, row in enumerate(rows):
            for attribute, stated in said(family, captions[row][1]).items():
                right[f"{family} {attribute}"].append(holds(answers[attribute][place], stated))
    return {name: round(float(np.mean(hits)), 4) for name, hits in right.items()}


def score_split(
    classifier: Classifier, generate: Sampler, real: RenderedSet, seed: int
) -> tuple[dict[str, dict[str, float]], Tensor]:
    """Scores of a split, one caption a sample, and what was generated for them (B,3,64,64)."""
    rng = np.random.default_rng(seed)
    captions = [
        (FAMILIES[family], texts[rng.integers(len(texts))])
        for family, texts in zip(real.family, real.captions, strict=True)
    ]
    generated = generate([caption for _, caption in captions], seed)
    samples = real.centre(np.arange(len(captions)))
    dealt = np.arange(len(captions))
    for family in FAMILIES:
        dealt[real.rows(family)] = rng.permutation(real.rows(family))
    model, ceiling, chance = (fits(classifier, images, captions) for images in (generated, samples, samples[dealt]))
    return {
        name: {"model": model[name], "real": ceiling[name], "chance": chance[name]} for name in sorted(model)
    }, generated


def entropy(values: Sequence[str]) -> float:
    """Entropy of the values, in bits."""
    _, counts = np.unique(list(values), return_counts=True)
    shares = counts / counts.sum()
    return float((shares * np.log2(1 / shares)).sum())


def real_images(family: str, caption: str, count: int, seed: int) -> Tensor:
    """Rendered images (count,3,64,64) with the attributes that `caption` states, the others as they come."""
    stated = said(family, caption)
    images, number = [], 0
    while len(images) < count:
        rng = random.Random(f"score/{seed}/{caption}/{number}")
        attributes = sample_attributes(family, rng)
        number += 1
        if all(holds(attributes[name], value) for name, value in stated.items()):
            images.append(np.asarray(render(family, attributes, rng, STORED).image))
    start = (STORED - 64) // 2
    return to_tensor(np.stack(images)[:, start : start + 64, start : start + 64])


def nearest_pair(images: Tensor) -> float:
    """Root mean square difference of the two most alike of `images`, in [-1,1]."""
    flat = images.flatten(1)
    return float(torch.pdist(flat).min() / flat.shape[1] ** 0.5)


def score_diversity(classifier: Classifier, generate: Sampler, seed: int) -> list[dict[str, object]]:
    """For each caption: entropy of the open attributes over NOISES images, and of real ones; the most alike pairs."""
    rows: list[dict[str, object]] = []
    for family, captions in DIVERSITY_CAPTIONS.items():
        for caption in captions:
            generated = generate([caption] * NOISES, seed)
            real = real_images(family, caption, 4 * NOISES, seed)
            open_ones = [name for name in ATTRIBUTES[family] if name not in said(family, caption)]
            shown, usual = classifier.answers(generated, family), classifier.answers(real, family)
            ratios = {name: round(entropy(shown[name]) / max(entropy(usual[name]), 1e-9), 3) for name in open_ones}
            pairs = {
                "nearest_pair": round(nearest_pair(generated), 4),
                "nearest_pair_real": round(nearest_pair(real[:NOISES]), 4),
            }
            rows.append({"caption": caption, "entropy_ratio": ratios, **pairs})
    return rows


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared Fréchet distance of two sets of features (N,F), as Gaussians."""
    means, covariances = zip(
        *((rows.mean(axis=0), np.cov(rows, rowvar=False)) for rows in (first, second)), strict=True
    )
    values = linalg.eigvals(covariances[0] @ covariances[1])
    root = np.sqrt(np.clip(values.real, 0, None)).sum()
    return float(((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * root)


@torch.no_grad()
def score_distance(classifier: Classifier, generated: Tensor, seed: int) -> dict[str, float]:
    """Fréchet distance of generated and real images in the classifier's features, beside that of two real sets."""
    others = [rendered_set(split, len(generated), seed) for split in ("test", "train")]
    sets = [generated, *(other.centre(np.arange(len(generated))) for other in others)]
    features = [
        torch.cat([classifier.features(chunk) for chunk in images.split(500)]).double().numpy() for images in sets
    ]
    model, halves = frechet_distance(features[0], features[1]), frechet_distance(features[2], features[1])
    return {"model": round(model, 5), "real_halves": round(halves, 5), "ratio": round(model / halves, 2)}


def sampler(model: Model) -> Sampler:
    """The images of a model."""

    def generate(captions: Sequence[str], seed: int) -> Tensor:
        noise = noise_vectors(seed, range(len(captions)), model.config.generator.noise_dim)
        return sample(model, noise, model.encode(captions), batch_size=8)

    return generate


def score(classifier: Classifier, spec: str, captions: int, seed: int) -> dict[str, object]:
    """The whole report on a model of the demo."""
    model = load_model(spec)
    report: dict[str, object] = {
        "model": spec,
        "fingerprint": model.fingerprint,
        "training_seed": model.config.training["settings"]["seed"],
        "scored": here(Path(__file__).parent),
    }
    generate = sampler(model)
    for split in GOALS:
        report[split], generated = score_split(classifier, generate, rendered_set(split, captions, seed), seed)
        if split == "test":
            report["frechet"] = score_distance(classifier, generated, seed)
    report["diversity"] = score_diversity(classifier, generate, seed)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="model folder, run or name")
    parser.add_argument("--captions", type=int, default=2000, help="captions of a split")
    parser.add_argument("--seed", type=int, default=0, help="of captions and noise")
    parser.add_argument("--json", type=Path, default=Path("runs/demo-scores.json"), help="where the report goes")
    args = parser.parse_args()
    for spec in args.models:
        find_model(spec)  # before the first is scored, which takes long
        if (Path(spec) / "config.toml").is_file() and [run.state for run in runs_in(Path(spec))] != ["finished"]:
            raise UsageError(f"{spec} is no finished run: `ratlip runs {spec}` says how far it is.")
    classifier = load_classifier()
    scores: dict[str, Any] = {"captions": args.captions, "seed": args.seed, "models": []}
    for spec in args.models:
        scores["models"].append(score(classifier, spec, args.captions, args.seed))
        write_text(args.json, json.dumps(scores, indent=2) + "\n")
    print(table(scores))


if __name__ == "__main__":
    script.run(main)
