"""Eigenvalues of features and the effective dimension read off them. Float64, centred unless a name says otherwise."""

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from sparsehead_cli.measure.moments import Moments

RANKME_EPSILON = 1e-7
NUMERICAL = 1e-3  # of the largest eigenvalue: what counts for the numerical rank
ALPHA_RANGE = (11, 50)  # indices of the eigenvalues that α is fitted to
ALPHA_FLOOR = 1e-10  # of the largest eigenvalue: rounding, no part of a power law
ALPHA_POINTS = 5  # at least


def eigenvalues_of(matrix: Tensor) -> Tensor:
    """Of a symmetric positive matrix [D, D], descending, [D]; tiny negative ones from rounding are set to 0."""
    return torch.linalg.eigvalsh(matrix).flip(0).clamp(min=0)


def effective_rank(eigenvalues: Tensor) -> float:
    """exp of the entropy of the eigenvalues' shares, [D] -> a number in [1, D]; NaN where there is no variance at all.

    Source: Roy & Vetterli 2007, on the covariance's eigenvalues.
    """
    total = eigenvalues.sum()
    if total <= 0:
        return math.nan
    share = eigenvalues / total
    return float(torch.exp(torch.special.entr(share).sum()))


def rankme(singular: Tensor, epsilon: float = RANKME_EPSILON) -> float:
    """exp of the entropy of p = σ / Σσ + epsilon, for the singular values of features that are not centred; NaN for zeros.

    Source: RankMe (Garrido et al. 2023), eq. 1 and 2.
    """
    total = singular.sum()
    if total <= 0:
        return math.nan
    return float(torch.exp(torch.special.entr(singular / total + epsilon).sum()))


def participation_ratio(eigenvalues: Tensor) -> float:
    """(Σs)² / Σs², [D] -> a number in [1, D]; NaN without variance."""
    squares = eigenvalues.square().sum()
    return float(eigenvalues.sum().square() / squares) if squares > 0 else math.nan


def stable_rank(eigenvalues: Tensor) -> float:
    """Σs / max s, [D] -> a number in [1, D]; NaN without variance."""
    return float(eigenvalues.sum() / eigenvalues[0]) if eigenvalues[0] > 0 else math.nan


def numerical_rank(eigenvalues: Tensor) -> int:
    """How many eigenvalues are above NUMERICAL of the largest."""
    return int((eigenvalues > NUMERICAL * eigenvalues[0]).sum())


def dims_for(eigenvalues: Tensor, share: float) -> int | None:
    """The smallest k whose k largest eigenvalues have `share` of the variance, [D] -> an int; None without variance."""
    if eigenvalues[0] <= 0:
        return None
    sums = eigenvalues.cumsum(0) / eigenvalues.sum()
    return min(len(sums), int((sums < share - 1e-12).sum()) + 1)  # rounding must not add a dimension


def alpha(eigenvalues: Tensor) -> float:
    """Minus the slope of log s on log index by least squares, on the indices of ALPHA_RANGE; NaN with too few above the floor.

    Source: α-ReQ (Agrawal et al. 2022), section 3; the range is theirs for ImageNet features.
    """
    first, last = ALPHA_RANGE
    used = eigenvalues[first - 1 : last]
    used = used[used > ALPHA_FLOOR * eigenvalues[0]]
    if len(used) < ALPHA_POINTS:
        return math.nan
    x = torch.arange(first, first + len(used), dtype=torch.float64, device=used.device).log()
    x, y = x - x.mean(), used.double().log()
    return float(-(x @ (y - y.mean())) / x.square().sum())


class Spectrum:
    """What features have: the eigenvalues of their centred covariance, their own singular values, their relative deviation."""

    def __init__(self, moments: Moments) -> None:
        self.moments = moments

    @classmethod
    def of(cls, features: Tensor) -> "Spectrum":
        """The spectrum of features [N, D]."""
        moments = Moments(features.shape[1], features.device)
        moments.add(features)
        return cls(moments)

    @cached_property
    def eigenvalues(self) -> Tensor:
        """Of the covariance of the centred features, unbiased, descending, [D]: they sum to the total variance."""
        return eigenvalues_of(self.moments.covariance())

    @cached_property
    def singular(self) -> Tensor:
        """Singular values of the features as they are, not centred, descending, [min(N, D)]."""
        return eigenvalues_of(self.moments.gram()).sqrt()[: self.moments.count]

    @cached_property
    def std(self) -> float:
        """Relative standard deviation, see Moments: 1 spread evenly, 0 collapsed."""
        return self.moments.relative_std()


def is_collapsed(rank: float, std: float) -> bool:
    """Whether features of this effective rank and relative standard deviation have fully collapsed; NaN is without variance."""
    return not rank >= COLLAPSED_RANK or std < COLLAPSED_STD


def verdict(rank: float, std: float, dims_99: float, dim: float, images: float) -> str:
    """ "healthy", "partially collapsed" or "fully collapsed", from NUMBERS of the features of some images and the constants below.

    "too few images" where they cannot tell: n images have at most n - 1 eigenvalues, and n must be larger than the width.
    """
    if std < COLLAPSED_STD:
        return "fully collapsed"
    if images <= dim:
        return "too few images"
    if is_collapsed(rank, std):
        return "fully collapsed"
    return "partially collapsed" if dims_99 < PARTIAL_SHARE * dim else "healthy"


COLLAPSED_RANK = 1.1  # one dimension, and next to nothing else
COLLAPSED_STD = 0.01  # all images at one point; evenly spread features have 1
PARTIAL_SHARE = 0.25  # 99 % of the variance in fewer than this share of the dimensions

# what is read off one spectrum, by name
NUMBERS: dict[str, Callable[[Spectrum], float | None]] = {
    "effective_rank": lambda s: effective_rank(s.eigenvalues),
    "rankme": lambda s: rankme(s.singular),
    "participation_ratio": lambda s: participation_ratio(s.eigenvalues),
    "stable_rank": lambda s: stable_rank(s.eigenvalues),
    "numerical_rank": lambda s: numerical_rank(s.eigenvalues),
    "dims_90": lambda s: dims_for(s.eigenvalues, 0.90),
    "dims_99": lambda s: dims_for(s.eigenvalues, 0.99),
    "alpha": lambda s: alpha(s.eigenvalues),
    "variance": lambda s: float(s.eigenvalues.sum()),
    "std": lambda s: s.std,
}
INTERVALS = ("effective_rank", "rankme")  # those that come with one
