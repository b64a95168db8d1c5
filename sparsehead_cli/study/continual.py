"""What a sequence of tasks leaves: the matrix of accuracies of tasks.csv, and the numbers that are read off it."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from sparsehead_cli.runs.method_names import method_name
from sparsehead_cli.runs.table_files import Row, read_csv
from sparsehead_cli.runs.tables import KIND, RUN, TASKS
from sparsehead_cli.study.stats import paired_columns

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


def runs_of_tasks(folder: Path) -> list[list[Row]]:
    """The rows of tasks.csv of the run that the folder is, or of each in it, where the sequence is finished.

    Raises: SparseheadError for a damaged table.
    """
    tables = [read_csv(path) for path in [folder / TASKS, *sorted(folder.glob(f"*/{TASKS}"))]]
    return [rows for rows in tables if matrix_of(rows)]


def comparable(runs: list[list[Row]]) -> tuple[list[list[Row]], list[str]]:
    """The runs that means can be of, and the names of the others.

    These have another number of tasks than most, or settings that tables do not name: then of each method, setting, λ and seed the
    first run is kept, as the other is none of a further seed.
    """
    most = Counter(len({row["on_task"] for row in rows}) for rows in runs).most_common(1)
    kept: dict[tuple[str, ...], list[Row]] = {}
    apart = []
    for rows in runs:
        point = tuple(rows[0][name] for name in (*KIND, "lam", "seed"))
        if len({row["on_task"] for row in rows}) != most[0][0] or point in kept:
            apart.append(rows[0]["run"])
        else:
            kept[point] = rows
    return list(kept.values()), apart


def sequences(runs: list[list[Row]]) -> list[Row]:
    """A row of continual.csv for each finished sequence: its numbers, and the accuracy on all classes at the end."""
    found = []
    for rows in runs:
        last = [row for row in rows if row["on_task"] == ALL][-1]
        numbers = continual(matrix_of(rows))._asdict() | {"accuracy_all": float(last["linear_accuracy"])}
        found.append({**{name: last[name] for name in RUN}, "n_tasks": int(last["after_task"]), **numbers})
    return found


def by_lam_of_tasks(rows: list[Row]) -> list[Row]:
    """Means of continual.csv over seeds, a row a setting, λ and number, and the paired differences to the same seeds at λ 0."""
    values: dict[tuple[str, ...], dict[str, dict[int, Row]]] = {}
    for row in rows:
        values.setdefault(tuple(row[name] for name in KIND), {}).setdefault(row["lam"], {})[int(row["seed"])] = row
    found = []
    for setting, lams in values.items():
        for lam in sorted(lams, key=float):
            for name in (*Continual._fields, "accuracy_all"):
                at, zero = ({seed: float(row[name]) for seed, row in lams.get(which, {}).items()} for which in (lam, zero_of(lams)))
                columns = paired_columns(at, zero if float(lam) else {})
                found.append({**dict(zip(KIND, setting, strict=True)), "lam": lam, "metric": name, "runs": len(at), **columns})
    return found


def zero_of(lams: Iterable[str]) -> str:
    """The λ of 0, as it is written; "" where there is none."""
    return next((lam for lam in lams if not float(lam)), "")


def differing(rows: list[Row]) -> list[str]:
    """What the settings of rows differ in, beside the method."""
    return [name for name in ("dataset", "backbone", "penalty", "solver") if len({row[name] for row in rows}) > 1]


def mean_matrices(runs: list[list[Row]]) -> dict[tuple[str, float], Matrix]:
    """(setting, λ) -> R as the mean over seeds; a setting is the method, and what else of the runs differs."""
    names = differing([rows[0] for rows in runs])
    matrices: dict[tuple[str, float], list[Matrix]] = {}
    for rows in sorted(runs, key=lambda rows: (rows[0]["method"], float(rows[0]["lam"]))):
        setting = ", ".join([method_name(rows[0]["method"]), *(rows[0][name] for name in names)])
        matrices.setdefault((setting, float(rows[0]["lam"])), []).append(matrix_of(rows))
    return {
        key: tuple(tuple(statistics.fmean(cell) for cell in zip(*row, strict=True)) for row in zip(*several, strict=True))
        for key, several in matrices.items()
    }
