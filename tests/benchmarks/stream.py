"""Reading as it streams: memory against the number of pairs, and images a second against `webdataset`.

    python tests/benchmarks/stream.py memory     # peak memory of an epoch of 2,000 and of 50,000 small pairs
    python tests/benchmarks/stream.py rate       # this loader and webdataset on the same shards, turn by turn

`webdataset` does the same work: it decodes to RGB, resizes the shorter side, crops, mirrors and stacks tensors. Both
read in this one process, so that the rate is one core's. `rate` needs `pip install webdataset`.
"""

from __future__ import annotations

import io
import itertools
import resource
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


def photo(number: int, width: int, height: int) -> bytes:
    """A JPEG of smooth noise, about as hard to decode as a photograph."""
    random = np.random.default_rng(number)
    coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((width, height))
    grain = random.integers(-8, 9, (height, width, 3))
    stream = io.BytesIO()
    pixels = np.clip(np.asarray(coarse, dtype=np.int16) + grain, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def memory() -> None:
    peaks = {}
    for pairs in (2_000, 50_000):
        with tempfile.TemporaryDirectory() as folder:
            small = [photo(number, 48, 40) for number in range(64)]
            for shard in range(pairs // 1000):
                numbers = range(1000 * shard, 1000 * shard + 1000)
                write_shard(Path(folder), shard, {n: members(n, small[n % 64]) for n in numbers})
            told = subprocess.run(
                [sys.executable, __file__, "epoch", folder], check=True, capture_output=True, text=True
            ).stdout
        peaks[pairs] = float(told)
        print(f"{pairs:,} pairs: peak memory {peaks[pairs]:.0f} MiB")
    print(f"ratio {peaks[50_000] / peaks[2_000]:.3f}")


def epoch(folder: str) -> None:
    from ratlip_cli.data.stream import StreamedImages, StreamReader

    stream = StreamedImages(folder, 32)
    for _ in itertools.islice(StreamReader(stream, 50).batches(), len(stream) // 50):
        pass
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


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


def rate() -> None:
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
    print(f"ratio {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    if sys.argv[1] != "epoch":
        print(cpu_name())
    {"memory": memory, "rate": rate, "epoch": lambda: epoch(sys.argv[2])}[sys.argv[1]]()
