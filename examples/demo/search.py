"""Search settings of a variant at a small budget: with which does it learn the demo's captions soonest?

    python examples/demo/search.py lafite --steps 400 r1_gamma=0.05,itd=1,itc=10 r1_gamma=0.5,itd=1,itc=10
    python examples/demo/search.py dfgan --dataset demo-birds --steps 1000 lr_g=4e-4,lr_d=8e-4 lr_g=1e-4,lr_d=4e-4

Trains the preset `demo` with each combination, one after another, and scores each by the attribute classifier: how much
of what test captions state their images show, averaged over the attributes that `score.py` has goals for, and the
Fréchet distance in the classifier's features as a multiple of that of two real sets. A run that was scored is
not trained again, and one that was interrupted goes on: by variant, dataset, steps, settings and seed, a score by the
number of captions too.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import script
import torch
from classifier import Classifier, load_classifier
from rendered_set import RenderedSet, rendered_set
from score import GOALS, frechet_distance, sampler, score_split
from torch import Tensor

from ratlip_cli.data.sources.demo import DATASETS
from ratlip_cli.demo.attributes import FAMILIES
from ratlip_cli.files import write_text
from ratlip_cli.training.settings import resolve_settings
from ratlip_cli.training.start import open_session
from ratlip_cli.weights.load import load_model


def train(out: Path, settings: dict[str, object]) -> float:
    """Train, or go on; the seconds of a processor that this process took for it."""
    began = time.process_time()
    session = open_session(resolve_settings({**settings, "out": str(out), "resume": "auto"}))
    for _ in session.run():
        pass
    return time.process_time() - began


def images_of(dataset: str, split: str, count: int) -> RenderedSet:
    """About `count` images of the families that a dataset shows."""
    families = [FAMILIES.index(family) for family in DATASETS[dataset]]
    every = rendered_set(split, count * len(FAMILIES) // len(families), 0)
    rows = np.flatnonzero(np.isin(every.family, families))
    captions, attributes = ([values[row] for row in rows] for values in (every.captions, every.attributes))
    return RenderedSet(every.pixels[rows], every.family[rows], captions, attributes, every.labels[rows])


@torch.no_grad()
def features(classifier: Classifier, images: Tensor) -> np.ndarray:
    return torch.cat([classifier.features(chunk) for chunk in images.split(500)]).double().numpy()


def score(classifier: Classifier, run: Path, test: RenderedSet, train: RenderedSet) -> dict[str, float]:
    """What the model of a run reaches."""
    scores, generated = score_split(classifier, sampler(load_model(str(run))), test, 0)
    real, other = (features(classifier, one.centre(np.arange(len(one.pixels)))) for one in (test, train))
    distance = frechet_distance(features(classifier, generated), real) / frechet_distance(other, real)
    shown = {name: scores[name]["model"] for name in GOALS["test"] if name in scores}
    return {"shown": round(float(np.mean(list(shown.values()))), 4), **shown, "frechet": round(distance, 2)}


def places(args: argparse.Namespace, tried: str) -> tuple[Path, Path]:
    """The run folder of settings, which has all that decides a training in its name, and the file of its score."""
    run: Path = args.out / f"{args.variant}-{args.dataset}-{args.steps}-{tried}-{args.seed}"
    return run, run / f"score-{args.captions}.json"


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant")
    parser.add_argument("tried", nargs="+", metavar="KEY=VALUE,KEY=VALUE", help="settings as in a configuration")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--captions", type=int, default=400, help="test captions that score a run")
    parser.add_argument("--dataset", default="demo", choices=list(DATASETS))
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/search"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parsed(arguments)
    classifier = load_classifier()
    test, other = (images_of(args.dataset, split, args.captions) for split in ("test", "train"))
    every = {"dataset": args.dataset, "data_dir": args.data_dir, "variant": args.variant, "steps": args.steps}
    every |= {"save_every": 100, "sample_every": args.steps, "seed": args.seed}
    for tried in args.tried:
        run, scored = places(args, tried)
        if scored.is_file():
            print(scored.read_text(encoding="utf-8"), end="", flush=True)
            continue
        settings = dict(pair.split("=") for pair in tried.split(","))
        seconds = train(run, {**every, **{name: json.loads(value) for name, value in settings.items()}})
        row = {"tried": tried, "seconds": round(seconds), **score(classifier, run, test, other)}
        write_text(scored, json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    script.run(main)
