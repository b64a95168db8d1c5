"""Spectra over training, run by run: what --track-spectrum has kept in the folders of runs."""

from pathlib import Path

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.runs.table_files import Row, frame, read_csv
from sparsehead_cli.runs.tables import KIND, SPECTRA
from sparsehead_cli.study.labels import labels, say


def spectra_over_time(checkpoints: list[Path]) -> dict[str, list[Row]]:
    """label -> the run's rows of spectrum_epochs.csv, for runs or their checkpoints.

    Raises: SparseheadError for a run whose spectra were not tracked.
    """
    folders = {str(path if path.is_dir() else path.parent): read_tracked(path) for path in checkpoints}
    named = []
    for folder, rows in folders.items():
        named.append({**rows[0], "task": folder, "checkpoint": folder, "eval_dataset": rows[0]["dataset"], "split": "val"})
    return {label: folders[folder] for folder, label in labels(named).items()}


def read_tracked(checkpoint: Path) -> list[Row]:
    """The rows of spectrum_epochs.csv of a run, given as its folder or a file in it. Raises: SparseheadError where it has none."""
    path = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / SPECTRA
    rows = read_csv(path)
    if not rows:
        raise SparseheadError(
            f"there is no {path}: spectra over training are kept by `sparsehead pretrain --track-spectrum`. "
            "A run that was finished without them has to be trained anew, with another --results."
        )
    return rows


def tracked_runs(folder: Path) -> dict[str, dict[str, list[Row]]]:
    """Spectra over training in a study's run folders: setting -> label -> rows of spectrum_epochs.csv; a run a λ, its first seed.

    Raises: SparseheadError for a damaged table.
    """
    paths = sorted(folder.glob(f"*/{SPECTRA}"))
    if not paths:
        return {}
    runs = frame([read_csv(path)[0] for path in paths])
    runs["folder"] = [path.parent for path in paths]
    differing = [column for column in KIND if runs[column].nunique() > 1]
    tracked = {}
    for _, of_setting in runs.groupby(list(KIND), sort=False):
        first_seeds = of_setting.sort_values(["lam", "seed"], kind="stable").drop_duplicates("lam")
        tracked[", ".join(say(column, of_setting[column].iloc[0]) for column in differing)] = spectra_over_time(
            list(first_seeds["folder"])
        )
    return tracked
