"""Figures of a sweep: numbers against λ, and how they came over the epochs. A column of panels a setting."""

import math
import statistics
import textwrap
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sparsehead_cli.present.figures import OKABE_ITO, STYLE
from sparsehead_cli.runs.table_files import Row, frame
from sparsehead_cli.study.summary import SETTING, by_setting, name_of


class Marks(NamedTuple):
    """How a number of sweep.csv is drawn: times `scale`, and under this name in the legend."""

    metric: str
    scale: float
    color: str
    marker: str
    name: str


COLUMNS = 3  # settings beside each other: as many as can be read on a printed page
SHARES = "active groups, %"  # label of panels whose axis goes from 0 to 100
SHARE_LIMITS = (-2, 104)  # of shares in %, with room for the markers at 0 and 100
SWEPT = {  # label of a row of panels -> what is in it
    "linear probe of r, %": [Marks("accuracy", 100, OKABE_ITO[0], "o", "r")],
    "effective rank": [
        Marks("effective_rank_r", 1, OKABE_ITO[0], "o", "r"),
        Marks("effective_rank_z", 1, OKABE_ITO[4], "s", "z"),
    ],
    SHARES: [Marks("active_groups_share", 100, OKABE_ITO[2], "^", "by norm")],
}
CURVES = {  # label of a row of panels -> (number of curves.csv, scale)
    "kNN accuracy of r, %": ("knn_accuracy", 100),
    "effective rank of r": ("effective_rank_r", 1),
    "effective rank of z": ("effective_rank_z", 1),
    SHARES: ("active_groups_share", 100),
}
POINTS = "_points"  # label, in no legend, of lines that are numbers of single seeds
MOST_NAMED = 9  # values of λ in a legend or at an axis; more have a colour bar, or ticks at powers of ten
MANY_POINTS = 20_000  # of single seeds, from which on they are pixels: a vector each would make a page of megabytes


def sweep_figure(trials: list[Row], summary: list[Row]) -> Figure:
    """Accuracy, effective ranks and active groups against λ, a column a setting: means with intervals, single seeds as dots.

    Rows of sweep.csv and of sweep_summary.csv. λ 0 has a place of its own left of the logarithmic axis. More than COLUMNS
    settings go on below; the same number has the same axis everywhere.
    """
    return sweep_figures(trials, summary, whole=True)[0]


def sweep_figures(trials: list[Row], summary: list[Row], *, whole: bool = False) -> list[Figure]:
    """`sweep_figure`, or the same with COLUMNS settings a figure, each of a size that a page has room for."""
    settings = by_setting(trials)
    means = frame(summary, text=SETTING)
    summaries = dict(list(means.groupby(list(SETTING), sort=False)))
    places = lam_places(sorted(means["lam"].unique()))
    with matplotlib.rc_context(STYLE):
        figures, columns = panel_figures(len(settings), tuple(SWEPT), 6.2, whole)
        for panels, (setting, of_setting) in zip(columns, settings.items(), strict=True):
            panels[0].set_title(title_of(setting, summary))
            sweep_column(panels, places, of_setting, summaries[setting])
        equal_axes(columns)
        for figure in figures:
            figure.suptitle(wrapped(heading_of(means), figure))
    return figures


def wrapped(heading: str, figure: Figure) -> str:
    """The lines of a heading, none wider than the figure: about 12 characters of its size are an inch."""
    return "\n".join(textwrap.fill(line, int(12 * figure.get_figwidth())) for line in heading.splitlines())


def heading_of(summary: pd.DataFrame) -> str:
    """What is the same for all settings, of which the rest is in the panels' titles; and what dots, bars and bands are."""
    same = []
    for column, words in (("dataset", "{}"), ("epochs", "{} epochs")):
        if summary[column].nunique() == 1:
            same.append(words.format(summary[column].iloc[0]).replace(" 1 epochs", " 1 epoch"))
    shown = "one seed, "
    if summary["seeds"].max() > 1:
        shown = "mean and 95 % interval over seeds (cut off where wide), dots: single seeds,\n"
    return f"{', '.join(same)}\n{shown}dotted lines: λ 0, grey: the λ chosen on held-out images"


def panel_figures(settings: int, labels: tuple[str, ...], height: float, whole: bool) -> tuple[list[Figure], list[list[Axes]]]:
    """(the figures, each setting's panels from top to bottom); COLUMNS settings beside each other, `height` inches.

    Where they are more, the `whole` figure goes on below; else there is a figure for each COLUMNS of them.
    """
    bands = [range(first, min(first + COLUMNS, settings)) for first in range(0, settings, COLUMNS)]
    figures, columns = [], []
    for sheet in [bands] if whole else [[band] for band in bands]:
        width = len(sheet[0])
        figure = Figure(figsize=(1.2 + 2.7 * width, height * len(sheet)), layout="constrained")
        axes = figure.subplots(len(labels) * len(sheet), width, squeeze=False).reshape(len(sheet), len(labels), width)
        for panels, band in zip(axes, sheet, strict=True):
            columns += [list(column) for column in panels.T[: len(band)]]
            for ax in panels.T[len(band) :].flat:
                ax.set_visible(False)
            for ax, label in zip(panels[:, 0], labels, strict=True):
                ax.set_ylabel(label)
        figures.append(figure)
    return figures, columns


def title_of(setting: tuple[str, ...], summary: list[Row]) -> str:
    """What tells a setting from the others of a summary, in lines no wider than a panel."""
    return "\n".join(textwrap.wrap(name_of(dict(zip(SETTING, setting, strict=True)), summary), 36))


def equal_axes(columns: list[list[Axes]]) -> None:
    """Give the same number the same axis everywhere, with room for markers at both ends.

    Intervals of few seeds would leave the means a flat line: half as far as the means and seeds go, they are cut off.
    """
    for alike in zip(*columns, strict=True):
        ends, points = [], []
        for ax in alike:
            ends += [end for end in ax.dataLim.intervaly if math.isfinite(end)]
            for line in ax.lines:
                points += [y for y in line.get_ydata() if line.get_label() == POINTS and math.isfinite(y)]
        if points:
            beyond = (max(points) - min(points)) / 2
            ends = [min(max(end, min(points) - beyond), max(points) + beyond) for end in ends]
        low, high = min(ends, default=0.0), max(ends, default=1.0)
        room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        share = any(ax.get_ylabel() == SHARES for ax in alike)  # all of them in each figure: 0 and 100 mean something
        for ax in alike:
            ax.set_ylim(SHARE_LIMITS if share else (low - room, high + room))


def sweep_column(panels: list[Axes], places: dict[float, float], trials: pd.DataFrame, summary: pd.DataFrame) -> None:
    """The panels of one setting, one below the other."""
    best = summary.loc[summary["chosen"].isin(["best", "both"]), "lam"].iloc[0]
    marked = ticks(list(trials["lam"].unique()))
    for ax, marks_of_panel in zip(panels, SWEPT.values(), strict=True):
        for marks in marks_of_panel:
            over_lam(ax, places, trials, summary[summary["metric"] == marks.metric], marks)
        mark_chosen(ax, places[best])
        names = [f"{lam:g}" for lam in marked] if ax is panels[-1] else []
        at = [places.get(lam, math.log10(lam or 1)) for lam in marked]
        ax.set_xticks(at, names, rotation=45, ha="right", fontsize=7.5)
        ax.set_xlim(min(places.values()) - 0.2, max(places.values()) + 0.2)
        if ax.get_ylabel() and len(marks_of_panel) > 1:
            ax.legend(frameon=False, fontsize=8)
    panels[-1].set_xlabel("λ (log)")


def mark_chosen(ax: Axes, place: float) -> None:
    """A grey band behind the λ at this place of the axis."""
    ax.axvspan(place - 0.11, place + 0.11, color="#e6e6e6", lw=0, zorder=0)


def ticks(lams: list[float]) -> list[float]:
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
    ax.plot(trials["lam"].map(places), marks.scale * trials[marks.metric], ".", color=color, ms=3, alpha=0.5, label=POINTS)
    x, means = summary["lam"].map(places), marks.scale * summary["mean"]
    halves = marks.scale * (summary["high"] - summary["mean"]).fillna(0)
    ax.errorbar(x, means, halves, fmt=marks.marker, color=color, ms=5, capsize=2, lw=1.2, label=marks.name)
    above = summary["lam"] > 0
    ax.plot(x[above], means[above], color=color, lw=1)
    for mean in means[~above]:
        ax.axhline(mean, color=color, lw=0.6, ls=":")


def curves_figures(trials: list[Row], curves: list[Row], summary: list[Row]) -> list[Figure]:
    """kNN accuracy, effective ranks and active groups over epochs, a colour a λ: means over seeds, single seeds as thin lines.

    Rows of sweep.csv, curves.csv and sweep_summary.csv. λ 0 is black, others go from dark to light; COLUMNS settings a figure.
    [] where no trial has a curve.
    """
    settings = curves_by_setting(trials, curves)
    lams = sorted({lam for epochs in settings.values() for lam in epochs["lam"]})
    several = any(epochs.groupby("lam")["run"].nunique().max() > 1 for epochs in settings.values())
    shown = "mean over seeds, thin lines: single seeds" if several else "one seed"
    pixels = len(curves) * len(CURVES) > MANY_POINTS
    with matplotlib.rc_context(STYLE):
        figures, columns = panel_figures(len(settings), tuple(CURVES), 7.4, whole=False)
        for panels, (setting, epochs) in zip(columns, settings.items(), strict=True):
            panels[0].set_title(title_of(setting, summary))
            for ax, (metric, scale) in zip(panels, CURVES.values(), strict=True):
                over_epochs(ax, epochs.assign(value=scale * epochs[metric]), lams, pixels=pixels)
            panels[-1].set_xlabel("epoch")
        equal_axes(columns)
        for figure in figures:
            name_lams(figure, lams)
            figure.suptitle(wrapped(f"on held-out images after each epoch:\n{shown}", figure))
    return figures


def curves_by_setting(trials: list[Row], curves: list[Row]) -> dict[tuple[str, ...], pd.DataFrame]:
    """setting -> the epochs of its trials, for the settings that have some."""
    if not curves:
        return {}
    epochs = frame(curves).drop(columns="lam")
    settings = {setting: of_setting[["run", "lam"]].merge(epochs, on="run") for setting, of_setting in by_setting(trials).items()}
    return {setting: epochs for setting, epochs in settings.items() if len(epochs)}


def over_epochs(ax: Axes, epochs: pd.DataFrame, lams: list[float], *, pixels: bool) -> None:
    """A value over epochs: thin lines are seeds, as `pixels` where they are many, thick ones the means of those that got so far."""
    for lam, of_lam in epochs.groupby("lam"):
        color = color_of(lam, lams)
        seeds = of_lam.pivot(index="run", columns="epoch", values="value")
        if len(seeds) > 1:  # one line through all, its pen lifted after each: a line each would take seconds to draw
            x = np.tile([*seeds.columns, math.nan], len(seeds))
            y = seeds.assign(lifted=math.nan).to_numpy().ravel()
            ax.plot(x, y, color=color, lw=0.6, alpha=0.4, rasterized=pixels, zorder=2)
        means = of_lam.groupby("epoch")["value"].agg(statistics.fmean)  # NaN where one is not defined
        ax.plot(means.index, means, color=color, lw=1.5, marker="." if len(means) == 1 else None, zorder=4 if lam == 0 else 3)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.tick_params(labelbottom=ax.get_subplotspec().rowspan.stop == ax.get_gridspec().nrows)


def color_of(lam: float, lams: list[float]) -> object:
    """Black for λ 0; else by log λ from dark to light, within the range that is neither black nor too light for white paper."""
    if lam == 0:
        return "black"
    above = [other for other in lams if other > 0]
    span = math.log(above[-1] / above[0])
    return LAM_COLORS(math.log(lam / above[0]) / span if span else 0.5)


def name_lams(figure: Figure, lams: list[float]) -> None:
    """Say which colour is which λ: in a legend, or where they are many, on a colour bar."""
    above = [lam for lam in lams if lam > 0]
    named = lams if len(lams) <= MOST_NAMED else lams[: len(lams) - len(above)]
    handles = [Line2D([], [], color=color_of(lam, lams), label=f"λ {lam:g}") for lam in named]
    if len(lams) > MOST_NAMED:
        norm = LogNorm(above[0], above[-1])
        figure.colorbar(ScalarMappable(norm, LAM_COLORS), ax=figure.axes, location="bottom", label="λ above 0", aspect=50)
    if handles:
        columns = min(len(handles), int(figure.get_figwidth() / 1.15))
        figure.legend(handles=handles, frameon=False, fontsize=8, loc="outside lower center", ncols=columns)


LAM_COLORS = ListedColormap([colormaps["viridis"](0.15 + 0.75 * i / 255) for i in range(256)])
