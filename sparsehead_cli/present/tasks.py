"""A sequence of tasks as people see it: the matrix of accuracies, and what is read off it."""

from sparsehead_cli.present.table import UNDEFINED_CELL, Cell, Column, Table
from sparsehead_cli.runs.table_files import Row
from sparsehead_cli.study.continual import ALL, continual, matrix_of

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
    columns += [Column("rank z", digits=1), Column("inputs read"), Column("still read", digits=0, scale=100)]
    note = "linear evaluation of r in %, of each task's classes alone and of all, on held-out inputs; rank: effective rank"
    table = Table("what is known after each task", columns, notes=(note,))
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
