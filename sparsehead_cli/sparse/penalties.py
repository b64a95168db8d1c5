"""Penalties on a head's weight [out, in]: the value and the proximal map, pure functions.

A group is the weights that live or die together: with groups="input" one input feature, a column; with groups="output"
one output unit, a row. The paper writes the head as Wᵀr, so its "rows" are our columns. Penalties that know no groups (l1,
l2, nuclear) ignore the argument. A weight that is not finite gives a NaN or infinite value, never an exception.
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


def l1(weight: Tensor, groups: str) -> Tensor:
    """Sum of |w|, not averaged, [out, in] -> []: single weights live or die. Its gradient at a zero weight is 0."""
    return weight.abs().sum()


def prox_l1(weight: Tensor, t: float, groups: str) -> Tensor:
    """argmin_V ½‖V - weight‖² + t · l1(V), [out, in] -> [out, in]: the soft threshold. Source: Parikh & Boyd 2014, 6.5.2."""
    return weight - weight.clamp(-t, t)


def l2(weight: Tensor, groups: str) -> Tensor:
    """½‖W‖², [out, in] -> []: plain weight decay, the control that shrinks everything and makes nothing sparse."""
    return weight.square().sum() / 2


def prox_l2(weight: Tensor, t: float, groups: str) -> Tensor:
    """argmin_V ½‖V - weight‖² + t · l2(V), [out, in] -> [out, in]."""
    return weight / (1 + t)


def sparse_group(weight: Tensor, groups: str) -> Tensor:
    """l21 + l1, a plain sum, [out, in] -> []: few groups, and few weights in those.

    Source: Simon et al. 2013, the sparse-group lasso. Their α and their √(group size) are not here.
    """
    return l21(weight, groups) + l1(weight, groups)


def prox_sparse_group(weight: Tensor, t: float, groups: str) -> Tensor:
    """argmin_V ½‖V - weight‖² + t · sparse_group(V), [out, in] -> [out, in]: soft threshold, then group shrink.

    Source: Friedman et al. 2010 (arXiv 1001.0736).
    """
    return prox_l21(prox_l1(weight, t, groups), t, groups)


def nuclear(weight: Tensor, groups: str) -> Tensor:
    """Sum of the singular values, not averaged, [out, in] -> []: low rank.

    The value is ⟨UVᵀ, W⟩ with the singular vectors held constant, so its gradient is UVᵀ over the singular values above
    rounding error: the subgradient of minimal norm, finite for repeated singular values, 0 at the zero matrix.
    """
    with torch.no_grad():
        u, s, vh = _svd(weight)
        directions = u * (s > s[0] * max(weight.shape) * torch.finfo(s.dtype).eps)
    return (_product(directions, vh) * weight).sum()


def prox_nuclear(weight: Tensor, t: float, groups: str) -> Tensor:
    """argmin_V ½‖V - weight‖² + t · nuclear(V), [out, in] -> [out, in]: every singular value shrinks by t, not below 0.

    Source: Cai, Candès & Shen 2010, theorem 2.1.
    """
    if t == 0:
        return weight  # the SVD's rounding error would add up from step to step
    u, s, vh = _svd(weight)
    return _product(u * (s - t).clamp(min=0), vh)


def none(weight: Tensor, groups: str) -> Tensor:
    """No penalty: 0, [out, in] -> []."""
    return weight.new_zeros(())


def prox_none(weight: Tensor, t: float, groups: str) -> Tensor:
    """The weight as it is."""
    return weight


def _svd(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD; all NaN for a weight that is not finite, where torch raises an exception."""
    finite = weight.isfinite().all()
    return tuple(torch.where(finite, x, torch.nan) for x in torch.linalg.svd(torch.where(finite, weight, 0), full_matrices=False))


def _product(a: Tensor, b: Tensor) -> Tensor:
    with torch.autocast(a.device.type, enabled=False):  # a matrix product under autocast comes out in half precision
        return a @ b


class Penalty(NamedTuple):
    """A penalty's value(weight, groups) and proximal map prox(weight, t, groups)."""

    value: Callable[[Tensor, str], Tensor]
    prox: Callable[[Tensor, float, str], Tensor]


# group -> the dimension of a weight [out, in] that a norm runs over
GROUPS = {"input": 0, "output": 1}

PENALTIES: dict[str, Penalty] = {
    "l21": Penalty(l21, prox_l21),
    "l1": Penalty(l1, prox_l1),
    "l2": Penalty(l2, prox_l2),
    "sparse-group": Penalty(sparse_group, prox_sparse_group),
    "nuclear": Penalty(nuclear, prox_nuclear),
    "none": Penalty(none, prox_none),
}
