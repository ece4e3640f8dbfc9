"""The jobs for clusters in `examples/`: what of them can run on one machine without GPUs runs, the rest is read."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import ratlip
from test_distributed import options, records, steps_come

from ratlip_cli.training.settings import TrainSettings

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("slurm/*.sbatch")), ids=lambda path: path.name)
def test_bash_can_read_the_jobs(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], capture_output=True, check=True).stderr == b""


def test_settings_of_the_pods_are_settings() -> None:
    job = yaml.safe_load((EXAMPLES / "kubernetes" / "pytorchjob.yaml").read_text(encoding="utf-8"))
    (container,) = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    command = container["command"]
    answer = ratlip("train", *command[command.index("train") + 1 :], "--print-config")
    assert answer.code == 0, answer.err
    assert 'dataset = "/shared/cc12m/{00000..01242}.tar"' in answer.out


def program(folder: Path, name: str, *lines: str) -> None:
    """Put a program into a folder of PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(("#!/bin/bash", *lines, "")), encoding="utf-8")
    (folder / name).chmod(0o755)


@pytest.mark.slow
def test_a_job_saves_before_its_time_is_over_and_goes_on_in_the_next(
    tiny_settings: TrainSettings, tmp_path: Path
) -> None:
    """Two processes on the CPU stand in for the GPUs, and a program that notes what it is asked for SLURM's."""
    run, asked = tmp_path / "run", tmp_path / "asked"
    own = " ".join(f"'{word}'" for word in options(tiny_settings, steps=100))
    program(
        tmp_path / "bin",
        "ratlip",
        'given=("$@")',
        'for place in "${!given[@]}"; do if [ "${given[place]}" = all ]; then given[place]=2; fi; done',
        f'exec {sys.executable} -m ratlip_cli "${{given[@]}}" {own}',
    )
    program(tmp_path / "bin", "scontrol", f'echo "$@" >> {asked}')
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "SLURM_JOB_ID": "12", "OMP_NUM_THREADS": "1"}
    job = ["bash", str(EXAMPLES / "slurm" / "requeue.sbatch"), tiny_settings.dataset, str(run)]
    first = subprocess.Popen(job, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    steps_come(first, run, 3)
    first.send_signal(signal.SIGUSR1)  # the script's alone, as `--signal=B:` says
    _, err = first.communicate(timeout=200)
    assert first.returncode == 0, err
    assert "everything is saved" in err
    assert asked.read_text(encoding="utf-8") == "requeue 12\n"
    stopped = records(run)[-1]["step"]
    assert stopped < 100
    second = subprocess.run(job, capture_output=True, text=True, env=env, timeout=300)
    assert second.returncode == 0, second.stderr
    assert "going on from" in second.stderr
    assert [record["step"] for record in records(run)] == list(range(1, 101))
    assert asked.read_text(encoding="utf-8") == "requeue 12\n"
