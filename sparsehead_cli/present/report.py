"""`sparsehead report`: the tables of a study -> its tables and figures anew, and one page with all of them.

Nothing but CSVs is read: what the page says can be checked by whoever has the repository. All are read before one is written.
"""

from pathlib import Path

from matplotlib.figure import Figure

from sparsehead_cli.machine.files import replace_file
from sparsehead_cli.present.confirmation import FIGURE as CONFIRMATION
from sparsehead_cli.present.confirmation import confirmation_figure, confirmation_tables, show_confirmation
from sparsehead_cli.present.console import Console, print_notes, print_table
from sparsehead_cli.present.figures import drawn, in_bands, over_time_figure, save_figure, spectra_figure
from sparsehead_cli.present.figures_map import has_map, map_figure
from sparsehead_cli.present.figures_sweep import COLUMNS, curves_figures, sweep_figure, sweep_figures
from sparsehead_cli.present.figures_tasks import tasks_figure
from sparsehead_cli.present.page import Drawing, Section, drawing, render
from sparsehead_cli.present.spectrum import by_lam_tables, show_spectra, spectra_tables
from sparsehead_cli.present.summary import show_summary, summary_tables
from sparsehead_cli.present.table import csv_table
from sparsehead_cli.present.tasks import sequence_table
from sparsehead_cli.runs.table_files import Row, replace_csv
from sparsehead_cli.study.by_lam import SETTING
from sparsehead_cli.study.confirm import sentences
from sparsehead_cli.study.continual import by_lam_of_tasks, mean_matrices, sequences
from sparsehead_cli.study.labels import groups, measured_on
from sparsehead_cli.study.results import (
    BY_LAM,
    CONFIRMATION_CSV,
    CONTINUAL_CSV,
    CURVES_CSV,
    EIGENVALUES_CSV,
    FIGURE,
    MAP,
    METRICS_CSV,
    PRUNED_CSV,
    SEQUENCES,
    SUMMARY_CSV,
    SWEEP_CSV,
)
from sparsehead_cli.study.study import Study
from sparsehead_cli.study.summary import by_setting, verdicts

PAGE, SPECTRA = "report.html", "spectra"
MOST_SPECTRA = 12  # groups of checkpoints in one picture: no more can be told apart
MOST_BANDS = 6  # rows of panels that a page has room for
MOST_LAMS = 12  # that are listed; of more there is the range
JUDGED = (
    "λ is chosen on held-out images (best: the best mean; sparsest: the largest λ within one standard error of it) and judged on "
    "test images. Intervals are 95 % for a λ fixed beforehand: one chosen on the same networks looks a little better than it is."
)
SUMMARY_NOTE = (
    "Accuracies are of linear probes of r on test images where nothing else is said. ± is half of the 95 % interval over seeds "
    "(Student's t). From λ 0: the mean paired difference to the same seeds at λ 0; with few seeds its interval by bootstrap is too "
    f"narrow. kNN accuracy and ranks are of held-out images. In full and with more numbers: {SUMMARY_CSV}."
)


def write_study(study: Study) -> list[Path]:
    """Write what follows from a study's tables: tables, figures and the page; what was written, the page last.

    Raises: SparseheadError where the folder cannot be written.
    """
    folder, figures = study.folder, spectra_figures(study)  # before anything is written
    judged = study.confirmation.rows if study.confirmation else []
    tables = {SUMMARY_CSV: study.summary, CURVES_CSV: study.curves, BY_LAM: study.lams, CONFIRMATION_CSV: judged}
    tables[CONTINUAL_CSV] = sequences(study.sequences)
    files = [folder / name for name, rows in tables.items() if rows]
    for path in files:
        replace_csv(path, tables[path.name])
    planned: list[bytes] = []
    if judged:
        files += save_figure(confirmation_figure(study.confirmation), folder / CONFIRMATION)
        planned = [files[-1].read_bytes()]
    drawn_files, at_a_glance, swept = draw_sweep(study)
    files += drawn_files
    spectra: list[bytes] = []
    for number, figure in enumerate(figures, 1):
        files += save_figure(figure, folder / (f"{SPECTRA}-{number}" if len(figures) > 1 else SPECTRA))
        spectra.append(files[-1].read_bytes())
    tasks: list[bytes] = []
    if study.sequences:
        files += save_figure(tasks_figure(mean_matrices(study.sequences)), folder / SEQUENCES)
        tasks = [files[-1].read_bytes()]
    sections = [
        *plan_sections(study, planned),
        *sweep_sections(study, swept, at_a_glance),
        *spectra_sections(study, spectra),
        *tasks_sections(study, tasks),
        csv_section(study),
    ]
    replace_file(folder / PAGE, render(title_of(study), lead_of(study), facts_of(study), sections))
    return [*files, folder / PAGE]


def draw_sweep(study: Study) -> tuple[list[Path], list[bytes], list[bytes]]:
    """Draw the figures of a sweep: their files, and for the page the SVGs of the map and of the numbers against λ."""
    files, at_a_glance, swept = [], [], []
    if has_map(study.summary):
        files += save_figure(map_figure(study.summary), study.folder / MAP)
        at_a_glance = [files[-1].read_bytes()]
    if study.averaged:
        files += save_figure(sweep_figure(study.averaged, study.summary), study.folder / FIGURE)
        sheets = len(by_setting(study.averaged)) > COLUMNS
        swept = svgs(sweep_figures(study.averaged, study.summary)) if sheets else [files[-1].read_bytes()]
    return files, at_a_glance, swept


def show_report(console: Console, study: Study, files: list[Path]) -> None:
    """Print a study's tables and verdicts as the commands that measured them do; `files` were written, the page last."""
    *others, page = files
    if study.confirmation:  # then the trials are its pilot, which judges nothing
        for table in summary_tables(study.summary, study.pruned):
            print_table(console, table)
        show_confirmation(console, study.confirmation)
    elif study.trials:
        show_summary(console, study.summary, study.pruned)
    if study.sequences:
        table = sequence_table(by_lam_of_tasks(sequences(study.sequences)))
        print_table(console, table)
        print_notes(console, [table])
    if study.metrics:
        show_spectra(console, [[], study.eigenvalues, study.metrics], study.lams, others)
    else:
        console.print(f" files   {study.folder}/: {', '.join(file.name for file in others)}", soft_wrap=True)
    console.print(f" page    {page}", soft_wrap=True)


def spectra_figures(study: Study) -> list[Figure]:
    """Eigenvalues and effective ranks: one figure, or where that would be too full, one a setting."""
    if not study.metrics:
        return []
    if len(groups(study.metrics)) <= MOST_SPECTRA or 1 < len(in_bands(study.metrics)) <= MOST_BANDS:
        return [spectra_figure(study.eigenvalues, study.metrics)]
    settings: dict[tuple, tuple[list[Row], list[Row]]] = {}
    for place, rows in enumerate((study.eigenvalues, study.metrics)):
        for row in rows:
            settings.setdefault(tuple(row[column] for column in SETTING), ([], []))[place].append(row)
    return [spectra_figure(eigenvalues, metrics) for eigenvalues, metrics in settings.values()]


def title_of(study: Study) -> str:
    """The experiments that the rows name, or the folder's name."""
    rows = study.trials or study.metrics or sequences(study.sequences)
    return ", ".join(values(rows, "experiment")) or study.folder.resolve().name


def lead_of(study: Study) -> str:
    """What the study is, in a sentence or two."""
    sentences = []
    if study.trials:
        counts = {
            "setting": len(by_setting(study.trials)),
            "λ": len(values(study.trials, "lam")),
            "seed": len(values(study.trials, "seed")),
        }
        axes = " × ".join(f"{count} {name}{'s' if count > 1 and name != 'λ' else ''}" for name, count in counts.items())
        sentences.append(f"Which λ? {len(study.trials)} finished trial{'s' * (len(study.trials) > 1)} of {axes}.")
    if study.metrics:
        sentences.append(f"Spectra of {len(values(study.metrics, 'task'))} checkpoints on {measured_on(study.metrics)}.")
    return " ".join(sentences)


def facts_of(study: Study) -> list[tuple[str, str]]:
    """(name, value) of what was trained, and by which commits."""
    rows = study.trials or study.metrics or sequences(study.sequences)
    lams = [f"{lam:g}" for lam in sorted({float(lam) for lam in values(rows, "lam")})]
    facts = {
        "data set": values(rows, "dataset"),
        "backbone": values(rows, "backbone"),
        "methods": values(rows, "method"),
        "penalties": values(rows, "penalty"),
        "solvers": values(rows, "solver"),
        "λ": lams if len(lams) <= MOST_LAMS else [f"{len(lams)} values", f"{lams[0]} to {lams[-1]}"],
        "seeds": sorted(values(rows, "seed"), key=int),
        "epochs": values(study.trials, "epochs"),
        "code": sorted({*values(study.trials, "commit"), *values(study.metrics, "commit")}),
    }
    return [(name, ", ".join(value)) for name, value in facts.items() if value]


def values(rows: list[Row], column: str) -> list[str]:
    """The different values of a column, in order, without the empty one."""
    return [value for value in dict.fromkeys(row[column] for row in rows) if value]


def svgs(figures: list[Figure]) -> list[bytes]:
    """Each as an SVG."""
    return [drawn(figure, "svg") for figure in figures]


def sweep_sections(study: Study, swept: list[bytes], at_a_glance: list[bytes]) -> list[Section]:
    """What λ does: verdicts, the map and the figure, of which these are the SVGs, the means, and how they came."""
    if not study.trials:
        return []
    over_epochs = svgs(curves_figures(study.averaged, study.curves, study.summary))
    curves = drawings(over_epochs, "curves", "The same trials over their epochs")
    judged = [] if study.confirmation else verdicts(study.summary, study.pruned)  # a pilot judges nothing
    sections = [
        Section("verdicts", "Verdicts", JUDGED, sentences=judged),
        Section("map", "At a glance", figures=drawings(at_a_glance, "map", "What λ changes, a line a setting; noise is grey")),
        Section("lams", "Against λ", figures=drawings(swept, "sweep", "Numbers against λ, a column a setting")),
        Section("summary", "Means and differences", SUMMARY_NOTE, wide=True, tables=summary_tables(study.summary, study.pruned)),
    ]
    sections = [section for section in sections if section.sentences or section.figures or section.tables]
    if curves:
        having = len(set(values(study.curves, "run")) & set(values(study.trials, "run")))
        few = f"{having} of {len(study.trials)} trials have curves." if having < len(study.trials) else ""
        sections.append(Section("curves", "Over the epochs", few, figures=curves))
    return sections


def plan_sections(study: Study, files: list[bytes]) -> list[Section]:
    """The plan first, and what its fresh seeds say, of which these are the SVGs; the pilot's own numbers come after."""
    found = study.confirmation
    if found is None:
        return []
    plan = found.plan
    note = (
        f"Plan {plan.hash}, frozen {plan.written} by {plan.code}, after a pilot of seeds {listed(plan.pilot_seeds)} and before any "
        f"run of seeds {listed(plan.seeds)}. Judged: {plan.judged}. The sections after this one are of the pilot, which chose, and "
        "judges nothing."
    )
    figures = [drawing(file, "confirmation", "Paired differences over the fresh seeds.") for file in files]
    tables = confirmation_tables(found)
    return [
        Section("plan", "The plan and its verdict", note, wide=True, sentences=sentences(found), figures=figures, tables=tables)
    ]


def listed(seeds: list[int]) -> str:
    """Seeds in a row as their ends."""
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def drawings(files: list[bytes], name: str, caption: str) -> list[Drawing]:
    """The SVGs of a sweep for the page; where they are several, the caption says so."""
    several = f" ({{}} of {len(files)}: {COLUMNS} settings each, on the same axes)" if len(files) > 1 else ""
    return [drawing(file, f"{name}{i}", f"{caption}{several.format(i)}.") for i, file in enumerate(files, 1)]


def spectra_sections(study: Study, files: list[bytes]) -> list[Section]:
    """Spectra of checkpoints, of which these are the SVGs, and how they came about where that was tracked."""
    sections = []
    if study.metrics:
        caption = "Eigenvalues of the covariance of r and z over the largest, and effective ranks."
        spectra = [drawing(file, f"spectra{i}", caption) for i, file in enumerate(files, 1)]
        tables = [*by_lam_tables(study.lams), *spectra_tables(study.metrics)]
        sections.append(Section("spectra", "Spectra", figures=spectra, tables=tables))
    if study.tracked:
        caption = "Eigenvalues of r and z over the epochs that were kept, a run a λ"
        over_time = []
        for i, (setting, runs) in enumerate(study.tracked.items(), 1):
            file = drawn(over_time_figure(runs), "svg")
            over_time.append(drawing(file, f"epochs{i}", f"{caption}{': ' if setting else ''}{setting}."))
        sections.append(Section("over-time", "Spectra over training", figures=over_time))
    return sections


def tasks_sections(study: Study, files: list[bytes]) -> list[Section]:
    """Sequences of tasks: the figure, of which this is the SVG, and the means of their numbers."""
    if not study.sequences:
        return []
    caption = "Accuracy on each task after each, the mean over seeds; below, on the tasks seen so far."
    tables = [sequence_table(by_lam_of_tasks(sequences(study.sequences)))]
    return [Section("tasks", "Sequences of tasks", wide=True, figures=[drawing(files[0], "tasks", caption)], tables=tables)]


def csv_section(study: Study) -> Section:
    """The CSVs as they are, but rounded."""
    tables = (
        (SWEEP_CSV, "run", study.trials),
        (PRUNED_CSV, "run", study.pruned),
        (SUMMARY_CSV, "method", study.summary),
        (METRICS_CSV, "run", study.metrics),
    )
    drawn_only = [name for name, rows in ((CURVES_CSV, study.curves), (EIGENVALUES_CSV, study.eigenvalues)) if rows]
    note = "Rounded to four digits; in full they are in the files beside this page."
    if drawn_only:
        note += f" {' and '.join(drawn_only)} {'are' if len(drawn_only) > 1 else 'is'} in the figures only."
    shown = [csv_table(f"{name}: {len(rows)} rows", rows, first) for name, first, rows in tables if rows]
    return Section("tables", "Tables", note, wide=True, tables=shown)
