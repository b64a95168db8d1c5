"""curves.csv: how the trials of a sweep came to their numbers, epoch by epoch, for when their run folders are gone."""

from pathlib import Path

from sparsehead_cli.files import replace_csv
from sparsehead_cli.study.results import CURVES_CSV, read_table

Row = dict[str, str]
IDENTITY = ("experiment", "run", "method", "dataset", "backbone", "penalty", "solver", "lam", "seed", "commit")
OF_TRIAL = ("groups", "batch_norm", "projector_out", "epochs")  # taken from sweep.csv: a run's own tables lack them
MEASURED = ("epoch", "loss", "knn_accuracy", "effective_rank_r", "effective_rank_z", "penalty_value")
SHARES = {"active_groups": "groups", "active_features": "features"}  # counts in metrics.csv, of how many; shares here


def keep_curves(folder: Path, trials: list[Row]) -> list[Row]:
    """Write what `merged_curves` finds to the folder's curves.csv, where it finds anything, and return it. Raises: as that."""
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
    curves: dict[str, dict[str, Row]] = {trial["run"]: {} for trial in trials}  # run -> epoch -> row
    numbers = ("lam", "seed", "epochs", *MEASURED, *SHARES)
    for row in read_table(folder / CURVES_CSV, tuple(c for c in (*IDENTITY, *OF_TRIAL) if c not in numbers), numbers):
        curves.setdefault(row["run"], {})[row["epoch"]] = row
    for trial in trials:
        found = {row["epoch"]: row for row in curves_of(folder / trial["run"] / "metrics.csv", trial)}
        curves[trial["run"]] = max(found, curves[trial["run"]], key=len)
    return [row for epochs in curves.values() for row in epochs.values()]


def curves_of(path: Path, trial: Row) -> list[Row]:
    """metrics.csv of a trial's run -> its rows of curves.csv; [] where there is none. Raises: SparseheadError for a damaged one."""
    counts = tuple(dict.fromkeys((*SHARES, *SHARES.values())))
    texts = tuple(column for column in IDENTITY if column not in ("lam", "seed"))
    return [
        {column: row[column] for column in IDENTITY}
        | {column: trial[column] for column in OF_TRIAL}
        | {column: row[column] for column in MEASURED}
        | {part: str(float(row[part]) / max(1.0, float(row[whole]))) for part, whole in SHARES.items()}
        for row in read_table(path, texts, ("lam", "seed", *MEASURED, *counts))
    ]
