"""What the fresh seeds of a plan say, as people see it: tables, a figure and sentences. Imports no torch."""

import itertools
import math
from collections.abc import Collection
from dataclasses import replace

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sparsehead_cli.present.console import Console, print_notes, print_sentence, print_table
from sparsehead_cli.present.figures import BAND, COLUMN, GREY, OKABE_ITO, legend_below, look
from sparsehead_cli.present.table import UNDEFINED_CELL, Cell, Column, Table
from sparsehead_cli.runs.method_names import method_name
from sparsehead_cli.runs.readable import number
from sparsehead_cli.runs.table_files import Row
from sparsehead_cli.runs.tables import NO_REGULARISER, USUAL_PROJECTOR
from sparsehead_cli.study.confirm import CONTRASTS, PRIMARY, WORDS, Confirmation, is_shown, sentences, setting_in_words
from sparsehead_cli.study.equal import AT_EQUAL
from sparsehead_cli.study.plan import CONTROL, Choice, Plan
from sparsehead_cli.study.summary import NAMES as NAMES_OF
from sparsehead_cli.study.summary import PROJECTOR

FIGURE = "confirmation"
ADDED = {  # contrast of what λ adds -> what is written behind a cure, with its regularisers
    "chosen - control": " − its control",
    "chosen - regularisers": " − {} alone",
}
NAMES = {  # metric -> (what the table calls it, digits, scale)
    "accuracy": ("linear probe of r, %", 2, 100),
    "effective_rank_r": ("effective rank of r", 2, 1),
    "effective_rank_z": ("effective rank of z", 2, 1),
    "val_accuracy": ("held-out probe of r, %", 2, 100),
    "accuracy_z": ("linear probe of z, %", 2, 100),
    "knn_accuracy": ("kNN of r, %", 2, 100),
    **{name: (f"rank of {rank[-1]}, equal {'kNN' if by == 'knn' else by}", 2, 1) for name, (rank, by) in AT_EQUAL.items()},
}
COLUMNS = [
    *(Column("", text=True), Column("", text=True), Column("mean"), Column("the\nother's")),
    *(Column("difference"), Column("d", digits=2, sign="+", minor=True), Column("p,\nt test", digits=4, minor=True)),
    *(Column("p, signs", digits=4, minor=True), Column("p after\nHolm", digits=4), Column("found with\n80 % power")),
]
REFERENCE, DIFFERENCE = 3, 4  # their places
BESIDE = "knn_accuracy"  # what tables of cures have beside the outcomes


def show_confirmation(console: Console, found: Confirmation) -> None:
    """Print the primary outcomes and the verdicts; the rest is in the table's file, and on the page."""
    overview = cures_tables(found)
    for table in overview or confirmation_tables(found, found.plan.outcomes):
        print_table(console, table)
    print_notes(console, overview)
    for line in answers(found):
        print_sentence(console, line)


def confirmation_tables(found: Confirmation, metrics: Collection[str] = ()) -> list[Table]:
    """A table a choice: contrasts and numbers (all of them, or those in `metrics`), those of the family first."""
    tables = []
    for choice in found.plan.choices:
        title = f"{method_name(choice.method)}: {setting_in_words(choice)}; {found.done} of {found.planned} runs"
        table = Table(title, COLUMNS, wide=150)
        for row in found.rows:
            if choice.is_of(row) and (not metrics or row["metric"] in metrics):
                table.add(*cells_of(row), marked=is_shown(row, found.plan))
        if table.lines:
            tables.append(table)
    return tables


def cures_tables(found: Confirmation) -> list[Table]:
    """Where a method has several choices: a table with a line for each, of what it changes from λ 0 without anything, and one of
    what λ adds to its control and to the regularisers beside it; else [].
    """
    if not found.rows or not is_of_cures(found.plan):
        return []
    return [table for table in (cures_table(found), added_table(found)) if table.lines]


def cures_table(found: Confirmation) -> Table:
    """What each cure changes, below the means that it changes, with p for what is judged."""
    plan = found.plan
    notes = (
        f"from the means at λ 0 with nothing against collapse, over {len(plan.seeds)} fresh seeds, ± half of the 95 % interval of "
        f"each alone, and p after Holm over {len(plan.choices) * len(plan.outcomes)} tests; kNN is not judged",
        *[f"*: a change that is shown, p at most {plan.level}"] * any(is_shown(row, plan) for row in found.rows),
    )
    methods = ", ".join(dict.fromkeys(method_name(choice.method) for choice in plan.choices))
    columns = [Column("", text=True)]
    for metric in (*plan.outcomes, BESIDE):
        columns += [of_number(metric), *[Column("p after\nHolm", digits=2, below="p {}", short="")] * (metric != BESIDE)]
    table = Table(f"{methods}: every cure, at the strength that the pilot chose", columns, notes=notes, wide=95)
    bases = set()
    for name, choice, rows in lines_of(found, (PRIMARY,)):
        base = tuple(choice.runs["zero"])
        if base not in bases:
            bases.add(base)
            table.add(Cell(named("λ 0: the mean", choice, plan)), *of_line(rows, plan, REFERENCE))
        shown = any(is_shown(rows[metric], plan) for metric in plan.outcomes)
        table.add(Cell(name), *of_line(rows, plan, DIFFERENCE), marked=shown)
    return table


def added_table(found: Confirmation) -> Table:
    """What λ adds to its control, and to the regularisers beside it."""
    metrics = (*found.plan.outcomes, BESIDE)
    notes = (f"its control: {CONTROL} at the same λ, which only shrinks the head's weights",)
    columns = [Column("", text=True), *map(of_number, metrics)]
    table = Table("What λ adds, which is not judged", columns, notes=notes, wide=95)
    for name, _, rows in lines_of(found, ADDED):
        table.add(Cell(name), *(cells_of(rows[metric])[DIFFERENCE] for metric in metrics))
    return table


def of_number(metric: str) -> Column:
    """The column of differences of a number."""
    return Column(NAMES[metric][0].replace(", %", ",\npoints").replace("effective ", ""), minor=metric == BESIDE)


def of_line(rows: dict[str, Row], plan: Plan, place: int) -> list[Cell]:
    """The cells of a cure: of each number the one that `cells_of` has at this place, for a judged difference with its p."""
    cells = []
    for metric in (*plan.outcomes, BESIDE):
        cell, is_mean = cells_of(rows[metric])[place], place == REFERENCE
        more = " %" * (NAMES[metric][2] == 100) if is_mean else " *" * is_shown(rows[metric], plan)
        cells.append(replace(cell, text=cell.text + more))
        if metric != BESIDE:
            p = rows[metric]["p_holm"]
            cells.append(UNDEFINED_CELL if is_mean else Cell(p, text=f"{number(p):.2g}"))
    return cells


def answers(found: Confirmation) -> list[str]:
    """Which cures change what, a sentence a primary outcome: those of `cures_tables` in words; of others `sentences`."""
    plan = found.plan
    if not found.rows or not is_of_cures(plan):
        return sentences(found)
    said, judged = [], lines_of(found, (PRIMARY,))
    for outcome in plan.outcomes:
        lines = [(name, choice, rows[outcome]) for name, choice, rows in judged]
        changed = [(name, number(row["difference"])) for name, _, row in lines if is_shown(row, plan)]
        rising, falling = [name for name, by in changed if by > 0], [name for name, by in changed if by < 0]
        shown = [f"a rise is shown with {'; '.join(rising)}"] * bool(rising)
        shown += [f"a fall is shown with {'; '.join(falling)}"] * bool(falling)
        left = len(lines) - len(changed)
        of_all = f"none of the {left} cures is shown to change it" if not changed else f"of {left} others no change is shown"
        shown += [of_all] * bool(left)
        text, (name, scale, unit) = ", ".join(shown), WORDS[outcome]
        known = [scale * smallest for _, choice, _ in lines if (smallest := choice.detectable.get(outcome))]
        if left and known:
            least, most = (f"{value:.2f}" for value in (min(known), max(known)))
            size = least if least == most else f"{least} to {most}"
            text += f"; a change of {size}{unit} would have been found in {100 * plan.power:.0f} % of such studies"
        said.append(f"{name}: {text}.")
    return said


def spelled(contrast: str) -> str:
    """A contrast as people write it."""
    return contrast.replace("zero", "λ 0").replace(" - ", " − ")


def cells_of(row: Row) -> list[Cell]:
    """One line of the table."""
    name, digits, scale = NAMES[row["metric"]]

    def written(value: object, sign: str = "") -> str:
        return "" if math.isnan(number(value)) else f"{scale * number(value):{sign}z.{digits}f}"

    half = number(row["difference_high"]) - number(row["difference"])
    difference = written(row["difference"], "+") + (f" ± {written(half)}" if not math.isnan(half) else "")
    return [
        *(
            Cell(spelled(row["contrast"])),
            Cell(name),
            *(Cell(row[column], text=written(row[column])) for column in ("mean", "reference_mean")),
            Cell(row["difference"], text=difference),
        ),
        *(Cell(row["effect_size"]), Cell(row["p_t"]), Cell(row["p_permutation"]), Cell(row.get("p_holm", ""))),
        Cell(row["detectable"], text=written(row["detectable"])),
    ]


def confirmation_figure(found: Confirmation, *, paper: bool = False) -> Figure:
    """A panel a primary outcome: paired differences with their 95 % intervals, a line a choice and contrast.

    Grey: changes smaller than those that the plan promised to find with 80 % power, for chosen - zero.
    """
    plan = found.plan
    with matplotlib.rc_context(look(paper=paper)):
        lines = lines_of(found)
        panels, high = len(plan.outcomes), 0.32 * len(lines)
        size, shape = ((COLUMN, 0.6 + panels * (0.5 + 0.6 * high)), (panels, 1)) if paper else ((8.4, 1.5 + high), (1, panels))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(*shape, sharey=True, squeeze=False).ravel()
        for ax, outcome in zip(axes, plan.outcomes, strict=True):
            for place, (_, choice, rows) in enumerate(lines):
                interval(ax, place, rows[outcome], choice if rows[outcome]["contrast"] == PRIMARY else None)
            name, _, unit = WORDS[outcome]
            ax.set_title(f"{name}{','[: bool(unit)]}{unit}")
            ax.axvline(0, color=GREY, lw=0.8)
            ax.use_sticky_edges = False  # else a grey bar begins at the edge
            ax.margins(x=0.08)
        axes[0].set_yticks(range(len(lines)), [name for name, *_ in lines])
        axes[0].set_ylim(len(lines) - 0.4, -0.6)
        interval_of = f"difference over {len(plan.seeds)} fresh seeds, 95 % interval"
        looks = ((OKABE_ITO[0], interval_of), (GREY, "likewise, not judged"))
        kinds = len({rows[plan.outcomes[0]]["contrast"] == PRIMARY for *_, rows in lines})
        handles = [Line2D([], [], color=color, marker="o", ms=5, lw=2, label=label) for color, label in looks[:kinds]]
        if any(choice.detectable[outcome] for choice in plan.choices for outcome in plan.outcomes):
            handles.append(Patch(color=BAND, lw=0, label="less than the plan promised to find"))
        legend_below(figure, handles)
    return figure


def lines_of(found: Confirmation, contrasts: Collection[str] = ()) -> list[tuple[str, Choice, dict[str, Row]]]:
    """The lines of the figure, or of these contrasts: what each is called, its choice, and the rows of its contrast by number.

    Of choices that each are another cure of one method: what is judged, and below it what λ adds to its control and to the
    regularisers beside it.
    """
    lines, plan = [], found.plan
    if is_of_cures(plan):
        pairs = [(choice, contrast) for contrast in contrasts or (PRIMARY, *ADDED) for choice in plan.choices]
    else:
        pairs = list(itertools.product(plan.choices, contrasts or CONTRASTS))
    for choice, contrast in pairs:
        rows = {row["metric"]: row for row in found.rows if choice.is_of(row) and row["contrast"] == contrast}
        name = f"{method_name(choice.method)}: {spelled(contrast)}"
        if is_of_cures(plan):
            name = called(choice, plan) + ADDED.get(contrast, "").format(choice.regularisers)
        lines += [(name, choice, rows)] if rows else []  # no control where none is matched to the penalty
    return lines


def is_of_cures(plan: Plan) -> bool:
    """Whether a method has several choices, each of which is another cure."""
    return len(plan.choices) > len({choice.method for choice in plan.choices})


def called(choice: Choice, plan: Plan) -> str:
    """A choice by what it sets against collapse, and where the plan has several, by its method and its mlp."""
    cures = [f"λ {choice.lam:g}"] * bool(choice.lam) + [choice.regularisers] * (choice.regularisers != NO_REGULARISER)
    cures += [NAMES_OF[PROJECTOR](choice.projector)] * (choice.projector != USUAL_PROJECTOR)
    return named(" and ".join(cures), choice, plan)


def named(text: str, choice: Choice, plan: Plan) -> str:
    """A text with the method and the mlp of a choice, where the plan has several."""
    several = len({other.method for other in plan.choices}) > 1
    mlps = [other.setting for other in plan.choices if other.projector == USUAL_PROJECTOR]
    of_mlp = [column for column in ("batch_norm", "projector_out") if len({mlp[column] for mlp in mlps}) > 1]
    heads = [NAMES_OF[column](choice.setting[column]) for column in of_mlp if choice.projector == USUAL_PROJECTOR]
    return f"{method_name(choice.method)}: " * several + ", ".join([text, *heads])


def confirmation_caption(found: Confirmation) -> str:
    """What a reader of `confirmation_figure` has to know."""
    return (
        f"Paired differences over {len(found.plan.seeds)} fresh seeds with their 95 % intervals (Student's t); blue: what the plan "
        f"judges. Grey bars: changes smaller than those that it promised to find with {100 * found.plan.power:.0f} % power."
    )


def interval(ax: Axes, place: int, row: Row, choice: Choice | None) -> None:
    """One difference with its interval; with the `choice` also what is too small to be found."""
    scale = WORDS[row["metric"]][1]
    middle, low, high = (scale * number(row[name]) for name in ("difference", "difference_low", "difference_high"))
    if choice and (least := choice.detectable[row["metric"]]):
        ax.barh(place, 2 * scale * least, left=-scale * least, height=0.8, color=BAND, zorder=0)
    color = OKABE_ITO[0] if choice else GREY
    ax.plot([low, high], [place, place], color=color, lw=2)
    ax.plot([middle], [place], "o", color=color, ms=5)
