"""One of several processes reads a stream, goes on from where it was, and says what came: `test_stream.py` starts them.

torchrun --nproc-per-node 2 tests/stream_steps.py FOLDER OUT.json
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import torch

from ratlip_cli.data.stream import StreamedImages, StreamReader
from ratlip_cli.distributed import join


def captions(reader: StreamReader, batches: int) -> list[str]:
    running = reader.batches()
    try:
        return [caption for batch in itertools.islice(running, batches) for caption in batch.captions]
    finally:
        running.close()


def main(folder: str, out: str) -> None:
    group, stream = join(torch.device("cpu"), 60), StreamedImages(folder, 32, buffer=4)
    first = StreamReader(stream, 3, 2, group.rank, group.size)
    told = {"first": captions(first, 2)}
    positions = group.gather(first.position())
    told["then"] = captions(StreamReader(stream, 3, 2, group.rank, group.size, positions), 2)
    told["whole"] = captions(StreamReader(stream, 3, 2, group.rank, group.size), 4)
    everybody = group.gather(told)
    if group.is_first:
        Path(out).write_text(json.dumps(everybody), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
