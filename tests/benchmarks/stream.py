"""Reading as it streams: memory against the number of pairs, and images a second against `webdataset`.

    python tests/benchmarks/stream.py memory     # peak memory of an epoch of 2,000 and of 50,000 small pairs
    python tests/benchmarks/stream.py rate       # this loader and webdataset on the same shards, turn by turn

Each exits with 1 where it misses its aim: memory that grows by less than a list of names and captions takes, without
workers and in each of two; 0.9 of the images a second of `webdataset`, the median of turns.

`webdataset` does the same work: it decodes to RGB, resizes the shorter side, crops, mirrors and stacks tensors. Both
read in this one process, so that the rate is one core's. `rate` needs `pip install webdataset`.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from shards import members, write_shard

from ratlip_cli.environment import cpu_name

SIZE, BATCH, TURNS, SECONDS = 256, 32, 7, 3.0
SLOWEST = 0.9  # Share of webdataset's images a second.
FEW, MANY = 2_000, 50_000  # Pairs.
MOST_GROWN = 190  # Bytes a pair: two short strings in a tuple in a list, such as names and captions that are kept.


def photo(number: int, width: int, height: int) -> bytes:
    """A JPEG of smooth noise, about as hard to decode as a photograph."""
    random = np.random.default_rng(number)
    coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((width, height))
    grain = random.integers(-8, 9, (height, width, 3))
    stream = io.BytesIO()
    pixels = np.clip(np.asarray(coarse, dtype=np.int16) + grain, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def memory() -> bool:
    small = [photo(number, 48, 40) for number in range(64)]
    peaks: dict[int, list[float]] = {}
    for pairs in (FEW, MANY):
        with tempfile.TemporaryDirectory() as folder:
            for shard in range(pairs // 1000):
                numbers = range(1000 * shard, 1000 * shard + 1000)
                write_shard(Path(folder), shard, {n: members(n, small[n % 64]) for n in numbers})
            peaks[pairs] = [peak for workers in (0, 2) for peak in peaks_of_epoch(folder, workers)]
    names = ("without workers", "with two, the reader", "with two, the larger worker")
    read = (MANY - FEW, MANY - FEW, (MANY - FEW) / 2)  # how many more pairs go through it
    grown = {}
    for name, few, many, more in zip(names, peaks[FEW], peaks[MANY], read, strict=True):
        grown[name] = (many - few) * 2**20 / more
        told = f"{few:.0f} MiB for {FEW:,} pairs, {many:.0f} for {MANY:,}"
        print(f"{name}: {told}: {many / few:.3f} times, {grown[name]:.0f} bytes a pair")
    return max(grown.values()) < MOST_GROWN


def peaks_of_epoch(folder: str, workers: int) -> list[float]:
    """Peak MiB of a process that reads an epoch and, where it has workers, of the larger of these."""
    told = subprocess.run(
        [sys.executable, __file__, "epoch", folder, str(workers)], check=True, capture_output=True, text=True
    )
    return [float(peak) for peak in told.stdout.split()]


def epoch(folder: str, workers: str) -> None:
    from ratlip_cli.data.stream import StreamedImages, StreamReader

    stream = StreamedImages(folder, 32)
    with contextlib.closing(StreamReader(stream, 50, int(workers)).batches()) as batches:
        for _ in itertools.islice(batches, len(stream) // 50):
            pass
        print(peak("self"))
        for largest in sorted(peak(child.pid) for child in multiprocessing.active_children())[-1:]:
            print(largest)


def peak(process: int | str | None) -> float:
    """Peak MiB of a process that still runs."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def ours(folder: Path) -> Iterator[int]:
    from ratlip_cli.data.stream import StreamedImages, StreamReader

    for batch in StreamReader(StreamedImages(str(folder), SIZE), BATCH).batches():
        yield len(batch.images)


def theirs(folder: Path) -> Iterator[int]:
    import webdataset

    from ratlip_cli.data.dataset import random_view
    from ratlip_cli.data.images import resize_shorter_side
    from ratlip_cli.data.layout import stored_side

    random = np.random.default_rng(0)
    shards = sorted(map(str, folder.glob("*.tar")))
    pipeline = (
        webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0)
        .repeat()
        .shuffle(1000)
        .decode("pilrgb")
        .to_tuple("jpg", "txt")
        .map_tuple(lambda image: random_view(resize_shorter_side(image, stored_side(SIZE)), SIZE, True, random))
        .batched(BATCH)
    )
    for images, _ in pipeline:
        yield len(images)


def rate() -> bool:
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for shard in range(4):
            numbers = range(500 * shard, 500 * shard + 500)
            write_shard(Path(folder), shard, {n: members(n, photo(n, 400, 320)) for n in numbers})
        rates: dict[str, list[float]] = {"ratlip": [], "webdataset": []}
        readers: dict[str, Callable[[Path], Iterator[int]]] = {"ratlip": ours, "webdataset": theirs}
        running = {name: reader(Path(folder)) for name, reader in readers.items()}
        for batches in running.values():
            next(batches)
        for _ in range(TURNS):
            for name, batches in running.items():
                started, images = time.perf_counter(), 0
                while time.perf_counter() - started < SECONDS:
                    images += next(batches)
                rates[name].append(images / (time.perf_counter() - started))
    ratios = [own / other for own, other in zip(rates["ratlip"], rates["webdataset"], strict=True)]
    for name, measured in rates.items():
        print(f"{name}: {statistics.median(measured):.1f} images a second (median of {TURNS} turns)")
    ratio = statistics.median(ratios)
    print(f"ratio {ratio:.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")
    return ratio >= SLOWEST


if __name__ == "__main__":
    if sys.argv[1] == "epoch":
        epoch(*sys.argv[2:])
    else:
        print(cpu_name())
        sys.exit(0 if {"memory": memory, "rate": rate}[sys.argv[1]]() else 1)
