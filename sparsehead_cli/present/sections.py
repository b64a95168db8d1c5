"""What a study's page says and in which order: the verdicts first, the raw tables last."""

import re

from matplotlib.figure import Figure

from sparsehead_cli.present.figures_sweep import COLUMNS, curves_figures, sweep_figures
from sparsehead_cli.present.page import Drawing, Section, drawing, raw_table
from sparsehead_cli.present.study import Study
from sparsehead_cli.present.tables import by_lam_tables, spectra_tables, summary_tables
from sparsehead_cli.study.results import CURVES_CSV, EIGENVALUES_CSV, METRICS_CSV, PRUNED_CSV, SUMMARY_CSV, SWEEP_CSV
from sparsehead_cli.study.summary import by_setting, verdicts

Row = dict[str, str]
MOST_LAMS = 12  # that are listed; of more the range is told
JUDGED = (
    "λ is chosen on held-out images (best: the best mean; sparsest: the largest λ within one standard error of it) and judged on "
    "test images. Intervals are 95 % for a λ fixed beforehand: one chosen on the same networks looks a little better than it is."
)
SUMMARY_NOTE = (
    "Accuracies are of linear probes of r on test images where nothing else is said. ± is half of the 95 % interval of the mean "
    "over seeds (Student's t). From λ 0: the mean paired difference to the same seeds at λ 0, and its 95 % interval by Student's "
    "t and by bootstrap; with few seeds the latter is too narrow. kNN accuracy and ranks are of held-out images. In full and with "
    f"more numbers: {SUMMARY_CSV}."
)


def title_of(study: Study) -> str:
    """The experiments that the rows name, or the folder's name."""
    return ", ".join(values(study.trials or study.metrics, "experiment")) or study.folder.resolve().name


def lead_of(study: Study) -> str:
    """What the study is, in a sentence or two."""
    said = []
    if study.trials:
        axes = (
            ("settings", len(by_setting(study.trials))),
            ("λ", len(values(study.trials, "lam"))),
            ("seeds", len(values(study.trials, "seed"))),
        )
        counts = " × ".join(f"{number} {name.removesuffix('s') if number == 1 else name}" for name, number in axes)
        said.append(f"Which λ? {len(study.trials)} finished trial{'s' * (len(study.trials) > 1)} of {counts}.")
    if study.metrics:
        sets = values(
            [{"set": f"{int(row['images']):,} images of {row['eval_dataset']} ({row['split']})"} for row in study.metrics], "set"
        )
        said.append(f"Spectra of {len(values(study.metrics, 'task'))} checkpoints on {', '.join(sets)}.")
    return " ".join(said)


def facts_of(study: Study) -> list[tuple[str, str]]:
    """(name, value) of what was trained, and by which commits."""
    rows = study.trials or study.metrics
    columns = {"data set": "dataset", "backbone": "backbone", "methods": "method", "penalties": "penalty", "solvers": "solver"}
    facts = [(name, ", ".join(values(rows, column))) for name, column in columns.items()]
    lams = sorted({float(row["lam"]) for row in rows if row["lam"] != ""})
    facts.append(
        (
            "λ",
            ", ".join(f"{lam:g}" for lam in lams) if len(lams) <= MOST_LAMS else f"{len(lams)} values, {lams[0]:g} to {lams[-1]:g}",
        )
    )
    facts.append(("seeds", ", ".join(sorted(values(rows, "seed"), key=int))))
    facts.append(("epochs", ", ".join(values(study.trials, "epochs"))))
    facts.append(("code", ", ".join(sorted({*values(study.trials, "commit"), *values(study.metrics, "commit")}))))
    return [(name, value) for name, value in facts if value]


def values(rows: list[Row], column: str) -> list[str]:
    """The different values of a column, in order, without the empty one."""
    return [value for value in dict.fromkeys(row[column] for row in rows) if value]


def sections_of(study: Study, spectra: list[Figure], over_time: dict[str, Figure]) -> list[Section]:
    """The page from top to bottom; `spectra` and `over_time` are the figures of the study's spectra."""
    return [*(sweep_sections(study) if study.trials else []), *spectra_sections(study, spectra, over_time), raw_section(study)]


def typeset(sentence: str) -> str:
    """A verdict with proper minuses, and no line that begins with the number of a λ."""
    return re.sub(r"(?<!\w)-(?=\d)", "−", sentence.replace("λ ", "λ\u00a0"))


def sweep_sections(study: Study) -> list[Section]:
    """What λ does: verdicts, the figure, the means, and how they came."""
    swept = drawings(sweep_figures(study.averaged, study.summary), "sweep", "Numbers against λ, a column a setting")
    curves = drawings(curves_figures(study.averaged, study.curves, study.summary), "curves", "The same trials over their epochs")
    having = len({row["run"] for row in study.curves} & {row["run"] for row in study.trials})
    few = f"{having} of {len(study.trials)} trials have curves." if having < len(study.trials) else ""
    found = [
        Section("verdicts", "Verdicts", JUDGED, sentences=[typeset(line) for line in verdicts(study.summary, study.pruned)]),
        Section("lams", "Against λ", figures=swept),
        Section("summary", "Means and differences", SUMMARY_NOTE, wide=True, tables=summary_tables(study.summary)),
    ]
    return [*found, Section("curves", "Over the epochs", few, figures=curves)] if curves else found


def drawings(figures: list[Figure], name: str, caption: str) -> list[Drawing]:
    """Figures of a sweep for the page; where they are several, the caption says so."""
    several = f" ({{}} of {len(figures)}: {COLUMNS} settings each, on the same axes)" if len(figures) > 1 else ""
    return [drawing(figure, f"{name}{i}", f"{caption}{several.format(i)}.") for i, figure in enumerate(figures, 1)]


def spectra_sections(study: Study, spectra: list[Figure], over_time: dict[str, Figure]) -> list[Section]:
    """Spectra of checkpoints, and how they came about where that was tracked."""
    found = []
    if study.metrics:
        caption = "Eigenvalues of the covariance of r and z over the largest, and effective ranks."
        figures = [drawing(figure, f"spectra{i}", caption) for i, figure in enumerate(spectra, 1)]
        tables = [*by_lam_tables(study.lams), *spectra_tables(study.metrics)]
        found.append(Section("spectra", "Spectra", figures=figures, tables=tables))
    if over_time:
        caption = "Eigenvalues of r and z over the epochs that were kept, a run a λ"
        figures = [
            drawing(figure, f"epochs{i}", f"{caption}{': ' if setting else ''}{setting}.")
            for i, (setting, figure) in enumerate(over_time.items(), 1)
        ]
        found.append(Section("over-time", "Spectra over training", figures=figures))
    return found


def raw_section(study: Study) -> Section:
    """The CSVs as they are, but rounded."""
    tables = [
        (SWEEP_CSV, "run", study.trials),
        (PRUNED_CSV, "run", study.pruned),
        (SUMMARY_CSV, "method", study.summary),
        (METRICS_CSV, "run", study.metrics),
    ]
    others = [name for name, rows in ((CURVES_CSV, study.curves), (EIGENVALUES_CSV, study.eigenvalues)) if rows]
    note = "Rounded to four digits; in full they are in the files beside this page."
    note += f" {' and '.join(others)} {'are' if len(others) > 1 else 'is'} in the figures only." if others else ""
    found = [raw_table(f"{name}: {len(rows)} rows", rows, first) for name, first, rows in tables if rows]
    return Section("tables", "Tables", note, wide=True, tables=found)
