"""curves.csv: how the trials of a sweep came to their numbers, epoch by epoch, for when their run folders are gone."""

from pathlib import Path

from sparsehead_cli.runs.readable import share
from sparsehead_cli.runs.table_files import Row, cell, read_csv, replace_csv
from sparsehead_cli.runs.tables import RUN, VARIED
from sparsehead_cli.study.results import CURVES_CSV

MEASURED = ("epoch", "loss", "knn_accuracy", "effective_rank_r", "effective_rank_z", "penalty_value")
SHARES = {"active_groups": "n_groups", "active_features": "n_features"}  # counts in metrics.csv, of how many; shares here


def keep_curves(folder: Path, trials: list[Row]) -> list[Row]:
    """Write what `merged_curves` gives to the folder's curves.csv, unless it is nothing, and return it. Raises: as that."""
    rows = merged_curves(folder, trials)
    if rows:
        replace_csv(folder / CURVES_CSV, rows)
    return rows


def merged_curves(folder: Path, trials: list[Row]) -> list[Row]:
    """The rows of a sweep's curves.csv and of the run folders that are there: an epoch of a trial each, trials as in `trials`.

    `trials` are rows of sweep.csv. A run folder's rows replace older ones of that run, unless it has fewer epochs (it is being
    trained anew). Runs that sweep.csv does not have stay at the end: their trials may come back.

    Raises: SparseheadError for a damaged table.
    """
    curves: dict[str, list[Row]] = {trial["run"]: [] for trial in trials}
    for row in read_csv(folder / CURVES_CSV):
        curves.setdefault(row["run"], []).append(row)
    for trial in trials:
        rows = curves_of(folder / trial["run"] / "metrics.csv", trial)
        if len(rows) >= len(curves[trial["run"]]):
            curves[trial["run"]] = rows
    return [row for rows in curves.values() for row in rows]


def curves_of(path: Path, trial: Row) -> list[Row]:
    """metrics.csv of a trial's run -> its rows of curves.csv; [] where there is none. Raises: SparseheadError for a damaged one."""
    return [
        {column: row[column] for column in RUN}
        | {"penalty": trial["penalty"]}  # older versions named it without its groups
        | {column: trial[column] for column in VARIED}
        | {column: row[column] for column in MEASURED}
        | {f"{part}_share": cell(share(row[part], row[whole])) for part, whole in SHARES.items()}
        for row in read_csv(path)
    ]
