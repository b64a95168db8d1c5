import math

import pytest
import torch

from sparsehead_cli.measure.invariance import alignment, invariance, lidar, uniformity


def views(n, q, d, noise, seed=0):
    """[n, q, d]: images drawn from the unit Gaussian, views around them."""
    g = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 1, d, generator=g, dtype=torch.float64)
    return images + noise * torch.randn(n, q, d, generator=g, dtype=torch.float64)


def test_lidar_of_equal_directions_is_their_number():
    assert lidar(views(4000, 4, 6, 0.5)) == pytest.approx(6, rel=0.01)


def test_lidar_ignores_directions_that_only_views_move_and_weighs_by_their_noise():
    """The effective rank of a covariance counts a noise direction in; LiDAR does not."""
    features = views(3000, 6, 6, 0.5)
    g = torch.Generator().manual_seed(1)
    nuisance = 20 * torch.randn(3000, 6, 2, generator=g, dtype=torch.float64)
    assert lidar(torch.cat([features, nuisance], dim=2)) == pytest.approx(lidar(features), rel=0.1)


def test_lidar_is_the_effective_rank_of_the_whitened_covariance():
    """Against the definition with a matrix square root."""
    features = views(80, 5, 7, 0.3) * torch.arange(1, 8)
    means = features.mean(dim=1)
    within = (features - means[:, None]).flatten(0, 1)
    sigma_w = within.T @ within / len(within) + 1e-4 * torch.eye(7, dtype=torch.float64)
    centred = means - means.mean(dim=0)
    values, vectors = torch.linalg.eigh(sigma_w)
    root = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    s = torch.linalg.eigvalsh(root @ (centred.T @ centred / 80) @ root)
    p = s / s.sum() + 1e-7
    assert lidar(features) == pytest.approx(float((-(p * p.log()).sum()).exp()), rel=1e-8)


def test_lidar_under_rotation_and_of_constants():
    features = views(100, 4, 5, 0.3)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    assert lidar(features @ rotation + 3) == pytest.approx(lidar(features), rel=1e-9)
    assert math.isnan(lidar(torch.ones(10, 4, 5)))


def test_alignment_is_the_mean_squared_distance_of_pairs_of_views():
    features = views(20, 3, 4, 0.5)
    f = torch.nn.functional.normalize(features, dim=2)
    pairs = [(f[:, i] - f[:, j]).square().sum(dim=1).mean() for i in range(3) for j in range(i)]
    assert alignment(features) == pytest.approx(float(sum(pairs) / 3), rel=1e-9)
    assert alignment(views(20, 3, 4, 0.0)) == pytest.approx(0, abs=1e-12)
    opposite = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    assert alignment(opposite) == pytest.approx(4)
    assert alignment(torch.zeros(5, 3, 4)) == 0  # as a network that is dead puts out
    half = torch.zeros(1, 2, 4)
    half[0, 0, 0] = 7
    assert alignment(half) == pytest.approx(1)


def test_uniformity_of_known_places():
    assert uniformity(torch.ones(5, 2, 3)) == pytest.approx(0)
    square = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])[:, None]  # four pairs at d² = 2, two at d² = 4
    assert uniformity(square) == pytest.approx(math.log((4 * math.exp(-4) + 2 * math.exp(-8)) / 6))
    assert uniformity(views(2000, 1, 512, 0.0)) == pytest.approx(-4, abs=0.05)  # nearly all at right angles


def test_all_three_by_name():
    features = views(30, 3, 4, 0.5)
    assert invariance(features) == {
        "lidar": lidar(features),
        "alignment": alignment(features),
        "uniformity": uniformity(features),
    }
