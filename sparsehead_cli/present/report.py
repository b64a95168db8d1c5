"""`sparsehead report`: the tables of a study -> its tables and figures anew, and one page with all of them.

Nothing but CSVs is read: what the page says can be checked by whoever has the repository. All are read before one is written.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib.figure import Figure

from sparsehead_cli.data.nouns import noun_of
from sparsehead_cli.machine.files import replace_file
from sparsehead_cli.present.commands import commands_of
from sparsehead_cli.present.confirmation import FIGURE as CONFIRMATION
from sparsehead_cli.present.confirmation import confirmation_caption, confirmation_tables, cures_tables, show_confirmation
from sparsehead_cli.present.console import Console, print_notes, print_table
from sparsehead_cli.present.figures import drawn, save_figure, save_for_paper
from sparsehead_cli.present.figures_curves import curves_caption
from sparsehead_cli.present.figures_spectra import spectra_caption
from sparsehead_cli.present.figures_sweep import sweep_caption, sweep_figures
from sparsehead_cli.present.page import Drawing, Section, drawing, render
from sparsehead_cli.present.sheets import COLUMNS
from sparsehead_cli.present.spectrum import by_lam_tables, show_spectra, spectra_tables
from sparsehead_cli.present.study_figures import (
    CURVES,
    EPOCHS,
    SPECTRA,
    page_figures,
    paper_figures,
    remove_outdated,
    saved_figures,
)
from sparsehead_cli.present.summary import beside_each_other, show_summary, summary_tables
from sparsehead_cli.present.table import csv_table
from sparsehead_cli.present.tasks import sequence_table
from sparsehead_cli.runs.method_names import method_name
from sparsehead_cli.runs.readable import counted
from sparsehead_cli.runs.table_files import Row, replace_csv
from sparsehead_cli.study.confirm import sentences
from sparsehead_cli.study.continual import by_lam_of_tasks, sequences
from sparsehead_cli.study.labels import measured_on
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

PAGE = "report.html"
MOST_SETTINGS = 2 * COLUMNS  # in one figure of the page: more are too high for paper
MOST_LAMS = 12  # that are listed; of more there is the range
MOST_NAMED = 5  # trials that are named where curves are missing
JUDGED = (
    "λ is chosen on held-out {noun} (best: the best mean; sparsest: the largest λ within one standard error of it, if groups are "
    "inactive) and judged on test {noun}. Intervals are 95 % for a λ fixed beforehand: one chosen on the same networks looks a "
    "little better than it is."
)
SUMMARY_NOTE = (
    "Accuracies are of linear probes of r on test {noun} where nothing else is said. ± is half of the 95 % interval over seeds "
    "(Student's t). From λ 0: the mean paired difference to the same seeds at λ 0; with few seeds its interval by bootstrap is too "
    f"narrow. kNN accuracy and ranks are of held-out {{noun}}. In full and with more numbers: {SUMMARY_CSV}."
)


@contextmanager
def without_collection() -> Iterator[None]:
    """Look for no garbage meanwhile: of the many parts of figures there is little, and the search takes an eighth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@without_collection()
def write_study(study: Study, *, paper: bool = False) -> list[Path]:
    """Write what follows from a study's tables: tables, figures and the page; what was written, the page last.

    With `paper` also all figures as SVG and PDF in the width of a column. Raises: SparseheadError where the folder cannot be
    written.
    """
    folder, saved, others = study.folder, saved_figures(study), page_figures(study)  # before anything is written
    judged = study.confirmation.rows if study.confirmation else []
    tables = {SUMMARY_CSV: study.summary, CURVES_CSV: study.curves, BY_LAM: study.lams, CONFIRMATION_CSV: judged}
    tables[CONTINUAL_CSV] = sequences(study.sequences)
    files = [folder / name for name, rows in tables.items() if rows]
    for path in files:
        replace_csv(path, tables[path.name])
    drawings: dict[str, list[bytes]] = {name: svgs(figures) for name, figures in others.items()}
    for name, figures in saved.items():
        for number, figure in enumerate(figures, 1):
            files += save_figure(figure, folder / (name if len(figures) == 1 else f"{name}-{number}"))
            drawings.setdefault(name, []).append(files[-1].read_bytes())
    if study.averaged:
        remove_outdated(saved, folder)
    if len(by_setting(study.averaged)) > MOST_SETTINGS:
        drawings[FIGURE] = svgs(sweep_figures(study.averaged, study.summary))
    if paper:
        files += save_for_paper(paper_figures(study), folder)
    replace_file(folder / PAGE, render(title_of(study), lead_of(study), facts_of(study), sections_of(study, drawings)))
    return [*files, folder / PAGE]


def sections_of(study: Study, drawings: dict[str, list[bytes]]) -> list[Section]:
    """The sections of a study's page: the plan and its verdict first. `drawings` are the SVGs of each figure."""
    return [
        *plan_sections(study, drawings.get(CONFIRMATION, [])),
        *sweep_sections(study, drawings.get(MAP, []), drawings.get(FIGURE, []), drawings.get(CURVES, [])),
        *spectra_sections(study, drawings.get(SPECTRA, []), drawings.get(EPOCHS, [])),
        *tasks_sections(study, drawings.get(SEQUENCES, [])),
        Section("commands", "The commands", COMMANDS_NOTE, commands=commands_of(study)),
        csv_section(study),
    ]


MAP_CAPTION = (
    "What changes, a line a setting: paired differences to λ 0 with nothing against collapse. Grey: the 95 % interval includes 0."
)
COMMANDS_NOTE = (
    "What trained, measured and wrote all of this. A run whose row or folder is there is not repeated. The settings that no table "
    "has are those of the entry in experiments.yaml that they name."
)


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
        table = sequence_table(by_lam_of_tasks(sequences(study.sequences)), study.apart)
        print_table(console, table)
        print_notes(console, [table])
    if study.metrics:
        show_spectra(console, [[], study.eigenvalues, study.metrics], study.lams)
    in_folder = [file.relative_to(study.folder) for file in others]
    shown = dict.fromkeys(file.name if len(file.parts) == 1 else f"{file.parts[0]}/" for file in in_folder)
    console.print(f" files   {study.folder}/: {', '.join(shown)}", soft_wrap=True)
    console.print(f" page    {page}", soft_wrap=True)


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
        sentences.append(f"Which λ? {counted(len(study.trials), 'finished trial')} of {axes}.")
    if study.metrics:
        count = counted(len(values(study.metrics, "task")), "checkpoint")
        sentences.append(f"Spectra of {count} on {measured_on(study.metrics)}.")
    return " ".join(sentences)


def facts_of(study: Study) -> list[tuple[str, str]]:
    """(name, value) of what was trained, and by which commits."""
    rows = study.trials or study.metrics or sequences(study.sequences)
    lams = [f"{lam:g}" for lam in sorted({float(lam) for lam in values(rows, "lam")})]
    facts = {
        "data set": values(rows, "dataset"),
        "backbone": values(rows, "backbone"),
        "methods": list(map(method_name, values(rows, "method"))),
        "penalties": values(rows, "penalty"),
        "solvers": values(rows, "solver"),
        "λ": lams if len(lams) <= MOST_LAMS else [f"{len(lams)} values", f"{lams[0]} to {lams[-1]}"],
        "seeds": sorted(values(rows, "seed"), key=int),
        "epochs": values(study.trials, "epochs"),
        "code": sorted({*values(study.trials, "commit"), *values(study.metrics, "commit")}),
    }
    return [(name, ", ".join(value)) for name, value in facts.items() if value]


def noun_in(study: Study) -> str:
    """What a study's data sets have: images or sentences."""
    return " and ".join(dict.fromkeys(map(noun_of, values(study.trials or study.metrics, "dataset")))) or "images"


def values(rows: list[Row], column: str) -> list[str]:
    """The different values of a column, in order, without the empty one."""
    return [value for value in dict.fromkeys(row[column] for row in rows) if value]


def svgs(figures: list[Figure]) -> list[bytes]:
    """Each as an SVG."""
    return [drawn(figure, "svg") for figure in figures]


def sweep_sections(study: Study, at_a_glance: list[bytes], swept: list[bytes], over_epochs: list[bytes]) -> list[Section]:
    """What λ does: verdicts, the map and the figures, of which these are the SVGs, the means, and how they came."""
    if not study.trials:
        return []
    noun, without = noun_in(study), curves_missing(study)
    caption = f"Numbers against λ, a column a setting{{}}. {sweep_caption(study.averaged, study.summary, noun)}"
    sections = [
        Section("map", "At a glance", figures=drawings(at_a_glance, "map", MAP_CAPTION)),
        Section("lams", "Against λ", "" if over_epochs else without, figures=drawings(swept, "sweep", caption)),
        Section(
            *("summary", "Means and differences", SUMMARY_NOTE.format(noun=noun)),
            wide=True,
            tables=[*summary_tables(study.summary, study.pruned), *beside_each_other(study.summary)],
        ),
    ]
    sections = [section for section in sections if section.figures or section.tables]
    if not study.confirmation:  # a pilot judges nothing
        judged = verdicts(study.summary, study.pruned)
        sections.insert(0, Section("verdicts", "Verdicts", JUDGED.format(noun=noun), sentences=judged))
    if over_epochs:
        caption = f"The same trials over their epochs{{}}. {curves_caption(study.averaged, study.curves, noun)}"
        sections.append(Section("curves", "Over the epochs", without, figures=drawings(over_epochs, "curves", caption)))
    return sections


def curves_missing(study: Study) -> str:
    """How many trials have curves, which have none, and why; "" where all have some."""
    runs, having = values(study.trials, "run"), set(values(study.curves, "run"))
    missing = [run for run in runs if run not in having]
    if not missing:
        return ""
    named = ", ".join(missing[:MOST_NAMED]) + (f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else "")
    return (
        f"{len(runs) - len(missing)} of {len(runs)} trials have curves. Neither {CURVES_CSV} nor a run folder beside it has epochs "
        f"of {named}: the folders are gone, and were before the table was written."
    )


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
    figures = [drawing(file, "confirmation", confirmation_caption(found)) for file in files]
    tables = [*cures_tables(found), *confirmation_tables(found)]
    return [
        Section("plan", "The plan and its verdict", note, wide=True, sentences=sentences(found), figures=figures, tables=tables)
    ]


def listed(seeds: list[int]) -> str:
    """Seeds in a row as their ends."""
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def drawings(files: list[bytes], name: str, caption: str) -> list[Drawing]:
    """The SVGs of a sweep for the page; where they are several, the caption says so at its {}."""
    several = f" ({{}} of {len(files)}, {COLUMNS} settings each, on the same axes)" if len(files) > 1 else ""
    return [drawing(file, f"{name}{i}", caption.format(several.format(i))) for i, file in enumerate(files, 1)]


def spectra_sections(study: Study, files: list[bytes], over_time: list[bytes]) -> list[Section]:
    """Spectra of checkpoints, of which these are the SVGs, and how they came about where that was tracked."""
    sections = []
    if study.metrics:
        caption = spectra_caption(study.metrics)
        spectra = [drawing(file, f"spectra{i}", caption) for i, file in enumerate(files, 1)]
        tables = [*by_lam_tables(study.lams), *spectra_tables(study.metrics)]
        sections.append(Section("spectra", "Spectra", figures=spectra, tables=tables))
    if study.tracked:
        caption = "Eigenvalues of r and z at the epochs that were kept, a run a λ"
        figures = [
            drawing(file, f"epochs{i}", f"{caption}{': ' if setting else ''}{setting}.")
            for i, (file, setting) in enumerate(zip(over_time, study.tracked, strict=True), 1)
        ]
        sections.append(Section("over-time", "Spectra over training", figures=figures))
    return sections


def tasks_sections(study: Study, files: list[bytes]) -> list[Section]:
    """Sequences of tasks: the figure, of which this is the SVG, and the means of their numbers."""
    if not study.sequences:
        return []
    caption = "Accuracy on each task after each, the mean over seeds; below, on the tasks seen so far."
    tables = [sequence_table(by_lam_of_tasks(sequences(study.sequences)), study.apart)]
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
