import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from sparsehead_cli.measure.intervals import wilson


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(counts):
    theirs = binomtest(*counts).proportion_ci(0.95, method="wilson")
    assert wilson(*counts) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_nothing_tried_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)
