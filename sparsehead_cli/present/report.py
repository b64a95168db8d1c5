"""`sparsehead report`: the tables of a study -> its tables and figures anew, and one page with all of them.

Nothing but CSVs is read: what the page says can be checked by whoever has the repository.
"""

from pathlib import Path

from matplotlib.figure import Figure

from sparsehead_cli.machine.files import replace_file
from sparsehead_cli.present.figures import in_bands, over_time_figure, save_figure, spectra_figure
from sparsehead_cli.present.figures_sweep import sweep_figure
from sparsehead_cli.present.page import render
from sparsehead_cli.present.sections import facts_of, lead_of, sections_of, title_of
from sparsehead_cli.present.study import Study
from sparsehead_cli.runs.table_files import replace_csv
from sparsehead_cli.study.by_lam import SETTING
from sparsehead_cli.study.labels import groups
from sparsehead_cli.study.results import CURVES_CSV, FIGURE, SUMMARY_CSV
from sparsehead_cli.study.spectra import BY_LAM

PAGE, SPECTRA = "report.html", "spectra"
MOST_SPECTRA = 12  # groups of checkpoints in one picture: no more can be told apart
MOST_BANDS = 6  # rows of panels that a page has room for


def write_study(study: Study) -> list[Path]:
    """Write what follows from a study's tables: tables, figures and the page; what was written, the page last.

    Raises: SparseheadError where the folder cannot be written.
    """
    folder, spectra = study.folder, spectra_figures(study)
    written = [(SUMMARY_CSV, study.summary), (CURVES_CSV, study.curves), (BY_LAM, study.lams)]
    files = [folder / name for name, rows in written if rows]
    for name, rows in written:
        if rows:
            replace_csv(folder / name, rows)
    if study.averaged:
        files += save_figure(sweep_figure(study.averaged, study.summary), folder / FIGURE)
    for number, figure in enumerate(spectra, 1):
        files += save_figure(figure, folder / (f"{SPECTRA}-{number}" if len(spectra) > 1 else SPECTRA))
    over_time = {setting: over_time_figure(runs) for setting, runs in study.tracked.items()}
    page = render(title_of(study), lead_of(study), facts_of(study), sections_of(study, spectra, over_time))
    replace_file(folder / PAGE, page)
    return [*files, folder / PAGE]


def spectra_figures(study: Study) -> list[Figure]:
    """Eigenvalues and effective ranks: one figure, or where that would be too full, one a setting."""
    if len(groups(study.metrics)) <= MOST_SPECTRA or 1 < len(in_bands(study.metrics)) <= MOST_BANDS:
        return [spectra_figure(study.eigenvalues, study.metrics)] if study.metrics else []
    found = []
    for setting in dict.fromkeys(tuple(row[c] for c in SETTING) for row in study.metrics):
        own = ([row for row in rows if tuple(row[c] for c in SETTING) == setting] for rows in (study.eigenvalues, study.metrics))
        found.append(spectra_figure(*own))
    return found
