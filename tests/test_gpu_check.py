"""The script that proves and measures everything on a GPU proves itself on a CPU: tests/gpu/check.py."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parent / "gpu"))
import check
import right
import swapping
from report import Context, Report

from ratlip_cli.fast import affines
from ratlip_cli.training.trainer import Trainer

PRECISIONS = ("fp32", "bf16")


def start(out: Path, *arguments: str) -> subprocess.Popen[str]:
    """The script as a user starts it, in a folder that is not the checkout."""
    command = [sys.executable, check.__file__, "--device", "cpu", "--out", str(out), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=out.parent, env=environment
    )


def call(out: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code of the script in this process, and its report."""
    code = check.main(["--device", "cpu", "--out", str(out), *arguments])
    return code, json.loads(out.read_text(encoding="utf-8"))


def context_of(path: Path) -> Context:
    report = Report(path, {})
    report.content["steps"]["right"] = {"state": "running", "seconds": 0.0, "rows": [], "figures": {}}
    return Context("right", report, torch.device("cpu"), True, float("inf"))


@pytest.mark.slow
def test_every_step_and_its_figures_are_in_the_report(tmp_path: Path) -> None:
    process = start(tmp_path / "gpu.json", "--minutes", "60")  # on a CPU it is over before, however slow that is
    printed, errors = process.communicate(timeout=3600)
    report = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert process.returncode == 0, printed + errors
    assert {name: step["state"] for name, step in report["steps"].items()} == dict.fromkeys(check.STEPS, "done")
    assert not [what for step in report["steps"].values() for what, value in step["rows"] if "ERROR" in value]
    assert all(one["passed"] for one in report["checks"].values())
    assert report["ended"] == "all done"
    assert report["code"]["source"]
    assert report["packages"]["torch"] == torch.__version__.split("+")[0]
    assert report["machine"]["torch"] == torch.__version__
    assert "driver" not in report["machine"]

    figures = {name: step["figures"] for name, step in report["steps"].items()}
    names = " ".join(report["checks"])
    for variant in ("ratlip", "rat", "galip", "ratlip-released"):
        assert f"{variant}, small, float64, all swaps: gradients" in report["checks"]
        assert f"{variant}, small, fp32: images" in report["checks"]
    for variant in right.BASELINES:
        assert {f"{variant}, fp32: gradients", f"{variant}: losses of five steps"} <= report["checks"].keys()
    for word in (
        "small, fp16",
        "swap affines",
        "reference:",
        "full size, bf16",
        "twenty steps",
        "fifty steps, fp16",
        "resume",
    ):
        assert word in names
    assert "compiled: losses" in names
    for swap in swapping.usable(torch.device("cpu")):
        assert figures["swaps"][f"{swap.value}, bf16"]
        work = {"referee": "training", "clip-captions": "encoding"}.get(swap.value, "sampling")
        assert figures["swaps"]["verdict"][swap.value].keys() >= {work, "wins"}
    for name in ("plain", "all", "plain, channels last", "all, channels last"):
        for precision in PRECISIONS:
            assert figures["swaps"][f"{name}, {precision}"]["training seconds"] > 0
            assert figures["swaps"][f"{name}, {precision}"]["sampling seconds"] > 0
    assert figures["swaps"]["literal"].startswith('"cpu": frozenset(')

    generate = figures["generate"]
    assert generate["roof"]["GFLOP an image"] > 0
    assert generate["roof"]["bf16 TFLOP/s"] > 0
    assert generate["ours bf16 weights, CUDA graph"] == "not on this device"
    for name in ("plain fp32, TF32 off", "plain fp32, TF32 on", "ours fp32", "ours bf16", "plain bf16, compiled"):
        assert all(one["images/s"] > 0 for one in generate[name].values())
    assert {"eager", "compiled", "recompute"} <= {
        name.split()[-1] for name in figures["train"] if name.startswith("batch")
    }
    assert figures["train"]["hours"]["steps"].keys() == {"cub", "oxford", "celeba-tiny"}
    assert any(name.startswith("loader") for name in figures["train"])
    assert figures["profile"]["training step"]["table"][0]["calls"] > 0
    assert figures["profile"]["generate"]["table"]
    assert len(figures["learn"]["scores against time"]) >= 2
    learned = tmp_path / "learned"
    assert {"config.json", "generator.safetensors", "samples.png"} <= {path.name for path in learned.iterdir()}
    assert all(path.stat().st_size <= 2**24 for path in learned.rglob("*") if path.is_file())

    assert len(report["targets"]) == 5
    assert all(target["reached"] is None for target in report["targets"].values()), "they count on a GPU alone"
    assert printed.count("target ") == 5
    assert len(printed.splitlines()) < 90


@pytest.mark.slow
def test_a_spoiled_value_is_found_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fused = affines.fused

    def spoiled(c: Tensor, vectors: Sequence[Tensor]) -> Tensor:
        return 1.001 * fused(c, vectors)

    monkeypatch.setattr(affines, "fused", spoiled)
    monkeypatch.setattr(right, "VARIANTS", ["ratlip"])
    for work in (
        "references",
        "baselines",
        "twenty_steps",
        "exact_resume",
        "sampled_images",
        "full_variants",
        "fifty_steps",
        "compiled_steps",
    ):
        monkeypatch.setattr(right, work, lambda context: None)
        getattr(right, work).__name__ = work
    code, report = call(tmp_path / "gpu.json", "--only", "right")
    failed = {name for name, one in report["checks"].items() if not one["passed"]}
    assert code == 1
    assert {"swap affines: images", "swap affines: gradients", "ratlip, small, fp32: images"} <= failed
    assert not [name for name in failed if name.startswith("swap ") and "affines" not in name]
    assert "FAILED swap affines: images" in capsys.readouterr().out


def test_one_changed_weight_is_found(tmp_path: Path) -> None:
    networks, given = right.networks_of("galip", True), right.given_of(True)
    with check.threads(1):
        expected = right.written_out(right.placed(networks, torch.device("cpu"), torch.float64), given)
    changed = right.Networks(copy.deepcopy(networks.generator), networks.discriminator, networks.clip)
    with torch.no_grad():
        next(iter(changed.generator.parameters())).flatten()[0] += 0.01
    for ones, passes in ((networks, True), (changed, False)):
        context = context_of(tmp_path / "gpu.json")
        with check.threads(1):
            actual = right.by_objective(right.placed(ones, torch.device("cpu")), given, torch.float32)
        right.compare(context, "galip", actual, expected, right.LIMITS["fp32"])
        assert context.report.content["checks"]["galip: images"]["passed"] is passes


@pytest.mark.slow
def test_a_changed_weight_of_the_other_papers_models_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, calls = right.step_of_phases, []

    def spoiled(trainer: Trainer, images: Tensor) -> dict[str, Tensor]:
        calls.append(trainer)
        if len(calls) % 2 == 0:  # what the device computes
            with torch.no_grad():
                next(trainer.discriminator.parameters()).mul_(1.1)
        return honest(trainer, images)

    monkeypatch.setattr(right, "step_of_phases", spoiled)
    context = context_of(tmp_path / "gpu.json")
    with check.threads(1):
        right.baselines(context)
    checks = context.report.content["checks"]
    for variant in right.BASELINES:
        assert not checks[f"{variant}, fp32: worst gradient"]["passed"], variant
        assert checks[f"{variant}, fp32: images"]["passed"], variant
        assert checks[f"{variant}: losses of five steps"]["passed"], variant


def test_what_is_not_a_number_fails(tmp_path: Path) -> None:
    context = context_of(tmp_path / "gpu.json")
    context.check("images", float("nan"), 1.0)
    context.report.write()
    assert context.report.failed == ["images"]
    assert json.loads((tmp_path / "gpu.json").read_text())["checks"]["images"]["value"] == "nan"


@pytest.mark.slow
def test_a_time_limit_leaves_what_was_done(tmp_path: Path) -> None:
    code, report = call(tmp_path / "gpu.json", "--only", "right", "--minutes", "0.25")
    assert code == 0
    assert report["ended"] == "time limit"
    assert report["steps"]["right"]["state"] == "cut"
    assert report["checks"]["ratlip, small, float64, all swaps: images"]["passed"]


@pytest.mark.slow
def test_a_signal_leaves_what_was_done(tmp_path: Path) -> None:
    process = start(tmp_path / "gpu.json", "--only", "swaps", "right")
    assert process.stderr is not None
    assert any("right ..." in line for line in process.stderr)
    process.terminate()
    printed, _ = process.communicate(timeout=60)
    report = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert report["ended"] == "stopped by SIGTERM"
    assert report["steps"]["right"]["state"] == "stopped"
    assert report["steps"]["swaps"]["state"] == "not run"
    assert "stopped by SIGTERM" in printed


@pytest.mark.slow
def test_a_broken_step_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(check.STEPS, "swaps", ("no_such_module", 1))
    monkeypatch.setitem(check.STEPS, "right", ("nor_this", 1))
    monkeypatch.setitem(check.STEPS, "profile", ("profiling", 4))
    code, report = call(tmp_path / "gpu.json", "--only", "right", "swaps", "profile")
    states = {name: step["state"] for name, step in report["steps"].items()}
    assert states == {"right": "failed", "swaps": "failed", "profile": "done"}
    assert "no_such_module" in report["steps"]["swaps"]["error"]
    assert code == 1, "nothing was proven"


def test_a_missing_gpu_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code = check.main(["--out", str(tmp_path / "gpu.json"), "--only", "generate", "right"])
    report = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert code == 1
    assert "no CUDA GPU" in report["ended"]
    assert {step["state"] for step in report["steps"].values()} == {"failed"}


def test_an_unknown_step_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        check.main(["--only", "swap"])
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"unknown step swap; there are: {', '.join(check.STEPS)}."]


def test_the_verdict_takes_what_wins_in_one_and_does_not_lose_in_the_other() -> None:
    assert swapping.wins({"training": 0.06, "sampling": -0.01})
    assert swapping.wins({"sampling": 0.05})
    assert not swapping.wins({"training": 0.2, "sampling": -0.1})
    assert not swapping.wins({"training": 0.04, "sampling": 0.01})
    assert not swapping.wins({})
