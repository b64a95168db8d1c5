"""Objectives of prediction: one view's embedding is predicted from another's, without a gradient through the target."""

import torch.nn.functional as F
from torch import Tensor


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
