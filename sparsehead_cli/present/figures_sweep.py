"""Figures of a sweep: numbers against λ, and how they came over the epochs. A column of panels a setting."""

import math
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
from sparsehead_cli.study.summary import BEST, SETTING, by_setting, name_of


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
ANYWHERE = (0, 0, 1, 1)  # panels have their places once it is known what is written around them
MARGIN, GAP = 0.07, 0.13  # inches around a figure and its headings, and between the rows of panels
HEADING_LINE, TITLE_LINE = 0.176, 0.165  # inches that a line of these needs
LABEL, NUMBERS = 0.2, 0.47  # inches for the labels at the left, and mostly for the numbers beside a panel
SLANTED, LEVEL = 0.68, 0.42  # inches for what is under an axis: slanted numbers and a name, level numbers and a name
LEGEND_LINE, COLOR_BAR = 0.17, 0.75  # inches that these need
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
        sheets = panel_sheets(len(settings), tuple(SWEPT), 6.2, whole)
        columns = columns_of(sheets)
        for panels, (setting, of_setting) in zip(columns, settings.items(), strict=True):
            panels[0].set_title(title_of(setting, summary))
            sweep_column(panels, places, of_setting, summaries[setting])
        equal_axes(columns)
        for sheet in sheets:
            arrange(sheet, heading_of(means), SLANTED)
    return [sheet.figure for sheet in sheets]


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


class Sheet(NamedTuple):
    """A figure, and its panels by band, row and column: in a band settings are beside each other, a column each."""

    figure: Figure
    bands: list[list[list[Axes]]]


def panel_sheets(settings: int, labels: tuple[str, ...], height: float, whole: bool) -> list[Sheet]:
    """Figures with a column of panels a setting, COLUMNS of them beside each other; a band of them is `height` inches high.

    Where they are more, the `whole` figure goes on below; else there is a figure for each COLUMNS of them.
    """
    widths = [min(COLUMNS, settings - first) for first in range(0, settings, COLUMNS)]
    sheets = []
    for of_bands in [widths] if whole else [[width] for width in widths]:
        figure = Figure(figsize=(1.2 + 2.7 * of_bands[0], height * len(of_bands)))
        bands = [[[figure.add_axes(ANYWHERE) for _ in range(width)] for _ in labels] for width in of_bands]
        for rows in bands:
            for row, label in zip(rows, labels, strict=True):
                row[0].set_ylabel(label)
        sheets.append(Sheet(figure, bands))
    return sheets


def columns_of(sheets: list[Sheet]) -> list[list[Axes]]:
    """The panels of each setting, from top to bottom."""
    return [list(column) for sheet in sheets for rows in sheet.bands for column in zip(*rows, strict=True)]


def arrange(sheet: Sheet, heading: str, names: float, below: float = 0.0) -> None:
    """Put a sheet's panels in their places, once they have their contents and titles, under the heading.

    `names` is the room in inches for what is written under the axis of a band's last row, `below` that for legends under all. All
    is in inches: a layout engine would look at every label several times, which takes longer than drawing them.
    """
    width, height = sheet.figure.get_size_inches()
    # no line wider than the figure: about 12 characters of its size are an inch
    lines = [part for line in heading.splitlines() for part in textwrap.wrap(line, int(12 * width))]
    sheet.figure.suptitle("\n".join(lines), y=1 - MARGIN / height, va="top")
    top = height - MARGIN - HEADING_LINE * len(lines) - MARGIN
    place(sheet, top, names, below, NUMBERS)  # how high a panel is decides which numbers it has
    place(sheet, top, names, below, max(room_of_numbers(row[0]) for band in sheet.bands for row in band))


def place(sheet: Sheet, top: float, names: float, below: float, numbers: float) -> None:
    """Put panels between `below` and `top`, with room for `names` and, at the left of each, `numbers`; all in inches."""
    (width, height), bands = sheet.figure.get_size_inches(), sheet.bands
    columns, rows = len(bands[0][0]), len(bands[0])
    left = LABEL + numbers
    wide = (width - left - MARGIN - numbers * (columns - 1)) / columns
    of_band = (top - below) / len(bands)
    titles = TITLE_LINE * max(1 + ax.get_title().count("\n") for band in bands for ax in band[0]) + MARGIN
    high = (of_band - titles - names - GAP * (rows - 1)) / rows
    for i, band in enumerate(bands):
        for j, row in enumerate(band):
            bottom = top - i * of_band - titles - high - j * (high + GAP)
            for k, ax in enumerate(row):
                ax.set_position(((left + k * (wide + numbers)) / width, bottom / height, wide / width, high / height))
            row[0].yaxis.set_label_coords((LABEL - left) / wide, 0.5)


def room_of_numbers(ax: Axes) -> float:
    """How many inches the numbers at the left of an axis need, with the ticks and a gap."""
    low, high = sorted(ax.get_ylim())
    at = [y for y in ax.get_yticks() if low <= y <= high]
    return 0.17 + 0.075 * max(map(len, ax.yaxis.get_major_formatter().format_ticks(at)), default=0)


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
    best = summary.loc[summary["chosen"].isin(BEST), "lam"]
    marked = ticks(list(trials["lam"].unique()))
    for ax, marks_of_panel in zip(panels, SWEPT.values(), strict=True):
        for marks in marks_of_panel:
            over_lam(ax, places, trials, summary[summary["metric"] == marks.metric], marks)
        for lam in best[:1]:  # of each number there is one
            mark_chosen(ax, places[lam])
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
        sheets = panel_sheets(len(settings), tuple(CURVES), 7.4, whole=False)
        columns = columns_of(sheets)
        for panels, (setting, epochs) in zip(columns, settings.items(), strict=True):
            panels[0].set_title(title_of(setting, summary))
            by_lam = {lam: Epochs(of_lam) for lam, of_lam in epochs.groupby("lam")}
            for ax, (metric, scale) in zip(panels, CURVES.values(), strict=True):
                over_epochs(ax, by_lam, metric, scale, lams, pixels=pixels)
                ax.tick_params(labelbottom=ax is panels[-1])
            panels[-1].set_xlabel("epoch")
        equal_axes(columns)
        for sheet in sheets:
            arrange(sheet, f"on held-out images after each epoch:\n{shown}", LEVEL, name_lams(sheet.figure, lams))
    return [sheet.figure for sheet in sheets]


def curves_by_setting(trials: list[Row], curves: list[Row]) -> dict[tuple[str, ...], pd.DataFrame]:
    """setting -> the epochs of its trials, for the settings that have some."""
    if not curves:
        return {}
    epochs = frame(curves).drop(columns="lam")
    settings = {setting: of_setting[["run", "lam"]].merge(epochs, on="run") for setting, of_setting in by_setting(trials).items()}
    return {setting: epochs for setting, epochs in settings.items() if len(epochs)}


class Epochs:
    """The epochs of the trials of a setting and λ: their numbers, and after which rows another run begins."""

    def __init__(self, epochs: pd.DataFrame) -> None:
        self.values = {metric: epochs[metric].to_numpy() for metric, _ in CURVES.values()}
        self.numbers = epochs["epoch"].to_numpy().astype(int)
        runs = epochs["run"].to_numpy()
        self.ends = np.flatnonzero(runs[1:] != runs[:-1]) + 1

    def lines(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """(x, y) of one line through all runs, its pen lifted after each: a line each would take seconds to draw."""
        return np.insert(self.numbers.astype(float), self.ends, math.nan), np.insert(self.values[metric], self.ends, math.nan)

    def means(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """(x, y): the mean over those runs that got so far; NaN where one is not defined."""
        counts = np.bincount(self.numbers)
        x = np.flatnonzero(counts)
        return x, np.bincount(self.numbers, self.values[metric])[x] / counts[x]


def over_epochs(ax: Axes, by_lam: dict[float, Epochs], metric: str, scale: float, lams: list[float], *, pixels: bool) -> None:
    """A number over epochs: thin lines are seeds, as `pixels` where they are many, thick ones the means."""
    for lam, epochs in by_lam.items():
        color = color_of(lam, lams)
        if len(epochs.ends):
            x, y = epochs.lines(metric)
            ax.plot(x, scale * y, color=color, lw=0.6, alpha=0.4, rasterized=pixels, zorder=2)
        x, y = epochs.means(metric)
        ax.plot(x, scale * y, color=color, lw=1.5, marker="." if len(x) == 1 else None, zorder=4 if lam == 0 else 3)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def color_of(lam: float, lams: list[float]) -> object:
    """Black for λ 0; else by log λ from dark to light, within the range that is neither black nor too light for white paper."""
    if lam == 0:
        return "black"
    above = [other for other in lams if other > 0]
    span = math.log(above[-1] / above[0])
    return LAM_COLORS(math.log(lam / above[0]) / span if span else 0.5)


def name_lams(figure: Figure, lams: list[float]) -> float:
    """Say at the lower end which colour is which λ, in a legend, or where they are many, on a colour bar: the inches it needs."""
    above = [lam for lam in lams if lam > 0]
    named = lams if len(lams) <= MOST_NAMED else lams[: len(lams) - len(above)]
    handles = [Line2D([], [], color=color_of(lam, lams), label=f"λ {lam:g}") for lam in named]
    width, height = figure.get_size_inches()
    room = MARGIN
    if handles:
        columns = min(len(handles), int(width / 1.15))
        middle = {"loc": "lower center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 0.3}
        figure.legend(handles=handles, frameon=False, fontsize=8, ncols=columns, **middle)
        room += LEGEND_LINE * math.ceil(len(handles) / columns) + MARGIN
    if len(lams) > MOST_NAMED:
        bar = figure.add_axes((0.08, (room + 0.42) / height, 0.84, 0.17 / height))
        norm = LogNorm(above[0], above[-1])
        figure.colorbar(ScalarMappable(norm, LAM_COLORS), cax=bar, orientation="horizontal", label="λ above 0")
        room += COLOR_BAR
    return room


LAM_COLORS = ListedColormap(colormaps["viridis"](np.linspace(0.15, 0.9, 256)))
