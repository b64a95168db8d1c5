"""Intervals for what was counted."""

import math

Z95 = 1.959963984540054  # the standard normal's 97.5 % quantile


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share: low and high in [0, 1]; (0, 1) where nothing was tried.

    Source: Wilson 1927. Unlike p ± 1.96 standard errors it stays inside [0, 1] and keeps its width at p = 0 and 1.
    """
    if trials == 0:
        return 0.0, 1.0
    p, z2 = successes / trials, Z95**2
    middle = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 / (1 + z2 / trials) * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials**2))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return (0.0 if successes == 0 else low), (1.0 if successes == trials else high)
