"""What many tests share: a tiny CLIP of random weights and a tiny dataset, each as a folder."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import bare_environment  # noqa: F401
import open_clip
import pytest
import torch
from hub_connection import Connect, connection
from hypothesis import HealthCheck
from hypothesis import settings as of_hypothesis
from PIL import Image

from ratlip_cli.cli import console
from ratlip_cli.data.layout import DatasetInfo, Record
from ratlip_cli.data.writer import write_dataset
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.weights.clip_files import save_clip

if "PYTEST_XDIST_WORKER" in os.environ:  # a core each, for the programs that they start too
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

# Where a script runs the tests in the background, or under nohup; the programs that they start would inherit it.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (getattr(signal, "SIGHUP", None), signal.SIG_DFL)):
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

# Examples are the same each time, and no clock decides whether one passes.
of_hypothesis.register_profile("ratlip", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
of_hypothesis.load_profile("ratlip")

TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
"""A grid of 4 patches: the smallest that the discriminator takes."""

PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "pink", "grey", "black")


@pytest.fixture(autouse=True)
def not_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that was quiet in this process, or will be, silences no other test."""
    monkeypatch.setattr(console, "_quiet", False)


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a CLIP with random weights that takes milliseconds."""
    folder = tmp_path_factory.mktemp("clip") / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**TINY_CLIP)
    save_clip(folder, {"model_cfg": TINY_CLIP, "preprocess_cfg": PREPROCESS}, model.state_dict())
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a dataset of ten one-coloured images of 32 pixels, two captions each; two more are its test split."""
    folder = tmp_path_factory.mktemp("data") / "colours"
    records = [
        Record(
            name=f"{split}-{colour}",
            split=split,
            captions=(f"a {colour} image", f"all of it is {colour}"),
            image=Image.new("RGB", (40, 40), colour),
        )
        for split, colours in (("train", COLOURS), ("test", COLOURS[:2]))
        for colour in colours
    ]
    info = DatasetInfo(name="colours", source="made by the tests", licence="CC0", image_size=32, split_rule="by name")
    write_dataset(folder, records, info)
    return folder


@pytest.fixture(scope="session")
def tiny_settings(tiny_clip: Path, tiny_dataset: Path) -> TrainSettings:
    """A training run of milliseconds a step."""
    return TrainSettings.of(
        dataset=str(tiny_dataset),
        clip=str(tiny_clip),
        image_size=32,
        generator_channels=4,
        discriminator_channels=2,
        hidden_size=4,
        noise_dim=8,
        batch_size=4,
        steps=6,
        ema=0.9,
        device="cpu",
        workers=0,
        sample_every=0,
    )


@pytest.fixture
def settings(tiny_settings: TrainSettings, tmp_path: Path) -> TrainSettings:
    """The same run in `tmp_path`/run."""
    return tiny_settings.replaced(out=str(tmp_path / "run"))


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Connect:
    """Point huggingface_hub at a server on this machine."""
    return connection(monkeypatch, tmp_path)
