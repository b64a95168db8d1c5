import math

import pandas as pd
import pytest

from sparsehead_cli.study.equal import at_equal


def run(knn, rank, loss=None):
    return pd.DataFrame({"knn_accuracy": knn, "effective_rank_r": rank, "loss": loss or [0.0] * len(knn)})


def test_ranks_are_compared_where_both_are_as_good():
    slow, fast = run([0.3, 0.4, 0.5], [2, 4, 6]), run([0.4, 0.6, 0.7], [4, 8, 10])
    assert at_equal(slow, fast, "effective_rank_r", "knn") == pytest.approx((6, 6))  # at 0.5: the fast one halfway to its second
    assert at_equal(fast, slow, "effective_rank_r", "knn") == pytest.approx((6, 6))


def test_loss_falls_where_accuracy_rises():
    one, other = run([0, 0, 0], [1, 2, 3], [3.0, 2.0, 1.0]), run([0, 0], [5, 7], [2.5, 1.5])
    assert at_equal(one, other, "effective_rank_r", "loss") == pytest.approx((2.5, 7))


def test_a_run_that_starts_beyond_is_taken_at_its_start():
    assert at_equal(run([0.9, 0.8], [5, 6]), run([0.2, 0.5], [1, 2]), "effective_rank_r", "knn") == (5, 2)


def test_accuracy_that_falls_back_counts_where_it_first_was():
    assert at_equal(run([0.2, 0.6, 0.4], [1, 5, 9]), run([0.6], [3]), "effective_rank_r", "knn") == (5, 3)


def test_without_epochs_nothing_is_defined():
    assert all(map(math.isnan, at_equal(run([], []), run([0.5], [1]), "effective_rank_r", "knn")))
