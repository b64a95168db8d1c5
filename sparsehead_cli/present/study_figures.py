"""The figures of a study: which there are, by name, from its tables alone. λ have the same colours in all of them."""

from pathlib import Path

from matplotlib.figure import Figure

from sparsehead_cli.present.confirmation import FIGURE as CONFIRMATION
from sparsehead_cli.present.confirmation import confirmation_figure
from sparsehead_cli.present.figures import FORMATS
from sparsehead_cli.present.figures_curves import curves_figures
from sparsehead_cli.present.figures_map import has_map, map_figure
from sparsehead_cli.present.figures_spectra import in_bands, over_time_figure, spectra_figure
from sparsehead_cli.present.figures_sweep import sweep_figures
from sparsehead_cli.present.figures_tasks import tasks_figure
from sparsehead_cli.runs.table_files import Row
from sparsehead_cli.study.by_lam import SETTING
from sparsehead_cli.study.continual import mean_matrices
from sparsehead_cli.study.labels import groups
from sparsehead_cli.study.results import FIGURE, MAP, SEQUENCES
from sparsehead_cli.study.study import Study
from sparsehead_cli.study.summary import by_setting

SPECTRA, CURVES, EPOCHS = "spectra", "curves", "epochs"
MOST_SPECTRA = 12  # groups of checkpoints in one picture: no more can be told apart
MOST_BANDS = 6  # rows of panels that a page has room for
MOST_WHOLE = 12  # settings of a sweep in one picture; a map shows more than these at a glance


def lams_of(study: Study) -> list[float]:
    """All λ of a study, by which a λ has its colour on the page."""
    rows = [*study.trials, *study.metrics, *(rows[0] for rows in study.sequences)]
    return sorted({float(row["lam"]) for row in rows if row["lam"] != ""})


def saved_figures(study: Study) -> dict[str, list[Figure]]:
    """The figures that lie beside a study's tables; all of a sweep's settings are in one."""
    figures: dict[str, list[Figure]] = {}
    if study.confirmation and study.confirmation.rows:
        figures[CONFIRMATION] = [confirmation_figure(study.confirmation)]
    figures |= figures_of_sweep(study.averaged, study.summary)
    if study.metrics:
        figures[SPECTRA] = spectra_figures(study)
    if study.sequences:
        figures[SEQUENCES] = [tasks_figure(mean_matrices(study.sequences), lams_of(study))]
    return figures


def sweep_figure_names(trials: list[Row], summary: list[Row]) -> list[str]:
    """The figures of a sweep: all numbers of each setting, unless they are too many and there is a map, and the map."""
    has_whole = bool(trials) and not (has_map(summary) and len(by_setting(trials)) > MOST_WHOLE)
    return [*[FIGURE] * has_whole, *[MAP] * has_map(summary)]


def figures_of_sweep(trials: list[Row], summary: list[Row]) -> dict[str, list[Figure]]:
    """Those of `sweep_figure_names`, drawn."""
    draw = {FIGURE: lambda: sweep_figures(trials, summary, whole=True), MAP: lambda: [map_figure(summary)]}
    return {name: draw[name]() for name in sweep_figure_names(trials, summary)}


def remove_outdated(figures: dict[str, list[Figure]], folder: Path) -> None:
    """Remove the figures of a sweep that are no more drawn, as where it has grown: they would show a part of it."""
    for name in {FIGURE, MAP} - figures.keys():
        for kind in FORMATS[:2]:
            (folder / f"{name}.{kind}").unlink(missing_ok=True)


def page_figures(study: Study) -> dict[str, list[Figure]]:
    """Those that are on a study's page alone."""
    over_time = [over_time_figure(runs) for runs in study.tracked.values()]
    return {CURVES: curves_figures(study.averaged, study.curves, study.summary, lams_of(study)), EPOCHS: over_time}


def paper_figures(study: Study) -> dict[str, list[Figure]]:
    """All of them in the width of a column, a setting each, without a heading."""
    figures: dict[str, list[Figure]] = {}
    if study.confirmation and study.confirmation.rows:
        figures[CONFIRMATION] = [confirmation_figure(study.confirmation, paper=True)]
    if study.averaged:
        figures[FIGURE] = sweep_figures(study.averaged, study.summary, paper=True)
        figures[CURVES] = curves_figures(study.averaged, study.curves, study.summary, lams_of(study), paper=True)
    if study.metrics:
        bands, lams = in_bands(study.metrics), lams_of(study)
        parts = ((eigenvalues_of(study, rows), rows, lams) for rows in bands.values())
        figures[SPECTRA] = [spectra_figure(*part, name=band, paper=True) for part, band in zip(parts, bands, strict=True)]
    if study.sequences:
        figures[SEQUENCES] = [tasks_figure(mean_matrices(study.sequences), lams_of(study), paper=True)]
    figures[EPOCHS] = [over_time_figure(runs, paper=True) for runs in study.tracked.values()]
    return figures


def spectra_figures(study: Study) -> list[Figure]:
    """Eigenvalues and effective ranks: one figure, or where that would be too full, one a setting."""
    if len(groups(study.metrics)) <= MOST_SPECTRA or 1 < len(in_bands(study.metrics)) <= MOST_BANDS:
        return [spectra_figure(study.eigenvalues, study.metrics, lams_of(study))]
    settings: dict[tuple, list[Row]] = {}
    for row in study.metrics:
        settings.setdefault(tuple(row[column] for column in SETTING), []).append(row)
    return [spectra_figure(eigenvalues_of(study, rows), rows, lams_of(study)) for rows in settings.values()]


def eigenvalues_of(study: Study, metrics: list[Row]) -> list[Row]:
    """The rows of spectrum.csv of the checkpoints that these rows of spectrum_metrics.csv are of."""
    tasks = {row["task"] for row in metrics}
    return [row for row in study.eigenvalues if row["task"] in tasks]
