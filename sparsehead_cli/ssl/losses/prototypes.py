"""Objectives of prototypes: which of them an embedding is near."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_SCORES = 2**24  # of rows and prototypes that are held at once, 64 MB


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


def sharpened(
    t: Tensor, prototypes: Tensor, centre: Tensor | Callable[[Tensor], Tensor], temperature: float
) -> tuple[Tensor, Tensor]:
    """A teacher's distribution over prototypes, centred and sharpened, and its scores before that; [N, E] -> [N, P], [N, P].

    `centre` is [P], or what makes it of the scores. Neither gets a gradient. Source: DINO (Caron et al. 2021), section 3.1.
    """
    scores = prototype_scores(t, prototypes).detach()
    centre = centre(scores) if callable(centre) else centre
    return ((scores - centre) / temperature).softmax(dim=1), scores


def dino(
    z1: Tensor,
    z2: Tensor,
    t1: Tensor,
    t2: Tensor,
    *local: Tensor,
    prototypes: Tensor,
    teacher_prototypes: Tensor,
    centre: Tensor | Callable[[Tensor], Tensor],
    student_temperature: float,
    teacher_temperature: float,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the student to other views' centred, sharpened teacher, mean over B and all pairs; [B, E] each -> [].

    z and `local` are the student's embeddings of the global and the local views, t the teacher's of the global ones, without
    gradient; the centre is subtracted from its scores, as in `sharpened`. Each student's view is compared with each other view of
    the teacher. Also returns the teacher's mean scores [P], towards which the centre moves.
    Source: DINO (Caron et al. 2021), eq. 3 and algorithm 1.
    """
    target, teacher = sharpened(torch.cat([t1, t2]), teacher_prototypes, centre, teacher_temperature)
    target = target.roll(len(t1), dims=0)
    student = prototype_scores(torch.cat([z1, z2]), prototypes) / student_temperature
    losses = [-(target * student.log_softmax(dim=1)).sum(dim=1)]
    for z in local:  # both teacher's views are other ones
        log_p = (prototype_scores(z, prototypes) / student_temperature).log_softmax(dim=1)
        losses.append(-(target * log_p.repeat(2, 1)).sum(dim=1))
    return torch.cat(losses).mean(), teacher.mean(dim=0)


def msn(
    target: Tensor,
    *anchors: Tensor,
    prototypes: Tensor,
    student_temperature: float,
    teacher_temperature: float,
    regularisation: float,
    iterations: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of anchors to a teacher's sharpened codes of one view, mean over B and anchors, + regularisation · (log P − the
    entropy of the anchors' mean distribution); [B, E] each, [P, E] -> [].

    The target gets no gradient, nor the prototypes through it; with iterations above 0 its codes share the batch equally.
    Source: MSN (Assran et al. 2022), eq. 1, whose last term is 0 here at its best, as in the authors' code.
    """
    codes = sinkhorn((prototype_scores(target, prototypes).detach() / teacher_temperature).log_softmax(dim=1), 1.0, iterations)
    log_p = (prototype_scores(torch.cat(anchors), prototypes) / student_temperature).log_softmax(dim=1)
    mean = log_p.exp().mean(dim=0).clamp(min=torch.finfo(log_p.dtype).tiny)  # of a prototype that nobody is near
    terms = {
        "cross_entropy": -(codes.repeat(len(anchors), 1) * log_p).sum(dim=1).mean(),
        "missing_entropy": math.log(len(prototypes)) + (mean * mean.log()).sum(),
    }
    return terms["cross_entropy"] + regularisation * terms["missing_entropy"], terms


def deepcluster(*views: Tensor, prototypes: Tensor, assigned: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of all views to the prototype that their image is assigned to, mean over views, images and clusterings.

    Views [B, E] each, prototypes of M clusterings [M, P, E], assigned [M, B] -> []. An image that is assigned to -1 counts in no
    mean. Prototypes are normalised already, and get no gradient. Source: DeepCluster-v2 (SwAV, Caron et al. 2020, appendix).
    """
    scores = [torch.einsum("be,mpe->mbp", F.normalize(z, dim=1), prototypes.detach()) / temperature for z in views]
    counted = (assigned >= 0).sum().clamp(min=1)
    entropies = (F.cross_entropy(s.flatten(0, 1), assigned.flatten(), ignore_index=-1, reduction="sum") for s in scores)
    return sum(entropies) / (counted * len(views))


@torch.no_grad()
def spherical_kmeans(z: Tensor, prototypes: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Clusters of directions, [N, E], [P, E] -> their means, normalised, [P, E], and which each row is nearest to, int64 [N].

    z is normalised already; rows of zeros are not known, and are nearest to -1. A cluster that nobody is near stays where it is.
    Rows are looked at so many at a time that at most MOST_SCORES are held at once. Source: DeepCluster-v2, as above.
    """
    parts = z.split(max(1, MOST_SCORES // len(prototypes)))
    for _ in range(iterations):
        sums = torch.zeros_like(prototypes)
        for part in parts:
            members = F.one_hot((part @ prototypes.T).argmax(dim=1), len(prototypes)).to(z.dtype)
            sums += members.T @ part  # not index_add, whose order of adding is by chance on a GPU
        lengths = sums.norm(dim=1, keepdim=True)
        prototypes = torch.where(lengths > 0, sums / lengths.clamp(min=torch.finfo(z.dtype).tiny), prototypes)
    nearest = torch.cat([(part @ prototypes.T).argmax(dim=1) for part in parts])
    return prototypes, nearest.where(z.any(dim=1), -1)
