"""All tables of a study's folder, read before anything is written, and what follows from them."""

from dataclasses import dataclass, field
from pathlib import Path

from sparsehead_cli.errors import SparseheadError, missing
from sparsehead_cli.runs.table_files import Row, read_csv
from sparsehead_cli.study.by_lam import by_lam
from sparsehead_cli.study.confirm import Confirmation, read_confirmation
from sparsehead_cli.study.continual import comparable, runs_of_tasks
from sparsehead_cli.study.curves import merged_curves
from sparsehead_cli.study.labels import JUDGED_BY
from sparsehead_cli.study.results import (
    EIGENVALUES_CSV,
    METRICS_CSV,
    PRUNED_CSV,
    SWEEP_CSV,
    plan_above,
    read_spectra,
    read_sweep,
)
from sparsehead_cli.study.summary import summarise, without_pruned
from sparsehead_cli.study.tracked import tracked_runs


@dataclass(frozen=True)
class Study:
    """What the tables of a folder hold, and what follows from them. A field is empty where the folder has nothing for it.

    Each list has the rows of the table named beside it: as read, or, where it says "from", made anew.
    """

    folder: Path
    trials: list[Row]  # sweep.csv
    pruned: list[Row]  # pruned.csv
    summary: list[Row]  # sweep_summary.csv, from `averaged`
    curves: list[Row]  # curves.csv, from it and the run folders: one row per epoch of a trial
    eigenvalues: list[Row]  # spectrum.csv
    metrics: list[Row]  # spectrum_metrics.csv
    lams: list[Row]  # spectrum_by_lam.csv, from `metrics`
    tracked: dict[str, dict[str, list[Row]]]  # spectra over training: setting -> label of a run -> its spectrum_epochs.csv
    sequences: list[list[Row]] = field(default_factory=list)  # tasks.csv of the runs on sequences of tasks that are comparable
    apart: list[str] = field(default_factory=list)  # the names of the other runs on sequences of tasks
    confirmation: Confirmation | None = None  # plan.yaml and what its fresh seeds say, where there is a plan

    @property
    def averaged(self) -> list[Row]:
        """The trials that the means are of: those whose λ was pruned in no seed."""
        return without_pruned(self.trials, self.pruned)


def read_study(folder: Path) -> Study:
    """Read a folder's tables. Raises: SparseheadError for a folder without any, and for a damaged table."""
    if not folder.is_dir():
        wrong = f"{folder} is no folder" if folder.exists() else missing(folder)
        raise SparseheadError(f"{wrong}. Give that of a sweep or of spectra, such as results/lambda-quick.")
    if whole := plan_above(folder):
        raise SparseheadError(f"{folder} has the fresh seeds of a plan, which judges them together: sparsehead report {whole}")
    trials = list(read_sweep(folder).values())
    eigenvalues, metrics = read_spectra(folder)
    require_judged(folder, metrics)
    sequences, apart = comparable(runs_of_tasks(folder))
    if not trials and not metrics and not sequences:
        raise SparseheadError(
            f"{folder} has no rows in {SWEEP_CSV} (of `sparsehead sweep-lambda`), nor in {EIGENVALUES_CSV} and {METRICS_CSV} "
            f"(of `sparsehead spectrum CHECKPOINT --out {folder}`), nor a finished sequence of tasks (of "
            "`sparsehead pretrain --tasks N`). Run one of them, or give another folder."
        )
    pruned = read_csv(folder / PRUNED_CSV)
    return Study(
        folder=folder,
        trials=trials,
        pruned=pruned,
        summary=summarise(without_pruned(trials, pruned)),
        curves=merged_curves(folder, trials),
        eigenvalues=eigenvalues,
        metrics=metrics,
        lams=by_lam(metrics),
        tracked=tracked_runs(folder),
        sequences=sequences,
        apart=apart,
        confirmation=read_confirmation(folder),
    )


def require_judged(folder: Path, metrics: list[Row]) -> None:
    """Raises: SparseheadError where r or z of a task lacks a metric that the verdict on it needs."""
    measured: dict[tuple[str, str], set[str]] = {}  # task and features -> their metrics
    for row in metrics:
        if row["features"] in ("r", "z"):
            measured.setdefault((row["task"], row["features"]), set()).add(row["metric"])
    for (task, features), present in measured.items():
        for metric in JUDGED_BY:
            if metric not in present:
                remedy = "Remove all lines of that task, and measure it again."
                raise SparseheadError(f"{folder / METRICS_CSV} lacks the {metric} of {features} of task {task}. {remedy}")
