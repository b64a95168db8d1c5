import math

import numpy as np
import pytest
import scipy.stats

from sparsehead_cli.study.stats import mean_interval


def test_the_interval_is_scipys():
    values = [12.5, 11.9, 13.2, 12.1]
    mean, low, high = mean_interval(values)
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((np.mean(values), expected.low, expected.high))


def test_paired_differences_are_scipys_paired_test():
    a, b = [1.0, 2.5, 3.1], [0.4, 2.4, 2.2]
    low, high = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    assert mean_interval([x - y for x, y in zip(a, b, strict=True)])[1:] == pytest.approx((low, high))


def test_one_value_has_no_interval():
    mean, low, high = mean_interval([3.0])
    assert mean == 3
    assert math.isnan(low)
    assert math.isnan(high)


def test_covers_the_true_mean_nineteen_times_of_twenty():
    rng = np.random.default_rng(0)
    inside = sum(low <= 0 <= high for _, low, high in (mean_interval(list(rng.normal(size=3))) for _ in range(2000)))
    assert 0.93 * 2000 <= inside <= 0.97 * 2000
