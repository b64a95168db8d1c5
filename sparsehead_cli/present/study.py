"""All tables of a study's folder, read before anything is written."""

from dataclasses import dataclass
from pathlib import Path

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.present.figures import PANELS
from sparsehead_cli.runs.table_files import read_csv
from sparsehead_cli.study.by_lam import by_lam
from sparsehead_cli.study.curves import merged_curves
from sparsehead_cli.study.labels import JUDGED_BY
from sparsehead_cli.study.results import EIGENVALUES_CSV, METRICS_CSV, PRUNED_CSV, SWEEP_CSV, read_spectra, read_sweep
from sparsehead_cli.study.spectra import tracked_runs
from sparsehead_cli.study.summary import summarise, without_pruned

Row = dict[str, str]


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
    summary: list[dict[str, object]]
    curves: list[Row]
    eigenvalues: list[Row]
    metrics: list[Row]
    lams: list[dict[str, object]]
    tracked: dict[str, dict[str, list[Row]]]

    @property
    def averaged(self) -> list[Row]:
        """The trials of values of λ that were pruned in no seed."""
        return without_pruned(self.trials, self.pruned)


def read_studies(folders: list[Path]) -> list[Study]:
    """Read every folder before anything is written. Raises: SparseheadError for one without tables, or with a damaged one."""
    return [read_study(folder) for folder in dict.fromkeys(folders)]


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
    curves, lams = merged_curves(folder, trials), by_lam(metrics)
    return Study(
        folder, trials, pruned, summarise(without_pruned(trials, pruned)), curves, eigenvalues, metrics, lams, tracked_runs(folder)
    )


def require_judged(folder: Path, metrics: list[Row]) -> None:
    """Raises: SparseheadError for features without the numbers that a verdict needs."""
    found = dict.fromkeys((row["task"], row["features"], row["metric"]) for row in metrics)
    for task, features in dict.fromkeys(key[:2] for key in found if key[1] in PANELS):
        for metric in JUDGED_BY:
            if (task, features, metric) not in found:
                remedy = "Remove all lines of that task, and measure it again."
                raise SparseheadError(f"{folder / METRICS_CSV} lacks the {metric} of {features} of task {task}. {remedy}")
