"""Search LAFITE's gamma, itd and itc at a small budget: which learn the demo's captions soonest?

    python examples/demo/search_lafite.py --steps 400 0.05,1,1 0.5,1,1 0.05,5,1 0.05,1,10

Trains the preset `demo` with each combination, one after another, and scores each by the attribute classifier: how much
of what test captions state their images show, averaged over the attributes that `score.py` has goals for, and the
Fréchet distance in the classifier's features as a multiple of that of two real sets. A combination whose run is there
already is not trained again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from check_scores import GOALS
from classifier import load_classifier
from rendered_set import rendered_set
from score import sampler, score_distance, score_split

from ratlip_cli.files import write_text
from ratlip_cli.training.settings import resolve_settings
from ratlip_cli.training.start import open_session
from ratlip_cli.weights.load import load_model


def train(out: Path, settings: dict[str, object]) -> None:
    if not (out / "model").is_dir():
        for _ in open_session(resolve_settings({**settings, "out": str(out)})).run():
            pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tried", nargs="+", metavar="GAMMA,ITD,ITC")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--captions", type=int, default=400, help="test captions that score a run")
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--out", type=Path, default=Path("runs/search-lafite"))
    args = parser.parse_args()
    classifier, real = load_classifier(), rendered_set("test", args.captions, 0)
    for gamma, itd, itc in ([float(number) for number in one.split(",")] for one in args.tried):
        run = args.out / f"gamma{gamma:g}-itd{itd:g}-itc{itc:g}"
        settings = {"dataset": args.dataset, "data_dir": args.data_dir, "variant": "lafite", "steps": args.steps}
        schedule = {"save_every": args.steps, "sample_every": args.steps}
        train(run, {**settings, **schedule, "r1_gamma": gamma, "itd": itd, "itc": itc})
        scores, generated = score_split(classifier, sampler(load_model(str(run))), real, 0)
        row = {
            "gamma": gamma,
            "itd": itd,
            "itc": itc,
            "shown": round(float(np.mean([scores[name]["model"] for name in GOALS["test"]])), 4),
            "bird body": scores["bird body"]["model"],
            "frechet": score_distance(classifier, generated, 0)["ratio"],
        }
        write_text(run / "score.json", json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
