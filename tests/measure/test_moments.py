import pytest
import torch

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.measure.dimensions import effective_rank
from sparsehead_cli.measure.moments import BLOCKS, WIDEST, BlockMoments, Moments
from sparsehead_cli.measure.spectrum import NUMBERS, Spectrum
from tests.operations import Operations


def noise(n, d, seed=0, mean=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * torch.arange(1, d + 1) ** -0.5 + mean


def of(features, *, batch=None, kind=Moments, **given):
    moments = kind(features.shape[1], **given)
    for part in features.split(batch or len(features)):
        moments.add(part)
    return moments


@pytest.mark.parametrize("mean", [0.0, 1000.0])
@pytest.mark.parametrize("batch", [1, 7, 500])
def test_a_stream_equals_one_look(batch, mean):
    features = noise(1203, 24, mean=mean)
    exact = features.double()
    streamed = of(features, batch=batch)
    assert streamed.count == 1203
    torch.testing.assert_close(streamed.mean, exact.mean(dim=0), rtol=1e-12, atol=0)
    torch.testing.assert_close(streamed.covariance(), exact.T.cov(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(streamed.gram(), exact.T @ exact, rtol=1e-10, atol=0)
    for name, number in NUMBERS.items():
        assert number(Spectrum(streamed)) == pytest.approx(number(Spectrum.of(features)), rel=1e-10), name


def test_moments_of_wide_features_take_the_memory_of_one_matrix_more():
    """Of width 8,192 a matrix in float64 is half a gigabyte."""
    moments = of(noise(50, 24))
    with Operations() as operations:
        moments.add(noise(50, 24))
    assert operations.made[24, 24] == 1  # the scatter of the batch
    for matrix in (moments.gram, moments.covariance):
        with Operations() as operations:
            matrix()
        assert operations.made[24, 24] == 1


def test_blocks_change_nothing_but_what_can_be_drawn():
    features = noise(1203, 24)
    blocks = of(features, batch=100, kind=BlockMoments, rows=1203)
    blocks.close()
    torch.testing.assert_close(blocks.covariance(), of(features).covariance(), rtol=1e-10, atol=1e-14)
    assert sum(count for count, _, _ in blocks.blocks) == 1203
    assert BLOCKS[0] <= len(blocks.blocks) <= BLOCKS[1]


def test_a_bootstrap_sample_is_the_moments_of_the_blocks_drawn():
    features = noise(300, 6, mean=3.0)
    blocks = of(features, kind=BlockMoments, rows=300)
    blocks.close()
    size, many = blocks.rows_a_block, len(blocks.blocks)
    drawn = torch.randint(many, (many,), generator=torch.Generator().manual_seed(5))
    rows = torch.cat([features[i * size : (i + 1) * size] for i in drawn])
    sample = next(iter(blocks.resampled(seed=5)))
    assert sample.count == len(rows)
    torch.testing.assert_close(sample.covariance(), of(rows).covariance(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(sample.gram(), of(rows).gram(), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_intervals_hold_the_true_effective_rank_nineteen_times_of_twenty():
    """Of 120 samples whose true rank is known; also where the plain number is biased by more than its own deviation."""
    d, n, simulations = 12, 240, 120
    share = torch.arange(1, d + 1, dtype=torch.float64) ** -0.5
    truth, inside, below = effective_rank(share), 0, 0

    def rank(moments):
        return effective_rank(Spectrum(moments).eigenvalues)

    g = torch.Generator().manual_seed(0)
    for i in range(simulations):
        features = torch.randn(n, d, generator=g, dtype=torch.float64) * share.sqrt()
        moments = of(features, kind=BlockMoments, rows=n)
        ((low, high),) = moments.intervals(rank, seed=i)
        inside += low <= truth <= high
        below += rank(moments) < truth
    assert below > 0.9 * simulations  # the bias
    assert 0.90 * simulations <= inside <= 0.99 * simulations


def test_intervals_depend_on_the_seed_alone_and_stay_in_range():
    moments = of(noise(300, 6), kind=BlockMoments, rows=300)
    rank = NUMBERS["effective_rank"]
    first = moments.intervals(lambda m: rank(Spectrum(m)), lambda m: 100.0, seed=1)
    assert first == moments.intervals(lambda m: rank(Spectrum(m)), lambda m: 100.0, seed=1)
    assert first[1] == (6, 6)  # no rank is above D
    assert moments.intervals(lambda m: 0.2) == [(1, 1)]  # nor below 1
    assert first != moments.intervals(lambda m: rank(Spectrum(m)), lambda m: 100.0, seed=2)


def test_wide_and_few_features_have_no_interval():
    few = of(noise(30, 3), kind=BlockMoments, rows=30)
    assert few.intervals(lambda m: 1.0) == [None]
    wide = BlockMoments(WIDEST + 1, rows=10)
    wide.add(torch.zeros(10, WIDEST + 1))
    assert wide.count == 10
    assert wide.intervals(lambda m: 1.0) == [None]


def test_what_is_not_finite_is_counted_in_words():
    features = noise(50, 4)
    features[3, 1], features[40, 0] = torch.nan, torch.inf
    with pytest.raises(SparseheadError, match=r"the embedding z is not finite .* for 2 of 50 images"):
        of(features, batch=10).require_finite("the embedding z")
    with pytest.raises(SparseheadError, match="at least 2 images, given 1"):
        of(noise(1, 4)).require_finite("r")
    of(noise(2, 4)).require_finite("r")
