"""The tables of a study, by name, and what must be true of them together."""

from pathlib import Path

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.runs.table_files import Row, read_csv

SWEEP_CSV, SUMMARY_CSV, CURVES_CSV, PRUNED_CSV, FIGURE = "sweep.csv", "sweep_summary.csv", "curves.csv", "pruned.csv", "sweep"
MAP = "sweep_map"  # of several settings, beside FIGURE
BATCHES_CSV, EIGENVALUES_CSV, METRICS_CSV = "spectrum_batches.csv", "spectrum.csv", "spectrum_metrics.csv"
BY_LAM = "spectrum_by_lam.csv"
CONTINUAL_CSV, SEQUENCES = "continual.csv", "tasks"  # of sequences of tasks: a row a run, and the figure
PLAN, CONFIRMATION_CSV, CONFIRM = "plan.yaml", "confirmation.csv", "confirm"  # the last: the folder of the confirming runs


def plan_above(folder: Path) -> Path | None:
    """The folder of the plan whose fresh seeds lie in `folder`; None where they are no plan's."""
    folder = folder.resolve()
    return folder.parent if folder.name == CONFIRM and (folder.parent / PLAN).exists() else None


def read_sweep(folder: Path) -> dict[str, Row]:
    """run -> its row of sweep.csv, in the order of the file. Raises: SparseheadError for a damaged one."""
    return {row["run"]: row for row in read_csv(folder / SWEEP_CSV)}


def read_spectra(folder: Path) -> tuple[list[Row], list[Row]]:
    """The rows of spectrum.csv and spectrum_metrics.csv.

    Raises: SparseheadError for a damaged one, one without the other, or a task that has lost eigenvalues.
    """
    eigenvalues, metrics = (read_csv(folder / name) for name in (EIGENVALUES_CSV, METRICS_CSV))
    if bool(eigenvalues) != bool(metrics):
        there, missing = (EIGENVALUES_CSV, METRICS_CSV) if eigenvalues else (METRICS_CSV, EIGENVALUES_CSV)
        raise SparseheadError(f"{folder} has {there}, but no rows in {missing}, which belongs to it. Put it back or measure again.")
    dims = {(row["task"], row["features"]): int(row["value"]) for row in metrics if row["metric"] == "dim" and row["value"]}
    counts = {(row["task"], row["features"]): int(row["index"]) for row in eigenvalues}  # the last index, which counts them
    for task, features in dict.fromkeys([*dims, *counts]):
        count = counts.get((task, features), 0)
        expected = dims.get((task, "r" if features == "response" else features))
        if count != expected:
            raise SparseheadError(
                f"{folder / EIGENVALUES_CSV} has {count} eigenvalues of {features} of task {task}, where {METRICS_CSV} says "
                f"{expected or 'nothing of it'}. Remove all lines of that task from both, and measure it again."
            )
    return eigenvalues, metrics
