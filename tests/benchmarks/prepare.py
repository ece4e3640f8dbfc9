"""`ratlip prepare` with two workers against a plain loop of Pillow that does the same resize; and its memory.

    python tests/benchmarks/prepare.py [COUNT]

COUNT (2,000 if left out) photographs of 500 x 375 pixels are generated. Prints one JSON object: how many times as fast
prepare is as a loop that saves as Pillow does by itself, and as one with prepare's own compression (medians of three
rounds); its rate; and the peak memory of all its processes together, for a quarter of the photographs and for all.
Exits with 1 where the first ratio is below the limit. It tells something on a machine with two idle cores alone.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ratlip_cli.data.layout import stored_side
from ratlip_cli.data.writer import COMPRESSION
from ratlip_cli.environment import cpu_name

LIMIT = 1.7
ROUNDS = 3
WORKERS = 2
SIZE = 256


def photograph(seed: int) -> bytes:
    """Smooth shapes with some noise: a JPEG of about 60 kB, as photographs of 500 x 375 are."""
    random = np.random.default_rng(seed)
    shapes = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((500, 375))
    noise = random.normal(0, 8, (375, 500, 1))
    written = io.BytesIO()
    Image.fromarray((np.asarray(shapes) + noise).clip(0, 255).astype(np.uint8)).save(written, "JPEG", quality=90)
    return written.getvalue()


def generate(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:05d}.jpg").write_bytes(photograph(number))
        (folder / f"{number:05d}.txt").write_text(f"photograph {number}\n")


def plain_loop(folder: Path, out: Path, compression: int | None = None) -> float:
    """Seconds that one process takes to open, resize and save every photograph."""
    options = {} if compression is None else {"compress_level": compression}
    out.mkdir()
    side = stored_side(SIZE)
    started = time.perf_counter()
    for file in sorted(folder.glob("*.jpg")):
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        scale = side / min(image.size)
        width, height = (round(length * scale) for length in image.size)
        resized = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)
        resized.save(out / f"{file.stem}.png", **options)
    return time.perf_counter() - started


def prepare(folder: Path, data_dir: Path) -> tuple[float, float]:
    """Seconds that `ratlip prepare` takes from its start to its end, and the peak MiB of its processes together."""
    command = ["-m", "ratlip_cli", "prepare", str(folder), "--data-dir", str(data_dir), "--workers", str(WORKERS), "-q"]
    started = time.perf_counter()
    peak = 0.0
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, start_new_session=True) as process:
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"prepare ended with {process.returncode}")
    return time.perf_counter() - started, peak


def memory(session: int) -> float:
    """MiB that the processes of a session hold; 0 where the system does not tell."""
    total = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(entry.name)) == session:
                total += int((entry / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue
    return total / 2**20


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        generate(folder / "photographs", count)
        generate(folder / "quarter", count // 4)
        plain, same, ours, peaks = [], [], [], []
        for number in range(ROUNDS):
            plain.append(plain_loop(folder / "photographs", folder / f"plain-{number}"))
            same.append(plain_loop(folder / "photographs", folder / f"same-{number}", COMPRESSION))
            seconds, peak = prepare(folder / "photographs", folder / f"data-{number}")
            ours.append(seconds)
            peaks.append(peak)
        _, quarter_peak = prepare(folder / "quarter", folder / "data-quarter")
    ratio = statistics.median(loop / mine for loop, mine in zip(plain, ours, strict=True))
    same_ratio = statistics.median(loop / mine for loop, mine in zip(same, ours, strict=True))
    report = {
        "cpu": cpu_name(),
        "images": count,
        "prepare_per_second": round(count / statistics.median(ours), 1),
        "times_the_plain_loop": round(ratio, 2),
        "limit": LIMIT,
        "times_a_loop_with_the_same_compression": round(same_ratio, 2),
        "peak_mib": {str(count // 4): round(quarter_peak), str(count): round(max(peaks))},
    }
    print(json.dumps(report))
    return int(ratio < LIMIT)


if __name__ == "__main__":
    sys.exit(main())
