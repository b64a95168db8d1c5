"""Tables that fill task by task: evaluations.csv and per_class.csv of a run, and those of spectra. Complete after every task."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sparsehead_cli.evaluation.task import Outcome
from sparsehead_cli.machine.files import make_folder
from sparsehead_cli.measure.features import locked
from sparsehead_cli.measure.intervals import wilson
from sparsehead_cli.runs.table_files import Row, read_csv, replace_csv


class TaskTables:
    """Tables of one folder that a task fills together; several processes may add tasks.

    Every task has rows in the table `main`. `others(rows)` of these names the other tables in which it has rows, too.

    Raises: SparseheadError for a folder that cannot be written, before anything is measured.
    """

    def __init__(self, folder: Path, names: tuple[str, ...], main: str, others: Callable[[list[Row]], Iterable[str]]) -> None:
        self.folder, self.names, self.main, self.others = folder, names, main, others
        self.lock = folder / f".{Path(main).stem}.lock"
        self.kept: dict[str, tuple[object, list[Row]]] = {}
        make_folder(folder, "Choose another folder.")
        with locked(self.lock):
            pass

    def has(self, task: str) -> bool:
        """Whether the task is finished: its rows are in every table that it fills."""
        rows = rows_of(self.read(self.main), [task])
        return bool(rows) and all(rows_of(self.read(name), [task]) for name in self.others(rows))

    def add(self, task: str, tables: list[list[Row]]) -> None:
        """Put a task's rows, one list a table, in place of those that it had.

        A column that an older version did not have is empty in the rows of other tasks.
        """
        with locked(self.lock):
            for name, new in zip(self.names, tables, strict=True):
                rows = [row for row in self.read(name) if row["task"] != task] + [{**row, "task": task} for row in new]
                if rows:
                    replace_csv(self.folder / name, rows)

    def of(self, tasks: list[str]) -> list[list[Row]]:
        """The rows of these tasks in their order, as text, one list a table."""
        return [rows_of(self.read(name), tasks) for name in self.names]

    def read(self, name: str) -> list[Row]:
        """The rows of one table, as text; [] where there is none. A file is read again when another was put in its place."""
        path = self.folder / name
        try:
            status = path.stat()
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError:  # it is not there, or read_csv says what is wrong with it
            return read_csv(path)
        if name not in self.kept or self.kept[name][0] != version:
            self.kept[name] = version, read_csv(path)
        return self.kept[name][1]


def rows_of(rows: list[Row], tasks: list[str]) -> list[Row]:
    """Those of the rows that belong to the tasks, in the order of the tasks."""
    by_task: dict[str, list[Row]] = {task: [] for task in tasks}
    for row in rows:
        if row["task"] in by_task:
            by_task[row["task"]].append(row)
    return [row for rows in by_task.values() for row in rows]


def per_class_rows(row: Row, outcome: Outcome, classes: tuple[str, ...]) -> Iterator[Row]:
    """The accuracy within each class of the test images; not defined where there are none of it."""
    columns = {key: row[key] for key in row if key not in ("value", "low", "high", "n_test", "val_accuracy", "seconds")}
    for i, name in enumerate(classes):
        right, count = int(outcome.right[i]), int(outcome.all[i])
        low, high = wilson(right, count) if count else (None, None)
        value = right / count if count else None
        yield {**columns, "class": name, "n_test": count, "value": value, "low": low, "high": high}
