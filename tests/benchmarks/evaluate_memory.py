"""Peak memory of `ratlip evaluate` on many images, as a multiple of that on few.

    python tests/benchmarks/evaluate_memory.py [--few 200] [--many 5000] [--features clip|inception]

Scores folders of captioned 32-pixel images by every metric, with the bundled CLIP or with Inception on weights from a
formula. Prints one JSON object; exits with 1 where the ratio is above the limit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from formula_weights import write_inception

from ratlip_cli.environment import cpu_name

LIMIT = 1.1
METRICS = ("--fid", "--kid", "--precision-recall", "--clip-score", "--r-precision")


def write_images(folder: Path, count: int, seed: int) -> Path:
    folder.mkdir()
    random = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(random.integers(0, 256, size=(32, 32, 3), dtype=np.uint8)).save(folder / f"{number:05d}.png")
        (folder / f"{number:05d}.txt").write_text(f"an image of {number} birds\n", encoding="utf-8")
    return folder


def peak_mib(images: Path, reference: Path, *options: str) -> float:
    command = [sys.executable, "-m", "ratlip_cli", "evaluate", "--images", str(images), "--reference", str(reference)]
    process = subprocess.Popen([*command, *METRICS, *options, "--quiet"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"ratlip evaluate ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=200)
    parser.add_argument("--many", type=int, default=5000)
    parser.add_argument("--features", choices=("clip", "inception"), default="clip")
    arguments = parser.parse_args()
    options = ["--features", arguments.features, "--clip", "ratlip-demo", "--device", "cpu"]
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.features == "inception":
            options += ["--inception-weights", str(write_inception(Path(scratch) / "inception.pth"))]
        peaks = {}
        for count in (arguments.few, arguments.many):
            fake = write_images(Path(scratch) / f"fake{count}", count, 0)
            real = write_images(Path(scratch) / f"real{count}", count, 1)
            peaks[count] = round(peak_mib(fake, real, *options), 1)
    ratio = round(peaks[arguments.many] / peaks[arguments.few], 3)
    told = {"cpu": cpu_name(), "features": arguments.features, "peak MiB by images": peaks}
    print(json.dumps({**told, "ratio": ratio, "limit": LIMIT}))
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
