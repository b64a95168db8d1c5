"""What augmented views of the same images say of a representation: pure functions of features [n, q, D], q views of n images."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsehead_cli.measure.definitions import LIDAR_DELTA
from sparsehead_cli.measure.spectrum import eigenvalues_of

LIDAR_EPSILON = 1e-7


def lidar(features: Tensor) -> float:
    """The effective rank of how images differ, measured in how views of one image differ; [n, q, D] -> in [1, min(n - 1, D)].

    exp of the entropy of p = s / Σs + 1e-7 for the eigenvalues s of Σ_w^(-1/2) Σ_b Σ_w^(-1/2): Σ_b is the covariance of the n
    images' mean features around their mean, Σ_w the covariance of views around their image's mean plus δ times the identity,
    δ = 1e-4, both divided by their number. Because of δ it depends on the scale of the features where they vary by less than
    about 0.01. NaN where images do not differ. Source: LiDAR (Thilak et al. 2024), section 3.
    """
    x = features.double()
    means = x.mean(dim=1)
    within = (x - means[:, None]).flatten(0, 1)
    between = means - means.mean(dim=0)
    sigma_w = within.T @ within / len(within) + LIDAR_DELTA * torch.eye(x.shape[2], dtype=x.dtype, device=x.device)
    sigma_b = between.T @ between / len(between)
    root = torch.linalg.cholesky(sigma_w)  # L⁻¹ Σ_b L⁻ᵀ has the eigenvalues of Σ_w^(-1/2) Σ_b Σ_w^(-1/2)
    half = torch.linalg.solve_triangular(root, sigma_b, upper=False)
    eigenvalues = eigenvalues_of(torch.linalg.solve_triangular(root, half.T, upper=False))
    total = eigenvalues.sum()
    if total <= 0:
        return math.nan
    return float(torch.exp(torch.special.entr(eigenvalues / total + LIDAR_EPSILON).sum()))


def alignment(features: Tensor) -> float:
    """Mean squared distance of two views of an image, l2-normalised, [n, q, D] -> in [0, 4]; 0: invariant to the views.

    Over all pairs of an image's q views. Source: Wang & Isola 2020, eq. 4 with alpha = 2.
    """
    f, views = F.normalize(features.double(), dim=2), features.shape[1]
    lengths = f.square().sum(dim=(1, 2))  # one a view, but 0 of a view without length, which has no direction
    pairs = views * lengths - f.sum(dim=1).square().sum(dim=1)  # the sum of squared distances
    return float(pairs.mean() * 2 / (views * (views - 1)))


def uniformity(features: Tensor) -> float:
    """log of the mean of exp(-2 d²) over all pairs of images, d the distance of their l2-normalised first views, [n, q, D].

    0 where all are at one point, about -4 where they are spread evenly over a sphere of many dimensions. Source: Wang & Isola
    2020, eq. 5 with t = 2.
    """
    f = F.normalize(features[:, 0].double(), dim=1)
    return float(torch.pdist(f).square().mul(-2).exp().mean().log())


def invariance(features: Tensor) -> dict[str, float]:
    """LiDAR, alignment and uniformity of features [n, q, D], by name."""
    return {"lidar": lidar(features), "alignment": alignment(features), "uniformity": uniformity(features)}
