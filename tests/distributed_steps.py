"""A few training steps as one of several processes, without a run folder: `test_distributed.py` starts them.

torchrun --nproc-per-node 2 tests/distributed_steps.py SETTINGS.json OUT
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from pathlib import Path

import torch

from ratlip_cli.data.dataset import CaptionedImages, training_batches
from ratlip_cli.distributed import join
from ratlip_cli.tensor_files import save_tensors
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.training.trainer import Trainer
from ratlip_cli.weights.clip_files import load_clip


def steps(settings: TrainSettings, count: int) -> tuple[Trainer, list[dict[str, float | None]]]:
    """`count` steps from the beginning; what each measured."""
    join(torch.device("cpu"), 60)
    dataset = CaptionedImages(Path(settings.dataset), "train", settings.image_size, settings.seed)
    clip = load_clip(settings.clip)
    clip = clip.to(torch.get_default_dtype())
    rows = settings.family.rows(clip, dataset.captions)
    trainer = Trainer(settings, clip, rows, len(dataset), torch.device("cpu"))
    own = trainer.world.rows(settings.batch_size, *settings.shares)
    batches = training_batches(dataset, settings.batch_size, rows=own)
    with contextlib.closing(batches):
        logs = [
            dict(trainer.train_step(batch._replace(images=batch.images.to(rows.dtype))).logs)
            for batch in itertools.islice(batches, count)
        ]
    return trainer, logs


def main(settings_file: str, out: str) -> None:
    """Train, and let the first process write what came of it."""
    given = json.loads(Path(settings_file).read_text(encoding="utf-8"))
    if given["in_float64"]:  # all of it: what the package casts to float32 too
        torch.set_default_dtype(torch.float64)
        torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    trainer, logs = steps(TrainSettings.of(**given["settings"]), given["steps"])
    if trainer.world.is_first:
        Path(out).mkdir(parents=True)
        for name in ("generator", "ema", "discriminator"):
            save_tensors(Path(out) / f"{name}.safetensors", getattr(trainer, name).state_dict())
        (Path(out) / "logs.json").write_text(json.dumps(logs), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
