import math

import pytest
import torch

from sparsehead_cli.measure.spectrum import covariance_eigenvalues, effective_rank, is_collapsed, relative_std


def isotropic(n, d):
    """Features whose covariance is exactly a multiple of the identity."""
    q, _ = torch.linalg.qr(torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    q = q - q.mean(dim=0)
    q, _ = torch.linalg.qr(q)
    return q


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_effective_rank_of_isotropic_data_is_its_dimension(rank):
    features = torch.cat([isotropic(100, rank), torch.zeros(100, 20 - rank, dtype=torch.float64)], dim=1)
    eigenvalues = covariance_eigenvalues(features)
    assert effective_rank(eigenvalues) == pytest.approx(rank, rel=1e-9)
    assert int((eigenvalues > 1e-10).sum()) == rank


def test_effective_rank_closed_form():
    assert effective_rank(torch.tensor([3.0, 1.0]).double()) == pytest.approx(
        math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    )


def test_eigenvalues_are_descending_sum_to_the_variance_and_ignore_shift_and_rotation():
    g = torch.Generator().manual_seed(0)
    features = torch.randn(60, 8, generator=g, dtype=torch.float64) * torch.arange(1, 9)
    eigenvalues = covariance_eigenvalues(features)
    assert (eigenvalues.diff() <= 0).all()
    assert eigenvalues.sum().item() == pytest.approx(features.var(dim=0).sum().item())
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=g, dtype=torch.float64))
    torch.testing.assert_close(covariance_eigenvalues(features @ rotation + 5), eigenvalues)
    torch.testing.assert_close(covariance_eigenvalues(3 * features), 9 * eigenvalues)


def test_constant_features_have_rank_zero():
    assert effective_rank(covariance_eigenvalues(torch.ones(10, 4))) == 0


def test_relative_std():
    g = torch.Generator().manual_seed(0)
    assert relative_std(torch.randn(5000, 64, generator=g)) == pytest.approx(1, abs=0.02)
    assert relative_std(torch.ones(10, 4)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("rank", "std", "verdict"), [(12.0, 0.5, False), (1.2, 0.5, False), (1.05, 0.5, True), (12.0, 0.001, True)]
)
def test_collapse(rank, std, verdict):
    assert is_collapsed(rank, std) is verdict
