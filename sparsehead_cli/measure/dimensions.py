"""Eigenvalues -> the effective dimension read off them, and the verdict on it. Numpy alone: whoever draws needs no torch.

`eigenvalues` are those of the centred covariance, descending, as an array or a tensor on the CPU.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

RANKME_EPSILON = 1e-7
NUMERICAL = 1e-3  # of the largest eigenvalue: what counts for the numerical rank
ALPHA_RANGE = (11, 50)  # indices of the eigenvalues that α is fitted to
ALPHA_FLOOR = 1e-10  # of the largest eigenvalue: rounding, no part of a power law
ALPHA_POINTS = 5  # at least


def effective_rank(eigenvalues: ArrayLike) -> float:
    """exp of the entropy of the eigenvalues' shares, [D] -> a number in [1, D]; NaN where there is no variance at all.

    Source: Roy & Vetterli 2007, on the covariance's eigenvalues.
    """
    s = np.asarray(eigenvalues)
    return exp_entropy(s / s.sum()) if s.sum() > 0 else math.nan


def rankme(singular: ArrayLike, epsilon: float = RANKME_EPSILON) -> float:
    """exp of the entropy of p = σ / Σσ + epsilon, for the singular values of features that are not centred; NaN for zeros.

    Source: RankMe (Garrido et al. 2023), eq. 1 and 2.
    """
    s = np.asarray(singular)
    return exp_entropy(s / s.sum() + epsilon) if s.sum() > 0 else math.nan


def exp_entropy(p: np.ndarray) -> float:
    """exp(-Σ p log p), [D] -> a number; shares of 0 add nothing."""
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def participation_ratio(eigenvalues: ArrayLike) -> float:
    """(Σs)² / Σs², [D] -> a number in [1, D]; NaN without variance."""
    s = np.asarray(eigenvalues)
    squares = np.square(s).sum()
    return float(s.sum() ** 2 / squares) if squares > 0 else math.nan


def stable_rank(eigenvalues: ArrayLike) -> float:
    """Σs / max s, [D] -> a number in [1, D]; NaN without variance."""
    s = np.asarray(eigenvalues)
    return float(s.sum() / s[0]) if s[0] > 0 else math.nan


def numerical_rank(eigenvalues: ArrayLike) -> int:
    """How many eigenvalues are above NUMERICAL of the largest."""
    s = np.asarray(eigenvalues)
    return int((s > NUMERICAL * s[0]).sum())


def dims_for(eigenvalues: ArrayLike, share: float) -> int | None:
    """The smallest k whose k largest eigenvalues have `share` of the variance, [D] -> an int; None without variance."""
    s = np.asarray(eigenvalues)
    if s[0] <= 0:
        return None
    sums = s.cumsum() / s.sum()
    return min(len(sums), int((sums < share - 1e-12).sum()) + 1)  # rounding must not add a dimension


def alpha(eigenvalues: ArrayLike) -> float:
    """Minus the slope of log s on log index by least squares, on the indices of ALPHA_RANGE; NaN with too few above the floor.

    Source: α-ReQ (Agrawal et al. 2022), section 3; the range is theirs for ImageNet features.
    """
    s = np.asarray(eigenvalues, dtype=float)
    first, last = ALPHA_RANGE
    used = s[first - 1 : last]
    used = used[used > ALPHA_FLOOR * s[0]]
    if len(used) < ALPHA_POINTS:
        return math.nan
    x, y = np.log(np.arange(first, first + len(used))), np.log(used)
    x = x - x.mean()
    return float(-(x @ (y - y.mean())) / np.square(x).sum())


def is_collapsed(rank: float, std: float) -> bool:
    """Whether features of this effective rank and relative standard deviation have fully collapsed; NaN is without variance."""
    return not rank >= COLLAPSED_RANK or std < COLLAPSED_STD


def verdict(rank: float, std: float, dims_99: float, dim: float, images: float) -> str:
    """ "healthy", "partially collapsed" or "fully collapsed", from NUMBERS of the features of some images and the constants below.

    "too few samples" where they cannot tell: n images have at most n - 1 eigenvalues, and n must be larger than the width.
    """
    if std < COLLAPSED_STD:
        return "fully collapsed"
    if images <= dim:
        return "too few samples"
    if is_collapsed(rank, std):
        return "fully collapsed"
    return "partially collapsed" if dims_99 < PARTIAL_SHARE * dim else "healthy"


COLLAPSED_RANK = 1.1  # one dimension, and next to nothing else
COLLAPSED_STD = 0.01  # all images at one point; evenly spread features have 1
PARTIAL_SHARE = 0.25  # 99 % of the variance in fewer than this share of the dimensions

# what is read off one spectrum, by name
