"""Figures of a sweep: numbers against λ, and how they came over the epochs. A column of panels a setting."""

import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sparsehead_cli.measure.dimensions import COLLAPSED_RANK
from sparsehead_cli.present.figures import BAND, GREY, OKABE_ITO, look, mark
from sparsehead_cli.present.sheets import COLUMNS, SHARES, arrange, columns_of, equal_axes, panel_sheets, rows_of_legend, tells
from sparsehead_cli.runs.readable import counted
from sparsehead_cli.runs.table_files import Row, frame
from sparsehead_cli.study.summary import BEST, FELL, SETTING, base_in_words, base_lines, by_setting, collapsed_lams, name_of


class Marks(NamedTuple):
    """How a number of sweep.csv is drawn: times `scale`, and under this name in the legend."""

    metric: str
    scale: float
    color: str
    marker: str
    name: str


SWEPT = {  # label of a row of panels -> what is in it
    "linear probe of r, %": [Marks("accuracy", 100, OKABE_ITO[0], "o", "r")],
    "effective rank": [
        Marks("effective_rank_r", 1, OKABE_ITO[0], "o", "r"),
        Marks("effective_rank_z", 1, OKABE_ITO[4], "s", "z"),
    ],
    SHARES: [Marks("active_groups_share", 100, OKABE_ITO[2], "^", "active groups")],
}
PROBE = next(iter(SWEPT.values()))
POINTS = "_points"  # label, in no legend, of lines that are numbers of single seeds
COLLAPSED = "_collapsed"  # label, in no legend, of crosses where a higher rank is no gain
CROSS = {"marker": "x", "color": "black", "ms": 8, "mew": 1.6}  # of these
MOST_NAMED = 9  # values of λ at an axis; more have ticks at powers of ten
DODGE = 0.06  # decades between a mean and the dots of its seeds
SLANTED = 0.68  # inches for slanted numbers under an axis, and its name


def sweep_figures(trials: list[Row], summary: list[Row], *, whole: bool = False, paper: bool = False) -> list[Figure]:
    """Accuracy, effective ranks and active groups against λ, a column a setting: means with intervals, single seeds as dots.

    Rows of sweep.csv and of sweep_summary.csv. λ 0 has a place of its own left of the logarithmic axis; the same number has the
    same axis everywhere. A figure has COLUMNS settings, as a page has room for, and of a paper one; the `whole` goes on below.
    """
    settings = by_setting(trials)
    means = frame(summary, text=SETTING)
    summaries = dict(list(means.groupby(list(SETTING), sort=False)))
    places, base_line = lam_places(sorted(means["lam"].unique())), base_lines(trials)
    with matplotlib.rc_context(look(paper=paper)):
        sheets = panel_sheets(list(settings.values()), telling, whole=whole, paper=paper)
        columns = columns_of(sheets)
        for panels, (setting, of_setting) in zip(columns, settings.items(), strict=True):
            next(iter(panels.values())).set_title(title_of(setting, summary))
            sweep_column(panels, places, of_setting, summaries[setting], base_line(setting))
        equal_axes(columns, POINTS)
        handles = legend_of(columns, means, base_in_words(trials))
        for sheet in sheets:
            arrange(sheet, "" if paper else heading_of(means), SLANTED, rows_of_legend(sheet.figure, handles))
    return [sheet.figure for sheet in sheets]


def telling(trials: list[pd.DataFrame]) -> list[str]:
    """The labels of SWEPT that say something of these settings; the first is there in any case."""
    every = pd.concat(trials)
    return [label for label, marks in SWEPT.items() if marks == PROBE or any(tells(every[one.metric]) for one in marks)]


def legend_of(columns: list[dict[str, Axes]], summary: pd.DataFrame, base: str) -> list[Line2D | Patch]:
    """What the marks of a sweep's panels are; `base` is what they are compared with."""
    labels = {line.get_label() for panels in columns for ax in panels.values() for line in ax.lines}
    rows = {label for panels in columns for label in panels}
    handles = [mark(one.name, one.marker, one.color) for one in SWEPT["effective rank"]] if "effective rank" in rows else []
    handles += [mark("a seed", ".")] if summary["seeds"].max() > 1 else []
    handles += [mark("collapsed", **CROSS)] if COLLAPSED in labels else []
    handles += [Line2D([], [], color=GREY, lw=0.8, ls=":", label=base)] if (summary["lam"] == 0).any() else []
    return [*handles, Patch(color=BAND, lw=0, label="chosen λ")]


def heading_of(summary: pd.DataFrame) -> str:
    """What is the same for all settings, of which the rest is in the panels' titles."""
    said = {"dataset": str, "epochs": lambda epochs: counted(float(epochs), "epoch")}
    return ", ".join(words(summary[column].iloc[0]) for column, words in said.items() if summary[column].nunique() == 1)


def sweep_caption(trials: list[Row], summary: list[Row], noun: str) -> str:
    """What a reader of `sweep_figures` has to know."""
    means, settings = frame(summary, text=SETTING), by_setting(trials)
    several = means["seeds"].max() > 1
    parts = [
        "Means with 95 % intervals over seeds (Student's t; an arrow where they go on), dots: single seeds."
        if several
        else "One seed.",
        f"Dotted: {base_in_words(trials)}. λ 0 has a place of its own left of the logarithmic axis. Grey: the λ chosen on held-out "
        f"{noun}.",
    ]
    if any(collapsed_lams(rows) for _, rows in means.groupby(list(SETTING), sort=False)):
        parts.append(
            f"× collapsed: r or z of a seed has an effective rank below {COLLAPSED_RANK:g} or none, or the probe is "
            f"{100 * FELL:g} points or more below that at λ 0; there a higher rank of r is no gain."
        )
    if len({frozenset(of_setting["lam"]) for of_setting in settings.values()}) > 1:
        parts.append("Not every setting has the same λ: an axis names those that were trained to the end with it.")
    beside = [telling(list(settings.values())[first : first + COLUMNS]) for first in range(0, len(settings), COLUMNS)]
    left_out = [label.removesuffix(", %") for label in SWEPT if any(label not in labels for labels in beside)]
    if left_out:
        parts.append(f"Not drawn where it is the same in all trials beside each other: {' and '.join(left_out)}.")
    return " ".join(parts)


def title_of(setting: tuple[str, ...], summary: list[Row]) -> str:
    """What tells a setting from the others of a summary, in lines no wider than a panel."""
    return "\n".join(textwrap.wrap(name_of(dict(zip(SETTING, setting, strict=True)), summary), 36))


def sweep_column(
    panels: dict[str, Axes], places: dict[float, float], trials: pd.DataFrame, summary: pd.DataFrame, base: pd.DataFrame
) -> None:
    """The panels of one setting, one below the other; `base` are the trials that it is compared with."""
    best = summary.loc[summary["chosen"].isin(BEST), "lam"]
    marked, fallen = ticks(list(trials["lam"].unique())), collapsed_lams(summary)
    *_, lowest = panels.values()
    for label, ax in panels.items():
        for marks in SWEPT[label]:
            rows = summary[summary["metric"] == marks.metric]
            over_lam(ax, places, trials, rows, marks)
            if len(base):
                ax.axhline(marks.scale * base[marks.metric].mean(), color=marks.color, lw=0.6, ls=":")
            if marks.metric.startswith("effective_rank"):
                cross_out(ax, places, rows[rows["lam"].isin(fallen)])
        for lam in best[:1] if len(marked) > 1 else ():  # of each number there is one
            mark_chosen(ax, places[lam])
        at = [places.get(lam, math.log10(lam or 1)) for lam in marked]
        if ax is lowest:
            ax.set_xticks(at, [f"{lam:g}" for lam in marked], rotation=45, ha="right", fontsize=7.5)
        else:
            ax.set_xticks(at)
            ax.tick_params(labelbottom=False)
        ax.set_xlim(min(places.values()) - 0.2, max(places.values()) + 0.2)
    lowest.set_xlabel("λ (log)")


def cross_out(ax: Axes, places: dict[float, float], rows: pd.DataFrame) -> None:
    """A cross on the means of these rows; one that is not defined, of a constant embedding, has it at 0."""
    if len(rows):
        ax.plot(rows["lam"].map(places), rows["mean"].fillna(0), ls="", zorder=5, label=COLLAPSED, **CROSS)


def mark_chosen(ax: Axes, place: float) -> None:
    """A grey band behind the λ at this place of the axis."""
    ax.axvspan(place - 0.11, place + 0.11, color=BAND, lw=0, zorder=0)


def ticks(lams: Sequence[float]) -> list[float]:
    """The values of λ to write at the axis: a setting's own, or where they are too many for it, the powers of ten among them."""
    if len(lams) <= MOST_NAMED:
        return sorted(lams)
    decades = range(math.ceil(min(map(math.log10, filter(None, lams)))), math.floor(math.log10(max(lams))) + 1)
    if len(decades) < 2:
        return sorted(lams)[:: 1 + len(lams) // MOST_NAMED]
    return [lam for lam in (0.0,) if lam in lams] + [10.0**power for power in decades]


def lam_places(lams: list[float]) -> dict[float, float]:
    """λ -> its place on the axis: log10 λ, and for λ 0 one step left of the smallest."""
    places = {lam: math.log10(lam) for lam in lams if lam > 0}
    first = min(places.values(), default=0.0)
    return {**({0.0: first - 0.7} if 0.0 in lams else {}), **places}


def over_lam(ax: Axes, places: dict[float, float], trials: pd.DataFrame, summary: pd.DataFrame, marks: Marks) -> None:
    """One number against λ: a dot a seed, and the mean of each λ with its interval, joined where λ is above 0."""
    color = marks.color
    beside = trials["lam"].map(places) + DODGE  # or the mean would hide them
    ax.plot(beside, marks.scale * trials[marks.metric], ".", color=color, ms=3, alpha=0.5, label=POINTS)
    x, means = summary["lam"].map(places), marks.scale * summary["mean"]
    halves = marks.scale * (summary["high"] - summary["mean"]).fillna(0)
    ax.errorbar(x, means, halves, fmt=marks.marker, color=color, ms=5, capsize=2, lw=1.2)
    above = summary["lam"] > 0
    ax.plot(x[above], means[above], color=color, lw=1)
