"""Contrastive objectives: an image is told from others, those of its batch or of earlier ones."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MOST_SIMILARITIES = 2**24  # that are held at once, 64 MB: those of 2,048 images, two views each


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
