"""Means and paired differences over seeds, with their intervals."""

import math
import statistics

import scipy.stats


def mean_interval(values: list[float]) -> tuple[float, float, float]:
    """(mean, low, high): the mean of n values and its 95 % interval by Student's t with n - 1 degrees of freedom.

    Low and high are NaN for a single value. For paired differences give the differences.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half
