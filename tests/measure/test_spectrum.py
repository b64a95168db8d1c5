import math

import pytest
import torch

from sparsehead_cli.measure.dimensions import (
    alpha,
    dims_for,
    effective_rank,
    is_collapsed,
    numerical_rank,
    participation_ratio,
    rankme,
    stable_rank,
    verdict,
)
from sparsehead_cli.measure.moments import Moments
from sparsehead_cli.measure.spectrum import NUMBERS, Spectrum


def isotropic(n, d):
    """Features whose covariance is exactly a multiple of the identity."""
    q, _ = torch.linalg.qr(torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    q = q - q.mean(dim=0)
    q, _ = torch.linalg.qr(q)
    return q


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_ranks_of_isotropic_data_are_its_dimension(rank):
    features = torch.cat([isotropic(100, rank), torch.zeros(100, 20 - rank, dtype=torch.float64)], dim=1)
    eigenvalues = Spectrum.of(features).eigenvalues
    for number in (effective_rank, participation_ratio, stable_rank):
        assert number(eigenvalues) == pytest.approx(rank, rel=1e-9)
    assert numerical_rank(eigenvalues) == int((eigenvalues > 1e-10).sum()) == rank
    assert dims_for(eigenvalues, 0.99) == rank


def test_closed_forms_of_two_eigenvalues():
    eigenvalues = torch.tensor([3.0, 1.0]).double()
    assert effective_rank(eigenvalues) == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))
    assert participation_ratio(eigenvalues) == pytest.approx(16 / 10)
    assert stable_rank(eigenvalues) == pytest.approx(4 / 3)
    assert [dims_for(eigenvalues, share) for share in (0.5, 0.75, 0.76, 1.0)] == [1, 1, 2, 2]


def test_numerical_rank_counts_above_a_thousandth_of_the_largest():
    assert numerical_rank(torch.tensor([10.0, 0.011, 0.0101, 0.0099, 0.0])) == 3


@pytest.mark.parametrize("rank", [1, 3])
def test_rankme_of_known_features(rank):
    """The reference's values, which are for epsilon 1e-5: identity(16), rank 1 and isotropic rank 3 of 16 dimensions."""
    assert rankme(Spectrum.of(torch.eye(16)).singular, 1e-5) == pytest.approx(16.0045, abs=1e-4)
    basis, _ = torch.linalg.qr(torch.randn(64, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    directions, _ = torch.linalg.qr(torch.randn(16, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    found = rankme(Spectrum.of(basis @ directions.T).singular, 1e-5)
    assert found == pytest.approx({1: 1.0017, 3: 3.0045}[rank], abs=1e-3)


def test_rankme_of_noise_and_after_a_shift_of_the_mean():
    """It is not centred: a mean of 5 standard deviations hides half of the rank."""
    noise = torch.randn(4096, 128, generator=torch.Generator().manual_seed(0))
    assert rankme(Spectrum.of(noise).singular, 1e-5) == pytest.approx(128.12, abs=0.3)
    assert rankme(Spectrum.of(noise + 5).singular, 1e-5) == pytest.approx(52.8, abs=1)
    assert effective_rank(Spectrum.of(noise + 5).eigenvalues) == pytest.approx(effective_rank(Spectrum.of(noise).eigenvalues))


def test_rankme_is_that_of_the_singular_values_of_numpy():
    features = torch.randn(50, 80, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # fewer rows than columns
    singular = torch.linalg.svdvals(features)
    spectrum = Spectrum.of(features)
    torch.testing.assert_close(spectrum.singular, singular, rtol=1e-9, atol=1e-6)
    p = singular / singular.sum() + 1e-7
    assert rankme(spectrum.singular) == pytest.approx(float((-(p * p.log()).sum()).exp()), rel=1e-9)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.3])
def test_alpha_is_the_exponent_of_a_power_law(exponent):
    eigenvalues = torch.arange(1, 101, dtype=torch.float64) ** -exponent
    assert alpha(eigenvalues) == pytest.approx(exponent, rel=1e-9)
    assert alpha(eigenvalues[:30]) == pytest.approx(exponent, rel=1e-9)
    eigenvalues[:10] *= 7  # outside its range
    eigenvalues[50:] = 0
    assert alpha(eigenvalues) == pytest.approx(exponent, rel=1e-9)


def test_alpha_of_too_few_eigenvalues_is_not_a_number():
    assert math.isnan(alpha(torch.ones(14).double()))
    assert math.isnan(alpha(torch.cat([torch.ones(12), torch.full((40,), 1e-12)]).double()))


def test_eigenvalues_are_descending_sum_to_the_variance_and_ignore_shift_and_rotation():
    g = torch.Generator().manual_seed(0)
    features = torch.randn(60, 8, generator=g, dtype=torch.float64) * torch.arange(1, 9)
    eigenvalues = Spectrum.of(features).eigenvalues
    assert (eigenvalues.diff() <= 0).all()
    assert eigenvalues.sum().item() == pytest.approx(features.var(dim=0).sum().item())
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=g, dtype=torch.float64))
    torch.testing.assert_close(Spectrum.of(features @ rotation + 5).eigenvalues, eigenvalues)
    torch.testing.assert_close(Spectrum.of(3 * features).eigenvalues, 9 * eigenvalues)


def test_scale_changes_the_variance_and_nothing_else_rotation_nothing():
    g = torch.Generator().manual_seed(0)
    features = torch.randn(200, 60, generator=g, dtype=torch.float64) * torch.arange(1, 61) + 1
    rotation, _ = torch.linalg.qr(torch.randn(60, 60, generator=g, dtype=torch.float64))
    before = {name: number(Spectrum.of(features)) for name, number in NUMBERS.items()}
    scaled = {name: number(Spectrum.of(10 * features)) for name, number in NUMBERS.items()}
    turned = {name: number(Spectrum.of(features @ rotation)) for name, number in NUMBERS.items()}
    assert scaled.pop("variance") == pytest.approx(100 * before["variance"])
    assert scaled == pytest.approx({name: value for name, value in before.items() if name != "variance"})
    turned.pop("std")  # a deviation for each axis, and these were turned
    assert turned == pytest.approx({name: value for name, value in before.items() if name != "std"})


def test_constant_and_zero_features_are_collapsed_and_have_no_effective_rank():
    for features in (torch.ones(10, 4), torch.zeros(10, 4)):
        spectrum = Spectrum.of(features)
        zeros = ("numerical_rank", "variance", "std")
        assert {name: NUMBERS[name](spectrum) for name in zeros} == pytest.approx(dict.fromkeys(zeros, 0), abs=1e-9)
        assert all(
            math.isnan(NUMBERS[name](spectrum)) for name in ("effective_rank", "participation_ratio", "stable_rank", "alpha")
        )
        assert (NUMBERS["dims_90"](spectrum), NUMBERS["dims_99"](spectrum)) == (None, None)
        assert verdict(NUMBERS["effective_rank"](spectrum), spectrum.std, math.nan, 4, images=10) == "fully collapsed"
    assert math.isnan(rankme(Spectrum.of(torch.zeros(10, 4)).singular))
    assert is_collapsed(math.nan, 1.0)


def test_relative_std():
    g = torch.Generator().manual_seed(0)
    assert Spectrum.of(torch.randn(5000, 64, generator=g)).std == pytest.approx(1, abs=0.02)
    features = torch.randn(30, 6, generator=g)
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    assert Spectrum.of(features).std == pytest.approx(float(unit.std(dim=0).mean() * 6**0.5), rel=1e-12)


@pytest.mark.parametrize(
    ("rank", "std", "collapsed"), [(12.0, 0.5, False), (1.2, 0.5, False), (1.05, 0.5, True), (12.0, 0.001, True)]
)
def test_collapse(rank, std, collapsed):
    assert is_collapsed(rank, std) is collapsed


def test_verdicts():
    assert verdict(12, 0.5, 64, 256, images=257) == "healthy"
    assert verdict(12, 0.5, 63, 256, images=257) == "partially collapsed"
    assert verdict(1.05, 0.5, 64, 256, images=257) == "fully collapsed"
    assert verdict(1.05, 0.5, 2, 256, images=256) == "too few samples"
    assert verdict(1.05, 0.001, 2, 256, images=3) == "fully collapsed"  # all at one point


def test_a_spectrum_reads_moments_only():
    """So that it can be had of any number of features."""
    features = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    moments = Moments(5)
    for part in features.split(7):
        moments.add(part)
    torch.testing.assert_close(Spectrum(moments).eigenvalues, Spectrum.of(features).eigenvalues, rtol=1e-12, atol=0)
