"""A sequence of tasks as people see it: the matrix of accuracies, and what is read off it."""

from collections.abc import Sequence

from sparsehead_cli.present.table import UNDEFINED_CELL, Cell, Column, Table, lam_cell
from sparsehead_cli.runs.method_names import method_name
from sparsehead_cli.runs.readable import counted
from sparsehead_cli.runs.table_files import Row
from sparsehead_cli.study.continual import ALL, continual, differing, matrix_of

SHORT = {
    "average_accuracy": "average",
    "forgetting": "forgetting",
    "backward_transfer": "backward",
    "forward_transfer": "forward",
    "accuracy_all": "all classes",
}
JUDGED = ("average", "forgetting")  # of which the table has the change from λ 0 as well
MEANINGS = {
    "average_accuracy": "average accuracy at the end",
    "forgetting": "forgetting, from each task's best",
    "backward_transfer": "backward transfer",
    "forward_transfer": "forward transfer, from the untrained network",
}


def task_tables(rows: list[Row]) -> list[Table]:
    """Tables of one run's tasks.csv: a line a moment, a column a task; and what is read off them, where tasks have classes."""
    rows = [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    tasks = list(dict.fromkeys(row["on_task"] for row in rows))
    names = ["all" if name == ALL else f"task {name}" for name in tasks]
    columns = [Column("after", text=True), *(Column(name, digits=1, scale=100) for name in names), Column("rank r", digits=1)]
    columns += [Column("rank z", digits=1), Column("inputs read", minor=True), Column("still read", scale=100, minor=True)]
    note = "linear evaluation of r in %, of each task's classes alone and of all, on held-out inputs; rank: effective rank"
    table = Table("what is known after each task", columns, notes=(note,), wide=100)
    for after in dict.fromkeys(row["after_task"] for row in rows):
        moment = {row["on_task"]: row for row in rows if row["after_task"] == after}
        whole = moment[ALL]
        numbers = [moment[name]["linear_accuracy"] for name in tasks]
        numbers += [whole[name] for name in ("effective_rank_r", "effective_rank_z", "active_inputs", "support_kept")]
        cells = [Cell(float(value)) if value not in ("", "nan") else UNDEFINED_CELL for value in numbers]
        table.add(Cell("nothing" if after == "0" else f"task {after}"), *cells)
    matrix = matrix_of(rows)
    if matrix is None:
        return [table]
    numbers = Table("the sequence", [Column("number", text=True), Column("points", digits=1, scale=100)])
    for name, value in continual(matrix)._asdict().items():
        numbers.add(Cell(MEANINGS[name]), Cell(value))
    return [table, numbers]


def sequence_table(rows: list[Row], apart: Sequence[str] = ()) -> Table:
    """Means over seeds of the numbers of sequences, and what changes from λ 0, rows of `by_lam_of_tasks`: a line a λ.

    A note names the runs that were left `apart`.
    """
    settings = ("method", *differing(rows))
    counts = {int(row["runs"]) for row in rows}  # said once where it is one number
    columns = [*(Column(name, text=True) for name in settings), Column("λ"), *[Column("runs")] * (len(counts) > 1)]
    for name in SHORT.values():
        columns.append(Column(name, digits=1, scale=100, minor=name in ("backward", "forward")))
        columns += [Column("from λ 0", digits=1, scale=100, sign="+")] * (name in JUDGED)
    note = "points of linear accuracy, mean ± half of the 95 % interval over seeds (Student's t); from λ 0: the same seeds, paired"
    left = (f"left out, as their number of tasks or other settings differ: {', '.join(apart)}",) if apart else ()
    title = "sequences of tasks" + ("" if len(counts) > 1 else f", {counted(*counts, 'run')} each")
    table = Table(title, columns, notes=(note, *left), wide=100)
    lines: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault(tuple(str(row[name]) for name in (*settings, "lam")), {})[str(row["metric"])] = row
    for line, numbers in lines.items():
        cells = [Cell(method_name(line[0])), *map(Cell, line[1:-1]), lam_cell(float(line[-1]))]
        cells += [Cell(next(iter(numbers.values()))["runs"])] * (len(counts) > 1)
        for name in SHORT:
            cells.append(interval(numbers[name], ""))
            cells += [interval(numbers[name], "difference")] * (SHORT[name] in JUDGED)
        table.add(*cells)
    return table


def interval(row: Row, of: str) -> Cell:
    """A mean, or a mean difference, with half of its interval; undefined where there is none."""
    names = ("difference", "difference_low", "difference_high") if of else ("mean", "low", "high")
    mean, low, high = (row[name] for name in names)
    if mean == "":
        return UNDEFINED_CELL
    return Cell(mean, half=(high - low) / 2) if high == high else Cell(mean)
