"""How unlike samples are: figures in metrics.jsonl, and a warning where they fall."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.training.start import open_session
from ratlip_cli.training.variety import Watch, variety


def test_variety_is_the_mean_distance_of_pairs() -> None:
    east, north, west = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    figures = variety(torch.stack([torch.stack([east, north]), torch.stack([north, 5 * north])]))
    assert figures == pytest.approx({"variety_noise": 0.5, "variety_captions": (1 + 1 + 0 + 0) / 4})
    assert variety(torch.stack([east, west])[None]) == pytest.approx({"variety_noise": 2.0})
    assert variety(torch.stack([east, west])[:, None]) == pytest.approx({"variety_captions": 2.0})
    assert variety(torch.full((2, 2, 3), float("nan"))) == {"variety_noise": None, "variety_captions": None}


def test_a_fall_is_told_once_until_it_rises_again() -> None:
    watch = Watch()
    values = (0.01, 0.4, 0.2, 0.09, 0.05, None, 0.2, 0.09, 0.5, 0.13, 0.12)
    told = [step for step, value in enumerate(values) if watch.fallen(step, {"variety_noise": value})]
    assert told == [3, 7, 10]
    watch = Watch()
    watch.fallen(1, {"variety_noise": 0.4, "variety_captions": 0.4})
    (line,) = watch.fallen(2, {"variety_noise": 0.4, "variety_captions": 0.01})
    assert "step 2: variety_captions fell to 0.01 from 0.4 at step 1" in line


@pytest.mark.slow
def test_a_run_records_the_variety_of_its_samples_and_tells_its_fall(
    settings: TrainSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings.replaced(sample_every=2, steps=4)
    list(open_session(settings).run())
    metrics = Path(settings.out) / "metrics.jsonl"
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    assert [record["step"] for record in records if "variety_noise" in record] == [2, 4]
    assert all(0 <= record["variety_captions"] <= 2 for record in records if "variety_captions" in record)
    assert "fell" not in caplog.text
    resumed = open_session(settings.replaced(resume=settings.out, steps=6))  # knows what was before
    for parameter in resumed.trainer.ema.parameters():
        parameter.data.zero_()
    with caplog.at_level("WARNING", logger="ratlip_cli"):
        list(resumed.run())
    assert "step 6: variety_noise fell to" in caplog.text
    assert json.loads(metrics.read_text(encoding="utf-8").splitlines()[-1])["step"] == 6


def test_a_watch_passes_over_a_line_that_a_full_disk_cut(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1, "variety_noise": 0.4}\n{"step": 2, "variety_noise": 0.4, "lr', encoding="utf-8")
    (line,) = Watch.of_run(metrics).fallen(3, {"variety_noise": 0.01})
    assert line.startswith("step 3: variety_noise fell to 0.01 from 0.4 at step 1")
