"""Objectives of embeddings that are whitened over the batch, and the ways to whiten."""

import torch
import torch.nn.functional as F
from torch import Tensor


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
