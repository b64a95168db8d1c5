"""Self-supervised objectives: pure functions of float32 embeddings, each in its paper's symbols. Nothing but mathematics."""

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """NT-Xent of two views, [B, E], [B, E] -> []. Mean over the 2B anchors.

    Embeddings are normalised here. An anchor's positive is its other view, its negatives the 2B - 2 views of other images.
    Source: SimCLR (Chen et al. 2020), eq. 1 and algorithm 1.
    """
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarity = z @ z.T / temperature
    similarity.fill_diagonal_(-torch.inf)  # an anchor is not its own negative
    batch = len(z1)
    positive = torch.arange(2 * batch, device=z.device).roll(batch)
    return F.cross_entropy(similarity, positive)
