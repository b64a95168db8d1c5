"""The numbers of a sequence of tasks, worked out by hand."""

import pytest

from sparsehead_cli.present.tasks import sequence_table
from sparsehead_cli.study.continual import by_lam_of_tasks, comparable, continual, matrix_of, mean_matrices, sequences

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


RUN = dict.fromkeys(("experiment", "run", "method", "dataset", "backbone", "penalty", "solver", "commit"), "x")


def run_of(lam, seed, shift):
    """The rows of a run on three tasks, all of whose accuracies but the untrained ones are shifted."""
    moved = (R[0], *(tuple(value + shift for value in row) for row in R[1:]))
    rows = [{**RUN, "run": f"{lam}{seed}", "lam": lam, "seed": str(seed), **row} for row in rows_of(moved)]
    last = {"after_task": "3", "on_task": "all", "linear_accuracy": str(0.6 + shift)}
    return [*rows[:-1], {**rows[-1], **last}]


def test_means_over_seeds_and_paired_differences():
    runs = [run_of(lam, seed, shift + 0.01 * seed) for lam, shift in (("0.0", 0.0), ("0.001", 0.03)) for seed in range(3)]
    rows = sequences(runs)
    assert [row["n_tasks"] for row in rows] == [3] * 6
    assert rows[0]["accuracy_all"] == pytest.approx(0.6)
    found = {(row["lam"], row["metric"]): row for row in by_lam_of_tasks(rows)}
    at = found["0.001", "average_accuracy"]
    assert at["mean"] == pytest.approx(0.8 + 0.03 + 0.01)
    assert at["difference"] == pytest.approx(0.03)
    assert at["difference_low"] == pytest.approx(0.03)  # the seeds agree
    assert found["0.0", "average_accuracy"]["difference"] == ""
    assert found["0.001", "forgetting"]["difference"] == pytest.approx(0, abs=1e-12)
    matrices = mean_matrices(runs)
    assert list(matrices) == [("x", 0.0), ("x", 0.001)]
    assert matrices["x", 0.001][3][2] == pytest.approx(0.95 + 0.03 + 0.01)


def test_what_cannot_be_averaged_is_left_out_and_named():
    """Another number of tasks, and a second run of one seed, whose other settings no table names."""
    runs = [run_of("0.0", seed, 0.0) for seed in range(2)]
    other = [{**row, "run": "wider"} for row in run_of("0.0", 1, 0.1)]
    shorter = [{**row, "run": "shorter"} for row in run_of("0.0", 2, 0.0) if row["on_task"] != "3" and int(row["after_task"]) < 3]
    assert comparable([shorter, *runs, other]) == (runs, ["shorter", "wider"])
    assert comparable([]) == ([], [])
    table = sequence_table(by_lam_of_tasks(sequences(runs)), ["shorter", "wider"])
    assert table.notes[-1] == "left out, as their number of tasks or other settings differ: shorter, wider"


def test_settings_that_differ_are_matrices_of_their_own():
    runs = [run_of("0.0", 0, 0.0), [{**row, "penalty": "l1"} for row in run_of("0.0", 0, 0.1)]]
    assert [setting for setting, _ in mean_matrices(runs)] == ["x, x", "x, l1"]
    runs[1] = [{**row, "penalty": "x", "dataset": "y"} for row in runs[1]]
    table = sequence_table(by_lam_of_tasks(sequences(runs)))
    assert [[cell.value for cell in line[:2]] for line in table.lines] == [["x", "x"], ["x", "y"]]
