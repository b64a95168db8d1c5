"""What a sequence of tasks leaves: the matrix of accuracies of tasks.csv, and the numbers that are read off it."""

import statistics
from collections.abc import Iterable, Mapping
from typing import NamedTuple

Matrix = tuple[tuple[float, ...], ...]
ALL = "all"


class Continual(NamedTuple):
    """Of T tasks, from R[i][j], the accuracy on task j after i tasks, i from 0 (untrained), j from 1.

    average_accuracy   mean over j of R[T][j] (Lopez-Paz & Ranzato 2017, eq. 2)
    forgetting         mean over j < T of the best R[l][j] of an l < T, trained ones, less R[T][j] (Chaudhry et al. 2018, eq. 3)
    backward_transfer  mean over j < T of R[T][j] - R[j][j] (Lopez-Paz & Ranzato 2017, eq. 3)
    forward_transfer   mean over j > 1 of R[j - 1][j] - R[0][j] (eq. 4 there; CaSSLe, Fini et al. 2022, section 5)
    """

    average_accuracy: float
    forgetting: float
    backward_transfer: float
    forward_transfer: float


def continual(matrix: Matrix) -> Continual:
    """The numbers of a matrix R, T + 1 rows of T accuracies each. Raises: ValueError for one task, or a matrix of another shape."""
    tasks = len(matrix) - 1
    if tasks < 2 or any(len(row) != tasks for row in matrix):
        raise ValueError(f"{len(matrix)} rows of {[len(row) for row in matrix]} accuracies are no matrix of two tasks or more")
    last, earlier = matrix[tasks], range(tasks - 1)
    return Continual(
        statistics.fmean(last),
        statistics.fmean(max(matrix[row][j] for row in range(j + 1, tasks)) - last[j] for j in earlier),
        statistics.fmean(last[j] - matrix[j + 1][j] for j in earlier),
        statistics.fmean(matrix[j][j] - matrix[0][j] for j in range(1, tasks)),
    )


def matrix_of(rows: Iterable[Mapping[str, str]], accuracy: str = "linear_accuracy") -> Matrix | None:
    """R from rows of tasks.csv of one run; None where tasks are missing, have no classes, or were trained on all at once."""
    cells = {(int(row["after_task"]), row["on_task"]): row[accuracy] for row in rows}
    tasks = max((int(on) for _, on in cells if on != ALL), default=0)
    places = [[(after, str(on)) for on in range(1, tasks + 1)] for after in range(tasks + 1)]
    if tasks < 2 or any(cells.get(place) in (None, "") for row in places for place in row):
        return None
    return tuple(tuple(float(cells[place]) for place in row) for row in places)
