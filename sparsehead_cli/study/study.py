"""All tables of a study's folder, read before anything is written, and what follows from them."""

from dataclasses import dataclass
from pathlib import Path

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.runs.table_files import Row, read_csv
from sparsehead_cli.study.by_lam import by_lam
from sparsehead_cli.study.curves import merged_curves
from sparsehead_cli.study.labels import JUDGED_BY
from sparsehead_cli.study.results import EIGENVALUES_CSV, METRICS_CSV, PRUNED_CSV, SWEEP_CSV, read_spectra, read_sweep
from sparsehead_cli.study.spectra import tracked_runs
from sparsehead_cli.study.summary import summarise, without_pruned


@dataclass(frozen=True)
class Study:
    """What the tables of a folder hold, and what follows from them.

    `trials`, `pruned`, `summary` and `curves` are rows of sweep.csv, pruned.csv, sweep_summary.csv and curves.csv;
    `eigenvalues`, `metrics` and `lams` those of spectrum.csv, spectrum_metrics.csv and spectrum_by_lam.csv. `tracked` has
    the spectra over training of its runs: setting -> label -> rows of spectrum_epochs.csv. Each is empty where the folder
    has none.
    """

    folder: Path
    trials: list[Row]
    pruned: list[Row]
    summary: list[Row]
    curves: list[Row]
    eigenvalues: list[Row]
    metrics: list[Row]
    lams: list[Row]
    tracked: dict[str, dict[str, list[Row]]]

    @property
    def averaged(self) -> list[Row]:
        """The trials of values of λ that were pruned in no seed."""
        return without_pruned(self.trials, self.pruned)


def read_study(folder: Path) -> Study:
    """Read a folder's tables. Raises: SparseheadError for a folder without any, and for a damaged table."""
    if not folder.is_dir():
        raise SparseheadError(f"{folder} is no folder. Give that of a sweep or of spectra, such as results/lambda-quick.")
    trials = list(read_sweep(folder).values())
    eigenvalues, metrics = read_spectra(folder)
    require_judged(folder, metrics)
    if not trials and not metrics:
        raise SparseheadError(
            f"{folder} has no rows in {SWEEP_CSV} (of `sparsehead sweep-lambda`), nor in {EIGENVALUES_CSV} and {METRICS_CSV} "
            f"(of `sparsehead spectrum CHECKPOINT --out {folder}`). Run one of them, or give another folder."
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
    )


def require_judged(folder: Path, metrics: list[Row]) -> None:
    """Raises: SparseheadError for features without the numbers that a verdict needs."""
    measured = dict.fromkeys((row["task"], row["features"], row["metric"]) for row in metrics)
    for task, features in dict.fromkeys(key[:2] for key in measured if key[1] in ("r", "z")):
        for metric in JUDGED_BY:
            if (task, features, metric) not in measured:
                remedy = "Remove all lines of that task, and measure it again."
                raise SparseheadError(f"{folder / METRICS_CSV} lacks the {metric} of {features} of task {task}. {remedy}")
