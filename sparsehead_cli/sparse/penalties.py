"""Penalties on a head's weight [out, in]: the value and the proximal map, pure functions.

A group is the weights that live or die together: with groups="input" one input feature, a column; with groups="output"
one output unit, a row. The paper writes the head as Wᵀr, so its "rows" are our columns. Penalties that know no groups (l1,
l2, nuclear) ignore the argument. A weight that is not finite gives a NaN or infinite value, never an exception.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sparsehead_cli.machine.distributed import is_sharded, sharded_like, whole


def group_norms(weight: Tensor, groups: str) -> Tensor:
    """Euclidean norm of every group, [out, in] -> [in] or [out]. Its gradient at a zero group is 0, not NaN."""
    return torch.linalg.vector_norm(weight, dim=GROUPS[groups])


def active_groups(weight: Tensor, groups: str) -> Tensor:
    """How many groups of a weight have a norm above 1 % of the largest, [out, in] -> int64 []."""
    norms = group_norms(weight, groups)
    return (norms > ACTIVE_SHARE * norms.max()).sum()


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
    """½‖W‖², [out, in] -> []: plain weight decay, which shrinks everything and makes nothing sparse."""
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


def l21_relative(weight: Tensor, groups: str) -> Tensor:
    """l21 / ‖W‖, [out, in] -> []: how evenly the groups share the layer's norm, from 1 (one group has all of it) to √groups.

    Multiplying W by a number changes nothing, so the penalty cannot be met by small weights; its gradient stands at a right angle
    to W. 0 with a zero gradient for the zero matrix. Source: the ratio of Hoyer 2002 and Hurley & Rickard 2009, on norms of groups.
    """
    norm = torch.linalg.vector_norm(weight)
    return l21(weight, groups) / torch.where(norm > 0, norm, 1)


def prox_l21_relative(weight: Tensor, t: float, groups: str) -> Tensor:
    """argmin over V ≠ 0 of ½‖V - weight‖² + t · l21_relative(V), [out, in] -> [out, in]; the longest group always stays.

    Source: derived here, see `shares_kept`; Tao 2022 (SIAM J. Sci. Comput. 44, A749) has the case of single numbers.
    """
    shares = shares_kept(whole(group_norms(weight, groups)), t).to(weight.dtype).unsqueeze(GROUPS[groups])
    return weight * (sharded_like(shares.expand(weight.shape), weight) if is_sharded(weight) else shares)


def shares_kept(norms: Tensor, t: float) -> Tensor:
    """Norms a of groups -> the share of each that minimises ½‖x - a‖² + t · ‖x‖₁ / ‖x‖ over norms x >= 0, [n] -> [n] in float64.

    Let x = ρu with ‖u‖ = 1. The best ρ is ⟨u, a⟩, which leaves t·‖u‖₁ - ½⟨u, a⟩². Where that is least, u is along (a - θ)₊ with
    θ⟨u, a⟩ = t. While θ is between two neighbouring norms, u has the same groups and θ⟨u, a⟩ rises and then falls. So each such
    interval has one minimum at most, which bisection finds; the best of these, and of the longest group alone, is the global one.
    With b = max(a) - a and φ = max(a) - θ, a - θ is φ - b: no sum below loses its digits where norms are equal or nearly so.
    """
    a, order = norms.double().sort(descending=True)
    b, count, tiny = a[0] - a, torch.arange(1, len(a) + 1, device=a.device), torch.finfo(a.dtype).tiny
    total, products, b_total, b_squares = a.cumsum(0), (a * b).cumsum(0), b.cumsum(0), b.square().cumsum(0)
    spread = count * b_squares - b_total.square()

    def along(phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """⟨y, a⟩, ‖y‖ and ‖y‖₁ of y = φ - b on the `count` longest groups, an interval each."""
        square = count * phi.square() - 2 * phi * b_total + b_squares
        return phi * total - products, square.clamp(min=0).sqrt(), count * phi - b_total

    low, high = b.clone(), torch.cat([b[1:], a[:1]])
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        theta, (inner, norm, _) = a[0] - middle, along(middle)
        beyond = (theta * inner >= t * norm) | (inner * norm.square() <= theta.square() * spread)
        low, high = torch.where(beyond, middle, low), torch.where(beyond, high, middle)
    inner, norm, sum_of = along(low)
    length = inner / norm.clamp(min=tiny)
    left = torch.where(norm > 0, t * sum_of / norm.clamp(min=tiny) - length.square() / 2, torch.inf)
    left[0], length[0], low[0] = t - a[0].square() / 2, a[0], a[0]  # the longest group alone, whatever θ
    best = left.argmin(keepdim=True)
    u = (low.gather(0, best) - b).clamp(min=0) * (count <= best + 1)
    x = u / torch.linalg.vector_norm(u).clamp(min=tiny) * length.gather(0, best)
    shares = torch.zeros_like(x).scatter(0, order, x / a.clamp(min=tiny))
    return torch.where(torch.as_tensor(t, device=a.device) > 0, shares, 1)


def l2_matched(weight: Tensor, groups: str) -> Tensor:
    """l21 as a number whose gradient shrinks all groups by the same share, W · l21 / ‖W‖², [out, in] -> []: the control of l21.

    At the same W and λ a step of SGD takes as much off ½‖W‖² as with l21, to first order: ⟨W, gradient⟩ = l21, since l21(cW) = c ·
    l21(W). But no group pays more than its share. As groups die l21 falls, and so the control is the harder one on equal norms.
    """
    norm = torch.linalg.vector_norm(weight)
    return _l2_weight(weight, groups) * norm


def prox_l2_matched(weight: Tensor, t: float, groups: str) -> Tensor:
    """argmin_V ½‖V - weight‖² + t · c‖V‖ with c = l21 / ‖W‖ held at `weight`, [out, in] -> [out, in]: all groups shrink alike."""
    norm = torch.linalg.vector_norm(weight)
    return weight * ((norm - t * _l2_weight(weight, groups)).clamp(min=0) / norm.clamp(min=torch.finfo(weight.dtype).tiny))


@torch.no_grad()
def _l2_weight(weight: Tensor, groups: str) -> Tensor:
    return l21(weight, groups) / torch.linalg.vector_norm(weight).clamp(min=torch.finfo(weight.dtype).tiny)


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


ACTIVE_SHARE = 0.01  # a group is active when its norm is above this share of the largest in its layer
BISECTIONS = 60  # halvings of an interval of float64 numbers
# group -> the dimension of a weight [out, in] that a norm runs over
GROUPS = {"input": 0, "output": 1}

PENALTIES: dict[str, Penalty] = {
    "l21": Penalty(l21, prox_l21),
    "l1": Penalty(l1, prox_l1),
    "l2": Penalty(l2, prox_l2),
    "sparse-group": Penalty(sparse_group, prox_sparse_group),
    "nuclear": Penalty(nuclear, prox_nuclear),
    "l21-relative": Penalty(l21_relative, prox_l21_relative),
    "l2-matched": Penalty(l2_matched, prox_l2_matched),
    "none": Penalty(none, prox_none),
}
