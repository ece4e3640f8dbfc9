"""`ratlip bench`: what it measures adds up, and freed memory is kept."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from command_line import ratlip

from ratlip_cli.cli import waiting
from ratlip_cli.data.prepare import OFFICIAL
from ratlip_cli.environment import cpu_name
from ratlip_cli.errors import RatlipError
from ratlip_cli.model.config import DiscriminatorConfig, GeneratorConfig
from ratlip_cli.model.discriminator import Discriminator
from ratlip_cli.model.generator import Generator
from ratlip_cli.training import benchmark, comparison
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.model_folder import create_model_folder, load_folder, model_config, save_weights


@pytest.fixture(scope="module")
def model_folder(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    clip = load_clip(str(tiny_clip))
    config = GeneratorConfig(image_size=32, noise_dim=6, hidden_size=4, base_channels=4)
    discriminator = DiscriminatorConfig(base_channels=2, pixel_stem=True)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    create_model_folder(folder, model_config(config, discriminator, clip), clip)
    networks = Generator(config, clip.geometry), Discriminator(discriminator, clip.geometry)
    save_weights(folder, *(network.state_dict() for network in networks))
    return folder


@pytest.mark.slow
def test_figures_add_up(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "SHORTEST_SECONDS", 0.0)
    monkeypatch.setattr(benchmark, "MATRIX_SIDE", 256)
    answer = ratlip("bench", "--model", model_folder, "--device", "cpu", "--batch-size", 2, "--train", "--json", "-q")
    assert (answer.code, answer.err) == (0, "")
    told = json.loads(answer.out)
    sampling, training = told["sampling"], told["training"]
    assert told["device"] == "cpu"
    assert told["machine"].startswith(cpu_name())
    assert told["peak_memory_mib"] > 0
    for speed, rate in ((sampling, "images_per_second"), (training, "steps_per_second")):
        gflops = speed[rate] * speed["gflop_per_image" if speed is sampling else "gflop_per_step"]
        assert speed["batch_size"] == 2
        assert speed["share_of_matrix_rate"] == pytest.approx(gflops / told["matrix_gflops"])
    assert (training["precision"], training["matrix_gflops"]) == ("fp32", told["matrix_gflops"])
    assert training["epoch_minutes"].keys() == OFFICIAL.keys()
    assert training["epoch_minutes"]["cub"] == pytest.approx(8855 / 2 / training["steps_per_second"] / 60)

    options = ("--model", model_folder, "--device", "cpu", "--batch-size", 2)
    table = ratlip("bench", *options, "-q")
    assert table.code == 0
    assert cpu_name() in table.out
    told = json.loads(ratlip("bench", *options, "--train", "--precision", "bf16", "--json", "-q").out)
    speed = told["training"]  # in float32 all the same, and so is the rate that it is a share of
    gflops = speed["steps_per_second"] * speed["gflop_per_step"]
    assert speed["precision"] == "fp32"
    assert speed["matrix_gflops"] != told["matrix_gflops"]
    assert speed["share_of_matrix_rate"] == pytest.approx(gflops / speed["matrix_gflops"])
    assert "images a second, 2 at a time" in table.out
    assert "training" not in table.out


@pytest.mark.slow
def test_libraries_are_compared(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "SHORTEST_SECONDS", 0.0)
    monkeypatch.setattr(comparison, "multiplies_bf16", lambda: False)
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # neither of the exports can be made
    asked = ("bench", "--model", model_folder, "--compare", "--batch-size", 2, "--threads", 1)
    answer = ratlip(*asked, "--json", "-q")
    assert (answer.code, answer.err) == (0, "")
    told = json.loads(answer.out)
    assert (told["cpu"], told["threads"], told["images"]) == (cpu_name(), 1, 2)
    assert told["cores"] == comparison.shared_cores(1)
    names = ["plain PyTorch", "ratlip", "ratlip, bf16", "onnxruntime", "OpenVINO"]
    assert [one["name"] for one in told["contenders"]] == names
    for one in told["contenders"][:2]:
        assert min(one[f"{what}_{state}"] for what in ("one", "several") for state in ("idle", "busy")) > 0
        assert one["difference"] <= 1e-5
    for one, words in zip(told["contenders"][2:], ("does not multiply bf16", *["pip install"] * 2), strict=True):
        assert words in one["missing"]
        assert one["one_idle"] is None
    table = ratlip(*asked, "-q")
    assert all(name in table.out for name in (cpu_name(), *names))
    assert told["cores"] is None or f"on cores {', '.join(map(str, told['cores']))}" in table.out
    assert "not there" in table.out


def check_measured(row: comparison.Contender, least: float, most: float) -> None:
    """Its difference is within these bounds, and nothing is missing."""
    assert row.missing is None
    assert row.difference is not None
    assert least <= row.difference <= most
    for time in (row.one_idle, row.several_idle, row.one_busy, row.several_busy):
        assert isinstance(time, float)
        assert time > 0


def first_rows(count: int, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, comparison.Contender]:
    """By their names; without the plain one's seconds, which has its own tests."""
    monkeypatch.setattr(benchmark, "SHORTEST_SECONDS", 0.0)
    monkeypatch.setattr(comparison, "_SERVE", _SERVED)
    rows = comparison.compare(load_folder(model_folder), 3, 1, dict(os.environ))
    return {one.name: one for one in itertools.islice(rows, count)}


@pytest.mark.slow
def test_bf16_is_measured(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without bf16 rounds to the same values."""
    monkeypatch.setattr(comparison, "multiplies_bf16", lambda: True)
    rows = first_rows(3, model_folder, monkeypatch)
    check_measured(rows["ratlip"], 0, 1e-5)
    check_measured(rows["ratlip, bf16"], 1e-5, 0.1)


@pytest.mark.slow
def test_onnxruntime_is_measured(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    check_measured(first_rows(4, model_folder, monkeypatch)["onnxruntime"], 0, 1e-5)


def test_plain_pytorch_is_one_call(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the generator as it is, by one image and by all of them, more than a small model's chunk."""
    count, calls = 20, []
    forward = Generator.forward

    def told(self: Generator, noise: torch.Tensor, *rest: object) -> torch.Tensor:
        calls.append((len(noise), self.training, torch.is_grad_enabled()))
        return forward(self, noise, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Generator, "forward", told)
    monkeypatch.setattr(benchmark, "SHORTEST_SECONDS", 0.0)
    monkeypatch.setattr(sys, "argv", ["", str(model_folder), str(count), str(torch.get_num_threads())])
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    comparison.serve_plain()
    assert len(json.loads(capsys.readouterr().out)) == 2
    assert calls == [(1, False, False)] * 4 + [(count, False, False)] * 4


@pytest.mark.parametrize(
    ("threads", "every", "expected"),
    [(1, range(2, 18), [2, 3]), (2, range(2, 18), [2, 3]), (4, range(2, 18), [2, 3, 4, 5]), (2, [7], [7])],
)
def test_a_busy_core_is_one_too_few(
    threads: int, every: range, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(every), raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", None, raising=False)
    assert comparison.shared_cores(threads) == expected


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="programs are bound to cores on Linux alone")
def test_all_that_is_measured_is_bound(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that this process already has, and processes that it starts; and as before afterwards."""
    every = os.sched_getaffinity(0)
    core = max(every)
    monkeypatch.setattr(comparison, "shared_cores", lambda threads: [core])
    monkeypatch.setattr(comparison, "_SERVE", _SERVED.replace('os.environ.get("GOMP_SPINCOUNT", "as it is")', _CORES))
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        rows = comparison.compare(load_folder(model_folder), 2, 1, dict(os.environ))
        assert next(rows).one_idle == [core]
        with comparison.busy_core() as loop:
            for one in (0, thread.native_id, loop):
                assert os.sched_getaffinity(one) == {core}
        rows.close()
        for one in (0, thread.native_id):
            assert os.sched_getaffinity(one) == every
    finally:
        end.set()
        thread.join()


_CORES = "sorted(os.sched_getaffinity(0))"
_SERVED = """
import os
import ratlip_cli.training.comparison as comparison

comparison.seconds = lambda work, cpu: os.environ.get("GOMP_SPINCOUNT", "as it is")
comparison.serve_plain()
"""
"""Tells how its threads wait instead of seconds."""


@pytest.mark.slow
@pytest.mark.parametrize(("users", "ours"), [(None, "1000"), ("1000", "1000"), ("7", "7")])
def test_plain_pytorch_waits_as_pytorch_does(
    users: str | None, ours: str, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process has the environment that the user has; this one has what the command line chose."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", waiting._OURS):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    if users is not None:
        monkeypatch.setenv("GOMP_SPINCOUNT", users)
    waiting.wait_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == ours
    monkeypatch.setattr(comparison, "_SERVE", _SERVED)
    first = next(comparison.compare(load_folder(model_folder), 2, 1, waiting.users_environment()))
    assert first.name == "plain PyTorch"
    assert first.one_idle == first.several_busy == (users or "as it is")


def test_a_process_that_ends_early_is_told(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "_SERVE", "pass")
    with pytest.raises(RatlipError, match="measures plain PyTorch ended early"):
        next(comparison.compare(load_folder(model_folder), 2, 1, dict(os.environ)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--batch-size", 0), "--batch-size is 0"),
        (("--batch-size", 1, "--train"), "at least 2"),
        (("--precision", "bf61"), "bf16"),
        (("--threads", 2), "--threads goes with --compare"),
        (("--compare", "--train"), "leave out --train"),
        (("--compare", "--device", "cuda"), "--compare is of float32 sampling on the CPU"),
        (("--data", "x", "--precision", "bf16"), "--data measures only how images are read"),
        (("--data", "x", "--device", "cpu"), "leave out the model, --train, --compare, --precision and --device"),
        (("--data", "x", "ratlip-demo"), "leave out the model"),
        (("--data", "x", "--model", "ratlip-demo"), "leave out the model"),
        (("--workers", 2), "--workers: only with --data"),
        (("--image-size", 256, "--split", "train"), "--image-size and --split: only with --data"),
        (("--caption-column", "caption"), "--caption-column: only with --data"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[object, ...], words: str) -> None:
    answer = ratlip("bench", *arguments)
    assert answer.code == 2
    assert words in answer.err
    assert answer.out == ""


_REUSE = """
import os, resource
import torch
from ratlip_cli.device import keep_freed_memory

for keep in (False, True):
    if os.fork() == 0:
        if keep:
            keep_freed_memory()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for quarters in range(4, 124):
            torch.empty(quarters * 2**18, dtype=torch.uint8).fill_(1)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="an option of glibc")
def test_freed_memory_is_used_again() -> None:
    """Tensors of 1 to 31 MiB, each larger than the last: new pages for each, or those of the last and a few more."""
    answer = subprocess.run([sys.executable, "-c", _REUSE], check=True, capture_output=True, text=True).stdout
    as_it_comes, kept = map(int, answer.split())
    assert kept < as_it_comes / 20
