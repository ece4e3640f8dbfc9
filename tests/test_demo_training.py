"""Training on rendered birds teaches the generator their colours: the regression test of the demo's training."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "examples" / "demo"))
from classifier import load_classifier
from score import fits, sampler
from search import parsed, places

from ratlip_cli.data.layout import read_split
from ratlip_cli.data.prepare import PrepareRequest, prepare
from ratlip_cli.training.settings import resolve_settings
from ratlip_cli.training.start import open_session
from ratlip_cli.weights.load import load_model

CAPTIONS = 240
STEPS = 400
"""Body colours were right in 54 to 59 % of four runs of other seeds then; after 250 steps still in 35 to 62 %."""
FOR_A_SHORT_RUN = {"ema": 0.95, "similarity_weight": 15.0, "lr_g": 8e-4, "diversity_weight": 0.0, "pixel_stem": False}
FOR_A_SHORT_RUN |= {"decay_from": 1.0}
"""The preset is made for 9,500 steps: its EMA alone is older than these, and its lambda leaves variety time."""


def test_a_search_prints_no_score_of_another_dataset_or_of_fewer_captions() -> None:
    asked = ("dfgan", "lr_g=4e-4", "--steps", "10")
    others = ((), ("--dataset", "demo-birds"), ("--captions", "50"), ("--seed", "1"), ("--steps", "20"))
    found = [places(parsed([*asked, *more]), "lr_g=4e-4") for more in others]
    assert len({scored for _, scored in found}) == len(others)
    assert found[0][0] == found[2][0], "the same training"


@pytest.mark.slow
def test_after_400_steps_birds_have_the_body_colour_that_was_asked_for(tmp_path: Path) -> None:
    prepare(PrepareRequest("demo-birds", tmp_path, count=2000))
    session = open_session(
        resolve_settings(
            {
                "dataset": "demo-birds",
                "data_dir": str(tmp_path),
                "steps": STEPS,
                "device": "cpu",
                "workers": 0,
                "sample_every": 0,
                "out": str(tmp_path / "run"),
                **FOR_A_SHORT_RUN,
            }
        )
    )
    for _ in session.run():
        pass

    rng = np.random.default_rng(0)
    entries = read_split(tmp_path / "demo-birds", "test")[:CAPTIONS]
    captions = [("bird", entry.captions[rng.integers(len(entry.captions))]) for entry in entries]
    images = sampler(load_model(str(tmp_path / "run")))([caption for _, caption in captions], 0)
    assert fits(load_classifier(), images, captions)["bird body"] > 0.45
