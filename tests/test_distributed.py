"""The law of several processes: N compute what one computes. They are started by torchrun and talk by gloo."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ratlip_cli.distributed import World
from ratlip_cli.errors import UsageError
from ratlip_cli.tensor_files import load_tensors
from ratlip_cli.training.settings import TrainSettings

STEPS = Path(__file__).parent / "distributed_steps.py"


def of_processes(count: int, settings: TrainSettings, number: int, in_float64: bool, folder: Path) -> Path:
    """What `number` steps on `count` processes come to."""
    file, out = folder / "settings.json", folder / f"by-{count}"
    given = {"settings": settings.flat(), "steps": number, "in_float64": in_float64}
    file.write_text(json.dumps(given), encoding="utf-8")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    answer = subprocess.run(
        [sys.executable, *torchrun, str(STEPS), str(file), str(out)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return out


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("pairs", [False, True])
def test_processes_share_out_a_batch(size: int, micro_batches: int, pairs: bool) -> None:
    worlds = [World() for _ in range(size)]
    for rank, world in enumerate(worlds):
        world.rank, world.size = rank, size
    shares = [world.rows(48, micro_batches, pairs) for world in worlds]
    assert sorted(row for share in shares for row in share) == list(range(48))
    micro = 48 // micro_batches
    for share in shares:
        of_micro_batches = [row // micro for row in share]
        assert of_micro_batches == sorted(of_micro_batches)
        if pairs:
            assert {(row % micro + micro // 2) % micro for row in share} == {row % micro for row in share}


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    world = World()
    world.size = 3
    with pytest.raises(UsageError, match=r"batch_size 8 cannot be shared by 3 processes with grad_accum 2.*of 6"):
        world.rows(8, 2)


CASES = {
    "ratlip": {"variant": "ratlip"},
    "accumulated": {"variant": "ratlip", "grad_accum": 2, "diversity_weight": 0.1},
    "recomputed": {"variant": "ratlip", "recompute": True},
    "galip": {"variant": "galip"},
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_compute_what_one_computes(case: str, tiny_settings: TrainSettings, tmp_path: Path) -> None:
    settings = tiny_settings.replaced(batch_size=8, **CASES[case])
    one, two = (of_processes(count, settings, 5, True, tmp_path) for count in (1, 2))
    expected, measured = (json.loads((out / "logs.json").read_text(encoding="utf-8")) for out in (one, two))
    for of_one, of_two in zip(expected, measured, strict=True):
        assert of_two == pytest.approx(of_one, rel=1e-9, abs=1e-10)
    for name in ("generator", "ema", "discriminator"):
        own = load_tensors(two / f"{name}.safetensors")
        for key, tensor in load_tensors(one / f"{name}.safetensors").items():
            torch.testing.assert_close(own[key], tensor, rtol=1e-10, atol=1e-10, msg=f"{name} {key}")
