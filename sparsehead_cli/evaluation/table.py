"""Tables that fill task by task: evaluations.csv and per_class.csv of a run, and those of spectra."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import monotonic

from sparsehead_cli.evaluation.task import Outcome
from sparsehead_cli.machine.files import make_folder
from sparsehead_cli.measure.features import locked
from sparsehead_cli.measure.intervals import wilson
from sparsehead_cli.runs.table_files import Row, read_csv, replace_csv

LEAST_WORK = 20  # times as long as writing the tables takes, there is measured between one writing and the next


class TaskTables:
    """Tables of one folder that a task fills together; several processes may add tasks.

    Every task has rows in the table `main`. `others(rows)` of these names the other tables in which it has rows, too. Quick
    tasks wait for others: tables that were written anew after each would take a time that grows with the square of their number.
    `write` puts them down, and whoever adds tasks calls it in the end, whatever happened.

    Raises: SparseheadError for a folder that cannot be written, before anything is measured.
    """

    def __init__(self, folder: Path, names: tuple[str, ...], main: str, others: Callable[[list[Row]], Iterable[str]]) -> None:
        self.folder, self.names, self.main, self.others = folder, names, main, others
        self.lock = folder / f".{Path(main).stem}.lock"
        self.kept: dict[str, tuple[object, dict[str, list[Row]]]] = {}  # of each file: its version, and its rows by task
        self.waiting: dict[str, list[list[Row]]] = {}  # task -> its rows, one list a table, that are in no file yet
        self.next_writing = monotonic()
        make_folder(folder, "Choose another folder.")
        with locked(self.lock):
            pass

    def has(self, task: str) -> bool:
        """Whether the task is finished: its rows are in every table that it fills."""
        known = {name: self.by_task(name).get(task, []) for name in self.names}
        known |= dict(zip(self.names, self.waiting.get(task, []), strict=False))
        rows = known[self.main]
        return bool(rows) and all(known[name] for name in self.others(rows))

    def add(self, task: str, tables: list[list[Row]]) -> None:
        """Put a task's rows, one list a table, in place of those that it had: at once, or soon where tasks are quick.

        A column that an older version did not have is empty in the rows of other tasks.
        """
        self.waiting[task] = [[{**row, "task": task} for row in new] for new in tables]
        if monotonic() >= self.next_writing:
            self.write()

    def write(self) -> None:
        """Put the rows of all tasks that wait into the files."""
        if not self.waiting:
            return
        began = monotonic()
        with locked(self.lock):
            for name, new in zip(self.names, zip(*self.waiting.values(), strict=True), strict=True):
                rows = [row for row in self.read(name) if row["task"] not in self.waiting] + [*itertools.chain(*new)]
                if rows:
                    replace_csv(self.folder / name, rows)
        self.waiting = {}
        self.next_writing = monotonic() + LEAST_WORK * (monotonic() - began)

    def of(self, tasks: list[str]) -> list[list[Row]]:
        """The rows of these tasks in their order, as text, one list a table."""
        self.write()
        return [[row for task in dict.fromkeys(tasks) for row in self.by_task(name).get(task, [])] for name in self.names]

    def read(self, name: str) -> list[Row]:
        """The rows of the file of one table, as text; [] where there is none."""
        return [row for rows in self.by_task(name).values() for row in rows]

    def by_task(self, name: str) -> dict[str, list[Row]]:
        """The rows of the file of one table by their tasks. It is read again when another was put in its place."""
        path = self.folder / name
        try:
            status = path.stat()
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError:  # it is not there, or read_csv says what is wrong with it
            return grouped(read_csv(path))
        if name not in self.kept or self.kept[name][0] != version:
            self.kept[name] = version, grouped(read_csv(path))
        return self.kept[name][1]


def grouped(rows: list[Row]) -> dict[str, list[Row]]:
    """task -> its rows, in their order."""
    by_task: dict[str, list[Row]] = {}
    for row in rows:
        by_task.setdefault(row["task"], []).append(row)
    return by_task


def per_class_rows(row: Row, outcome: Outcome, classes: tuple[str, ...]) -> Iterator[Row]:
    """The accuracy within each class of the test images; not defined where there are none of it."""
    columns = {key: row[key] for key in row if key not in ("value", "low", "high", "n_test", "val_accuracy", "seconds")}
    for i, name in enumerate(classes):
        right, count = int(outcome.right[i]), int(outcome.all[i])
        low, high = wilson(right, count) if count else (None, None)
        value = right / count if count else None
        yield {**columns, "class": name, "n_test": count, "value": value, "low": low, "high": high}
