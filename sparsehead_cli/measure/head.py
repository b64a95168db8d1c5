"""What a projector reads of r: the directions it responds to, what it leaves unread, and how few features a batch needs.

Mechanism 1 of the SparseHead paper (arXiv 2307.08913), made measurable. Projectors are in eval mode and without gradients.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from sparsehead_cli.measure.definitions import READ_SHARE, TOLERANCE
from sparsehead_cli.measure.dimensions import dims_for
from sparsehead_cli.ssl.losses import nt_xent

EXACT = 512  # widths E of the embedding up to which the Jacobian is computed output by output
DRAWN = 256  # random directions of the embedding that stand for wider ones


def mean_response(projector: nn.Module, r: Tensor, seed: int = 0) -> Tensor:
    """E[Jᵀ J] of the Jacobian J = ∂z/∂r [E, D] over representations r [n, D], float64 [D, D].

    A direction v of r moves the embedding by √(vᵀ E[JᵀJ] v) a unit, in the quadratic mean over r. The mean of J itself would
    cancel where a ReLU head responds to the same direction with different signs. Embeddings wider than EXACT are seen through
    DRAWN random directions u for each r, whose E[Jᵀ u uᵀ J] is the same.
    """
    r = r.detach().clone().requires_grad_()
    total = torch.zeros(r.shape[1], r.shape[1], dtype=torch.float64, device=r.device)
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        z = projector(r.clone())  # its first layer may work in place
        width = z.shape[1]
        for i in range(width if width <= EXACT else DRAWN):
            if width <= EXACT:
                read = z[:, i].sum()
            else:
                direction = torch.randn(z.shape, generator=generator).to(z) / DRAWN**0.5
                read = (z * direction).sum()
            (gradient,) = torch.autograd.grad(read, r, retain_graph=True)
            total += gradient.T.double() @ gradient.double()
    return total / len(r)


@dataclass(frozen=True)
class Reading:
    """The directions of r by how strongly the projector responds to them.

    `singular` [D], descending: the response to each in the quadratic mean, the root of E[JᵀJ]'s eigenvalues; `directions`
    [D, D], orthonormal columns; the first `count` of them have READ_SHARE of the response and are called read.
    """

    singular: Tensor
    directions: Tensor
    count: int

    @classmethod
    def of(cls, response: Tensor) -> "Reading":
        """From E[JᵀJ] [D, D]."""
        eigenvalues, directions = torch.linalg.eigh(response)
        eigenvalues = eigenvalues.flip(0).clamp(min=0)
        return cls(eigenvalues.sqrt(), directions.flip(1), dims_for(eigenvalues.cpu(), READ_SHARE) or 0)

    def variance_share(self, covariance: Tensor) -> float:
        """The share of the variance of r, covariance [D, D], in the read directions, in [0, 1]; NaN where one has none."""
        read = self.directions[:, : self.count]
        total = covariance.trace()
        return float((read * (covariance @ read)).sum() / total) if total > 0 and self.count else math.nan

    def overlap(self, covariance: Tensor) -> float:
        """How far the read directions are r's own `count` principal ones: mean squared cosine, in [0, 1]; by chance count / D.

        NaN where nothing is read, or r does not vary.
        """
        if not self.count or covariance.trace() <= 0:
            return math.nan
        principal = torch.linalg.eigh(covariance)[1].flip(1)[:, : self.count]
        return float((self.directions[:, : self.count].T @ principal).square().sum() / self.count)

    def part(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """r [N, D] in read [N, count] and unread coordinates [N, D - count], float32."""
        turned = r @ self.directions.to(r.dtype)
        return turned[:, : self.count], turned[:, self.count :]


@dataclass(frozen=True)
class BatchSubset:
    """The features that one batch needs: kept bool [D], and the loss with all and with only those."""

    kept: Tensor
    loss: float
    loss_kept: float

    def needed(self) -> int | None:
        """How many features are kept; None where the loss stays without any: it is that of chance, and says nothing about them."""
        return int(self.kept.sum()) or None


def fewest_features(projector: nn.Module, r: Tensor, temperature: float) -> BatchSubset:
    """The fewest features of r that keep a batch's NT-Xent within TOLERANCE; r [2B, D]: first the B first views, then the others.

    A feature that is left out is replaced by its mean over the batch. Features are ranked by Σ |(r - mean) · ∂loss/∂r|, the
    first-order change of the loss, and left out from the end of that list, as many as bisection finds; so the count is an
    upper bound of the smallest. The loss may fall as far as it likes.
    """
    mean = r.mean(dim=0)

    def loss_of(features: Tensor) -> Tensor:
        return nt_xent(*projector(features.clone()).float().chunk(2), temperature)

    with torch.enable_grad():
        leaf = r.detach().clone().requires_grad_()
        loss = loss_of(leaf)
        (gradient,) = torch.autograd.grad(loss, leaf)
    order = ((r - mean) * gradient).abs().sum(dim=0).argsort(descending=True)
    with torch.no_grad():
        return _bisect(order, loss.item(), lambda kept: loss_of(torch.where(kept, r, mean)).item())


def _bisect(order: Tensor, loss: float, loss_with: Callable[[Tensor], float]) -> BatchSubset:
    """The shortest beginning of `order` with which the loss is within TOLERANCE; all of it always is."""

    def first(count: int) -> Tensor:
        return torch.zeros_like(order, dtype=torch.bool).index_fill_(0, order[:count], True)

    low, high, loss_kept = 0, len(order), loss
    while low < high:
        middle = (low + high) // 2
        loss_here = loss_with(first(middle))
        if loss_here <= loss + TOLERANCE * abs(loss):
            high, loss_kept = middle, loss_here
        else:
            low = middle + 1
    return BatchSubset(first(high), loss, loss_kept)


def overlap_of(subsets: list[Tensor]) -> tuple[float, float]:
    """How far the subsets bool [D] of different batches agree: mean |A ∩ B| / |A ∪ B| over all pairs, and the same by chance.

    By chance: two random subsets of those sizes would share |A| · |B| / D features. Empty ones are left out: they are those of
    batches that do not say what they need. NaN without a pair.
    """
    overlaps, by_chance = [], []
    for a, b in combinations([subset for subset in subsets if subset.any()], 2):
        sizes, both = float(a.sum() + b.sum()), float((a & b).sum())
        expected = float(a.sum()) * float(b.sum()) / len(a)
        overlaps.append(both / (sizes - both))
        by_chance.append(expected / (sizes - expected))
    if not overlaps:
        return math.nan, math.nan
    return sum(overlaps) / len(overlaps), sum(by_chance) / len(by_chance)
