"""All tables of a study's folder, read before anything is written."""

from dataclasses import dataclass
from pathlib import Path

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.spectrum import TABLES
from sparsehead_cli.study.by_lam import by_lam
from sparsehead_cli.study.curves import merged_curves
from sparsehead_cli.study.figures import PANELS
from sparsehead_cli.study.labels import JUDGED_BY
from sparsehead_cli.study.results import SWEEP_CSV, read_pruned, read_sweep, read_table
from sparsehead_cli.study.spectra import tracked_runs
from sparsehead_cli.study.summary import summarise, without_pruned

Row = dict[str, str]
_, EIGENVALUES_CSV, METRICS_CSV = TABLES


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
    if not trials and not metrics:
        raise SparseheadError(
            f"{folder} has no rows in {SWEEP_CSV} (of `sparsehead sweep-lambda`), nor in {EIGENVALUES_CSV} and {METRICS_CSV} "
            f"(of `sparsehead spectrum CHECKPOINT --out {folder}`). Run one of them, or give another folder."
        )
    pruned = read_pruned(folder)
    curves, lams = merged_curves(folder, trials), by_lam(metrics)
    return Study(
        folder, trials, pruned, summarise(without_pruned(trials, pruned)), curves, eigenvalues, metrics, lams, tracked_runs(folder)
    )


def read_spectra(folder: Path) -> tuple[list[Row], list[Row]]:
    """The rows of spectrum.csv and spectrum_metrics.csv. Raises: SparseheadError for a damaged one, or one without the other."""
    texts, common = ("task", "features", "run", "checkpoint", "eval_dataset", "split"), ("lam", "seed")
    words = ("experiment", "method", "dataset", "backbone", "penalty", "solver", "commit")
    eigenvalues = read_table(folder / EIGENVALUES_CSV, texts, ("index", "eigenvalue"), common, words)
    metrics = read_table(folder / METRICS_CSV, (*texts, "metric"), ("images", "value"), (*common, "low", "high"), words)
    found = dict.fromkeys((row["task"], row["features"], row["metric"]) for row in metrics)
    for task, features in dict.fromkeys(key[:2] for key in found if key[1] in PANELS):
        for metric in JUDGED_BY:
            if (task, features, metric) not in found:
                remedy = "Remove all lines of that task, and measure it again."
                raise SparseheadError(f"{folder / METRICS_CSV} lacks the {metric} of {features} of task {task}. {remedy}")
    if bool(eigenvalues) != bool(metrics):
        there, missing = (EIGENVALUES_CSV, METRICS_CSV) if eigenvalues else (METRICS_CSV, EIGENVALUES_CSV)
        raise SparseheadError(f"{folder} has {there}, but no rows in {missing}, which belongs to it. Put it back or measure again.")
    return eigenvalues, metrics
