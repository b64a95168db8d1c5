"""Means and paired differences over seeds, with their intervals."""

import math
import statistics
from collections.abc import Collection
from functools import cache

import numpy as np
import scipy.special


def deviation(values: Collection[float]) -> float:
    """The standard deviation of a sample of n values, over n - 1; NaN for a single one, and where any is not finite.

    (Python's own raises for a NaN, which the rank of a collapsed embedding is.)
    """
    finite = len(values) > 1 and all(map(math.isfinite, values))
    return statistics.stdev(values) if finite else math.nan


def mean_interval(values: list[float]) -> tuple[float, float, float]:
    """(mean, low, high): the mean of n values and its 95 % interval by Student's t with n - 1 degrees of freedom.

    Low and high are NaN for a single value. For paired differences give the differences.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = float(scipy.special.stdtrit(len(values) - 1, 0.975)) * deviation(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def differences(values: dict[float, float], zero: dict[float, float]) -> list[float]:
    """The paired differences of two tables seed -> value, for the seeds in both."""
    return [value - zero[seed] for seed, value in values.items() if seed in zero]


def paired_columns(values: dict[float, float], zero: dict[float, float]) -> dict[str, object]:
    """seed -> value at some λ, and at λ 0 -> the mean of the first, and of the differences to the same seeds at λ 0.

    mean, low, high, difference, difference_low, difference_high, intervals as in `mean_interval`. The differences are "" where
    no seed is in both: for λ 0 itself give no zero.
    """
    columns = dict(zip(("mean", "low", "high"), mean_interval(list(values.values())), strict=True))
    names, paired = ("difference", "difference_low", "difference_high"), differences(values, zero)
    return columns | (dict(zip(names, mean_interval(paired), strict=True)) if paired else dict.fromkeys(names, ""))


def bootstrap_interval(values: list[float], samples: int = 9_999) -> tuple[float, float]:
    """(low, high): the 95 % percentile bootstrap interval of the mean of n values, the same each time; NaN for a single one.

    With few values it is too narrow (of five normal ones it holds the true mean 84 times of 100): quote Student's t instead.
    """
    if len(values) < 2:
        return math.nan, math.nan
    drawn = np.array(values)[resampled(len(values), samples)].mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


@cache
def resampled(count: int, samples: int) -> np.ndarray:
    """Places of `count` values, drawn with replacement, [samples, count]: the same for all numbers of a study, and drawn once."""
    return np.random.default_rng(0).integers(count, size=(samples, count))


def t_test(values: list[float]) -> float:
    """The two-sided p of Student's t test that n paired differences have mean 0; NaN for a single one, 1 where all are 0."""
    if len(values) < 2:
        return math.nan
    mean, error = statistics.fmean(values), deviation(values) / math.sqrt(len(values))
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * scipy.special.stdtr(len(values) - 1, -abs(mean) / error))


def sign_flip_test(values: list[float]) -> float:
    """The two-sided p of the permutation test on n paired differences: how often signs by lot give a mean at least as far from 0.

    All 2ⁿ signs for n <= MOST_EXACT, else DRAWN of them, the same each time. It needs no normal distribution, but one that is
    symmetric about 0 where nothing differs, and cannot fall below 2 / 2ⁿ, or 1 / DRAWN. Source: Fisher 1935, section 21.
    """
    if not values:
        return math.nan
    observed = abs(math.fsum(values))
    sums = np.abs(signs(len(values)) @ np.array(values))
    return float(np.mean(sums >= observed * (1 - 1e-12)))


@cache
def signs(count: int) -> np.ndarray:
    """Rows of -1 and 1, the first of which changes nothing, [2ⁿ or DRAWN, n]."""
    if count <= MOST_EXACT:
        return 1.0 - 2.0 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)
    drawn = np.random.default_rng(0).integers(2, size=(DRAWN, count)) * 2.0 - 1.0
    drawn[0] = 1
    return drawn


def holm(p_values: list[float]) -> list[float]:
    """p-values of a family -> those that may be held against one level for all: the family-wise error stays at or below it.

    The smallest is multiplied by their number m, the next by m - 1, and so on, never falling, at most 1; NaN counts as 1. Any
    dependence between them is allowed. Source: Holm 1979.
    """
    certain = [1.0 if math.isnan(p) else p for p in p_values]
    adjusted, least = [1.0] * len(certain), 0.0
    for rank, place in enumerate(sorted(range(len(certain)), key=certain.__getitem__)):
        least = max(least, min(1.0, (len(certain) - rank) * certain[place]))
        adjusted[place] = least
    return adjusted


def detectable(sd: float, df: float, pairs: int, level: float, power: float = 0.8) -> float:
    """The smallest true mean difference that a two-sided paired t test at `level` finds in a share `power` of such studies.

    `sd` is the standard deviation of a paired difference, estimated with `df` degrees of freedom; how uncertain it is counts: the
    power is the mean over σ² = sd² · df / χ²(df). NaN where sd or df is not known, and for fewer than FEWEST_PAIRS.
    Source: Cohen 1988, chapter 2, with that mean.
    """
    if not (sd >= 0 and df > 0 and pairs >= FEWEST_PAIRS):
        return math.nan
    quantiles = (np.arange(QUANTILES) + 0.5) / QUANTILES
    sigmas = sd * np.sqrt(df / scipy.special.chdtri(df, quantiles))
    critical = scipy.special.stdtrit(pairs - 1, 1 - level / 2)

    def found(difference: float) -> float:
        away = difference * math.sqrt(pairs) / np.maximum(sigmas, 1e-300)
        shares = 1 - scipy.special.nctdtr(pairs - 1, np.minimum(away, FAR), critical)
        return float(np.mean(np.where(away > FAR, 1.0, shares)))

    low, high = 0.0, sd or 1e-12
    while found(high) < power:
        low, high = high, 2 * high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) >= power else (middle, high)
    return high


MOST_EXACT, DRAWN = 16, 50_000  # pairs up to which all signs are looked at, and how many are drawn of more
QUANTILES = 64  # values of σ that stand for what is not known of it
FEWEST_PAIRS, FAR = 4, 37.0  # noncentrality beyond which a test of so many pairs finds everything
