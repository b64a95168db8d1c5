"""Self-supervised objectives: pure functions of float32 embeddings, each in its paper's symbols. Nothing but mathematics.

Every function reads the whole joined batch. Stop-gradients are part of an objective and stand here. Functions that return a
dict beside the loss name its terms, unweighted.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MOST_SIMILARITIES = 2**24  # that are held at once, 64 MB: those of 2,048 images, two views each

# ------------------------------------------------------------------------------------------------ contrastive


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """NT-Xent of two views, [B, E], [B, E] -> []. Mean over the 2B anchors.

    Embeddings are normalised here. An anchor's positive is its other view, its negatives the 2B - 2 views of other images.
    Source: SimCLR (Chen et al. 2020), eq. 1 and algorithm 1.
    """
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    positive = torch.arange(len(z), device=z.device).roll(len(z1))

    def of_anchors(rows: slice) -> Tensor:
        similarity = z[rows] @ z.T / temperature
        similarity.diagonal(rows.start).fill_(-torch.inf)  # an anchor is not its own negative
        return F.cross_entropy(similarity, positive[rows])

    return mean_over_anchors(of_anchors, len(z))


def decoupled(z1: Tensor, z2: Tensor, temperature: float, sigma: float | None = None) -> Tensor:
    """NT-Xent without the positive in the denominator, [B, E], [B, E] -> []. Mean over the 2B anchors.

    With `sigma` the positives are weighted: 2 - exp(s / sigma) over its mean over the batch, s the cosine of a pair; the weights,
    1 in the mean, get no gradient. Source: DCL and DCLW (Yeh et al. 2022), eq. 6 and 7.
    """
    a, b = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
    z, cosine = torch.cat([a, b]), (a * b).sum(dim=1)
    weight = 1.0 if sigma is None else 2 - len(a) * (cosine.detach() / sigma).softmax(dim=0)
    own = torch.arange(len(a), device=z.device).repeat(2)  # the image of an anchor, both of whose views are no negatives

    def of_anchors(rows: slice) -> Tensor:
        similarity = (z[rows] @ z.T / temperature).masked_fill(own[rows, None] == own, -torch.inf)
        return similarity.logsumexp(dim=1).mean()

    return mean_over_anchors(of_anchors, len(z)) - (weight * cosine).mean() / temperature


def in_batch_nce(q: Tensor, k: Tensor, temperature: float) -> Tensor:
    """InfoNCE of queries against the keys of the batch, [B, E], [B, E] -> []. Mean over B.

    Both are normalised here. Which of them gets no gradient, the objectives say that are made of it.
    Source: van den Oord et al. 2018, eq. 4, with cosines over a temperature.
    """
    logits = F.normalize(q, dim=1) @ F.normalize(k, dim=1).T / temperature
    return F.cross_entropy(logits, torch.arange(len(q), device=q.device))


def moco_v3(q1: Tensor, q2: Tensor, k1: Tensor, k2: Tensor, temperature: float) -> Tensor:
    """Each view's prediction against the teacher's keys of the other, times 2 · temperature, summed; [B, E] each -> [].

    Keys get no gradient. Source: MoCo v3 (Chen et al. 2021), algorithm 1.
    """
    pairs = ((q1, k2), (q2, k1))
    return 2 * temperature * sum(in_batch_nce(q, k.detach(), temperature) for q, k in pairs)


def nnclr(p1: Tensor, p2: Tensor, n1: Tensor, n2: Tensor, temperature: float) -> Tensor:
    """The neighbours of each view's embedding against the predictions of the other view, mean of both; [B, E] each -> [].

    A neighbour has to find the prediction of its own image among those of the batch; neighbours get no gradient.
    Source: NNCLR (Dwibedi et al. 2021), eq. 3, symmetrised as in their section 3.2.
    """
    return sum(in_batch_nce(n.detach(), p, temperature) for n, p in ((n1, p2), (n2, p1))) / 2


def relations(z: Tensor, k: Tensor, queue: Tensor, temperature: float, teacher_temperature: float) -> Tensor:
    """Cross-entropy of a view's similarities to a queue to those of the teacher's other view, [B, E], [B, E], [K, E] -> [].

    Mean over B; all are normalised here, keys and queue get no gradient. Source: ReSSL (Zheng et al. 2021), eq. 4-6.
    """
    z, k, queue = F.normalize(z, dim=1), F.normalize(k.detach(), dim=1), F.normalize(queue, dim=1)
    target = (k @ queue.T / teacher_temperature).softmax(dim=1)
    return -(target * (z @ queue.T / temperature).log_softmax(dim=1)).sum(dim=1).mean()


def nearest(z: Tensor, queue: Tensor) -> Tensor:
    """The row of a queue with the largest cosine to each embedding, normalised, [B, E], [K, E] -> [B, E]; no gradient."""
    queue = F.normalize(queue.detach(), dim=1)
    return queue[(F.normalize(z.detach(), dim=1) @ queue.T).argmax(dim=1)]


def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """InfoNCE of queries against their keys and a queue of older keys, [B, E], [B, E], [K, E] -> []. Mean over B.

    All are normalised here; keys and queue get no gradient. The queue must not hold this batch's keys: each positive would
    also be a negative. Source: MoCo (He et al. 2020), eq. 1 and algorithm 1.
    """
    q, k, queue = F.normalize(q, dim=1), F.normalize(k.detach(), dim=1), F.normalize(queue, dim=1)
    logits = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ queue.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))


def sup_con(z1: Tensor, z2: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss of two views, [B, E], [B, E], [B] -> []. Mean over the 2B anchors.

    An anchor's positives are all other views of its class, averaged outside the logarithm.
    Source: Khosla et al. 2020, eq. 2 (L_out), without the authors' factor T / T_base.
    """
    z, labels = F.normalize(torch.cat([z1, z2]), dim=1), labels.repeat(2)
    places = torch.arange(len(z), device=z.device)

    def of_anchors(rows: slice) -> Tensor:
        similarity = z[rows] @ z.T / temperature
        itself = places[rows, None] == places
        log_p = similarity - similarity.masked_fill(itself, -torch.inf).logsumexp(dim=1, keepdim=True)
        positive = (labels[rows, None] == labels) & ~itself
        return -((log_p * positive).sum(dim=1) / positive.sum(dim=1)).mean()

    return mean_over_anchors(of_anchors, len(z))


def mean_over_anchors(of_anchors: Callable[[slice], Tensor], count: int) -> Tensor:
    """Mean over `count` anchors, each of which is compared with all; `of_anchors` of some rows is the mean over these.

    The anchors are taken so many at a time that there are at most MOST_SIMILARITIES; where that is not all of them, the backward
    pass computes their similarities again, so that memory grows with the number of anchors, and not with its square.
    """
    at_once = max(1, MOST_SIMILARITIES // count)
    if count <= at_once:
        return of_anchors(slice(0, count))
    parts = [slice(start, min(start + at_once, count)) for start in range(0, count, at_once)]
    means = [checkpoint(of_anchors, rows, use_reentrant=False, preserve_rng_state=False) for rows in parts]
    return sum(mean * ((rows.stop - rows.start) / count) for rows, mean in zip(parts, means, strict=True))


# ------------------------------------------------------------------------------------------------ prediction


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """-cos(p, stop-gradient z), mean over the batch, [B, E], [B, E] -> []. Source: SimSiam (Chen & He 2021), eq. 1."""
    return -F.cosine_similarity(p, z.detach(), dim=1, eps=1e-8).mean()


def byol(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """Squared distance of normalised predictions and targets, 2 - 2 cos(p, sg z'), mean over both directions; [B, E] each -> [].

    Source: BYOL (Grill et al. 2020), eq. 2; their loss is the sum of the two directions, twice this.
    """
    return 2 + negative_cosine(p1, z2) + negative_cosine(p2, z1)


def simsiam(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """Mean of -cos(p, sg z') over both directions, [B, E] each -> []. Source: SimSiam (Chen & He 2021), eq. 2."""
    return (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2


# ------------------------------------------------------------------------------------------------ decorrelation


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


def lejepa(z1: Tensor, z2: Tensor, directions: Tensor, regularisation: float) -> tuple[Tensor, dict[str, Tensor]]:
    """(1 - regularisation) · mean squared distance to the views' mean + regularisation · SIGReg, its mean over the views.

    [B, E], [B, E], [E, M] -> []. Source: LeJEPA (Balestriero & LeCun 2025), eq. 8, algorithm 2.
    """
    mean = (z1 + z2) / 2
    terms = {
        "invariance": sum((z - mean).square().mean() for z in (z1, z2)) / 2,
        "sigreg": sum(sigreg(z, directions) for z in (z1, z2)) / 2,
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


def w_mse(z1: Tensor, z2: Tensor, eps: float) -> Tensor:
    """Squared distance of whitened, then normalised views, 2 - 2 cos, mean over the batch; [B, E], [B, E] -> [].

    Each view is whitened over the whole batch. Source: W-MSE (Ermolov et al. 2021), eq. 3 and section 3.1.
    """
    return 2 - 2 * F.cosine_similarity(whiten(z1, eps), whiten(z2, eps), dim=1).mean()


def whiten(z: Tensor, eps: float) -> Tensor:
    """Centred embeddings with identity covariance, [B, E] -> [B, E]; needs B > E.

    Cholesky whitening of (1 - eps) · covariance + eps · I, unbiased, after the scale was set so that the mean variance is 1:
    unlike the authors' eps ours does not depend on the scale of z. A covariance that is not positive definite gives NaN.
    """
    z = z - z.mean(dim=0)
    z = z / (z.square().mean() + 1e-12).sqrt()
    covariance = z.T @ z / (len(z) - 1)
    identity = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    factor, failed = torch.linalg.cholesky_ex((1 - eps) * covariance + eps * identity)
    factor = torch.where(failed > 0, torch.nan, factor)  # not raised: to look would make the processor wait for the device
    return torch.linalg.solve_triangular(factor, z.T, upper=False).T


def standardise(z: Tensor) -> Tensor:
    """Zero mean and unit variance of every dimension over the batch, [B, E] -> [B, E]; biased variance, 1e-5 in the root."""
    return (z - z.mean(dim=0)) / (z.var(dim=0, correction=0) + 1e-5).sqrt()


def off_diagonal_squares(matrix: Tensor) -> Tensor:
    """Sum of the squares outside of the diagonal, [E, E] -> []."""
    return (matrix - matrix.diagonal().diag()).square().sum()


# ------------------------------------------------------------------------------------------------ prototypes


def prototype_scores(z: Tensor, prototypes: Tensor) -> Tensor:
    """Cosines of embeddings and prototypes, [B, E], [P, E] -> [B, P]."""
    return F.normalize(z, dim=1) @ F.normalize(prototypes, dim=1).T


def swav(z1: Tensor, z2: Tensor, *local: Tensor, prototypes: Tensor, temperature: float, epsilon: float, iterations: int) -> Tensor:
    """Cross-entropy of views' prototype distributions to the other views' codes, mean over B and all pairs; [B, E] each -> [].

    The two global views have codes, which each other view, local ones as well, predicts.
    Source: SwAV (Caron et al. 2020), eq. 1-2, and eq. 6 for local views (multi-crop).
    """
    scores = [prototype_scores(z, prototypes) for z in (z1, z2, *local)]
    codes = [sinkhorn(s.detach(), epsilon, iterations) for s in scores[:2]]
    log_p = [F.log_softmax(s / temperature, dim=1) for s in scores]
    pairs = [(i, v) for i in range(2) for v in range(len(scores)) if v != i]
    return -sum((codes[i] * log_p[v]).sum(dim=1) for i, v in pairs).mean() / len(pairs)


def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Codes that share the batch equally among the prototypes, [B, P] -> [B, P], rows sum to 1.

    exp(scores / epsilon), its columns and rows normalised in turn; the logarithms are normalised, so nothing overflows.
    Source: Cuturi 2013; SwAV (Caron et al. 2020), eq. 5.
    """
    log_q = scores / epsilon
    for _ in range(iterations):
        log_q = log_q.log_softmax(dim=0).log_softmax(dim=1)
    return log_q.exp()


def dino(
    z1: Tensor,
    z2: Tensor,
    t1: Tensor,
    t2: Tensor,
    *local: Tensor,
    prototypes: Tensor,
    teacher_prototypes: Tensor,
    centre: Tensor,
    student_temperature: float,
    teacher_temperature: float,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the student to other views' centred, sharpened teacher, mean over B and all pairs; [B, E] each -> [].

    z and `local` are the student's embeddings of the global and the local views, t the teacher's of the global ones, without
    gradient; `centre` [P] is subtracted from the teacher's scores. Each student's view is compared with each other view of the
    teacher. Also returns the teacher's mean scores [P], towards which the centre moves.
    Source: DINO (Caron et al. 2021), eq. 3 and algorithm 1.
    """
    teacher = prototype_scores(torch.cat([t1, t2]), teacher_prototypes).detach()
    target = ((teacher - centre) / teacher_temperature).softmax(dim=1).roll(len(t1), dims=0)
    student = prototype_scores(torch.cat([z1, z2]), prototypes) / student_temperature
    losses = [-(target * student.log_softmax(dim=1)).sum(dim=1)]
    for z in local:  # both teacher's views are other ones
        log_p = (prototype_scores(z, prototypes) / student_temperature).log_softmax(dim=1)
        losses.append(-(target * log_p.repeat(2, 1)).sum(dim=1))
    return torch.cat(losses).mean(), teacher.mean(dim=0)


# ------------------------------------------------------------------------------------------------ generative


def reconstruction(decoded: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error over the pixels that `weight` [B, 1, h, w] selects with 1, a number a sample, [B, C, h, w] -> [B]."""
    error = (decoded - target).square().mean(dim=1, keepdim=True)
    return (error * weight).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3))
