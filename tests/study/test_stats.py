import math

import numpy as np
import pytest
import scipy.stats

from sparsehead_cli.study.stats import DRAWN, detectable, deviation, holm, mean_interval, sign_flip_test, t_test


def test_the_interval_is_scipys():
    values = [12.5, 11.9, 13.2, 12.1]
    mean, low, high = mean_interval(values)
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((np.mean(values), expected.low, expected.high))


def test_paired_differences_are_scipys_paired_test():
    a, b = [1.0, 2.5, 3.1], [0.4, 2.4, 2.2]
    low, high = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    assert mean_interval([x - y for x, y in zip(a, b, strict=True)])[1:] == pytest.approx((low, high))


@pytest.mark.parametrize("values", [[math.nan, 1.0], [math.nan] * 3, [1.0, math.inf], [1.0], []])
def test_what_is_not_defined_has_no_deviation(values):
    assert math.isnan(deviation(values))
    assert not values or all(map(math.isnan, mean_interval(values)[1:]))


def test_one_value_has_no_interval():
    mean, low, high = mean_interval([3.0])
    assert mean == 3
    assert math.isnan(low)
    assert math.isnan(high)


def test_covers_the_true_mean_nineteen_times_of_twenty():
    rng = np.random.default_rng(0)
    inside = sum(low <= 0 <= high for _, low, high in (mean_interval(list(rng.normal(size=3))) for _ in range(2000)))
    assert 0.93 * 2000 <= inside <= 0.97 * 2000


def test_p_values_are_scipys():
    values = list(np.random.default_rng(1).normal(0.3, 1, 12))
    assert t_test(values) == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue)
    exact = scipy.stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_test(values) == pytest.approx(exact.pvalue)


def test_a_permutation_test_of_many_draws_its_signs():
    values = list(np.random.default_rng(1).normal(0.3, 1, 40))
    assert sign_flip_test(values) == sign_flip_test(values) == pytest.approx(t_test(values), abs=0.01)
    assert sign_flip_test([1.0] * 40) == pytest.approx(1 / DRAWN)  # the signs that are there: none drawn is as far


def test_tests_of_what_does_not_vary():
    assert math.isnan(t_test([1.0]))
    assert (t_test([0.0, 0.0]), t_test([2.0, 2.0])) == (1, 0)
    assert sign_flip_test([2.0, 2.0, 2.0]) == pytest.approx(2 / 8)
    assert sign_flip_test([0.0, 0.0]) == 1


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm's own example
    assert holm([0.6, math.nan]) == [1, 1]
    assert holm([]) == []


@pytest.mark.parametrize("level", [0.05, 0.05 / 6])
def test_a_detectable_difference_is_detected_as_often_as_it_says(level):
    """With a known standard deviation, and where it is estimated by a pilot as small as they are."""
    draw, pairs, studies = np.random.default_rng(0), 16, 4_000
    for df in (10**7, 4):
        sds = np.sqrt(draw.chisquare(df, studies) / df)  # the true one is 1
        found = np.array([detectable(sd, df, pairs, level) for sd in np.unique(sds.round(2))])
        differences = np.interp(sds, np.unique(sds.round(2)), found)
        values = differences[:, None] + draw.standard_normal((studies, pairs))
        p = scipy.stats.ttest_1samp(values, 0, axis=1).pvalue
        assert np.mean(p < level) == pytest.approx(0.8, abs=0.02 if df > 10 else 0.06)


def test_what_is_not_known_of_a_detectable_difference():
    assert math.isnan(detectable(math.nan, 4, 16, 0.05))
    assert math.isnan(detectable(1, 0, 16, 0.05))
    assert math.isnan(detectable(1, 4, 3, 0.05))
    assert detectable(0, 4, 16, 0.05) == pytest.approx(0, abs=1e-12)
    assert detectable(2, 4, 16, 0.05) == pytest.approx(2 * detectable(1, 4, 16, 0.05))
