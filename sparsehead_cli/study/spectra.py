"""`sparsehead spectrum` as a whole: checkpoints -> tables, the comparison over λ, the figure; or spectra over training."""

from collections import defaultdict
from pathlib import Path

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.spectrum import TABLES, OnProgress, SpectrumRequest, spectra
from sparsehead_cli.present.figures import check_figure, over_time_figure, save_figure, spectra_figure
from sparsehead_cli.runs.folder import SPECTRA
from sparsehead_cli.runs.table_files import read_csv, replace_csv
from sparsehead_cli.study.by_lam import by_lam
from sparsehead_cli.study.labels import labels

Row = dict[str, str]
OF_SETTING = ("experiment", "method", "dataset", "backbone", "penalty", "solver")
BY_LAM = "spectrum_by_lam.csv"


def study_spectra(
    request: SpectrumRequest, figure: Path | None, watch: OnProgress
) -> tuple[list[list[Row]], list[dict[str, object]], list[Path]]:
    """(rows of the TABLES, rows over λ where runs can be compared, the files written).

    Raises: SparseheadError for whatever the user can mend; a figure's wrong ending before anything is measured.
    """
    if figure:
        check_figure(figure)
    tables = spectra(request, watch)
    lams = by_lam(tables[-1])
    if lams:
        replace_csv(request.out / BY_LAM, lams)
    files = [request.out / name for name in (*TABLES, *([BY_LAM] if lams else [])) if (request.out / name).exists()]
    return tables, lams, files + (save_figure(spectra_figure(*tables[1:]), figure) if figure else [])


def spectra_over_time(checkpoints: tuple[str, ...], figure: Path | None) -> tuple[dict[str, list[Row]], list[Path]]:
    """(label -> the run's rows of spectrum_epochs.csv, the figures written), for runs or their checkpoints.

    Raises: SparseheadError for a run whose spectra were not tracked.
    """
    if figure:
        check_figure(figure)
    rows = []
    for checkpoint in dict.fromkeys(checkpoints):
        path = Path(checkpoint)
        folder = path if path.is_dir() else path.parent
        found = read_csv(folder / SPECTRA)
        if not found:
            raise SparseheadError(
                f"there is no {folder / SPECTRA}: spectra over training are kept by `sparsehead pretrain --track-spectrum`. "
                "A run that was finished without them has to be trained anew, with another --results."
            )
        rows += [
            {**row, "task": str(folder), "checkpoint": str(folder), "eval_dataset": row["dataset"], "split": "val"} for row in found
        ]
    names = labels(rows)
    runs = {label: [row for row in rows if row["task"] == task] for task, label in names.items()}
    return runs, save_figure(over_time_figure(runs), figure) if figure else []


def tracked_runs(folder: Path) -> dict[str, dict[str, list[Row]]]:
    """Spectra over training in a study's run folders: setting -> label -> rows of spectrum_epochs.csv; a run a λ, its first seed.

    Raises: SparseheadError for a damaged table.
    """
    first: dict[tuple, dict[float, tuple[int, Path]]] = defaultdict(dict)
    for path in sorted(folder.glob(f"*/{SPECTRA}")):
        for row in read_csv(path)[:1]:
            own, lam = first[tuple(row[column] for column in OF_SETTING)], float(row["lam"])
            own[lam] = min(own.get(lam, (int(row["seed"]), path.parent)), (int(row["seed"]), path.parent))
    told = [i for i in range(len(OF_SETTING)) if len({setting[i] for setting in first}) > 1]
    return {
        ", ".join(setting[i] for i in told): spectra_over_time(tuple(str(own[lam][1]) for lam in sorted(own)), None)[0]
        for setting, own in first.items()
    }
