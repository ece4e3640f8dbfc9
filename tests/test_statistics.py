"""Statistics over seeds and images: intervals that cover, differences that pair, verdicts that are seldom wrong."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from ratlip_cli.evaluation.statistics import Moments, frechet_distance
from ratlip_cli.experiments.statistics import (
    FEATURE_RESAMPLES,
    combined,
    compare,
    estimate,
    frechet_sample,
    holm,
    mean_sample,
    p_value,
    seed_sample,
)

Scores = NDArray[np.float64]


def synthetic(
    random: np.random.Generator, seeds: int, n: int, of_seed: float, of_image: float, of_both: float
) -> Scores:
    """Scores (S,n) around 0 whose seeds, images, and the two together spread so much."""
    spread = of_seed * random.standard_normal((seeds, 1)) + of_image * random.standard_normal((1, n))
    return spread + of_both * random.standard_normal((seeds, n))


def test_one_score_an_image_that_is_the_same_for_all_leaves_students_interval() -> None:
    scores = np.array([3.0, 5.0, 4.5, 6.0])
    own = estimate(mean_sample(range(4), np.repeat(scores[:, None], 50, axis=1)))
    low, high = stats.t.interval(0.95, 3, scores.mean(), stats.sem(scores))
    assert (own.mean, own.sd) == pytest.approx((scores.mean(), scores.std(ddof=1)))
    assert (own.low, own.high) == pytest.approx((low, high))
    assert p_value(mean_sample(range(4), np.repeat(scores[:, None], 50, axis=1))) == pytest.approx(
        stats.ttest_1samp(scores, 0).pvalue
    )
    assert estimate(seed_sample(range(4), scores)).low == pytest.approx(low)


def test_seeds_that_are_all_alike_leave_the_interval_of_the_images() -> None:
    values = np.random.default_rng(0).normal(2, 1, 400)
    own = estimate(mean_sample(range(3), np.repeat(values[None], 3, axis=0)))
    low, high = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
    assert (own.low, own.high) == pytest.approx((low, high), rel=0.02)  # 1000 resamples: 2.2 % of the width


def test_one_seed_says_nothing_of_others() -> None:
    own = estimate(mean_sample([0], np.ones((1, 9))))
    assert (own.mean, own.sd, own.low, own.high) == (1, None, None, None)
    same = [mean_sample([0], np.full((1, 9), value)) for value in (1.0, 2.0)]
    (comparison,) = compare(same, True)
    assert (comparison.verdict, comparison.p) == ("not decided by 1 seed", None)


def test_rows_that_are_equal_throughout_are_not_decided() -> None:
    """The same runs under two names, and a metric that is 0 in every run: no interval has a width there."""
    values = synthetic(np.random.default_rng(0), 5, 40, 1, 1, 1)
    for same in (values, np.zeros((5, 40))):
        for better in (True, False, None):
            (comparison,) = compare([mean_sample(range(5), same)] * 2, better)
            assert (comparison.difference.mean, comparison.p) == (0, 1)
            assert comparison.verdict == "not decided by 5 seeds"
    real = np.random.default_rng(1).standard_normal((40, 3))
    (comparison,) = compare([frechet_sample(range(2), np.stack([real, real + 1]), real)] * 2, False)
    assert comparison.verdict == "not decided by 2 seeds"


@pytest.mark.parametrize(("first", "second"), [([0.10, 0.12], [0.11, 0.13]), ([0.0, 0.0], [0.0, 0.0])])
def test_seeds_alone_that_differ_all_alike_say_nothing_of_others(first: list[float], second: list[float]) -> None:
    (comparison,) = compare([seed_sample(range(2), one) for one in (first, second)], True)
    assert (comparison.verdict, comparison.p) == ("not decided by 2 seeds", None)
    assert comparison.difference.mean == pytest.approx(second[0] - first[0])
    assert (comparison.difference.low, comparison.difference.high) == (None, None)


def test_a_distance_of_few_captions_has_an_interval() -> None:
    """Two of thirty real images have a caption: a resample without their images has no distance, and does not count."""
    random = np.random.default_rng(3)
    real, fakes = random.normal(size=(30, 3)), random.normal(size=(3, 2, 3))
    sample = frechet_sample(range(3), fakes, real, np.array([4, 17]))
    assert sample.replicates is not None
    assert np.isfinite(sample.replicates).all()
    assert 40 < len(sample.replicates) < 200
    low = estimate(sample).low
    assert low is not None
    assert np.isfinite(low)


def test_one_scene_says_nothing_of_others() -> None:
    for sample in (
        mean_sample(range(3), np.array([[1.0], [2.0], [4.0]])),
        mean_sample(range(3), np.arange(12.0).reshape(3, 4), np.zeros(4, dtype=int)),
    ):
        own = estimate(sample)
        assert (own.low, own.high, own.images) == (None, None, 1)
        assert own.sd is not None
        assert p_value(sample) is None
        (comparison,) = compare([sample, sample], True)
        assert (comparison.verdict, comparison.p) == ("not decided by one image", None)


def test_the_images_of_a_scene_are_resampled_together() -> None:
    """Ten captions of an image that all score alike say no more than one of them."""
    random = np.random.default_rng(5)
    values = synthetic(random, 4, 30, 1, 2, 1)
    order = random.permutation(300)
    once, ten = mean_sample(range(4), values), np.repeat(values, 10, axis=1)[:, order]
    together = mean_sample(range(4), ten, np.repeat(np.arange(30) * 3 + 5, 10)[order])  # whatever they are called
    assert together.images == 30
    assert together.values == pytest.approx(once.values)
    assert together.replicates == pytest.approx(once.replicates)
    own = mean_sample(range(4), values, np.arange(30))
    assert own.replicates == pytest.approx(once.replicates, rel=1e-12)

    unequal = mean_sample([0], np.array([[1.0, 1.0, 1.0, 5.0]]), np.array([0, 0, 0, 1]))
    assert unequal.replicates is not None
    assert set(np.unique(unequal.replicates.round(12))) == {1.0, 2.0, 5.0}  # mean of images, as evaluation's


def test_the_fakes_of_a_real_image_are_resampled_with_it() -> None:
    """Features that are all of the real image's: whichever are resampled, the distance stays 0."""
    real = np.random.default_rng(6).standard_normal((25, 3))
    scenes = np.random.default_rng(7).permutation(np.repeat(np.arange(25), 4))
    sample = frechet_sample([0], real[scenes][None], real, scenes)
    assert sample.images == 25
    assert sample.replicates is not None
    apart = frechet_sample([0], real[scenes][None], real)
    assert apart.images == 100
    assert apart.replicates is not None
    assert sample.replicates.mean() < 0.1 * apart.replicates.mean()  # of n - 1 alone


def test_what_rows_have_in_common_is_no_part_of_their_difference() -> None:
    """The same images and the same seeds are hard for both rows."""
    random = np.random.default_rng(0)
    common = synthetic(random, 5, 200, 3, 3, 0)
    noise = [synthetic(random, 5, 200, 0, 0, 0.2) for _ in range(2)]
    first, second = (mean_sample(range(5), common + shift + own) for shift, own in zip((0, 0.5), noise, strict=True))
    (comparison,) = compare([first, second], True)
    assert comparison.difference.low is not None
    assert comparison.difference.low > 0.4
    assert comparison.verdict == "better"
    assert compare([first, second], False)[0].verdict == "worse"
    assert compare([first, second], None)[0].verdict == "higher"
    assert estimate(second).low < estimate(first).mean  # what they have in common is larger than the difference


def test_the_order_of_the_seeds_does_not_matter_and_those_of_one_row_alone_are_left_out() -> None:
    random = np.random.default_rng(1)
    values = synthetic(random, 4, 60, 1, 1, 1)
    first = mean_sample([3, 1, 7, 2], values)
    again = mean_sample([1, 2, 3, 7], values[[1, 3, 0, 2]])
    assert estimate(first) == estimate(again)
    assert np.ptp(combined([first, again], (1, -1)).values) == 0
    fewer = combined([first, mean_sample([1, 9, 2], values[:3] + 1)], (1, -1))
    assert fewer.seeds == (1, 2)
    (none,) = compare([first, mean_sample([8, 9], values[:2])], True)
    assert none.verdict == "not decided by 0 seeds"


def test_rows_of_other_images_are_compared_by_their_seeds_alone() -> None:
    random = np.random.default_rng(2)
    first, second = (mean_sample(range(4), synthetic(random, 4, n, 1, 0, 1)) for n in (50, 60))
    difference = combined([first, second], (1, -1))
    assert difference.replicates is None
    assert difference.values == pytest.approx(first.values - second.values)


def test_holm_is_that_of_the_book() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@pytest.mark.parametrize("distance", [0.0, 0.3, 2.0, 1e6])
def test_the_p_value_is_the_level_at_which_the_interval_ends_at_zero(distance: float) -> None:
    values = synthetic(np.random.default_rng(3), 4, 80, 1, 2, 1)
    sample = mean_sample(range(4), values - values.mean() + distance)
    p, own = p_value(sample), estimate(sample)
    assert p is not None
    assert own.low is not None
    assert (p < 0.05) == (own.low > 0)


def distance(fake: Scores, real: Scores) -> float:
    return frechet_distance(*(Moments(rows.mean(axis=0), np.cov(rows.T)) for rows in (fake, real)))


def test_fid_is_that_of_evaluation_and_spreads_as_it_does_over_new_images() -> None:
    random = np.random.default_rng(4)

    def images(shift: float) -> Scores:
        return random.standard_normal((300, 6)) + shift

    real, fake = images(0), images(0.5)
    sample = frechet_sample([0], fake[None], real)
    assert sample.replicates is not None
    assert sample.replicates.shape == (FEATURE_RESAMPLES, 1)
    assert sample.values[0] == pytest.approx(distance(fake, real))
    fresh = np.std([distance(images(0.5), images(0)) for _ in range(200)])
    assert sample.replicates.std() == pytest.approx(
        fresh, rel=0.4
    )  # two standard deviations of 200: 5 % each, and bias


def coverage(draws: int, seeds: int, spreads: tuple[float, float, float], n: int = 100) -> float:
    """How often the interval covers the true mean, 0."""
    random = np.random.default_rng([seeds, *(int(100 * spread) for spread in spreads)])
    own = [estimate(mean_sample(range(seeds), synthetic(random, seeds, n, *spreads))) for _ in range(draws)]
    return float(np.mean([one.low is not None and one.high is not None and one.low < 0 < one.high for one in own]))


def coverage_of_scenes(draws: int, seeds: int, n: int, captions: int, known: bool) -> float:
    """As `coverage`, where most of the variance is of images, several captions of each of which are scored."""
    random = np.random.default_rng([seeds, n, captions])
    scenes, covered = np.repeat(np.arange(n), captions), []
    for _ in range(draws):
        of_image = np.repeat(random.standard_normal((1, n)), captions, axis=1)
        scores = synthetic(random, seeds, n * captions, 0.05, 0.3, 0.5) + of_image
        own = estimate(mean_sample(range(seeds), scores, scenes if known else None))
        covered.append(own.low is not None and own.high is not None and own.low < 0 < own.high)
    return float(np.mean(covered))


SPREADS = [(1, 0, 3), (0.1, 2, 1), (0.2, 2, 1), (0.5, 1, 2), (0, 0, 1)]
"""Of seeds, images and both: most of the mean's variance from the seeds, the images, or from neither alone."""


def test_intervals_cover() -> None:
    """Within 5 standard errors of 100 draws around 95 %."""
    assert coverage(100, 5, (0.5, 1, 2)) > 0.84


def test_intervals_cover_where_images_have_several_captions() -> None:
    """The bound is that of `test_intervals_cover`. Captions of one image as independent images cover far too little."""
    assert coverage_of_scenes(100, 5, 50, 6, known=True) > 0.84
    assert coverage_of_scenes(100, 5, 50, 6, known=False) < 0.7


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_of_95_percent_cover_in_93_to_97_where_images_have_several_captions(seeds: int) -> None:
    assert 0.93 - 0.015 < coverage_of_scenes(1000, seeds, 100, 10, known=True) < 0.97 + 0.015


@pytest.mark.slow
@pytest.mark.parametrize("spreads", SPREADS)
@pytest.mark.parametrize("seeds", [3, 4, 5, 10])
def test_intervals_of_95_percent_cover_in_93_to_97(seeds: int, spreads: tuple[float, float, float]) -> None:
    """1000 draws have a standard error of 0.7 %, hence 0.015 more on either side."""
    assert 0.93 - 0.015 < coverage(1000, seeds, spreads) < 0.97 + 0.015


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_of_fid_cover(seeds: int) -> None:
    """Around its mean over new seeds and new images, in 100 draws; every seed moves the mean of its features."""
    random = np.random.default_rng(seeds)

    def rows() -> tuple[Scores, Scores]:
        shared = random.standard_normal((80, 3))  # what the captions ask for
        fakes = [
            shared + random.standard_normal((80, 3)) * 0.7 + 1 + 0.3 * random.standard_normal(3) for _ in range(seeds)
        ]
        return np.stack(fakes), shared + 0.5 * random.standard_normal((80, 3))

    truth = np.mean(
        [np.mean([distance(fake, real) for fake in fakes]) for fakes, real in (rows() for _ in range(2000))]
    )
    covered = []
    for _ in range(100):
        own = estimate(frechet_sample(range(seeds), *rows()))
        covered.append(own.low is not None and own.high is not None and own.low < truth < own.high)
    assert np.mean(covered) > 0.88  # 2.2 % standard error


@pytest.mark.slow
def test_one_comparison_or_more_of_a_table_of_equal_rows_is_decided_in_5_percent() -> None:
    """Six rows and three seeds, as many as the larger tables have."""
    random, wrong = np.random.default_rng(0), 0
    for _ in range(500):
        common = 0.5 * random.standard_normal(100)
        rows = [mean_sample(range(3), common + synthetic(random, 3, 100, 0.3, 0, 1)) for _ in range(6)]
        wrong += any(not one.verdict.startswith("not decided") for one in compare(rows, True))
    assert wrong < 40  # 25 and three standard deviations
