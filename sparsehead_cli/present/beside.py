"""Several studies on one page, beside each other: what each found, and its figure against λ."""

from pathlib import Path

from sparsehead_cli.data.nouns import noun_of
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.files import make_folder, replace_file
from sparsehead_cli.present.figures import drawn
from sparsehead_cli.present.figures_sweep import sweep_caption, sweep_figures
from sparsehead_cli.present.page import Section, drawing, render
from sparsehead_cli.present.summary import ACCURACY, FROM_ZERO, RANK_R, RANK_Z
from sparsehead_cli.present.table import Cell, Column, Table, difference, lam_cell, mean
from sparsehead_cli.runs.readable import counted
from sparsehead_cli.runs.table_files import Row, frame
from sparsehead_cli.study.confirm import sentences
from sparsehead_cli.study.study import Study
from sparsehead_cli.study.summary import SETTING, name_of, verdicts

NOTE = (
    "A line a setting, at the λ that held-out data chose; ± is half of the 95 % interval over seeds (Student's t), from λ 0 the "
    "mean paired difference to the same seeds. Studies differ in more than what a line shows: their own pages have all of it."
)


def write_beside(studies: list[Study], path: Path) -> Path:
    """Write the page of several studies, at least one of them with trials. Raises: SparseheadError."""
    swept = [study for study in studies if study.trials]
    if not swept:
        raise SparseheadError("--beside puts sweeps beside each other, and none of these folders has one.")
    make_folder(path.parent, "Write elsewhere: --beside.")
    said = [f"{name}: {sentence.strip()}" for study, name in zip(swept, names(swept), strict=True) for sentence in found(study)]
    sections = [
        Section("verdicts", "Verdicts", sentences=said),
        Section("chosen", "The chosen λ", NOTE, wide=True, tables=[table_of(swept)]),
        *figure_sections(swept),
    ]
    count = counted(len(swept), "study").replace("studys", "studies")
    replace_file(path, render("Studies beside each other", f"{count}: {', '.join(names(swept))}.", [], sections))
    return path


def names(studies: list[Study]) -> list[str]:
    """What the studies are called: by their folders."""
    return [study.folder.resolve().name for study in studies]


def found(study: Study) -> list[str]:
    """What a study says: that of its fresh seeds, where there is a plan."""
    return sentences(study.confirmation) if study.confirmation else verdicts(study.summary, study.pruned)


def table_of(studies: list[Study]) -> Table:
    """A line a setting of each study."""
    columns = [
        Column("study", text=True),
        Column("setting", text=True),
        Column("data set", text=True),
        Column("seeds"),
        Column("λ"),
    ]
    columns += [ACCURACY, FROM_ZERO, RANK_R, RANK_R.from_zero(), RANK_Z, RANK_Z.from_zero()]
    table = Table("the λ that was chosen in each setting", columns)
    for study, name in zip(studies, names(studies), strict=True):
        for _, rows in frame(study.summary, text=SETTING).groupby(list(SETTING), sort=False):
            best = rows[rows["chosen"].isin(["best", "both"])].set_index("metric").to_dict("index")
            probe: Row = best["accuracy"]
            cells = [Cell(name), Cell(name_of(probe, study.summary)), Cell(probe["dataset"]), Cell(probe["seeds"])]
            cells += [lam_cell(probe["lam"])]
            for metric in ("accuracy", "effective_rank_r", "effective_rank_z"):
                cells += [mean(best[metric]), difference(best[metric])]
            table.add(*cells)
    return table


def figure_sections(studies: list[Study]) -> list[Section]:
    """The figures against λ of all studies, beside each other where there is room."""
    figures = []
    for number, (study, name) in enumerate(zip(studies, names(studies), strict=True), 1):
        caption = sweep_caption(study.averaged, study.summary, noun_of(study.trials[0]["dataset"]))
        for part, figure in enumerate(sweep_figures(study.averaged, study.summary), 1):
            figures.append(drawing(drawn(figure, "svg"), f"study{number}-{part}", f"{name}. {caption}"))
    return [Section("lams", "Against λ", figures=figures, beside=True)]
