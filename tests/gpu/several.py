"""Step "several": what processes of torch.distributed compute together, against one: NCCL alone, two by gloo beside it.

NCCL wants a GPU for each process, so on one GPU it is a world of one, through which everything goes all the same. Two
processes share the GPU and talk by gloo. On a CPU both talk by gloo.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
for folder in (HERE.parent, HERE, HERE.parents[1]):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import torch  # noqa: E402
from harness import batch_of, clip_on, settings_of, synchronise  # noqa: E402
from report import Context  # noqa: E402

from ratlip_cli import distributed  # noqa: E402
from ratlip_cli.fast import swaps_for  # noqa: E402
from ratlip_cli.training.trainer import Trainer  # noqa: E402

STEPS = 5
SLOWLY = {"lr_g": 1e-5, "lr_d": 4e-5}  # Adam's first steps follow the gradient's sign: where it is nearly 0, chance
FIRST, LATER = 1e-4, 5e-2
"""How far losses may be from those of one process, as between CPU and device in the step "right"."""


def run(context: Context) -> None:
    """Five steps of a small model each way; the losses are those of one process."""
    device = context.device.type
    alone = measured(device, 0)
    for name, count in (("a world of one", 1), ("two processes", 2)):
        together = measured(device, count)
        context.note(name, together)
        apart = [
            max(abs(own - one) / max(1.0, abs(one)) for own, one in zip(step, expected, strict=True))
            for step, expected in zip(together["losses"], alone["losses"], strict=True)
        ]
        told = f"{name} by {together['backend']}"
        context.check(f"several: {name}, first step", apart[0], FIRST, told)
        context.check(f"several: {name}, {STEPS} steps", max(apart), LATER, told)
        context.check(
            f"several: {name}, images", together["not there"], 0, "batches that the processes do not share out"
        )
        took = (together["seconds"], alone["seconds"])
        context.row(told, "{:.1f} ms a step, alone {:.1f} ms".format(*(1000 * seconds for seconds in took)))


def measured(device: str, processes: int) -> dict[str, Any]:
    """What `work` prints on so many processes of torch.distributed; 0 for one that knows nothing of it."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(torchrun if processes else []), __file__, device]
    environment = {**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR"}
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        told, errors = running.communicate()
    finally:
        running.terminate()  # torchrun ends its processes
        running.wait()
    if running.returncode:
        raise RuntimeError(f"{processes} processes: {errors.strip().splitlines()[-1:]}")
    found: dict[str, Any] = json.loads(told.splitlines()[-1])
    return found


def work(device_name: str) -> None:
    """Train as one of the processes; the first one prints what it measured."""
    torch.set_num_threads(1)
    device = torch.device(device_name)
    if "WORLD_SIZE" in os.environ:
        distributed._joined.append(distributed._begun(device, 60))
    group = distributed.world()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    settings = settings_of(True, batch_size=4, precision="fp32", **SLOWLY)
    clip = clip_on(device, True, swaps_for(device))
    text = torch.randn(4, clip.geometry.embed_dim, generator=torch.Generator().manual_seed(1))
    trainer = Trainer(settings, clip, text, 4, device)
    whole, rows = batch_of(trainer, 4), group.rows(4)
    batch = whole._replace(images=whole.images[rows], captions=whole.captions[rows])
    losses, seconds = [], []
    for _ in range(STEPS):
        started = time.perf_counter()
        logs = trainer.train_step(batch).logs
        synchronise(device)
        seconds.append(time.perf_counter() - started)
        losses.append([logs["loss_d"], logs["loss_g"]])
    shared = sorted(row for part in group.gather(rows) for row in part) == list(range(4))
    together = group.whole(whole.images[rows]).equal(whole.images)
    if group.is_first:
        backend = torch.distributed.get_backend() if group is not distributed._alone else "nothing"
        told = {"losses": losses, "seconds": statistics.median(seconds[1:]), "backend": backend}
        print(json.dumps({**told, "not there": int(not (shared and together))}))
    group.leave()


if __name__ == "__main__":
    work(sys.argv[1])
