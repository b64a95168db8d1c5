"""Objectives of embeddings that are whitened over the batch, and the ways to whiten."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-12  # beside a mean variance, which is 0 where all embeddings are the same


def w_mse(z1: Tensor, z2: Tensor, eps: float) -> Tensor:
    """Squared distance of whitened, then normalised views, 2 - 2 cos, mean over the batch; [B, E], [B, E] -> [].

    Each view is whitened over the whole batch. Source: W-MSE (Ermolov et al. 2021), eq. 3 and section 3.1.
    """
    return whitened_distance(z1, z2, lambda z: whiten(z, eps))


def shuffled_dbn(z1: Tensor, z2: Tensor, order: Tensor, size: int, eps: float) -> Tensor:
    """The same of views whose dimensions, in groups of `size`, are whitened by ZCA; [B, E], [B, E], [E] -> [].

    Dimensions are taken in this `order`, another one each step, so that in the end all of them are decorrelated. The last group may
    be smaller; B must exceed `size`. Source: Shuffled-DBN (Hua et al. 2021); ZCA in groups as in Huang et al. 2018.
    """

    def in_groups(z: Tensor) -> Tensor:
        groups = [zca(group, eps) for group in z[:, order].split(size, dim=1)]
        return torch.cat(groups, dim=1)[:, order.argsort()]

    return whitened_distance(z1, z2, in_groups)


def iter_norm(z1: Tensor, z2: Tensor, iterations: int, eps: float) -> Tensor:
    """The same of views that are whitened by a few of Newton's iterations; [B, E], [B, E] -> []. Source: Huang et al. 2019."""
    return whitened_distance(z1, z2, lambda z: newton_whiten(z, iterations, eps))


def whitened_distance(z1: Tensor, z2: Tensor, whitened: Callable[[Tensor], Tensor]) -> Tensor:
    """2 - 2 cos of the views once each is `whitened`, mean over the batch; [B, E], [B, E] -> []."""
    return 2 - 2 * F.cosine_similarity(whitened(z1), whitened(z2), dim=1).mean()


def whiten(z: Tensor, eps: float) -> Tensor:
    """Centred embeddings with identity covariance, [B, E] -> [B, E]; needs B > E.

    Cholesky whitening of (1 - eps) · covariance + eps · I, unbiased, after the scale was set so that the mean variance is 1:
    unlike the authors' eps ours does not depend on the scale of z. A covariance that is not positive definite gives NaN.
    """
    z, covariance = scaled(z, eps)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    factor = torch.where(failed > 0, torch.nan, factor)  # not raised: to look would make the processor wait for the device
    return torch.linalg.solve_triangular(factor, z.T, upper=False).T


def zca(z: Tensor, eps: float) -> Tensor:
    """Centred embeddings with identity covariance, as near as can be to what they were, [B, E] -> [B, E]; needs B > E.

    Scale and `eps` are as in `whiten`. Source: decorrelated batch normalisation (Huang et al. 2018).
    """
    z, covariance = scaled(z, eps)
    return z @ InverseRoot.apply(covariance)


def newton_whiten(z: Tensor, iterations: int, eps: float) -> Tensor:
    """`zca` as far as Newton's iterations come, [B, E] -> [B, E]; directions of little variance stay shorter than 1.

    P ← (3 P - P³ C) / 2 from P = I, for the covariance C over its trace; here with P C beside P, since rounding would grow in the
    cube (Higham 2008, section 6.7). More than B dimensions are no trouble: what does not vary stays 0.
    Source: iterative normalisation (Huang et al. 2019), algorithm 1.
    """
    z, covariance = scaled(z, eps)
    trace = covariance.trace()
    pc = covariance / trace
    p = identity = torch.eye(len(pc), dtype=pc.dtype, device=pc.device)
    for _ in range(iterations):
        step = (3 * identity - p @ pc) / 2
        p, pc = step @ p, pc @ step
    return z @ p / trace.sqrt()


def scaled(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Centred embeddings whose mean variance is 1, and (1 - eps) · covariance + eps · I, unbiased, [B, E] -> [E, E]."""
    z = z - z.mean(dim=0)
    z = z / (z.square().mean() + EPSILON).sqrt()
    covariance = z.T @ z / (len(z) - 1)
    identity = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    return z, (1 - eps) * covariance + eps * identity


class InverseRoot(torch.autograd.Function):
    """C^(-1/2) of symmetric positive definite matrices, [E, E] -> [E, E]; NaN for one that is not.

    torch's own gradient of eigenvectors has differences of eigenvalues below its fractions. That of a function of the whole matrix
    has not (Daleckii & Krein 1965): for 1/√a and 1/√b their difference over a - b is -1 / (√a √b (√a + √b)).
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, matrix: Tensor) -> Tensor:
        is_finite = matrix.isfinite().all()  # eigh raises for others; what is NaN already is told by whoever looks at the loss
        values, vectors = torch.linalg.eigh(torch.where(is_finite, matrix, torch.eye(len(matrix), device=matrix.device)))
        roots = torch.where(is_finite & (values > 0), values, torch.nan).sqrt()
        ctx.save_for_backward(roots, vectors)
        return vectors / roots @ vectors.T

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        roots, vectors = ctx.saved_tensors
        a, b = roots[:, None], roots
        inner = vectors.T @ (gradient + gradient.T) @ vectors / 2
        return vectors @ (-inner / (a * b * (a + b))) @ vectors.T
