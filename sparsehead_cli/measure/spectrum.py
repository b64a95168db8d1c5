"""Eigenvalues of features and the effective dimension read off them. Float64, centred unless a name says otherwise."""

import torch
from torch import Tensor


def covariance_eigenvalues(features: Tensor) -> Tensor:
    """Eigenvalues of the covariance of the centred features, descending, float64, [N, D] -> [D].

    Unbiased (divided by N - 1), so they sum to the total variance; tiny negative ones from rounding are set to 0.
    """
    centred = features.double() - features.double().mean(dim=0)
    return torch.linalg.eigvalsh(centred.T @ centred / (len(features) - 1)).flip(0).clamp(min=0)


def effective_rank(eigenvalues: Tensor) -> float:
    """exp of the entropy of the eigenvalues' shares, [D] -> a number in [1, D]; 0.0 where there is no variance at all.

    Source: Roy & Vetterli 2007, on the covariance's eigenvalues.
    """
    total = eigenvalues.sum()
    if total <= 0:
        return 0.0
    share = eigenvalues / total
    return float(torch.exp(torch.special.entr(share).sum()))


def relative_std(features: Tensor) -> float:
    """Mean standard deviation of the l2-normalised features times √D, [N, D] -> a number: 1 spread evenly, 0 collapsed.

    Source: SimSiam (Chen & He 2021), section 4.1.
    """
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    return float(unit.std(dim=0).mean() * features.shape[1] ** 0.5)


def is_collapsed(rank: float, std: float) -> bool:
    """Whether features of this effective rank and relative standard deviation have fully collapsed."""
    return rank < COLLAPSED_RANK or std < COLLAPSED_STD


COLLAPSED_RANK = 1.1  # one dimension, and next to nothing else
COLLAPSED_STD = 0.01  # all images at one point; evenly spread features have 1
