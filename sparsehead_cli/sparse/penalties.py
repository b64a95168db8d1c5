"""Penalties on a head's weight [out, in]: the value and the proximal map, pure functions.

A group is the weights that live or die together: with groups="input" one input feature, a column; with groups="output"
one output unit, a row. The paper writes the head as Wᵀr, so its "rows" are our columns.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


def group_norms(weight: Tensor, groups: str) -> Tensor:
    """Euclidean norm of every group, [out, in] -> [in] or [out]. Its gradient at a zero group is 0, not NaN."""
    return torch.linalg.vector_norm(weight, dim=GROUPS[groups])


def l21(weight: Tensor, groups: str) -> Tensor:
    """Sum over groups of their Euclidean norms, not averaged, [out, in] -> [].

    Source: Song et al. 2023 (arXiv 2307.08913), the SparseHead regulariser.
    """
    return group_norms(weight, groups).sum()


def prox_l21(weight: Tensor, t: float, groups: str) -> Tensor:
    """argmin_V ½‖V - weight‖² + t · l21(V), [out, in] -> [out, in]: every group shrinks by t, the short ones to exactly 0.

    Source: Yuan & Lin 2006; Parikh & Boyd 2014, section 6.5.4.
    """
    norms = group_norms(weight, groups).unsqueeze(GROUPS[groups])
    return weight * ((norms - t).clamp(min=0) / norms.clamp(min=torch.finfo(weight.dtype).tiny))


class Penalty(NamedTuple):
    """A penalty's value(weight, groups) and proximal map prox(weight, t, groups)."""

    value: Callable[[Tensor, str], Tensor]
    prox: Callable[[Tensor, float, str], Tensor]


# group -> the dimension of a weight [out, in] that a norm runs over
GROUPS = {"input": 0, "output": 1}

PENALTIES: dict[str, Penalty] = {
    "l21": Penalty(l21, prox_l21),
    "none": Penalty(lambda weight, groups: weight.new_zeros(()), lambda weight, t, groups: weight),
}
