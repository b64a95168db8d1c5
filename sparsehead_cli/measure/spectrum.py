"""The spectrum of features: eigenvalues and singular values from their moments, and the numbers read off them. Float64."""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from sparsehead_cli.measure.dimensions import (
    alpha,
    dims_for,
    effective_rank,
    numerical_rank,
    participation_ratio,
    rankme,
    stable_rank,
)
from sparsehead_cli.measure.moments import Moments


def eigenvalues_of(matrix: Tensor) -> Tensor:
    """Of a symmetric positive matrix [D, D], descending, [D], on the CPU; tiny negative ones from rounding are set to 0."""
    return torch.linalg.eigvalsh(matrix).flip(0).clamp(min=0).cpu()


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
