"""`ratlip bench`: what it measures adds up, and freed memory is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ratlip

from ratlip_cli.cli import waiting
from ratlip_cli.data.prepare import OFFICIAL
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


def test_figures_add_up(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "SHORTEST_SECONDS", 0.0)
    monkeypatch.setattr(benchmark, "MATRIX_SIDE", 256)
    answer = ratlip("bench", "--model", model_folder, "--device", "cpu", "--batch-size", 2, "--train", "--json", "-q")
    assert (answer.code, answer.err) == (0, "")
    told = json.loads(answer.out)
    sampling, training = told["sampling"], told["training"]
    assert told["device"] == "cpu"
    assert told["peak_memory_mib"] > 0
    for speed, rate in ((sampling, "images_per_second"), (training, "steps_per_second")):
        gflops = speed[rate] * speed["gflop_per_image" if speed is sampling else "gflop_per_step"]
        assert speed["batch_size"] == 2
        assert speed["share_of_matrix_rate"] == pytest.approx(gflops / told["matrix_gflops"])
    assert training["epoch_minutes"].keys() == OFFICIAL.keys()
    assert training["epoch_minutes"]["cub"] == pytest.approx(8855 / 2 / training["steps_per_second"] / 60)

    table = ratlip("bench", "--model", model_folder, "--device", "cpu", "--batch-size", 2, "-q")
    assert table.code == 0
    assert "images a second, 2 at a time" in table.out
    assert "training" not in table.out


def test_libraries_are_compared(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "SHORTEST_SECONDS", 0.0)
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # neither of the exports can be made
    asked = ("bench", "--model", model_folder, "--compare", "--batch-size", 2, "--threads", 1)
    answer = ratlip(*asked, "--json", "-q")
    assert (answer.code, answer.err) == (0, "")
    told = json.loads(answer.out)
    assert (told["threads"], told["images"]) == (1, 2)
    names = ["plain PyTorch", "ratlip", "onnxruntime", "OpenVINO"]
    assert [one["name"] for one in told["contenders"]] == names
    for one in told["contenders"][:2]:
        assert min(one[f"{what}_{state}"] for what in ("one", "several") for state in ("idle", "busy")) > 0
        assert one["difference"] <= 1e-5
    for one in told["contenders"][2:]:
        assert "pip install" in one["missing"]
        assert one["one_idle"] is None
    table = ratlip(*asked, "-q")
    assert all(name in table.out for name in names)
    assert "not there" in table.out


_SERVED = """
import os
import ratlip_cli.training.comparison as comparison

comparison.seconds = lambda work, cpu: os.environ.get("GOMP_SPINCOUNT", "as it is")
comparison.serve_plain()
"""
"""Tells how its threads wait instead of seconds."""


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


@pytest.mark.skipif(sys.platform != "linux", reason="an option of glibc")
def test_freed_memory_is_used_again() -> None:
    """Tensors of 1 to 31 MiB, each larger than the last: new pages for each, or those of the last and a few more."""
    answer = subprocess.run([sys.executable, "-c", _REUSE], check=True, capture_output=True, text=True).stdout
    as_it_comes, kept = map(int, answer.split())
    assert kept < as_it_comes / 20
