"""The other papers' models learn the colours that captions ask for. It is long: by its name it begins early."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "demo"))
from classifier import load_classifier
from score import fits, sampler

from ratlip_cli.data.layout import read_split
from ratlip_cli.data.prepare import PrepareRequest, prepare
from ratlip_cli.training.settings import resolve_settings
from ratlip_cli.training.start import open_session
from ratlip_cli.weights.load import load_model

NARROW = {"generator_channels": 8, "discriminator_channels": 8, "ema": 0.95}
COLOURS = {
    "attngan": ({**NARROW, "lr_g": 8e-4, "lr_d": 4e-4, "steps": 150}, 0.35),
    "lafite": ({"steps": 800, "batch_size": 12}, 0.22),
    "dfgan": ({**NARROW, "lr_g": 2e-3, "lr_d": 2e-3, "steps": 1000}, 0.153),
    "ratgan": ({**NARROW, "lr_g": 4e-3, "lr_d": 1e-3, "steps": 1200}, 0.153),
}
"""Settings of a run of minutes at 64 pixels, and the share of body colours that is asked of it.

Chance is 0.1; 0.153 is three standard errors of the 284 captions that tell a colour above it.
"""


@pytest.mark.slow
@pytest.mark.parametrize("variant", COLOURS)
def test_the_colours_that_captions_ask_for(tmp_path: Path, variant: str) -> None:
    """By the attribute classifier, which no training uses."""
    short, least = COLOURS[variant]
    prepare(PrepareRequest("demo-birds", tmp_path, count=4000))
    asked = {"dataset": "demo-birds", "data_dir": str(tmp_path), "variant": variant, "out": str(tmp_path / "run")}
    machine = {"device": "cpu", "workers": 0, "sample_every": 0}
    for _ in open_session(resolve_settings({**asked, **short, **machine})).run():
        pass
    rng = np.random.default_rng(0)
    entries = read_split(tmp_path / "demo-birds", "test")
    captions = [("bird", entry.captions[rng.integers(len(entry.captions))]) for entry in entries]
    images = sampler(load_model(str(tmp_path / "run")))([caption for _, caption in captions], 0)
    assert fits(load_classifier(), images, captions)["bird body"] > least
