"""The law of several processes: N compute what one computes. They are started by torchrun and talk by gloo."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ratlip_cli.distributed import World
from ratlip_cli.errors import UsageError
from ratlip_cli.tensor_files import load_tensors
from ratlip_cli.training.settings import TrainSettings

STEPS = Path(__file__).parent / "distributed_steps.py"


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]

Cases = dict[str, dict[str, Any]]


def of_processes(count: int, cases: Cases, folder: Path) -> Path:
    """What the cases come to on `count` processes, in a folder each."""
    file, out = folder / "cases.json", folder / f"by-{count}"
    file.write_text(json.dumps(cases), encoding="utf-8")
    python = [*TORCHRUN, str(count)] if count > 1 else [sys.executable]
    answer = subprocess.run(
        [*python, str(STEPS), str(file), str(out)], capture_output=True, text=True, timeout=600, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return out


def assert_the_same(one: Path, other: Path, rel: float) -> None:
    expected, measured = (json.loads((out / "logs.json").read_text(encoding="utf-8")) for out in (one, other))
    for of_one, of_other in zip(expected, measured, strict=True):
        assert of_other.keys() == of_one.keys()
        for name, value in of_one.items():
            assert of_other[name] == (value if value is None else pytest.approx(value, rel=10 * rel, abs=rel)), name
    for name in ("generator", "ema", "discriminator"):
        own = load_tensors(other / f"{name}.safetensors")
        for key, tensor in load_tensors(one / f"{name}.safetensors").items():
            torch.testing.assert_close(
                own[key], tensor, rtol=rel, atol=rel, msg=lambda m, n=name, k=key: f"{n} {k} {m}"
            )


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


SIZES_OF_LAFITE = {"noise_dim": 6, "w_dim": 5, "mapping_layers": 2, "text_width": 7, "channel_base": 256}
LAFITE = {"variant": "lafite", **SIZES_OF_LAFITE, "channel_max": 8, "r1_every": 2, "path_length_every": 2}
SIZES_OF_ATTNGAN = {"z_dim": 6, "condition_dim": 5, "residual_blocks": 1, "generator_channels": 4}
ATTNGAN = {"variant": "attngan", **SIZES_OF_ATTNGAN, "discriminator_channels": 2, "noise_dim": None}
CASES: dict[str, dict[str, Any]] = {
    "ratlip": {"variant": "ratlip"},
    "accumulated": {"variant": "ratlip", "grad_accum": 2, "diversity_weight": 0.1},
    "recomputed": {"variant": "ratlip", "recompute": True},
    "galip": {"variant": "galip"},
    "dfgan": {"variant": "dfgan", "diversity_weight": 0.1, "similarity_weight": 1.0},
    "ratgan": {"variant": "ratgan"},
    "attngan": ATTNGAN,
    "attngan accumulated": {**ATTNGAN, "grad_accum": 2},
    "lafite": LAFITE,
    "lafite accumulated": {**LAFITE, "grad_accum": 2, "mixing": 0.5},
}


def law(settings: TrainSettings, batch_size: int) -> Cases:
    """All that must be the same in any number of processes."""
    cases: Cases = {}
    for name, own in CASES.items():
        chosen = settings.replaced(batch_size=batch_size, **{key: own[key] for key in own if own[key] is not None})
        cases[name] = {"settings": chosen.flat(), "count": 5, "spoilt": None, "in_float64": True}
    last_row = batch_size - 1
    return {
        **cases,
        "not finite in one": {**cases["ratlip"], "spoilt": [2, last_row]},
        "float32": {**cases["ratlip"], "in_float64": False},
        "bf16": {
            **cases["ratlip"],
            "in_float64": False,
            "settings": {**cases["ratlip"]["settings"], "precision": "bf16"},
        },
        "local": {**cases["ratlip"], "settings": {**cases["ratlip"]["settings"], "batch_norm": "local"}},
    }


@pytest.fixture(scope="module", params=[2, 3])
def both(
    request: pytest.FixtureRequest, tiny_settings: TrainSettings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("law")
    cases = law(tiny_settings, 4 * request.param)
    return of_processes(1, cases, folder), of_processes(request.param, cases, folder)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, "not finite in one"])
def test_processes_compute_what_one_computes(case: str, both: tuple[Path, Path]) -> None:
    assert_the_same(both[0] / case, both[1] / case, rel=1e-10)


@pytest.mark.slow
def test_a_step_that_is_not_finite_in_one_process_is_taken_back_in_all(both: tuple[Path, Path]) -> None:
    logs = json.loads((both[1] / "not finite in one" / "logs.json").read_text(encoding="utf-8"))
    assert [log["loss_d"] is None for log in logs] == [False, False, True, False, False]


@pytest.mark.slow
def test_processes_compute_in_other_precisions_what_one_computes(both: tuple[Path, Path]) -> None:
    assert_the_same(both[0] / "float32", both[1] / "float32", rel=1e-4)
    expected, measured = (json.loads((out / "bf16" / "logs.json").read_text(encoding="utf-8")) for out in both)
    assert measured[0] == pytest.approx(expected[0], rel=2**-6, abs=2**-6)


@pytest.mark.slow
def test_local_batchnorm_is_something_else(both: tuple[Path, Path]) -> None:
    one, several = (json.loads((out / "local" / "logs.json").read_text(encoding="utf-8")) for out in both)
    assert several[0]["logit_fake"] != pytest.approx(one[0]["logit_fake"], rel=1e-6)
