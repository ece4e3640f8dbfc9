"""Models by name, through the real huggingface_hub client from a server on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ratlip
from hub_server import COMMIT, serve
from PIL import Image

FETCH = """
import sys
from ratlip_cli.errors import RatlipError
from ratlip_cli.weights.hub import fetch
try:
    print(fetch(sys.argv[1]))
except RatlipError as error:
    sys.exit(f"error: {error}")
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "clip").mkdir(parents=True)
    (folder / "config.json").write_text('{"library": "ratlip"}')
    (folder / "generator.safetensors").write_bytes(b"weights" * 1000)
    (folder / "clip" / "open_clip_config.json").write_text("{}")
    (folder / "train.py").write_text("raise SystemExit('code from the Hub was run')")
    (folder / "old.pth").write_bytes(b"a pickle")
    return folder


def fetch(name: str, endpoint: str, cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `fetch` in a process of its own: the client reads its settings when it is imported."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-c", FETCH, name], env=os.environ | settings, capture_output=True, text=True, timeout=120
    )


def test_pull_then_cache_then_offline(repository: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with serve({"someone/birds": repository}) as (endpoint, requests):
        first = fetch("someone/birds", endpoint, cache)
        assert first.returncode == 0, first.stderr
        folder = Path(first.stdout.strip())
        got = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert got == {"config.json", "generator.safetensors", "clip/open_clip_config.json"}  # no pickle, no code
        assert (folder / "generator.safetensors").read_bytes() == (repository / "generator.safetensors").read_bytes()
        downloads = sum(request.startswith("GET") and "/resolve/" in request for request in requests)
        assert fetch(f"someone/birds@{COMMIT}", endpoint, cache).stdout == first.stdout
        assert sum(request.startswith("GET") and "/resolve/" in request for request in requests) == downloads
    offline = fetch("someone/birds", "http://127.0.0.1:9", cache, HF_HUB_OFFLINE="1")
    assert offline.stdout == first.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("someone/fish", "neither a folder here nor a repository"),
        ("someone/secret", "ask for access"),
        ("someone/birds@v9", "no revision 'v9'"),
    ],
)
def test_refusals_say_what_to_do(repository: Path, tmp_path: Path, name: str, words: str) -> None:
    with serve({"someone/birds": repository}, gated={"someone/secret"}) as (endpoint, _):
        answer = fetch(name, endpoint, tmp_path / "cache")
    assert answer.returncode == 1
    assert words in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


def test_no_network_says_go_online(tmp_path: Path) -> None:
    answer = fetch("someone/birds", "http://127.0.0.1:9", tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert answer.returncode == 1
    assert "go online" in answer.stderr


def test_generate_from_the_hub(tiny_clip: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    """A model trained here, served under a name, draws the same pictures by that name as from its folder."""
    small = ("--image-size", 32, "--generator-channels", 4, "--discriminator-channels", 2, "--batch-size", 2)
    answer = ratlip(
        *("train", "--dataset", tiny_dataset, "--clip", tiny_clip, *small, "--steps", 1, "--workers", 0),
        *("--sample-every", 0, "--device", "cpu", "--out", tmp_path / "run", "--quiet"),
    )
    assert answer.code == 0, answer.err
    repository = shutil.copytree(tmp_path / "run" / "model", tmp_path / "repository")
    prompt = ("a red picture", "-n", "2", "--device", "cpu", "--no-grid", "--quiet")
    here = ratlip("generate", *prompt, "--model", tmp_path / "run", "--out", tmp_path / "here")
    assert here.code == 0, here.err
    with serve({"someone/colours": repository}) as (endpoint, _):
        command = ["generate", *prompt, "--model", "someone/colours@main", "--out", str(tmp_path / "there")]
        settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        there = subprocess.run(
            [sys.executable, "-m", "ratlip_cli", *command], env=os.environ | settings, capture_output=True, text=True
        )
    assert there.returncode == 0, there.stderr
    names = [Path(line).name for line in here.out.splitlines()]
    assert [Path(line).name for line in there.stdout.splitlines()] == names
    for name in names:
        with Image.open(tmp_path / "here" / name) as one, Image.open(tmp_path / "there" / name) as other:
            assert one.tobytes() == other.tobytes()
