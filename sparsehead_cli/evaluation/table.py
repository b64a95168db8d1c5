"""Tables that fill task by task: evaluations.csv and per_class.csv of a run, and those of spectra. Complete after every task."""

from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from sparsehead_cli.evaluation.protocols import Outcome
from sparsehead_cli.machine.files import cannot_write, make_folder
from sparsehead_cli.measure.intervals import wilson
from sparsehead_cli.runs.table_files import read_csv, replace_csv

Row = dict[str, object]


class Table:
    """The two tables in a run's folder. A task is finished when its rows are there; several processes may add to them.

    Raises: SparseheadError for a folder that cannot be written, before anything is measured.
    """

    def __init__(self, folder: Path, *, with_classes: bool) -> None:
        self.rows, self.classes = folder / "evaluations.csv", folder / "per_class.csv"
        self.lock = FileLock(folder / ".evaluations.lock")
        try:
            with self.lock:
                pass
        except OSError as error:
            raise cannot_write(folder / self.rows.name, error) from None
        self.with_classes = with_classes

    def has(self, task: str) -> bool:
        """Whether the task is finished, its classes included where they were asked for; only accuracies have classes."""
        found = next((row for row in read_csv(self.rows) if row["task"] == task), None)
        if found is None or not self.with_classes or found["metric"] != "accuracy":
            return found is not None
        return any(row["task"] == task for row in read_csv(self.classes))

    def add(self, rows: list[Row], classes: list[Row]) -> None:
        """Put a task's rows in place of those that it had."""
        with self.lock:
            for file, new in ((self.rows, rows), (self.classes, classes)):
                if new and (file is self.rows or self.with_classes):
                    put_rows(file, new[0]["task"], new)

    def of(self, tasks: list[str]) -> tuple[list[Row], list[Row]]:
        """The rows of these tasks in their order, as text, and those of their classes where they were asked for."""
        return rows_of(self.rows, tasks), (rows_of(self.classes, tasks) if self.with_classes else [])


class TaskTables:
    """Tables of a folder that a task fills together. It is finished when its rows are in the last; several processes may add.

    Raises: SparseheadError for a folder that cannot be written, before anything is measured.
    """

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.files = [folder / name for name in names]
        self.lock = FileLock(folder / f".{names[-1]}.lock")
        make_folder(folder, "Choose another folder.")
        try:
            with self.lock:
                pass
        except OSError as error:
            raise cannot_write(self.files[-1], error) from None

    def has(self, task: str) -> bool:
        """Whether the task is finished."""
        return any(row["task"] == task for row in read_csv(self.files[-1]))

    def add(self, task: str, tables: list[list[Row]]) -> None:
        """Put a task's rows, one list a table, in place of those that it had."""
        with self.lock:
            for file, rows in zip(self.files, tables, strict=True):
                put_rows(file, task, [{**row, "task": task} for row in rows])

    def of(self, tasks: list[str]) -> list[list[Row]]:
        """The rows of these tasks in their order, as text, one list a table."""
        return [rows_of(file, tasks) for file in self.files]


def put_rows(file: Path, task: str, rows: list[Row]) -> None:
    """Replace a task's rows in a table. A column that an older version did not have is empty in its rows."""
    kept = [row for row in read_csv(file) if row["task"] != task] + rows
    if kept:
        replace_csv(file, kept)


def rows_of(file: Path, tasks: list[str]) -> list[Row]:
    """The rows of these tasks in their order, as text."""
    by_task: dict[str, list[Row]] = {}
    for row in read_csv(file):
        by_task.setdefault(row["task"], []).append(row)
    return [row for task in tasks for row in by_task.get(task, [])]


def per_class_rows(row: Row, outcome: Outcome, classes: tuple[str, ...]) -> Iterator[Row]:
    """The accuracy within each class of the test images; not defined where there are none of it."""
    columns = {key: row[key] for key in row if key not in ("value", "low", "high", "n_test", "val_accuracy", "seconds")}
    for i, name in enumerate(classes):
        right, count = int(outcome.right[i]), int(outcome.all[i])
        low, high = wilson(right, count) if count else (None, None)
        value = right / count if count else None
        yield {**columns, "class": name, "n_test": count, "value": value, "low": low, "high": high}
