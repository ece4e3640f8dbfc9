"""Images a second of ratlip's FID, as a multiple of torch-fidelity's on the same two folders in the same run.

    python tests/benchmarks/evaluate_speed.py [--images 64] [--side 128] [--rounds 3] [--device cpu|cuda]

Both use Inception on the same weights from a formula, and both compute everything: nothing is cached. Prints one JSON
object; exits with 1 where ratlip is slower.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch_fidelity import calculate_metrics

sys.path.insert(0, str(Path(__file__).parents[1]))
from formula_weights import write_inception

from ratlip_cli.environment import machine
from ratlip_cli.evaluation.request import EvaluationRequest
from ratlip_cli.evaluation.run import evaluate


def write_images(folder: Path, count: int, side: int) -> Path:
    folder.mkdir()
    random = np.random.default_rng(count)
    for number in range(count):
        small = Image.fromarray(random.integers(0, 256, size=(8, 8, 3), dtype=np.uint8))
        small.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number:05d}.png")
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        weights = write_inception(Path(scratch) / "inception.pth")
        fake = write_images(Path(scratch) / "fake", options.images, options.side)
        real = write_images(Path(scratch) / "real", options.images + 1, options.side)

        def ratlip() -> float:
            shutil.rmtree(real / ".features", ignore_errors=True)
            request = EvaluationRequest(
                images=fake, reference=real, metrics=("fid",), inception_weights=weights, device=options.device
            )
            return evaluate(request).score("fid").value

        def torch_fidelity() -> float:
            return calculate_metrics(
                input1=str(fake),
                input2=str(real),
                fid=True,
                feature_extractor_weights_path=str(weights),
                cuda=options.device == "cuda",
                cache=False,
                verbose=False,
            )["frechet_inception_distance"]

        programs: dict[str, Callable[[], float]] = {"ratlip": ratlip, "torch-fidelity": torch_fidelity}
        rounds, values = [], {}
        for _ in range(options.rounds):
            seconds = {}
            for name, program in programs.items():
                started = time.perf_counter()
                values[name] = program()
                seconds[name] = time.perf_counter() - started
            rounds.append(seconds)
    total = 2 * options.images + 1
    rates = {name: round(total / statistics.median(one[name] for one in rounds), 2) for name in programs}
    ratio = round(statistics.median(one["torch-fidelity"] / one["ratlip"] for one in rounds), 3)
    told = {"device": options.device, "machine": machine(torch.device(options.device)), "images/s": rates}
    print(json.dumps({**told, "ratio": ratio, "limit": 1, "fid": values}))
    return int(ratio < 1)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    sys.exit(main())
