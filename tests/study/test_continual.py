"""The numbers of a sequence of tasks, worked out by hand."""

import pytest

from sparsehead_cli.study.continual import continual, matrix_of

R = (
    (0.30, 0.20, 0.25),  # untrained
    (0.90, 0.30, 0.35),
    (0.80, 0.85, 0.40),
    (0.70, 0.75, 0.95),
)


def test_a_matrix_worked_out_by_hand():
    found = continual(R)
    assert found.average_accuracy == pytest.approx((0.70 + 0.75 + 0.95) / 3)
    assert found.forgetting == pytest.approx(((0.90 - 0.70) + (0.85 - 0.75)) / 2)
    assert found.backward_transfer == pytest.approx(((0.70 - 0.90) + (0.75 - 0.85)) / 2)
    assert found.forward_transfer == pytest.approx(((0.30 - 0.20) + (0.40 - 0.25)) / 2)


def test_forgetting_is_from_the_best_moment_and_not_from_the_first():
    later = ((0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (0.9, 0.6, 0.0), (0.6, 0.7, 0.8))
    found = continual(later)
    assert found.forgetting == pytest.approx(((0.9 - 0.6) + (0.6 - 0.7)) / 2)
    assert found.backward_transfer == pytest.approx(((0.6 - 0.5) + (0.7 - 0.6)) / 2)


def rows_of(matrix):
    rows = [
        {"after_task": str(after), "on_task": str(on), "linear_accuracy": str(value)}
        for after, row in enumerate(matrix)
        for on, value in enumerate(row, 1)
    ]
    return [*rows, {"after_task": "1", "on_task": "all", "linear_accuracy": "0.5"}]


def test_the_matrix_is_read_from_a_table_that_is_whole():
    assert matrix_of(rows_of(R)) == R
    assert matrix_of(rows_of(R[:-1])) is None  # its last task is not done
    assert matrix_of([]) is None
    empty = [row | ({"linear_accuracy": ""} if row["on_task"] == "2" else {}) for row in rows_of(R)]
    assert matrix_of(empty) is None
    with pytest.raises(ValueError, match="are no matrix of two tasks or more"):
        continual(R[:2])
