"""The figure of a sweep over its epochs: how its numbers came about, a colour a λ, a column of panels a setting."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sparsehead_cli.present.figures import LAM_COLORS, color_of, look
from sparsehead_cli.present.figures_sweep import CROSS, MOST_NAMED, title_of
from sparsehead_cli.present.sheets import COLUMNS, SHARES, arrange, columns_of, equal_axes, panel_sheets, rows_of_legend, tells
from sparsehead_cli.runs.table_files import Row, frame
from sparsehead_cli.study.summary import SETTING, by_setting, collapsed_lams

CURVES = {  # label of a row of panels -> (number of curves.csv, scale)
    "kNN accuracy of r, %": ("knn_accuracy", 100),
    "effective rank of r": ("effective_rank_r", 1),
    "effective rank of z": ("effective_rank_z", 1),
    SHARES: ("active_groups_share", 100),
}
MANY_POINTS = 20_000  # of single seeds, from which on they are pixels: a vector each would make a page of megabytes
LEVEL = 0.42  # inches for level numbers under an axis, and its name
COLOR_BAR = 0.75  # inches


def curves_figures(
    trials: list[Row], curves: list[Row], summary: list[Row], lams: Sequence[float] = (), *, paper: bool = False
) -> list[Figure]:
    """kNN accuracy, effective ranks and active groups over epochs, a colour a λ: means over seeds, single seeds as thin lines.

    Rows of sweep.csv, curves.csv and sweep_summary.csv. λ 0 is black, others go from dark to light among `lams`, those of the
    page (without them the curves' own); COLUMNS settings a figure. [] where no trial has a curve.
    """
    settings = curves_by_setting(trials, curves)
    if not settings:
        return []
    own = sorted({lam for epochs in settings.values() for lam in epochs["lam"]})
    lams, pixels = lams or own, len(curves) * len(CURVES) > MANY_POINTS
    means = frame(summary, text=SETTING)
    fallen = {setting: collapsed_lams(rows) for setting, rows in means.groupby(list(SETTING), sort=False)}
    with matplotlib.rc_context(look(paper=paper)):
        sheets = panel_sheets(list(settings.values()), telling, whole=False, paper=paper)
        columns = columns_of(sheets)
        for panels, (setting, epochs) in zip(columns, settings.items(), strict=True):
            *_, lowest = panels.values()
            next(iter(panels.values())).set_title(title_of(setting, summary))
            by_lam = {lam: Epochs(of_lam) for lam, of_lam in epochs.groupby("lam")}
            for label, ax in panels.items():
                over_epochs(ax, by_lam, *CURVES[label], lams, fallen.get(setting, []), pixels=pixels)
                ax.tick_params(labelbottom=ax is lowest)
            lowest.set_xlabel("epoch")
        equal_axes(columns)
        crossed = any(set(fallen.get(setting, ())) & set(epochs["lam"]) for setting, epochs in settings.items())
        for sheet in sheets:
            room = name_lams(sheet.figure, own, lams, crossed=crossed)
            barred = len(own) > MOST_NAMED
            arrange(sheet, "", LEVEL, room + COLOR_BAR * barred)
            if barred:
                color_bar(sheet.figure, lams, room)
    return [sheet.figure for sheet in sheets]


def telling(settings: list[pd.DataFrame]) -> list[str]:
    """The labels of CURVES that say something of these settings: the others never change, or are defined nowhere."""
    every = pd.concat(settings)
    return [label for label, (metric, _) in CURVES.items() if metric == "knn_accuracy" or tells(every[metric])]


def curves_caption(trials: list[Row], curves: list[Row], noun: str) -> str:
    """What a reader of `curves_figures` has to know."""
    settings = list(curves_by_setting(trials, curves).values())
    several = any(epochs.groupby("lam")["run"].nunique().max() > 1 for epochs in settings)
    shown = "Means over seeds, thin lines: single seeds" if several else "One seed"
    beside = [telling(settings[first : first + COLUMNS]) for first in range(0, len(settings), COLUMNS)]
    left_out = [label.removesuffix(", %") for label in CURVES if any(label not in labels for labels in beside)]
    same = f" Not drawn where it never changes: {' and '.join(left_out)}." if left_out else ""
    return f"{shown}; on held-out {noun} after each epoch. × at the end: collapsed, as in the figure against λ.{same}"


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


def over_epochs(
    ax: Axes, by_lam: dict[float, Epochs], metric: str, scale: float, lams: Sequence[float], fallen: list[float], *, pixels: bool
) -> None:
    """A number over epochs: thin lines are seeds, as `pixels` where they are many, thick ones means; `fallen` λ end in a cross."""
    for lam, epochs in by_lam.items():
        color = color_of(lam, lams)
        if len(epochs.ends):
            x, y = epochs.lines(metric)
            ax.plot(x, scale * y, color=color, lw=0.6, alpha=0.4, rasterized=pixels, zorder=2)
        x, y = epochs.means(metric)
        ax.plot(x, scale * y, color=color, lw=1.5, marker="." if len(x) == 1 else None, zorder=4 if lam == 0 else 3)
        if lam in fallen and metric.startswith("effective_rank"):
            ax.plot(x[-1:], scale * np.nan_to_num(y[-1:]), ls="", zorder=5, **{**CROSS, "color": color, "ms": 6})
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def name_lams(figure: Figure, own: list[float], lams: Sequence[float], *, crossed: bool) -> float:
    """Say at the lower end which colour is which λ, where they are not too many, and what a cross is: the inches it needs."""
    named = own if len(own) <= MOST_NAMED else [lam for lam in own if lam == 0]
    handles = [Line2D([], [], color=color_of(lam, lams), label=f"λ {lam:g}") for lam in named]
    handles += [Line2D([], [], ls="", label="collapsed", **{**CROSS, "ms": 6})] if crossed else []
    return rows_of_legend(figure, handles)


def color_bar(figure: Figure, lams: Sequence[float], bottom: float) -> None:
    """Say which colour is which λ on a bar, so many inches above the lower end."""
    above, (_, height) = [lam for lam in lams if lam > 0], figure.get_size_inches()
    bar = figure.add_axes((0.08, (bottom + 0.42) / height, 0.84, 0.17 / height))
    norm = LogNorm(above[0], above[-1])
    figure.colorbar(ScalarMappable(norm, LAM_COLORS), cax=bar, orientation="horizontal", label="λ above 0 (log)")
