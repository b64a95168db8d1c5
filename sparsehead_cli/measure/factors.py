"""How much of known factors features hold: linear read-outs, and whether what is similar in the factors is similar in them.

Source: the ground-truth factors and the intrinsic similarity of section 5 of arXiv 2307.08913, made measurable.
"""

import numpy as np
import torch
from torch import Tensor

RIDGES = tuple(10.0**power for power in range(-6, 3))  # strengths that are tried, of a mean squared error
PAIRS = 100_000  # of images, whose similarities are ranked


def read_out(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """R² of a linear read-out on test features [N, D] and numbers [N, T]: 1 is all, 0 as good as the mean of the training.

    Ridge regression on standardised features, in float64, its strength chosen on val; the mean over the T numbers, each in units of
    its variance.
    """
    (x, y), mean = (part.double() for part in train), train[0].double().mean(dim=0)
    scale = x.std(dim=0, correction=0).clamp(min=1e-12)
    middle = y.mean(dim=0)

    def features(part: tuple[Tensor, Tensor]) -> Tensor:
        return (part[0].double() - mean) / scale

    def score(part: tuple[Tensor, Tensor], weight: Tensor) -> float:
        truth = part[1].double()
        errors = (truth - middle - features(part) @ weight).square().mean(dim=0)
        return float((1 - errors / (truth - middle).square().mean(dim=0)).mean())

    z = features(train)
    gram, cross = z.T @ z / len(z), z.T @ (y - middle) / len(z)
    eigenvalues, vectors = torch.linalg.eigh(gram)
    turned = vectors.T @ cross
    weights = [vectors @ (turned / (eigenvalues.clamp(min=0) + ridge).unsqueeze(1)) for ridge in RIDGES]
    return score(test, max(weights, key=lambda weight: score(val, weight)))


def linear_cka(a: Tensor, b: Tensor) -> float:
    """Linear centred kernel alignment of two sets of features of the same N inputs, [N, D] and [N, E], in [0, 1].

    NaN where one does not vary. Source: Kornblith et al. 2019, equation 3 in its form for features.
    """
    a, b = (features.double() - features.double().mean(dim=0) for features in (a, b))
    norms = torch.linalg.matrix_norm(a.T @ a) * torch.linalg.matrix_norm(b.T @ b)
    return float((a.T @ b).square().sum() / norms) if norms > 0 else float("nan")


def rank_correlation(a: Tensor, b: Tensor, seed: int = 0) -> float:
    """Spearman's ρ of how similar pairs of N inputs are in features a [N, D], by cosine, and in codes b [N, E], by distance.

    Of PAIRS pairs, the same for all features. A positive one: what is near in b is similar in a.
    """
    from scipy.stats import spearmanr  # takes a moment to import

    draw = np.random.default_rng(seed)
    one, other = (torch.from_numpy(draw.integers(len(a), size=PAIRS)) for _ in range(2))
    one, other = one[one != other], other[one != other]
    directions = torch.nn.functional.normalize(a.double().cpu(), dim=1)
    cosine = (directions[one] * directions[other]).sum(dim=1)
    near = -(b.double().cpu()[one] - b.double().cpu()[other]).square().sum(dim=1)
    return float(spearmanr(cosine.numpy(), near.numpy()).statistic)
