"""A few training steps as one of several processes, without a run folder: `test_distributed.py` starts them.

torchrun --nproc-per-node 2 tests/distributed_steps.py CASES.json OUT
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ratlip_cli.data.dataset import CaptionedImages, training_batches
from ratlip_cli.distributed import join, world
from ratlip_cli.tensor_files import fingerprint, save_tensors
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.training.trainer import Trainer
from ratlip_cli.weights.clip_files import load_clip


def steps(
    settings: TrainSettings, count: int, spoilt: tuple[int, int] | None, gradients: dict[str, torch.Tensor]
) -> tuple[Trainer, list[dict[str, float | None]]]:
    """`count` steps from the beginning; what each measured.

    Args:
        spoilt: the step, and the row of its batch, whose image is not finite.
        gradients: takes those of each step as the optimisers get them, a vector for each network.
    """
    dataset = CaptionedImages(Path(settings.dataset), "train", settings.image_size, settings.seed)
    clip = load_clip(settings.clip)
    clip = clip.to(torch.get_default_dtype())
    rows = settings.family.rows(clip, dataset.captions)
    kind = torch.get_default_dtype()
    classes = np.arange(len(rows)) % 7
    trainer = Trainer(settings, clip, rows, len(dataset), torch.device("cpu"), classes, dataset.captions)
    trainer._unscale = partial(_kept, trainer._unscale, trainer, gradients)  # type: ignore[method-assign]
    own = trainer.world.rows(settings.batch_size, *settings.shares)
    batches = training_batches(dataset, settings.batch_size, rows=own)
    logs = []
    with contextlib.closing(batches):
        for step, batch in enumerate(itertools.islice(batches, count)):
            images = batch.images.to(kind)
            if spoilt is not None and step == spoilt[0] and spoilt[1] in own:
                images[own.index(spoilt[1])] = torch.nan
            logs.append(dict(trainer.train_step(batch._replace(images=images)).logs))
    return trainer, logs


def _kept(
    unscale: Callable[..., None],
    trainer: Trainer,
    gradients: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    *others: Any,
) -> None:
    """Let the trainer average the gradients of a phase, and keep them."""
    unscale(optimizer, *others)
    network = "generator" if optimizer is trainer.optimizer_g else "discriminator"
    weights = optimizer.param_groups[0]["params"]
    flat = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])
    gradients[f"{network} {trainer.steps_done}.{others[0]}"] = flat.clone()


def case(out: Path, settings: dict[str, Any], count: int, spoilt: list[int] | None, in_float64: bool) -> None:
    """Train, see that all have the same weights, and let the first process write what came of it."""
    torch.set_default_dtype(torch.float64 if in_float64 else torch.float32)
    torch.Tensor.float = torch.Tensor.double if in_float64 else FLOAT  # type: ignore[method-assign]
    gradients: dict[str, torch.Tensor] = {}
    trainer, logs = steps(TrainSettings.of(**settings), count, tuple(spoilt) if spoilt else None, gradients)  # type: ignore[arg-type]
    networks = {name: getattr(trainer, name).state_dict() for name in ("generator", "ema", "discriminator")}
    trainer.world.agree({name: fingerprint(tensors) for name, tensors in networks.items()})
    if trainer.world.is_first:
        out.mkdir(parents=True)
        for name, tensors in (networks | {"gradients": gradients}).items():
            save_tensors(out / f"{name}.safetensors", tensors)
        (out / "loss_scale.json").write_text(json.dumps(trainer.scaler.get_scale()), encoding="utf-8")
        (out / "logs.json").write_text(json.dumps(logs), encoding="utf-8")


def gloo_threads() -> list[str]:
    """Names of this process's threads that are gloo's; Linux alone tells."""
    names = []
    for file in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # it has just ended
            names.append(file.read_text().strip())
    return [name for name in names if "gloo" in name]


FLOAT = torch.Tensor.float

if __name__ == "__main__":
    torch.set_num_threads(1)
    join(torch.device("cpu"), 60)
    for name, given in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")).items():
        case(Path(sys.argv[2]) / name, **given)
    world().leave()  # else the interpreter may end with gloo's threads still at work
    deadline = time.monotonic() + 10  # Linux may show a thread a moment longer than it runs
    while left := gloo_threads():
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
