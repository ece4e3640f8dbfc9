"""The demo's judge reads drawn pictures rightly, and its scores are what their names say."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[1] / "examples" / "demo"))
import drawn_set
import score
from drawn_set import DrawnSet
from judge import Judge, accuracy, load_judge

from ratlip_cli.data.drawn.attributes import FAMILIES

ASKED = {name for goals in score.GOALS.values() for name in goals}


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> DrawnSet:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn_set, "CACHE", tmp_path_factory.mktemp("pictures"))
        return drawn_set.drawn_set("test", 360, seed=11, workers=1)


def _as_painter(images: torch.Tensor) -> score.Painter:
    return lambda captions, seed: images


def test_the_judge_is_right_on_test_pictures(judge: Judge, pictures: DrawnSet) -> None:
    scores = accuracy(judge, pictures)
    assert {name: scores[name] for name in ASKED if scores[name] < 0.97} == {}
    assert min(scores.values()) > 0.9


def test_the_judge_is_right_on_pairs_it_has_never_seen(
    judge: Judge, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(drawn_set, "CACHE", tmp_path)
    scores = accuracy(judge, drawn_set.drawn_set("unseen", 200, seed=11, workers=1))
    assert {name: scores[name] for name in score.GOALS["unseen"] if scores[name] < 0.95} == {}


def test_the_judge_reads_blurred_and_noisy_pictures(judge: Judge, pictures: DrawnSet) -> None:
    generator = torch.Generator().manual_seed(0)
    for number, family in enumerate(FAMILIES):
        rows = pictures.rows(family)
        images = F.avg_pool2d(pictures.centre(rows), 3, 1, 1)
        images = images + 0.08 * torch.randn(images.shape, generator=generator)
        for name, answers in judge.answers(images, family).items():
            if f"{family} {name}" in ASKED:
                right = [answer == pictures.attributes[row][name] for answer, row in zip(answers, rows, strict=True)]
                assert np.mean(right) > 0.9, name
        assert (judge.family(judge.features(images)).argmax(dim=1) == number).float().mean() > 0.97


def test_real_pictures_fit_their_captions_and_others_do_not(judge: Judge, pictures: DrawnSet) -> None:
    real = pictures.centre(np.arange(len(pictures.captions)))
    report, _ = score.score_split(judge, _as_painter(real), pictures, seed=0)
    assert report.keys() >= ASKED
    for name in ASKED:
        row = report[name]
        assert row["model"] == row["real"] > 0.95
        assert row["chance"] < 0.8
    noise = torch.rand(real.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    report, _ = score.score_split(judge, _as_painter(noise), pictures, seed=0)
    assert report["bird body"]["model"] < 0.4


def test_real_pictures_keep_their_entropy_and_equal_ones_have_none(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    caption = "a red bird with black wings"
    monkeypatch.setattr(score, "DIVERSITY_CAPTIONS", {"bird": (caption,)})
    real = score.real_pictures("bird", caption, score.NOISES, seed=5)
    (row,) = score.score_diversity(judge, _as_painter(real), seed=0)
    assert row["entropy_ratio"].keys() == {"belly", "beak", "beak_length", "facing", "perch", "background"}
    assert all(0.8 < ratio < 1.2 for ratio in row["entropy_ratio"].values())
    assert row["nearest_pair"] > 0.1
    (row,) = score.score_diversity(judge, _as_painter(real[:1].expand(score.NOISES, -1, -1, -1)), seed=0)
    assert set(row["entropy_ratio"].values()) == {0.0}
    assert row["nearest_pair"] == 0.0


def test_the_frechet_distance_is_that_of_gaussians() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(4000, 3))
    assert score.frechet_distance(first, first) == pytest.approx(0, abs=1e-6)
    moved = first + np.array([1.0, 2.0, 0.0])
    assert score.frechet_distance(first, moved) == pytest.approx(5.0, rel=1e-6)
    mean = first.mean(axis=0)
    wider = mean + 2 * (first - mean)
    expected = np.trace(np.cov(first, rowvar=False))  # (2 - 1)^2 of each variance
    assert score.frechet_distance(first, wider) == pytest.approx(expected, rel=1e-6)
