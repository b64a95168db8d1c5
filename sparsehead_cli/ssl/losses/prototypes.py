"""Objectives of prototypes: which of them an embedding is near."""

import torch
import torch.nn.functional as F
from torch import Tensor


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
