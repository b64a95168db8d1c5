"""The summary of a sweep as people see it: a table a setting, the verdicts, and how to read them."""

import math
from collections.abc import Sequence
from dataclasses import replace

from sparsehead_cli.data.nouns import noun_of
from sparsehead_cli.present.console import Console, print_notes, print_sentence, print_table
from sparsehead_cli.present.table import UNDEFINED_CELL, Cell, Column, Table, difference, lam_cell, mean
from sparsehead_cli.runs.readable import counted, number
from sparsehead_cli.runs.table_files import Row, frame
from sparsehead_cli.study.summary import COLLAPSED, LAM_0, SETTING, base_in_words, excludes_zero, name_of, verdicts

CHOSEN = {"both": "best, sparsest"}  # what is written for a λ chosen as "both"; "best" and "sparsest" are written as they are
ACCURACY = Column("linear\nprobe, %", digits=1, scale=100)
RANK_R, RANK_Z = Column("effective\nrank of r", digits=1), Column("effective\nrank of z", digits=1)
FROM_ZERO = ACCURACY.from_zero("from λ 0,\npoints")


def bootstrap(row: Row) -> Cell:
    """The interval by bootstrap of a row's difference to λ 0; its lower end is what the column is sorted by."""
    low, high = (FROM_ZERO.written(Cell(row[end])) for end in ("bootstrap_low", "bootstrap_high"))
    return Cell(row["bootstrap_low"], text=f"{low} to {high}")


COMPARED = {  # metric of `beside_each_other` -> its column
    "accuracy": Column("linear\nprobe, points", digits=1, scale=100),
    "effective_rank_r": RANK_R,
    "effective_rank_z": RANK_Z,
}
SUMMARY = (  # the columns of numbers: the metric in sweep_summary.csv, the column, and how its cell is made of the metric's row
    ("accuracy", ACCURACY, mean),
    ("accuracy", FROM_ZERO, difference),
    ("accuracy", Column("95 % by\nbootstrap", minor=True), bootstrap),
    ("val_accuracy", Column("held-out\nprobe, %", digits=1, scale=100), mean),
    ("knn_accuracy", Column("kNN\nof r, %", digits=1, scale=100, minor=True), mean),
    ("accuracy_z", Column("probe\nof z, %", digits=1, scale=100, minor=True), mean),
    ("effective_rank_r", RANK_R, mean),
    ("effective_rank_r", RANK_R.from_zero(), difference),
    ("effective_rank_z", RANK_Z, mean),
    ("effective_rank_z", RANK_Z.from_zero(), difference),
    ("active_groups_share", Column("groups\nactive, %", scale=100), mean),
)


def summary_tables(summary: list[Row], pruned: Sequence[Row]) -> list[Table]:
    """Rows of sweep_summary.csv and pruned.csv -> one table per setting, one line per λ. A pruned λ has no numbers."""
    if not summary:
        return []
    accuracies = [row for row in summary if row["metric"] == "accuracy"]
    pruned_lams: dict[tuple[str, ...], set[float]] = {}
    for row in pruned:
        pruned_lams.setdefault(tuple(str(row[column]) for column in SETTING), set()).add(number(row["lam"]))
    tables = []
    for setting, rows in frame(summary, text=SETTING).groupby(list(SETTING), sort=False):
        counts = sorted({int(seeds) for seeds in rows["seeds"]})  # said once where it is one number
        of_seeds = [Column("seeds")] if len(counts) > 1 else []
        columns = [Column("λ"), Column("chosen", text=True), *of_seeds, *(column for _, column, _ in SUMMARY)]
        name = name_of(rows.iloc[0], accuracies) + ("" if of_seeds else f", {counted(counts[0], 'seed')}")
        table = Table(name, columns, wide=math.inf, ruled=True)
        by_lam = {lam: of_lam.set_index("metric").to_dict("index") for lam, of_lam in rows.groupby("lam")}
        without_numbers = pruned_lams.get(setting, set())
        for lam in sorted({*by_lam, *without_numbers}):
            if lam in without_numbers:
                table.add(lam_cell(lam), Cell("pruned"), *[UNDEFINED_CELL] * (len(columns) - 2))
                continue
            row_of = by_lam[lam]  # metric -> its row; what is chosen and the seeds are the same in all of them
            chosen, seeds = row_of["accuracy"]["chosen"], row_of["accuracy"]["seeds"]
            cells = [cell_of(row_of[metric]) for metric, _, cell_of in SUMMARY]
            marked = chosen not in ("", COLLAPSED)
            table.add(lam_cell(lam), Cell(CHOSEN.get(chosen, chosen)), *[Cell(seeds)] * len(of_seeds), *cells, marked=marked)
        tables.append(table)
    return tables


def beside_each_other(summary: list[Row]) -> list[Table]:
    """Where regularisers or heads are varied: a table of all settings and λ, as differences from their base line; else []."""
    base = base_in_words(summary)
    if base == LAM_0:
        return []
    columns = [Column("", text=True), Column("λ"), *(replace(column, sign="+") for column in COMPARED.values())]
    table = Table(f"All of them, from {base}", columns)
    accuracies = [row for row in summary if row["metric"] == "accuracy"]
    for (*_, lam), rows in frame(summary, text=SETTING).groupby([*SETTING, "lam"], sort=False):
        row_of = rows.set_index("metric").to_dict("index")
        cells = [difference(row_of[metric]) for metric in COMPARED]
        if cells[0].defined:  # which what they are compared with is not
            table.add(Cell(name_of(rows.iloc[0], accuracies)), lam_cell(lam), *cells, marked=excludes_zero(row_of["accuracy"]))
    if not table.lines:
        return []
    by_chance = (
        f"bold: the 95 % interval of the probe excludes 0; without any effect so would one in twenty, of {len(table.lines)} here"
    )
    return [replace(table, notes=(by_chance,))]


def show_summary(console: Console, summary: list[Row], pruned: list[Row]) -> None:
    """Print one table per setting, all of them beside each other where cures are varied, the verdicts, and how to read them.

    From rows of sweep_summary.csv and pruned.csv.
    """
    overview = beside_each_other(summary)
    for table in (*summary_tables(summary, pruned), *overview):
        print_table(console, table)
    print_notes(console, overview)
    for line in verdicts(summary, pruned):
        print_sentence(console, line)
    nouns = " and ".join(dict.fromkeys(noun_of(row["dataset"]) for row in summary)) or "images"
    lines = (
        f"mean ± half of the 95 % interval (Student's t over seeds); below it the paired difference to {base_in_words(summary)}",
        f"linear probe: on test {nouns}; best: on held-out ones; sparsest: the largest λ within a standard error of it (of two "
        "seeds or more), where groups are inactive",
        "collapsed: r or z has one dimension, or none, in some seed, and cannot be chosen",
        "active: norm > 1 % of the largest, which says little where all are small (curves.csv has the penalty's value)",
    )
    for line in lines:
        print_sentence(console, f" {line}", "dim")
