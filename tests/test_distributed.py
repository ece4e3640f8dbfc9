"""The law of several processes: N compute what one computes. They are started by torchrun and talk by gloo."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from command_line import ratlip
from torch import nn
from torch.distributed.launcher.api import LaunchConfig

from ratlip_cli import processes
from ratlip_cli.cli import signals
from ratlip_cli.distributed import GlobalBatchNorm1d, GlobalBatchNorm2d, World, _buckets, _dense
from ratlip_cli.errors import UsageError
from ratlip_cli.tensor_files import load_tensors
from ratlip_cli.threads import usable_cores
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.training.start import open_session

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


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_statistics_of_all_processes_are_those_of_batch_norm_where_there_is_one(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    native, of_all = (
        (nn.BatchNorm1d(5), GlobalBatchNorm1d(5)) if len(shape) == 2 else (nn.BatchNorm2d(5), GlobalBatchNorm2d(5))
    )
    if dtype == torch.float64:
        native, of_all = native.double(), of_all.double()
    of_all.load_state_dict({**native.state_dict(), "weight": torch.rand(5), "bias": torch.rand(5)})
    native.load_state_dict(of_all.state_dict())
    x = (3 + 2 * torch.randn(shape)).to(dtype).requires_grad_()
    direction = torch.randn(shape).to(dtype)
    outs = [norm(x) for norm in (native, of_all)]
    gradients = [
        torch.autograd.grad(out, (x, norm.weight, norm.bias), direction)
        for out, norm in zip(outs, (native, of_all), strict=True)
    ]
    for expected, measured in zip((outs[0], *gradients[0]), (outs[1], *gradients[1]), strict=True):
        torch.testing.assert_close(measured, expected)
    for expected, measured in zip(native.buffers(), of_all.buffers(), strict=True):
        torch.testing.assert_close(measured, expected)


def test_large_tensors_are_exchanged_where_they_are() -> None:
    large = torch.randn(2**9, 2**9, 2, 2).to(memory_format=torch.channels_last)
    small = [torch.randn(3), torch.randn(2, 3, 4, 5)]
    buckets = _buckets([small[0], large, small[1]])
    assert [[id(tensor) for tensor in bucket] for bucket in buckets] == [[*map(id, small)], [id(large)]]
    dense = _dense(large)
    assert dense.is_contiguous()
    assert dense.data_ptr() == large.data_ptr()
    assert _dense(torch.tensor(1.0)).shape == ()


SIZES_OF_LAFITE = {"noise_dim": 6, "w_dim": 5, "mapping_layers": 2, "text_width": 7, "channel_base": 256}
LAFITE = {"variant": "lafite", **SIZES_OF_LAFITE, "channel_max": 8, "r1_every": 2, "path_length_every": 2}
SIZES_OF_ATTNGAN = {"z_dim": 6, "condition_dim": 5, "residual_blocks": 1, "generator_channels": 4}
ATTNGAN = {"variant": "attngan", **SIZES_OF_ATTNGAN, "discriminator_channels": 2, "noise_dim": None}
CASES: dict[str, dict[str, Any]] = {
    "ratlip": {"variant": "ratlip"},
    "accumulated": {"variant": "ratlip", "grad_accum": 2, "diversity_weight": 0.1},
    "recomputed": {"variant": "ratlip", "recompute": True},
    "hard negatives": {"variant": "ratlip", "hard_negatives": 6, "contrastive_weight": 0.5},
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

    def ratlip(**own: Any) -> dict[str, Any]:
        settings = {name: own.pop(name) for name in list(own) if name not in ("count", "spoilt", "in_float64")}
        return {**cases["ratlip"], **own, "settings": {**cases["ratlip"]["settings"], **settings}}

    # At usual rates Adam makes whole steps of gradients that are rounding alone: one process whose weights are turned
    # by one rounding is 0.01 away after five steps, from most seeds. At these the weights stay, and gradients can tell.
    still = {"in_float64": False, "lr_g": 1e-12, "lr_d": 1e-12}
    in_one_process = [2, batch_size - 1]
    return {
        **cases,
        "not finite in one": ratlip(spoilt=in_one_process),
        "float32": ratlip(**still),
        "first step in float32": ratlip(in_float64=False, count=1),
        "bf16": ratlip(**still, precision="bf16"),
        "fp16": ratlip(**still, precision="fp16", spoilt=in_one_process),
        "local": ratlip(batch_norm="local"),
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


OTHERS = ("float32", "bf16", "fp16")


def gradients_apart(one: Path, several: Path) -> dict[str, list[float]]:
    """How far the gradients of each step are apart, of their norm; those of the same steps must be finite."""
    apart: dict[str, list[float]] = {"discriminator": [], "generator": []}
    theirs = load_tensors(several)
    for name, gradient in load_tensors(one).items():
        network, _, step = name.partition(" ")
        finite = [bool(tensor.isfinite().all()) for tensor in (gradient, theirs[name])]
        spoilt = "fp16" in str(one) and step.startswith("2.")
        assert finite == [not spoilt] * 2, (name, finite)
        if not spoilt:
            apart[network].append(float((theirs[name] - gradient).norm() / gradient.norm()))
    return apart


@pytest.mark.slow
def test_processes_compute_in_other_precisions_what_one_computes(both: tuple[Path, Path]) -> None:
    apart = {case: gradients_apart(*(out / case / "gradients.safetensors" for out in both)) for case in OTHERS}
    # A LeakyReLU whose sign turns by a rounding moves a single step by more than rounding does: hence the median. The
    # generator's gradient has come through all of them; by twice the right one it would be 1 apart.
    assert all(statistics.median(of_steps) <= 1e-5 for of_steps in apart["float32"].values())
    for case, rounding in (("bf16", 2**-8), ("fp16", 2**-11)):
        assert statistics.median(apart[case]["discriminator"]) <= 8 * rounding
        assert statistics.median(apart[case]["generator"]) <= 0.5
    assert_the_same(both[0] / "float32", both[1] / "float32", rel=1e-5)
    expected, measured = (json.loads((out / "bf16" / "logs.json").read_text(encoding="utf-8")) for out in both)
    assert measured[0] == pytest.approx(expected[0], rel=2**-6, abs=2**-6)
    scales = [json.loads((out / "fp16" / "loss_scale.json").read_text(encoding="utf-8")) for out in both]
    assert scales == [2**15, 2**15]  # half of what it begins with
    first = [out / "first step in float32" for out in both]
    logs = [json.loads((out / "logs.json").read_text(encoding="utf-8")) for out in first]
    assert logs[1][0] == pytest.approx(logs[0][0], rel=1e-5, abs=1e-6)
    for name, rate in (("generator", TrainSettings().lr_g), ("discriminator", TrainSettings().lr_d)):
        one, several = (load_tensors(out / f"{name}.safetensors") for out in first)
        for key, tensor in one.items():
            apart = (several[key].double() - tensor.double()).abs().mean()
            assert apart <= 0.01 * rate, f"{name} {key}: {apart / rate} of the learning rate"


@pytest.mark.slow
def test_local_batchnorm_is_something_else(both: tuple[Path, Path]) -> None:
    one, several = (json.loads((out / "local" / "logs.json").read_text(encoding="utf-8")) for out in both)
    assert several[0]["logit_fake"] != pytest.approx(one[0]["logit_fake"], rel=1e-6)


def options(settings: TrainSettings, **own: Any) -> list[str]:
    """The settings as they are typed, but for what is as it is anyway."""
    usual = TrainSettings().flat()
    given = {name: value for name, value in {**settings.flat(), **own}.items() if value != usual.get(name)}
    return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def train(
    *arguments: str, torchrun: Sequence[str] = (), start_new_session: bool = False, **env: str
) -> subprocess.Popen[str]:
    """`ratlip train`, by torchrun where its options are given."""
    return started("train", *arguments, torchrun=torchrun, start_new_session=start_new_session, **env)


def started(
    *arguments: object, torchrun: Sequence[str] = (), start_new_session: bool = False, **env: str
) -> subprocess.Popen[str]:
    """`ratlip`, by torchrun where its options are given."""
    launched = ["-m", "torch.distributed.run", "--standalone", *torchrun] if torchrun else []
    return subprocess.Popen(
        [sys.executable, *launched, "-m", "ratlip_cli", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        start_new_session=start_new_session,
    )


def ended(process: subprocess.Popen[str], seconds: float = 200, given: str = "") -> tuple[int, str, str]:
    out, err = process.communicate(given, timeout=seconds)
    return process.returncode, out, err


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


MACHINE = ("images_per_second", "memory_mib")


def assert_same_run(one: Path, other: Path) -> None:
    for expected, measured in zip(records(one), records(other), strict=True):
        values = ({name: value for name, value in line.items() if name not in MACHINE} for line in (measured, expected))
        assert next(values) == pytest.approx(next(values), rel=1e-2, abs=1e-3)
    weights = [load_tensors(run / "model" / "generator.safetensors") for run in (one, other)]
    for key, tensor in weights[0].items():  # where a gradient is nearly 0, rounding decides into which side Adam goes
        apart = (weights[1][key].double() - tensor.double()).abs().mean()
        assert apart <= 0.03 * TrainSettings().lr_g, f"{key}: {apart}"


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_in_one_and_again_in_two(tiny_settings: TrainSettings, tmp_path: Path) -> None:
    several = options(tiny_settings.replaced(steps=1, out=str(tmp_path / "run")))
    code, out, err = ended(train(*several, "--devices", "2"))
    assert (code, out.split()) == (0, [str(tmp_path / "run")]), err
    assert [line.split(",")[0] for line in err.splitlines()] == [
        "10 images; their 20 captions are encoded once and kept",
        f"training in {tmp_path / 'run'}",
        "train 1/1",
    ]
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1  # the first process alone logs
    assert ratlip("train", "--resume", tmp_path / "run", "--steps", 2).code == 0
    code, _, err = ended(train("--resume", str(tmp_path / "run"), "--steps", "3", "--devices", "2"))
    assert code == 0, err
    assert ratlip("train", *options(tiny_settings.replaced(steps=3, out=str(tmp_path / "one")))).code == 0
    assert_same_run(tmp_path / "one", tmp_path / "run")


def test_devices_that_are_not_there(tiny_settings: TrainSettings, tmp_path: Path) -> None:
    def refused(devices: str, device: str) -> tuple[int, str]:
        given = options(tiny_settings, out=str(tmp_path / "run"), device=device)
        answer = ratlip("train", *given, "--devices", devices)
        return answer.code, answer.err

    if not torch.cuda.is_available():
        code, said = refused("all", "auto")
        assert (code, len(said.splitlines())) == (1, 1)
        assert "PyTorch sees no CUDA GPU; use --devices N --device cpu" in said
    assert refused("all", "cpu")[0] == 2
    assert refused("none", "cpu") == (2, "error: --devices is none; give all, or a number from 1 to 1024.\n")
    most = max(8, usable_cores())
    crowd = f"error: --devices {most + 1}: too many processes for this CPU; give a number up to {most}.\n"
    assert refused(str(most + 1), "cpu") == (2, crowd)
    for command in (("generate", "a bird"), ("evaluate", "--fid")):
        assert ratlip(*command, "--device", "cpu", "--devices", str(most + 1)).err == crowd
    assert not (tmp_path / "run").exists()


def test_a_batch_that_processes_cannot_share_is_one_line(
    tiny_settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(wanted: int) -> None:
        raise AssertionError(f"{wanted} processes were started")

    monkeypatch.setattr("ratlip_cli.cli.train.run_again_in", started)
    answer = ratlip("train", *options(tiny_settings, out=str(tmp_path / "run")), "--devices", "3")
    said = "error: batch_size 4 cannot be shared by 3 processes with grad_accum 1: it must be a multiple of 3.\n"
    assert (answer.code, answer.err) == (2, said)
    assert not (tmp_path / "run").exists()


def by_hand(port: int, rank: int, *arguments: str) -> subprocess.Popen[str]:
    """Process `rank` of two, without torchrun."""
    env = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    return train(*arguments, **env, MASTER_PORT=str(port))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.slow
def test_other_settings_in_another_process_are_one_line(tiny_settings: TrainSettings, tmp_path: Path) -> None:
    given, port = options(tiny_settings, out=str(tmp_path / "run")), free_port()
    started = [by_hand(port, 0, *given, "--lr-g", "0.1"), by_hand(port, 1, *given)]
    (first, _, said), (second, _, silent) = map(ended, started)
    assert (first, second, silent) == (2, 2, "")
    assert len(said.splitlines()) == 1
    assert "has lr_g 0.0001, and the first one 0.1" in said


@pytest.mark.slow
def test_another_model_to_start_from_in_another_process_is_one_line(
    tiny_settings: TrainSettings, tmp_path: Path
) -> None:
    models = [tmp_path / "zero", tmp_path / "one"]
    for seed, model in enumerate(models):
        assert ratlip("train", *options(tiny_settings, steps=1, seed=seed, out=str(model))).code == 0
    given, port = options(tiny_settings, out=str(tmp_path / "run")), free_port()
    started = [by_hand(port, rank, *given, "--init-from", str(model)) for rank, model in enumerate(models)]
    (first, _, said), (second, _, silent) = map(ended, started)
    assert (first, second, silent) == (2, 2, "")
    assert said.count("error: ") == 1
    assert "has weights of the generator " in said.splitlines()[-1]
    assert not (tmp_path / "run").exists()


OLD = "import ratlip_cli; ratlip_cli.__version__ = '0.0.1'; from ratlip_cli.cli.app import main; main()"


@pytest.mark.slow
def test_another_version_in_another_process_is_one_line(tiny_settings: TrainSettings, tmp_path: Path) -> None:
    given, port = options(tiny_settings, out=str(tmp_path / "run")), free_port()
    first = by_hand(port, 0, *given)
    env = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    second = subprocess.run(
        [sys.executable, "-c", OLD, "train", *given],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, **env, "OMP_NUM_THREADS": "1"},
    )
    code, _, said = ended(first)
    assert (code, second.returncode, second.stderr, len(said.splitlines())) == (2, 2, "", 1), said
    assert "has ratlip 0.0.1, and the first one" in said


ONE_STEP = """
import sys
import torch
torch.optim.Adam([torch.zeros(1)])  # which imports some of it by itself
before = {name for name in sys.modules if name.startswith("torch.distributed")}
from ratlip_cli.cli.app import app
app(sys.argv[1:], standalone_mode=False)
print(sorted({name for name in sys.modules if name.startswith("torch.distributed")} - before))
"""


@pytest.mark.slow
def test_one_process_imports_nothing_more_of_torchs(tiny_settings: TrainSettings, tmp_path: Path) -> None:
    given = options(tiny_settings, steps=1, out=str(tmp_path / "run"))
    command = [sys.executable, "-c", ONE_STEP, "train", *given, "-q"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    assert told.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_a_missing_process_and_a_taken_port_are_one_line(tiny_settings: TrainSettings, tmp_path: Path) -> None:
    given = options(tiny_settings, out=str(tmp_path / "run"), dist_timeout="5s")
    code, _, err = ended(by_hand(free_port(), 0, *given))
    assert (code, len(err.splitlines())) == (1, 1), err
    assert "process 1 of 2 did not come in 5 s" in err
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        code, _, err = ended(by_hand(taken.getsockname()[1], 0, *given))
    assert (code, len(err.splitlines())) == (1, 1), err
    assert "choose another port" in err


@pytest.mark.slow
def test_a_first_process_that_ends_before_all_have_come_is_one_line(
    tiny_settings: TrainSettings, tmp_path: Path
) -> None:
    kept = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    second = by_hand(kept.port, 1, *options(tiny_settings, out=str(tmp_path / "run")))
    kept.wait(["1 is here"], datetime.timedelta(seconds=200))
    del kept
    code, _, err = ended(second)
    assert (code, len(err.splitlines())) == (1, 1), err
    assert "a process ended, or did not come" in err


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for file in files for word in file.read_text().split()]


def is_of_rank(pid: int, rank: int) -> bool:
    return f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def worker(launcher: int, rank: int) -> int:
    """The process of that rank that a torchrun has started."""
    return next(pid for pid in children(launcher) if is_of_rank(pid, rank))


def workers(launcher: int) -> list[int]:
    """The processes of any rank that a torchrun has started."""
    found = []
    for pid in children(launcher):
        with contextlib.suppress(OSError):  # it has ended
            if b"\0RANK=" in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
    return found


def worker_of(parent: int) -> int:
    """The one process that a process has started, 0 where there is none; and none of multiprocessing's helpers."""
    own = [pid for pid in children(parent) if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return own[0] if own else 0


def steps_come(process: subprocess.Popen[str], run: Path, after: int) -> None:
    """Wait until so many steps are logged."""
    deadline = time.monotonic() + 600
    while not ((run / "metrics.jsonl").is_file() and len(records(run)) >= after):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def signalled(process: subprocess.Popen[str], rank: int, number: int, run: Path, after: int, later: float = 0) -> int:
    """Send a signal to one process as soon as so many steps are logged, or so many seconds later; its number."""
    steps_come(process, run, after)
    time.sleep(later)
    pid = worker(process.pid, rank)
    os.kill(pid, number)
    return pid


def at_random() -> random.Random:
    """What a test chooses with; pytest shows the seed where it fails."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed: {seed}")
    return random.Random(seed)


def a_moment(most: int, chosen: random.Random) -> tuple[int, float]:
    """A random step up to `most`, and seconds after it."""
    return chosen.randint(1, most), chosen.uniform(0, 0.1)


def is_alive(pid: int) -> bool:
    """Whether a process has not ended, whether or not its parent has noticed it."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds torchrun's processes in /proc")


def assert_as_uninterrupted(run: Path, uninterrupted: Path) -> None:
    """Each step is recorded once, and the weights are the same to the bit."""
    assert [line["step"] for line in records(run)] == list(range(1, A_RUN["steps"] + 1))
    weights = [load_tensors(folder / "model" / "generator.safetensors") for folder in (uninterrupted, run)]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())


A_RUN = {"steps": 30, "save_every": 3}  # far more than a fast machine takes until a signal comes


@pytest.fixture(scope="module")
def uninterrupted(tiny_settings: TrainSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    code, _, err = ended(train(*options(tiny_settings, **A_RUN, out=str(run)), "--devices", "2"), 400)
    assert code == 0, err
    return run


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_is_started_again(
    rank: int, uninterrupted: Path, tiny_settings: TrainSettings, tmp_path: Path
) -> None:
    run, given = tmp_path / "run", tiny_settings.replaced(**A_RUN)
    process = train(*options(given, out=str(run)), torchrun=["--nproc-per-node", "2", "--max-restarts", "1"])
    signalled(process, rank, signal.SIGKILL, run, *a_moment(6, at_random()))
    code, out, err = ended(process)
    assert (code, out.split()) == (0, [str(run)]), err
    ours = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(ours) == 1
    assert f"process {rank} of 2" in ours[0]
    assert_as_uninterrupted(run, uninterrupted)


@pytest.mark.slow
@needs_proc
def test_a_killed_process_ends_the_other_one(tiny_settings: TrainSettings, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = train(*options(tiny_settings, steps=4000, out=str(run)), "--devices", "2")
    steps_come(process, run, 1)
    chosen = at_random()
    rank = chosen.randrange(2)
    other = worker(process.pid, 1 - rank)
    signalled(process, rank, signal.SIGKILL, run, *a_moment(20, chosen))
    killed = time.monotonic()
    while is_alive(other):
        assert time.monotonic() - killed < 120
        time.sleep(0.02)
    code, _, err = ended(process, 60)
    assert code == 128 + signal.SIGKILL
    assert err.count("error:") == 1
    assert f"error: process {rank} of 2" in err


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize(("rank", "number"), [(1, signal.SIGUSR1), (0, signal.SIGTERM)])
def test_a_signal_at_one_process_saves_and_ends_all(
    rank: int, number: int, tiny_settings: TrainSettings, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = train(*options(tiny_settings, steps=4000, out=str(run)), "--devices", "2")
    signalled(process, rank, number, run, after=3)
    code, _, err = ended(process, 60)
    assert code == 128 + signal.SIGTERM
    assert err.count("error:") == 1
    assert "everything is saved" in err
    last = records(run)[-1]["step"]
    assert (run / "checkpoints" / f"step_{last:08d}").is_dir()


@pytest.mark.slow
def test_sigusr1_at_the_command_itself_is_sigterm(tiny_settings: TrainSettings, tmp_path: Path) -> None:
    """A job that is told its time is nearly over tells every process of it, or this one alone."""
    run = tmp_path / "run"
    process = train(*options(tiny_settings, steps=4000, out=str(run)), "--devices", "2")
    steps_come(process, run, 3)
    process.send_signal(signal.SIGUSR1)
    code, _, err = ended(process, 60)
    assert code == 128 + signal.SIGTERM
    assert err.count("error:") == 1
    assert "everything is saved" in err


@pytest.mark.slow
def test_nohup_holds_for_all_processes(tiny_settings: TrainSettings, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with signals.handled([signal.SIGHUP], signal.SIG_IGN):  # type: ignore[arg-type]
        process = train(*options(tiny_settings, steps=4000, out=str(run)), "--devices", "2", start_new_session=True)
    steps_come(process, run, 3)
    os.killpg(process.pid, signal.SIGHUP)
    if "signals_to_handle" in LaunchConfig.__dataclass_fields__:
        steps_come(process, run, len(records(run)) + 10)
    process.send_signal(signal.SIGTERM)
    assert ended(process, 60)[0] == 128 + signal.SIGTERM


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize(("rank", "own"), [(1, {}), (0, {"sample_every": 1})], ids=["in a step", "between steps"])
def test_a_process_that_hangs_is_named(
    rank: int, own: dict[str, Any], tiny_settings: TrainSettings, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = train(*options(tiny_settings, steps=4000, out=str(run), dist_timeout="20s", **own), "--devices", "2")
    signalled(process, rank, signal.SIGSTOP, run, after=3)
    code, _, err = ended(process, 200)  # torchrun waits 30 s for the one that hangs
    assert code == 1
    assert err.count("error:") == 1
    assert f"error: process {rank} of 2" in err


@pytest.mark.slow
@needs_proc
def test_ctrl_c_and_the_time_limit_end_all_as_they_end_one(tiny_settings: TrainSettings, tmp_path: Path) -> None:
    stopped, timed = tmp_path / "stopped", tmp_path / "timed"
    process = train(*options(tiny_settings, steps=4000, out=str(stopped)), "--devices", "2", start_new_session=True)
    steps_come(process, stopped, 3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
    code, out, err = ended(process, 60)
    assert code == 128 + signal.SIGINT, err
    assert err.count("error: ") == 1
    assert "everything is saved" in err
    ended_by_itself = train(*options(tiny_settings, steps=4000, out=str(timed), max_time="3s"), "--devices", "2")
    code, out, err = ended(ended_by_itself, 120)
    assert (code, out.split()) == (0, [str(timed)]), err
    for run in (stopped, timed):
        last = records(run)[-1]["step"]
        assert (run / "checkpoints" / f"step_{last:08d}").is_dir()


def machine(port: int, nodes: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A machine's torchrun with one process, in `folder`."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes", nodes, "--nproc-per-node", "1"),
            *("--max-restarts", "3", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}"),
            *("--rdzv-conf", "last_call_timeout=1", "--local-addr", "localhost", "--rdzv-id", "the test's"),
            *("-m", "ratlip_cli", "train", *arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
    )


def listens(port: int) -> None:
    """Wait until the first machine keeps the words of torchrun."""
    deadline = time.monotonic() + 600
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port), 1):
            return
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("lost", ["process 0", "the second machine"])
def test_several_machines_go_on(lost: str, uninterrupted: Path, tiny_settings: TrainSettings, tmp_path: Path) -> None:
    """One machine's torchrun has then counted a restart, and the other one's, or that of the new machine, none."""
    run, port = tmp_path / "run", free_port()
    given = options(tiny_settings, **A_RUN, out=str(run))
    machines = [machine(port, "2", tmp_path, *given)]
    listens(port)
    machines.append(machine(port, "2", tmp_path, *given))
    steps_come(machines[0], run, 4)
    if lost == "process 0":
        os.kill(next(pid for one in machines for pid in workers(one.pid) if is_of_rank(pid, 0)), signal.SIGKILL)
    else:
        gone = machines.pop()
        (own,) = workers(gone.pid)
        gone.kill()
        os.kill(own, signal.SIGKILL)
        gone.communicate()
        machines.append(machine(port, "2", tmp_path, *given))
    said = [one.communicate(timeout=400)[0] for one in machines]
    assert [one.returncode for one in machines] == [0, 0], said
    ours = [line for words in said for line in words.splitlines() if line.startswith("error: process")]
    assert len(ours) == 1, said
    assert f"process {0 if lost == 'process 0' else 1} of 2" in ours[0]
    assert_as_uninterrupted(run, uninterrupted)


@pytest.mark.slow
@needs_proc
def test_a_machine_that_comes_later_joins_the_run(tiny_settings: TrainSettings, tmp_path: Path) -> None:
    """torchrun starts all again and counts no restart; without --out there is one run, which goes on."""
    port, given = free_port(), options(tiny_settings, steps=100_000)
    machines = [machine(port, "1:2", tmp_path, *given)]
    deadline = time.monotonic() + 600
    while not (found := list(tmp_path.glob("runs/*/metrics.jsonl"))):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    run = found[0].parent
    steps_come(machines[0], run, 2)
    machines.append(machine(port, "1:2", tmp_path, *given))
    while not workers(machines[1].pid):
        assert time.monotonic() < deadline + 300
        assert machines[0].poll() is None, machines[0].communicate()
        time.sleep(0.1)
    steps_come(machines[0], run, len(records(run)) + 2)
    for one in machines:
        one.terminate()
    said = [one.communicate(timeout=200)[0] for one in machines]
    assert any("in 2 processes" in words for words in said), said
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [run.name]
    steps = [line["step"] for line in records(run)]
    assert steps == list(range(1, len(steps) + 1))


def test_a_restart_goes_on_with_the_run_of_its_own_launch_alone(
    tiny_settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = tiny_settings.replaced(steps=2, out="")
    older = open_session(settings)
    older.folder.close()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "this one")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # it had died before it made a folder
    begun = open_session(settings)
    list(begun.run())
    assert begun.folder.path != older.folder.path
    again = open_session(settings)
    assert (again.folder.path, again.finished) == (begun.folder.path, True)
    again.folder.close()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another one")
    other = open_session(settings)
    other.folder.close()
    assert other.folder.path not in (older.folder.path, begun.folder.path)


@pytest.mark.slow
@needs_proc
def test_a_reader_that_is_killed_during_an_exchange_is_named(tiny_settings: TrainSettings, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = train(*options(tiny_settings, steps=100_000, workers=1, out=str(run)), "--devices", "2")
    steps_come(process, run, 2)
    first, second = (worker(process.pid, rank) for rank in range(2))
    os.kill(second, signal.SIGSTOP)
    time.sleep(2)  # now the first one waits for it in an exchange
    os.kill(worker_of(first), signal.SIGKILL)
    time.sleep(0.5)
    os.kill(second, signal.SIGCONT)
    code, _, err = ended(process, 60)
    assert (code, err.count("error:")) == (1, 1), err
    assert "a process that reads images was killed" in err


TIMEOUT = """
import datetime, torch, torch.distributed as dist
import torch.testing._internal.distributed.fake_pg
from ratlip_cli import processes
from ratlip_cli.distributed import Group
dist.init_process_group("fake", store=dist.HashStore(), rank=0, world_size=1)
processes._store.append(dist.HashStore())
group = Group(datetime.timedelta(seconds=77))
print(group._between_cpus._get_backend(torch.device("cpu")).options._timeout.total_seconds())
"""


def test_decisions_between_gpus_wait_as_long_as_they_are_told_to() -> None:
    told = subprocess.run([sys.executable, "-c", TIMEOUT], capture_output=True, text=True, timeout=300)
    assert told.stdout == "77.0\n", told.stderr


@pytest.mark.parametrize(
    ("machines", "restarts", "shares", "run_id", "cannot"),
    [
        ("2", "3", "False", "mine", False),
        ("2", "3", "False", "none", True),
        ("2", "3", "True", "mine", True),
        ("2", "0", "True", "none", False),  # not asked to
        ("1", "3", "True", "none", False),
    ],
)
def test_what_torchrun_cannot_start_again_is_known(
    machines: str, restarts: str, shares: str, run_id: str, cannot: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    elastic = {"MAX_RESTARTS": restarts, "USE_AGENT_STORE": shares, "RUN_ID": run_id}
    for name, value in {
        "GROUP_WORLD_SIZE": machines,
        **{f"TORCHELASTIC_{key}": elastic[key] for key in elastic},
    }.items():
        monkeypatch.setenv(name, value)
    assert processes.cannot_start_again() == cannot


MEETING = """
from ratlip_cli import processes
assert processes.missing(200) == []
print(processes.said("what", lambda: "{said}"), processes.launch())
"""


def asked_in_each(program: str, port: int, counts: str, **elastic: str) -> list[list[str]]:
    """The words that processes print, of which torchrun has counted so many restarts."""
    all_of_them = []
    for rank, count in enumerate(counts):
        env = {"RANK": str(rank), "WORLD_SIZE": str(len(counts)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        env |= {f"TORCHELASTIC_{name}": value for name, value in {**elastic, "RESTART_COUNT": count}.items()}
        command = [sys.executable, "-c", program]
        all_of_them.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "LOCAL_RANK": "1", **env})
        )
    return [one.communicate(timeout=300)[0].split() for one in all_of_them]


@pytest.mark.slow
def test_processes_of_a_machine_know_their_torchrun_and_nothing_that_those_before_them_said() -> None:
    """Two attempts under one store, as torchrun keeps it for those of one machine."""
    kept = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    launches = set()
    for said, counts in (("first", "00"), ("second", "11")):
        words = asked_in_each(MEETING.format(said=said), kept.port, counts, RUN_ID="none", USE_AGENT_STORE="True")
        assert [first for first, _ in words] == [said, said]
        launches |= {launch for _, launch in words}
    assert len(launches) == 1


@pytest.mark.slow
def test_processes_of_several_machines_meet_whatever_their_torchruns_count() -> None:
    words = asked_in_each(MEETING.format(said="this"), free_port(), "10", RUN_ID="mine", USE_AGENT_STORE="False")
    assert words == [["this", "mine"]] * 2


ABANDONED = """
import os, time
from ratlip_cli import processes
assert processes.missing(200) == []
processes.store().add("met", 1)
while processes.rank() == 0 and processes.store().add("met", 0) < 3:
    time.sleep(0.05)
if processes.rank() == 0:
    os._exit(9)
print(processes.speaks())
"""


@pytest.mark.slow
def test_one_process_of_a_machine_speaks_where_the_first_one_was_killed() -> None:
    assert asked_in_each(ABANDONED, free_port(), "000") == [[], ["True"], ["False"]]
