"""Objectives of what a batch of embeddings looks like as a whole: its moments or its distribution."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor


def barlow_twins(z1: Tensor, z2: Tensor, off_diagonal: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ_i (1 - C_ii)² + off_diagonal · Σ_{i≠j} C_ij², C the cross-correlation [E, E] of the views; [B, E], [B, E] -> [].

    Embeddings are standardised over the batch: biased variance, 1e-5 inside the root.
    Source: Barlow Twins (Zbontar et al. 2021), eq. 1; `off_diagonal` is their λ.
    """
    c = standardise(z1).T @ standardise(z2) / len(z1)
    terms = {"on_diagonal": (1 - c.diagonal()).square().sum(), "off_diagonal": off_diagonal_squares(c)}
    return terms["on_diagonal"] + off_diagonal * terms["off_diagonal"], terms


def variance_hinge(z: Tensor) -> Tensor:
    """max(0, 1 - √(var + 1e-4)), unbiased, mean over dimensions, [B, E] -> []. Source: VICReg (Bardes et al. 2022), eq. 1 and 2."""
    variances = (z - z.mean(dim=0)).square().sum(dim=0) / (len(z) - 1)
    return F.relu(1 - (variances + 1e-4).sqrt()).mean()


def covariances(z: Tensor) -> Tensor:
    """Squared off-diagonal covariances, unbiased, over E, [B, E] -> []. Source: VICReg (Bardes et al. 2022), eq. 3 and 4."""
    return off_diagonal_squares(covariance_matrix(z)) / z.shape[1]


def correlations(z: Tensor) -> Tensor:
    """Squared off-diagonal correlations over E², [B, E] -> []. Source: VIbCReg (Lee & Aune 2021), eq. 7."""
    z = F.normalize(z - z.mean(dim=0), dim=0)
    return off_diagonal_squares(z.T @ z) / z.shape[1] ** 2


def covariance_matrix(z: Tensor) -> Tensor:
    """Unbiased, [B, E] -> [E, E]."""
    z = z - z.mean(dim=0)
    return z.T @ z / (len(z) - 1)


def vicreg(
    z1: Tensor,
    z2: Tensor,
    invariance: float,
    variance: float,
    covariance: float,
    redundancy: Callable[[Tensor], Tensor] = covariances,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of the mean squared distance, the variance hinge and the covariance term, [B, E], [B, E] -> [].

    The hinge max(0, 1 - √(var + 1e-4)) is averaged over dimensions and over the two views; the squared off-diagonal
    covariances are divided by E and summed over the views. Variances are unbiased. Source: VICReg (Bardes et al. 2022), eq. 1-6;
    the halved hinge as in the authors' code. Another `redundancy` may stand in place of the covariance term.
    """
    terms = {
        "invariance": F.mse_loss(z1, z2),
        "variance": sum(variance_hinge(z) for z in (z1, z2)) / 2,
        "covariance": sum(redundancy(z) for z in (z1, z2)),
    }
    return invariance * terms["invariance"] + variance * terms["variance"] + covariance * terms["covariance"], terms


def vicreg_of_places(z1: Tensor, z2: Tensor, **weights: float) -> tuple[Tensor, dict[str, Tensor]]:
    """`vicreg` of each of M places over the B images, and the mean of these, [B, M, E], [B, M, E] -> [].

    Variances and covariances are over images: a code of the place alone has none. Source: VICRegL (Bardes et al. 2022b), eq. 2-3.
    """
    loss, terms = torch.vmap(partial(vicreg, **weights), in_dims=1)(z1, z2)
    return loss.mean(), {name: term.mean() for name, term in terms.items()}


def nearest_places(a: Tensor, b: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` places of one map that have the nearest place in another, and these; [B, L, E], [B, M, E] -> [B, count, E] twice.

    Each of an image for itself, by Euclidean distance, in the order of the first map's places: one that is matched in all images
    has the same number in all. Source: VICRegL (Bardes et al. 2022b), feature-based matching; the order as in the authors' code.
    """
    with torch.no_grad():
        distances, nearest = torch.cdist(a, b).min(dim=2)
        chosen = distances.topk(count, dim=1, largest=False).indices.sort(dim=1).values
        matched = nearest.gather(1, chosen)
    return tuple(z.gather(1, places[:, :, None].expand(-1, -1, z.shape[2])) for z, places in ((a, chosen), (b, matched)))


def vibcreg(z1: Tensor, z2: Tensor, invariance: float, variance: float, covariance: float) -> tuple[Tensor, dict[str, Tensor]]:
    """VICReg whose covariance term is that of correlations, so that it does not depend on z's scale; [B, E], [B, E] -> [].

    Off-diagonal squared correlations are averaged over all E² entries, and summed over the views.
    Source: VIbCReg (Lee & Aune 2021), eq. 5-7; without their iterative normalisation behind the projector.
    """
    return vicreg(z1, z2, invariance, variance, covariance, redundancy=correlations)


def tico(z1: Tensor, z2: Tensor, covariance: Tensor, beta: float, rho: float) -> tuple[Tensor, Tensor]:
    """1 - cos(z, z') + rho · zᵀ C z, mean over B, for a running second moment C of z; [B, E], [B, E], [E, E] -> [].

    C = beta · `covariance` + (1 - beta) · zᵀz / B, z normalised; it gets no gradient, and is returned as well. z' is the teacher's,
    which gets none either. Source: TiCo (Zhu et al. 2022), algorithm 1.
    """
    z1, z2 = F.normalize(z1, dim=1), F.normalize(z2.detach(), dim=1)
    moment = (beta * covariance + (1 - beta) * z1.T @ z1 / len(z1)).detach()
    return 1 - (z1 * z2).sum(dim=1).mean() + rho * ((z1 @ moment) * z1).sum(dim=1).mean(), moment


def mmcr(z1: Tensor, z2: Tensor, compression: float) -> Tensor:
    """-‖C‖_* of the images' centroids C [B, E] over the views, z normalised; [B, E], [B, E] -> [].

    Centroids are long where the views of an image agree, and their nuclear norm is large where they spread over all directions.
    `compression` weighs the mean nuclear norm of an image's own views, which rather shortens their spread.
    Source: MMCR (Yerxa et al. 2023), eq. 3; the second term is their λ.
    """
    views = torch.stack([F.normalize(z1, dim=1), F.normalize(z2, dim=1)], dim=1)  # [B, 2, E]
    loss = -torch.linalg.svdvals(views.mean(dim=1)).sum()
    return loss + compression * torch.linalg.svdvals(views).sum(dim=1).mean() if compression else loss


def frossl(z1: Tensor, z2: Tensor, invariance: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ over views of log ‖ZᵀZ / tr ZᵀZ‖_F² + invariance · 2 Σ ‖z - z̄‖² / B; [B, E], [B, E] -> [].

    The columns of Z are normalised over the batch, z̄ is the mean of the views. The first term falls as z's spectrum becomes flat.
    Source: FroSSL (Skean et al. 2024), eq. 4-6.
    """
    normalised = [F.normalize(z, dim=0) for z in (z1, z2)]
    mean = sum(normalised) / 2
    moments = [z.T @ z for z in normalised]
    terms = {
        # E is their trace; only the moment of embeddings that are all 0 is 0
        "spread": sum((m / len(m)).square().sum().clamp(min=torch.finfo(m.dtype).tiny).log() for m in moments),
        "invariance": 2 * sum((z - mean).square().sum() for z in normalised) / len(z1),
    }
    return terms["spread"] + invariance * terms["invariance"], terms


def lejepa(z1: Tensor, z2: Tensor, *local: Tensor, directions: Tensor, regularisation: float) -> tuple[Tensor, dict[str, Tensor]]:
    """(1 - regularisation) · mean squared distance to the mean of z1 and z2 + regularisation · SIGReg, both means over all views.

    [B, E] each, [E, M] -> []. Source: LeJEPA (Balestriero & LeCun 2025), eq. 8, algorithm 2.
    """
    views, mean = (z1, z2, *local), (z1 + z2) / 2
    terms = {
        "invariance": sum((z - mean).square().mean() for z in views) / len(views),
        "sigreg": sum(sigreg(z, directions) for z in views) / len(views),
    }
    return (1 - regularisation) * terms["invariance"] + regularisation * terms["sigreg"], terms


def sigreg(z: Tensor, directions: Tensor, furthest: float = 5.0, knots: int = 17) -> Tensor:
    """How far z is from a standard normal distribution, by its sketch along M directions; [B, E], [E, M] -> [].

    Along each (normalised here) the test of Epps and Pulley, B · ∫ |φ(t) - exp(-t²/2)|² exp(-t²/2) dt over [-furthest, furthest],
    by the trapezoidal rule at `knots` places, φ the empirical characteristic function; the mean over directions.
    Source: LeJEPA (Balestriero & LeCun 2025), section 4.3, algorithm 1.
    """
    t = torch.linspace(-furthest, furthest, knots, dtype=z.dtype, device=z.device)
    normal = (-t.square() / 2).exp()
    at = (z @ F.normalize(directions, dim=0))[:, :, None] * t  # [B, M, T]
    away = (at.cos().mean(dim=0) - normal).square() + at.sin().mean(dim=0).square()
    return len(z) * torch.trapezoid(away * normal, t, dim=1).mean()


def standardise(z: Tensor) -> Tensor:
    """Zero mean and unit variance of every dimension over the batch, [B, E] -> [B, E]; biased variance, 1e-5 in the root."""
    return (z - z.mean(dim=0)) / (z.var(dim=0, correction=0) + 1e-5).sqrt()


def off_diagonal_squares(matrix: Tensor) -> Tensor:
    """Sum of the squares outside of the diagonal, [E, E] -> []."""
    return (matrix - matrix.diagonal().diag()).square().sum()
